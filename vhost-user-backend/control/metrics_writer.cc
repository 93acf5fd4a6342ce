// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/control/metrics_writer.h"

#include <utility>

#include <fmt/core.h>

namespace outrigger {
namespace {

std::string_view type_of(MetricKind kind) {
    switch (kind) {
        case MetricKind::kCounter:
            return "counter";
        case MetricKind::kGauge:
            return "gauge";
        case MetricKind::kHistogram:
            return "histogram";
    }
    return "untyped";
}

}  // namespace

void MetricsWriter::begin(std::string_view name, MetricKind kind, std::string_view help) {
    // In OpenMetrics a family is called without what its counters' names end with.
    if (format_ == MetricsFormat::kOpenMetrics && name.ends_with("_total")) {
        name.remove_suffix(std::string_view("_total").size());
    }
    out_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type_of(kind));
}

void MetricsWriter::sample(std::string_view name, std::string_view labels, std::string_view value) {
    out_ += labels.empty() ? fmt::format("{} {}\n", name, value)
                           : fmt::format("{}{{{}}} {}\n", name, labels, value);
}

std::string MetricsWriter::take() {
    if (format_ == MetricsFormat::kOpenMetrics) {
        out_ += "# EOF\n";
    }
    return std::move(out_);
}

std::string escaped_label(std::string_view text) {
    std::string out;
    for (const char each : text) {
        if (each == '\\' || each == '"') {
            out += '\\';
            out += each;
        } else if (each == '\n') {
            out += "\\n";
        } else {
            out += each;
        }
    }
    return out;
}

std::string metric_seconds(uint64_t nanoseconds) {
    return fmt::format("{}.{:09}", nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000);
}

}  // namespace outrigger
