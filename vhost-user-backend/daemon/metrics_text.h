// SPDX-License-Identifier: Apache-2.0
/// What a program tells of itself, as text for Prometheus and those that read the same.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "vhost-user-backend/control/metrics_http.h"
#include "vhost-user-backend/control/metrics_writer.h"

namespace outrigger {

namespace control::v1 {
class Device;
class Program;
}  // namespace control::v1

[[nodiscard]] std::string metrics_text(const control::v1::Program& program, MetricsFormat format);

/// Takes the samples of one metric of one device.
class MetricSamples {
  public:
    struct Label {
        std::string_view name;
        std::string_view value;
    };

    /// One more, with these labels besides that of the device.
    virtual void add(std::initializer_list<Label> labels, uint64_t value) = 0;

  protected:
    ~MetricSamples() = default;
};

/// A metric of devices, of one value for each set of labels.
struct DeviceMetric {
    std::string_view name;
    std::string_view help;
    MetricKind kind = MetricKind::kCounter;
    bool is_nanoseconds = false;  ///< of the samples; the text has seconds
    void (*collect)(const control::v1::Device& device, MetricSamples& samples);
};

/// What every device has.
[[nodiscard]] std::span<const DeviceMetric> common_metrics();

/// What single kinds of device have; shared directories apart, which have many.
[[nodiscard]] std::span<const DeviceMetric> kind_metrics();
[[nodiscard]] std::span<const DeviceMetric> share_metrics();

}  // namespace outrigger
