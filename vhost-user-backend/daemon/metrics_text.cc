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

std::string seconds(uint64_t nanoseconds) {
    return fmt::format("{}.{:09}", nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000);
}

/// Behind a label's quotes, and the same in a help text.
std::string escaped(std::string_view text) {
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

class Writer final {
  public:
    explicit Writer(MetricsFormat format) : format_(format) {}

    void begin(std::string_view name, std::string_view type, std::string_view help) {
        // In OpenMetrics a family is called without what its counters' names end with.
        if (format_ == MetricsFormat::kOpenMetrics && name.ends_with("_total")) {
            name.remove_suffix(std::string_view("_total").size());
        }
        out_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
    }

    void sample(std::string_view name, std::string_view labels, std::string_view value) {
        out_ += fmt::format("{}{{{}}} {}\n", name, labels, value);
    }

    [[nodiscard]] std::string take() {
        if (format_ == MetricsFormat::kOpenMetrics) {
            out_ += "# EOF\n";
        }
        return std::move(out_);
    }

  private:
    const MetricsFormat format_;
    std::string out_;
};

class DeviceSamples final : public MetricSamples {
  public:
    DeviceSamples(Writer& writer, const DeviceMetric& metric, const v1::Device& device)
        : writer_(writer), metric_(metric), device_(device) {}

    void add(std::initializer_list<Label> labels, uint64_t value) override {
        std::string text = fmt::format("device=\"{}\"", escaped(device_.name()));
        for (const Label& label : labels) {
            text += fmt::format(",{}=\"{}\"", label.name, escaped(label.value));
        }
        writer_.sample(
            metric_.name, text, metric_.is_nanoseconds ? seconds(value) : fmt::format("{}", value));
    }

  private:
    Writer& writer_;
    const DeviceMetric& metric_;
    const v1::Device& device_;
};

/// A name that no device here has samples of is told all the same: it can be asked for.
void write_metric(Writer& writer, const DeviceMetric& metric, const v1::Program& program) {
    writer.begin(
        metric.name, metric.kind == MetricKind::kCounter ? "counter" : "gauge", metric.help);
    for (const v1::Device& device : program.devices()) {
        DeviceSamples samples(writer, metric, device);
        metric.collect(device, samples);
    }
}

void write_latency(Writer& writer,
                   const std::string& device,
                   const v1::QueueStatistics& statistics) {
    const std::string labels =
        fmt::format("device=\"{}\",queue=\"{}\"", escaped(device), statistics.queue());
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
                      fmt::format("{},le=\"{}\"", labels, seconds(bound)),
                      fmt::format("{}", count));
    }
    for (; next != buckets.end(); ++next) {
        count += next->count();
    }
    const std::string total = fmt::format("{}", count);
    writer.sample(bucket_name, labels + ",le=\"+Inf\"", total);
    writer.sample(std::string(kLatencyName) + "_sum",
                  labels,
                  seconds(statistics.latency().sum_nanoseconds()));
    writer.sample(std::string(kLatencyName) + "_count", labels, total);
}

}  // namespace

std::string_view metrics_content_type(MetricsFormat format) {
    return format == MetricsFormat::kOpenMetrics
               ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
               : "text/plain; version=0.0.4; charset=utf-8";
}

std::string metrics_text(const v1::Program& program, MetricsFormat format) {
    Writer writer(format);
    writer.begin("outrigger_program_info", "gauge", "What runs; its value is 1");
    writer.sample(
        "outrigger_program_info",
        fmt::format(
            "program=\"{}\",version=\"{}\"", escaped(program.name()), escaped(program.version())),
        "1");
    for (const auto& metrics : {common_metrics(), kind_metrics()}) {
        for (const DeviceMetric& metric : metrics) {
            write_metric(writer, metric, program);
        }
    }
    writer.begin(kLatencyName, "histogram", kLatencyHelp);
    for (const v1::Device& device : program.devices()) {
        for (const v1::QueueStatistics& statistics : device.queue_statistics()) {
            write_latency(writer, device.name(), statistics);
        }
    }
    return writer.take();
}

}  // namespace outrigger
