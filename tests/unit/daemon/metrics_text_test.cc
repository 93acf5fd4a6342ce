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
    for (const auto& metrics : {common_metrics(), kind_metrics(), share_metrics()}) {
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

TEST(MetricsText, AShareTellsWhatItsMessageHas) {
    v1::Program program;
    v1::Device& device = *program.add_devices();
    device.set_name("d");
    v1::SharedDirectory& share = *device.mutable_shared_directory();
    v1::OperationCount& lookups = *share.add_requests();
    lookups.set_operation("LOOKUP");
    lookups.set_count(7);
    v1::ReasonCount& failed = *share.add_failed();
    failed.set_reason("ENOENT");
    failed.set_count(3);
    v1::ReasonCount& refused = *share.add_refused();
    refused.set_reason("unknown-node");
    refused.set_count(2);
    share.set_bytes_read(10);
    share.set_bytes_written(20);
    share.set_bytes_copied(30);
    share.set_given_to_pool(4);
    share.set_given_to_kernel(5);
    share.set_lock_waits(6);
    share.set_taken_up_again(8);
    share.set_nodes(9);
    share.set_nodes_remembered(1);
    share.set_open_files(11);
    share.set_mappings(12);
    share.set_descriptors(13);
    share.set_descriptors_max(14);
    const std::string text = metrics_text(program, MetricsFormat::kPrometheus);
    for (const char* const line : {
             R"(requests_total{device="d",operation="LOOKUP"} 7)",
             R"(failures_total{device="d",error="ENOENT"} 3)",
             R"(refusals_total{device="d",reason="unknown-node"} 2)",
             R"(bytes_total{device="d",operation="read"} 10)",
             R"(bytes_total{device="d",operation="write"} 20)",
             R"(bytes_total{device="d",operation="copy"} 30)",
             R"(deferred_total{device="d",to="pool"} 4)",
             R"(deferred_total{device="d",to="io_uring"} 5)",
             R"(lock_waits_total{device="d"} 6)",
             R"(taken_up_again_total{device="d"} 8)",
             R"(nodes{device="d"} 9)",
             R"(remembered_nodes{device="d"} 1)",
             R"(open_files{device="d"} 11)",
             R"(mappings{device="d"} 12)",
             R"(descriptors{device="d"} 13)",
             R"(descriptors_max{device="d"} 14)",
         }) {
        EXPECT_TRUE(has_line(text, std::string("outrigger_fs_") + line)) << line;
    }
    EXPECT_EQ(text.find("\noutrigger_rng_bytes_total{"), std::string::npos) << "it is none";
}

TEST(MetricsText, AnEntropyDeviceTellsWhatItsMessageHas) {
    v1::Program program;
    v1::Device& device = *program.add_devices();
    device.set_name("d");
    v1::EntropyDevice& entropy = *device.mutable_entropy();
    entropy.set_bytes_from_source(1);
    entropy.set_bytes_from_kernel(2);
    entropy.set_empty_requests(3);
    entropy.set_source_waits(4);
    entropy.set_source_failures(5);
    entropy.set_limit_waits(6);
    entropy.set_limit_wait_nanoseconds(7'000'000'000);
    const std::string text = metrics_text(program, MetricsFormat::kPrometheus);
    for (const char* const line : {
             R"(bytes_total{device="d",from="source"} 1)",
             R"(bytes_total{device="d",from="kernel"} 2)",
             R"(empty_requests_total{device="d"} 3)",
             R"(source_waits_total{device="d"} 4)",
             R"(source_failures_total{device="d"} 5)",
             R"(limit_waits_total{device="d"} 6)",
             R"(limit_wait_seconds_total{device="d"} 7.000000000)",
         }) {
        EXPECT_TRUE(has_line(text, std::string("outrigger_rng_") + line)) << line;
    }
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
