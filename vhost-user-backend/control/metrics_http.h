// SPDX-License-Identifier: Apache-2.0
/// What clients of a metrics socket ask by HTTP, and how they are answered. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace outrigger {

enum class MetricsFormat : uint8_t {
    kPrometheus,   ///< text format 0.0.4
    kOpenMetrics,  ///< 1.0.0
};

[[nodiscard]] std::string_view metrics_content_type(MetricsFormat format);

inline constexpr size_t kMetricsRequestBytesMax = 8192;

/// Has the head of a request come to its end?
[[nodiscard]] bool is_complete_request(std::string_view head);

/// What a request asks for.
struct MetricsRequest {
    enum class Kind : uint8_t {
        kMetrics,
        kMetricsHead,  ///< without the text
        kNotFound,
        kNotAllowed,  ///< another method than GET and HEAD
        kMalformed,
    };
    Kind kind = Kind::kMalformed;
    MetricsFormat format = MetricsFormat::kPrometheus;
};

/// A request line and header fields (RFC 9112), as far as they matter here.
[[nodiscard]] MetricsRequest parse_metrics_request(std::string_view head);

/// Head and text; `text` of what has none is not used.
[[nodiscard]] std::string metrics_answer(const MetricsRequest& request, std::string text);

}  // namespace outrigger
