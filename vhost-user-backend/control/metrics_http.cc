// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/control/metrics_http.h"

#include <algorithm>

#include <fmt/core.h>

namespace outrigger {
namespace {

char to_lower(char letter) {
    return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
}

/// Does a field named "accept" name OpenMetrics?
bool accepts_open_metrics(std::string_view fields) {
    while (!fields.empty()) {
        const std::string_view line = fields.substr(0, fields.find('\n'));
        fields.remove_prefix(std::min(fields.size(), line.size() + 1));
        std::string name(line.substr(0, line.find(':')));
        std::ranges::transform(name, name.begin(), to_lower);
        if (name == "accept" &&
            line.find("application/openmetrics-text") != std::string_view::npos) {
            return true;
        }
    }
    return false;
}

std::string_view status_of(MetricsRequest::Kind kind) {
    switch (kind) {
        case MetricsRequest::Kind::kMetrics:
        case MetricsRequest::Kind::kMetricsHead:
            return "200 OK";
        case MetricsRequest::Kind::kNotFound:
            return "404 Not Found";
        case MetricsRequest::Kind::kNotAllowed:
            return "405 Method Not Allowed";
        case MetricsRequest::Kind::kMalformed:
            return "400 Bad Request";
    }
    return "400 Bad Request";
}

}  // namespace

MetricsRequest parse_metrics_request(std::string_view head) {
    using Kind = MetricsRequest::Kind;
    const size_t line_bytes = head.find('\n');
    if (line_bytes == std::string_view::npos) {
        return {};
    }
    std::string_view line = head.substr(0, line_bytes);
    if (line.ends_with('\r')) {
        line.remove_suffix(1);
    }
    const size_t first = line.find(' ');
    const size_t last = line.rfind(' ');
    if (first == std::string_view::npos || first == 0 || last == first ||
        !line.substr(last + 1).starts_with("HTTP/1.")) {
        return {};
    }
    const std::string_view method = line.substr(0, first);
    std::string_view target = line.substr(first + 1, last - first - 1);
    target = target.substr(0, target.find('?'));
    if (target.empty() || target.find(' ') != std::string_view::npos) {
        return {};
    }
    MetricsRequest request;
    if (method != "GET" && method != "HEAD") {
        request.kind = Kind::kNotAllowed;
    } else if (target != "/metrics") {
        request.kind = Kind::kNotFound;
    } else {
        request.kind = method == "GET" ? Kind::kMetrics : Kind::kMetricsHead;
        request.format = accepts_open_metrics(head.substr(line_bytes + 1))
                             ? MetricsFormat::kOpenMetrics
                             : MetricsFormat::kPrometheus;
    }
    return request;
}

std::string_view metrics_content_type(MetricsFormat format) {
    return format == MetricsFormat::kOpenMetrics
               ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
               : "text/plain; version=0.0.4; charset=utf-8";
}

/// An empty line, and lines may end without a carriage return.
bool is_complete_request(std::string_view head) {
    return head.find("\r\n\r\n") != std::string_view::npos ||
           head.find("\n\n") != std::string_view::npos;
}

std::string metrics_answer(const MetricsRequest& request, std::string text) {
    using Kind = MetricsRequest::Kind;
    const std::string_view status = status_of(request.kind);
    const bool found = request.kind == Kind::kMetrics || request.kind == Kind::kMetricsHead;
    if (!found) {
        text = std::string(status).append(1, '\n');
    }
    std::string answer = fmt::format(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n",
        status,
        found ? metrics_content_type(request.format) : "text/plain; charset=utf-8",
        text.size(),
        request.kind == Kind::kNotAllowed ? "Allow: GET, HEAD\r\n" : "");
    if (request.kind != Kind::kMetricsHead) {
        answer += text;
    }
    return answer;
}

}  // namespace outrigger
