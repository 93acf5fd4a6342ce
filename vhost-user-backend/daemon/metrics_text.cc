// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/metrics_text.h"

#include <utility>

#include <fmt/core.h>
#include <outrigger_control.pb.h>

namespace outrigger {
namespace {

namespace v1 = control::v1;

constexpr std::string_view kLatencyName = "outrigger_queue_latency_seconds";
constexpr std::string_view kLatencyHelp =
    "From when a request was taken from the ring until its answer was visible there";

/// Ends of the buckets that are told: powers of two, 512 ns to 8.6 s. Those of the daemon are
/// finer, and have all of these among their ends.
constexpr unsigned kFirstBound = 9;
constexpr unsigned kLastBound = 33;

class DeviceSamples final : public MetricSamples {
  public:
    DeviceSamples(MetricsWriter& writer, const DeviceMetric& metric, const v1::Device& device)
        : writer_(writer), metric_(metric), device_(device) {}

    void add(std::initializer_list<Label> labels, uint64_t value) override {
        std::string text = fmt::format("device=\"{}\"", escaped_label(device_.name()));
        for (const Label& label : labels) {
            text += fmt::format(",{}=\"{}\"", label.name, escaped_label(label.value));
        }
        writer_.sample(metric_.name,
                       text,
                       metric_.is_nanoseconds ? metric_seconds(value) : fmt::format("{}", value));
    }

  private:
    MetricsWriter& writer_;
    const DeviceMetric& metric_;
    const v1::Device& device_;
};

/// A name that no device here has samples of is told all the same: it can be asked for.
void write_metric(MetricsWriter& writer, const DeviceMetric& metric, const v1::Program& program) {
    writer.begin(metric.name, metric.kind, metric.help);
    for (const v1::Device& device : program.devices()) {
        DeviceSamples samples(writer, metric, device);
        metric.collect(device, samples);
    }
}

void write_latency(MetricsWriter& writer,
                   const std::string& device,
                   const v1::QueueStatistics& statistics) {
    const std::string labels =
        fmt::format("device=\"{}\",queue=\"{}\"", escaped_label(device), statistics.queue());
    const std::string bucket_name = std::string(kLatencyName) + "_bucket";
    const auto& buckets = statistics.latency().buckets();
    auto next = buckets.begin();
    uint64_t count = 0;
    for (unsigned power = kFirstBound; power <= kLastBound; ++power) {
        const uint64_t bound = uint64_t{1} << power;
        for (; next != buckets.end() && next->below_nanoseconds() <= bound; ++next) {
            count += next->count();
        }
        writer.sample(bucket_name,
                      fmt::format("{},le=\"{}\"", labels, metric_seconds(bound)),
                      fmt::format("{}", count));
    }
    for (; next != buckets.end(); ++next) {
        count += next->count();
    }
    const std::string total = fmt::format("{}", count);
    writer.sample(bucket_name, labels + ",le=\"+Inf\"", total);
    writer.sample(std::string(kLatencyName) + "_sum",
                  labels,
                  metric_seconds(statistics.latency().sum_nanoseconds()));
    writer.sample(std::string(kLatencyName) + "_count", labels, total);
}

}  // namespace

std::string metrics_text(const v1::Program& program, MetricsFormat format) {
    MetricsWriter writer(format);
    writer.begin("outrigger_program_info", MetricKind::kGauge, "What runs; its value is 1");
    writer.sample("outrigger_program_info",
                  fmt::format("program=\"{}\",version=\"{}\"",
                              escaped_label(program.name()),
                              escaped_label(program.version())),
                  "1");
    for (const auto& metrics : {common_metrics(), kind_metrics(), share_metrics()}) {
        for (const DeviceMetric& metric : metrics) {
            write_metric(writer, metric, program);
        }
    }
    writer.begin(kLatencyName, MetricKind::kHistogram, kLatencyHelp);
    for (const v1::Device& device : program.devices()) {
        for (const v1::QueueStatistics& statistics : device.queue_statistics()) {
            write_latency(writer, device.name(), statistics);
        }
    }
    return writer.take();
}

}  // namespace outrigger
