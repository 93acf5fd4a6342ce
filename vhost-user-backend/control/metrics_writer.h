// SPDX-License-Identifier: Apache-2.0
/// Metrics as text for Prometheus and those that read the same.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "vhost-user-backend/control/metrics_http.h"

namespace outrigger {

enum class MetricKind : uint8_t {
    kCounter,  ///< goes up, and begins at 0 again with each process
    kGauge,
    kHistogram,
};

class MetricsWriter final {
  public:
    explicit MetricsWriter(MetricsFormat format) : format_(format) {}

    /// One more metric, whose samples follow.
    void begin(std::string_view name, MetricKind kind, std::string_view help);

    /// `labels`: "device=\"blk0\"", with escaped_label(); may be empty.
    void sample(std::string_view name, std::string_view labels, std::string_view value);

    [[nodiscard]] std::string take();

  private:
    const MetricsFormat format_;
    std::string out_;
};

/// Behind a label's quotes, and the same in a help text.
[[nodiscard]] std::string escaped_label(std::string_view text);

[[nodiscard]] std::string metric_seconds(uint64_t nanoseconds);

}  // namespace outrigger
