// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/started_backend.h"

#include <chrono>
#include <optional>
#include <string>
#include <thread>

#include <sched.h>

#include <gtest/gtest.h>

#include "tools/outrigger-bench/backend.h"

namespace outrigger::bench {
namespace {

/// The processors of the thread that runs the test are what they were when it ends.
class StartedBackendTest : public ::testing::Test {
  protected:
    ~StartedBackendTest() override { ::sched_setaffinity(0, sizeof *before_, &*before_); }

    /// May the process, once it is what was started, run where `cpus` says and nowhere else?
    static bool comes_to_run_on(const StartedBackend& started, const cpu_set_t& cpus) {
        for (int looks = 0; looks < 500; ++looks) {
            cpu_set_t found;
            if (::sched_getaffinity(started.pid(), sizeof found, &found) == 0 &&
                CPU_EQUAL(&found, &cpus)) {
                return true;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
        return false;
    }

    const std::optional<cpu_set_t> before_ = processors_of_this_thread();
};

TEST_F(StartedBackendTest, DoesNotInheritTheProcessorOfTheDriver) {
    ASSERT_TRUE(before_);
    ASSERT_TRUE(place_thread(::sched_getcpu()));

    const auto started = StartedBackend::start("sleep 60", before_);

    ASSERT_TRUE(started) << started.error().message;
    EXPECT_TRUE(comes_to_run_on(*started, *before_));
}

TEST_F(StartedBackendTest, RunsWhereItIsTold) {
    ASSERT_TRUE(before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<size_t>(::sched_getcpu()), &one);

    const auto started = StartedBackend::start("sleep 60", one);

    ASSERT_TRUE(started) << started.error().message;
    EXPECT_TRUE(comes_to_run_on(*started, one));
}

TEST(Backend, WhatNoWaitingMendsIsToldAtOnce) {
    BenchPlan plan;
    plan.ring_size = 256;
    // Whoever waits for it outlasts every test.
    plan.patience = std::chrono::hours(1);
    plan.a.socket = std::string(200, 'x');

    const auto backend = Backend::connect(plan, plan.a, "A", std::nullopt);

    ASSERT_FALSE(backend);
    EXPECT_TRUE(backend.error().message.ends_with("File name too long")) << backend.error().message;
}

}  // namespace
}  // namespace outrigger::bench
