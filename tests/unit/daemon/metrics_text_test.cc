// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/metrics_text.h"

#include <set>
#include <string>

#include <gtest/gtest.h>
#include <outrigger_control.pb.h>

namespace outrigger {
namespace {

namespace v1 = control::v1;

bool has_line(const std::string& text, const std::string& line) {
    return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

TEST(MetricsText, EveryMetricIsNamedOnceAndAsPrometheusWants) {
    std::set<std::string_view> names;
    for (const auto& metrics : {common_metrics(), kind_metrics()}) {
        for (const DeviceMetric& metric : metrics) {
            EXPECT_TRUE(names.insert(metric.name).second) << metric.name;
            EXPECT_TRUE(metric.name.starts_with("outrigger_")) << metric.name;
            EXPECT_EQ(metric.name.ends_with("_total"), metric.kind == MetricKind::kCounter)
                << metric.name;
            EXPECT_EQ(metric.name.find("_seconds") != std::string_view::npos, metric.is_nanoseconds)
                << metric.name;
        }
    }
}

TEST(MetricsText, TheHistogramIsCumulative) {
    v1::Program program;
    v1::Device& device = *program.add_devices();
    device.set_name("d");
    v1::LatencyHistogram& latency = *device.add_queue_statistics()->mutable_latency();
    latency.set_sum_nanoseconds(1'500'000'001);
    for (const auto& [end, count] : {std::pair(512, 1), {1024, 2}, {1088, 4}}) {
        v1::LatencyBucket& bucket = *latency.add_buckets();
        bucket.set_below_nanoseconds(static_cast<uint64_t>(end));
        bucket.set_count(static_cast<uint64_t>(count));
    }
    v1::LatencyBucket& last = *latency.add_buckets();
    last.set_below_nanoseconds(uint64_t{1} << 37);
    last.set_count(8);
    const std::string text = metrics_text(program, MetricsFormat::kPrometheus);
    const std::string start = "outrigger_queue_latency_seconds";
    const std::string labels = R"({device="d",queue="0",le=)";
    EXPECT_TRUE(has_line(text, start + "_bucket" + labels + "\"0.000000512\"} 1"));
    EXPECT_TRUE(has_line(text, start + "_bucket" + labels + "\"0.000001024\"} 3"));
    EXPECT_TRUE(has_line(text, start + "_bucket" + labels + "\"0.000002048\"} 7"));
    EXPECT_TRUE(has_line(text, start + "_bucket" + labels + "\"8.589934592\"} 7"));
    EXPECT_TRUE(has_line(text, start + "_bucket" + labels + "\"+Inf\"} 15"));
    EXPECT_TRUE(has_line(text, start + "_count{device=\"d\",queue=\"0\"} 15"));
    EXPECT_TRUE(has_line(text, start + "_sum{device=\"d\",queue=\"0\"} 1.500000001"));
}

TEST(MetricsText, LabelsCannotEndEarly) {
    v1::Program program;
    v1::Device& device = *program.add_devices();
    device.set_name("a\"b\\c\nd");
    EXPECT_TRUE(has_line(metrics_text(program, MetricsFormat::kPrometheus),
                         R"(outrigger_queue_moves_total{device="a\"b\\c\nd"} 0)"));
}

TEST(MetricsText, TimesAreInSeconds) {
    v1::Program program;
    v1::Device& device = *program.add_devices();
    device.set_name("d");
    device.add_threads()->set_busy_nanoseconds(12'000'000'034);
    EXPECT_TRUE(
        has_line(metrics_text(program, MetricsFormat::kPrometheus),
                 R"(outrigger_thread_busy_seconds_total{device="d",thread="0"} 12.000000034)"));
}

}  // namespace
}  // namespace outrigger
