// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/ctl_statistics.h"

#include <gtest/gtest.h>

#include "tools/outriggerctl/top.h"

namespace outrigger::ctl {
namespace {

namespace v1 = control::v1;

/// One device with one queue that runs.
Sample sample_at(int second, uint64_t answers, uint64_t below_nanoseconds, uint32_t pid = 1) {
    Sample sample{.taken_at = std::chrono::steady_clock::time_point(std::chrono::seconds(second)),
                  .program = v1::Program()};
    sample.program->set_pid(pid);
    v1::Device& device = *sample.program->add_devices();
    device.set_name("disk");
    device.add_threads()->set_busy_nanoseconds(answers * 1'000'000);
    v1::QueueStatistics& queue = *device.add_queue_statistics();
    queue.set_running(true);
    queue.set_requests_answered(answers);
    queue.set_bytes(answers * 4096);
    queue.set_batches(answers / 10);
    queue.set_requests_in_flight(7);
    v1::LatencyBucket& bucket = *queue.mutable_latency()->add_buckets();
    bucket.set_below_nanoseconds(below_nanoseconds);
    bucket.set_count(answers);
    return sample;
}

TEST(CtlStatistics, RatesAreOfWhatCameBetween) {
    Sample after = sample_at(12, 300, 1000);
    v1::LatencyBucket& slow = *after.program->mutable_devices(0)
                                   ->mutable_queue_statistics(0)
                                   ->mutable_latency()
                                   ->add_buckets();
    slow.set_below_nanoseconds(5000);
    slow.set_count(4);
    const auto devices = rates_between(sample_at(10, 100, 1000), after);
    ASSERT_EQ(devices.size(), 1U);
    ASSERT_EQ(devices[0].queues.size(), 1U);
    const QueueRates& queue = devices[0].queues[0];
    EXPECT_DOUBLE_EQ(queue.requests, 100);
    EXPECT_DOUBLE_EQ(queue.bytes, 409'600);
    EXPECT_DOUBLE_EQ(queue.batch, 10);
    EXPECT_DOUBLE_EQ(devices[0].busy, 0.1);
    EXPECT_EQ(queue.in_flight, 7U);
    EXPECT_EQ(queue.p50_nanoseconds, 1000U);
    EXPECT_EQ(queue.p99_nanoseconds, 5000U);  // 4 of 204 are more than 1 of 100
}

TEST(CtlStatistics, AnotherProcessCountsFromItsBeginning) {
    const auto devices = rates_between(sample_at(10, 100, 1000), sample_at(11, 150, 1000, 2));
    ASSERT_EQ(devices.size(), 1U);
    EXPECT_DOUBLE_EQ(devices[0].queues.at(0).requests, 150);
}

TEST(CtlStatistics, CountersThatWentBackWereBegunAnew) {
    const auto devices = rates_between(sample_at(10, 100, 1000), sample_at(11, 30, 1000));
    ASSERT_EQ(devices.size(), 1U);
    EXPECT_DOUBLE_EQ(devices[0].queues.at(0).requests, 30);
}

TEST(CtlStatistics, QueuesThatDoNothingAreNotShown) {
    Sample after = sample_at(11, 100, 1000);
    after.program->mutable_devices(0)->mutable_queue_statistics(0)->set_running(false);
    EXPECT_TRUE(rates_between(sample_at(10, 100, 1000), after).at(0).queues.empty());
    EXPECT_FALSE(rates_between(sample_at(10, 99, 1000), after).at(0).queues.empty());
}

TEST(CtlStatistics, NumbersAreShort) {
    EXPECT_EQ(short_number(0), "0");
    EXPECT_EQ(short_number(0.5), "0.50");
    EXPECT_EQ(short_number(9.996), "10.0");
    EXPECT_EQ(short_number(999.4), "999");
    EXPECT_EQ(short_number(999.6), "1.00 k");
    EXPECT_EQ(short_number(123456789), "123 M");
    EXPECT_EQ(short_time(0), "-");
    EXPECT_EQ(short_time(999), "999 ns");
    EXPECT_EQ(short_time(1234), "1.23 us");
    EXPECT_EQ(short_time(999'600), "1.00 ms");
    EXPECT_EQ(short_time(137'438'953'472), "137 s");
}

TEST(Top, FitsItsTerminal) {
    const std::vector<std::string> lines = {"one", "two", "three", "four"};
    EXPECT_EQ(fit_lines(lines, 4, 80), lines);
    EXPECT_EQ(fit_lines(lines, 3, 4), (std::vector<std::string>{"one", "two", "and "}));
    EXPECT_EQ(fit_lines(lines, 1, 80), std::vector<std::string>{"and 4 more"});
    EXPECT_EQ(fit_lines(lines, 4, 0), std::vector<std::string>(4));
}

TEST(Top, SaysWhyADaemonIsNotShown) {
    const auto lines = top_lines({{.socket = "/run/a.ctl", .after = {.problem = "it is gone"}}});
    ASSERT_EQ(lines.size(), 2U);
    EXPECT_EQ(lines[1], "/run/a.ctl: it is gone");
}

}  // namespace
}  // namespace outrigger::ctl
