// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/program_description.h"

#include <string>

#include <gtest/gtest.h>
#include <outrigger_control.pb.h>

#include "vhost-user-backend/control/message_frame.h"

namespace outrigger {
namespace {

namespace v1 = control::v1;

v1::Program make_program(size_t devices, size_t queues, size_t buckets) {
    v1::Program program;
    program.set_name("outrigger-blk");
    for (size_t device = 0; device < devices; ++device) {
        v1::Device& added = *program.add_devices();
        added.set_name("blk" + std::to_string(device));
        added.set_socket("/run/outrigger/" + added.name());
        for (size_t queue = 0; queue < queues; ++queue) {
            v1::QueueStatistics& statistics = *added.add_queue_statistics();
            statistics.set_queue(static_cast<uint32_t>(queue));
            statistics.set_requests_answered(1'000'000'000);
            statistics.mutable_latency()->set_p99_nanoseconds(5000);
            for (size_t bucket = 0; bucket < buckets; ++bucket) {
                v1::LatencyBucket& filled = *statistics.mutable_latency()->add_buckets();
                filled.set_below_nanoseconds(1'000'000 + bucket);
                filled.set_count(1'000'000);
            }
        }
    }
    return program;
}

TEST(Shorten, LeavesWhatFitsAsItIs) {
    v1::Program program = make_program(2, 4, 100);
    const std::string before = program.SerializeAsString();
    shorten(program, before.size());
    EXPECT_EQ(program.SerializeAsString(), before);
    EXPECT_FALSE(program.shortened());
}

// One disk, whose guest has requests of every duration.
TEST(Shorten, BucketsGoAndPercentilesStay) {
    v1::Program program = make_program(1, 256, 480);
    ASSERT_GT(program.ByteSizeLong(), control::kReplyBytesMax);
    shorten(program, control::kReplyBytesMax);
    EXPECT_LE(program.ByteSizeLong(), control::kReplyBytesMax);
    EXPECT_TRUE(program.shortened());
    ASSERT_EQ(program.devices(0).queue_statistics_size(), 256);
    const v1::QueueStatistics& queue = program.devices(0).queue_statistics(255);
    EXPECT_EQ(queue.requests_answered(), 1'000'000'000U);
    EXPECT_EQ(queue.latency().p99_nanoseconds(), 5000U);
    EXPECT_EQ(queue.latency().buckets_size(), 0);
}

// As many as a process can have.
TEST(Shorten, DevicesAreToldOfHoweverManyQueuesThereAre) {
    v1::Program program = make_program(64, 256, 100);
    program.mutable_devices(0)->add_threads()->set_busy_nanoseconds(1);
    for (int i = 0; i < 100; ++i) {
        program.mutable_devices(0)->mutable_socket_device()->add_shown()->set_peer_cid(2);
    }
    constexpr size_t kBytesMax = 16384;
    shorten(program, kBytesMax);
    EXPECT_LE(program.ByteSizeLong(), kBytesMax);
    EXPECT_TRUE(program.shortened());
    ASSERT_EQ(program.devices_size(), 64);
    EXPECT_EQ(program.devices(63).name(), "blk63");
    EXPECT_EQ(program.devices(63).queue_statistics_size(), 0);
    EXPECT_EQ(program.devices(0).socket_device().shown_size(), 0);
}

}  // namespace
}  // namespace outrigger
