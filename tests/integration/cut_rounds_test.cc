// SPDX-License-Identifier: Apache-2.0
// A thousand front ends that come and go, each in the middle of something else, and nothing is left
// of any of them: neither descriptors nor mappings, threads, io_urings or memory. Here inside the
// test's own process, whose heap can be read to the byte.
#include <vector>

#include <malloc.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/cut_session.h"
#include "tests/support/process_counts.h"
#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

constexpr size_t kRounds = 1000;
/// What is made once and kept (buffers at their largest, the heaps of threads, the log) is there
/// after so many.
constexpr size_t kWarmUpRounds = 200;
/// 8 bytes a round; the smallest block of the heap has 32. What leaks at one cut of them all is too
/// rare for this, and LeakSanitizer's to find.
constexpr size_t kHeapGrowthMax = 8 * kRounds;
/// A thread's heap may grow by a piece, or a library map a buffer: not one for each round.
constexpr size_t kMappingsGrowthMax = 4;

// --- Sessions inside this process ----------------------------------------------------------------

class CutRounds : public ::testing::Test {
  protected:
    CutRounds() : host_(device_, {.worker_count = 2}) {
        plan_.make_request = [](driver::GuestMemory& memory) {
            const EchoBuffers buffers(memory);
            const auto chain = buffers.chain();
            return std::vector(chain.begin(), chain.end());
        };
        plan_.writable_config_offset = kWritableConfigOffset;
        plan_.hold_requests = [this] { device_.hold(true); };
        plan_.release_requests = [this] {
            device_.hold(false);
            device_.release_held(QueueIndex{0});
            device_.release_held(QueueIndex{1});
        };
    }

    void play(const std::vector<CutPoint>& points, size_t count) {
        for (size_t i = 0; i < count; ++i) {
            play_round(host_.connect(), plan_, points, i);
            ASSERT_TRUE(host_.wait_closed()) << "round " << i;
            ASSERT_FALSE(HasFailure()) << "round " << i;
        }
    }

    EchoDevice device_{EchoDeviceOptions{.has_abilities = true}};
    SessionHost host_;
    SessionPlan plan_;
};

size_t heap_bytes_in_use() {
    return ::mallinfo2().uordblks;
}

TEST_F(CutRounds, AThousandSessionsLeaveThisProcessAsItWas) {
    const auto points = play_whole_session(host_.connect(), plan_);
    ASSERT_TRUE(host_.wait_closed());
    play(points, kWarmUpRounds);
    ASSERT_FALSE(HasFailure());
    const ProcessCounts before = ProcessCounts::now();
    const size_t mappings_before = mappings_of(::getpid());
    const size_t heap_before = heap_bytes_in_use();

    play(points, kRounds);

    ASSERT_FALSE(HasFailure());
    EXPECT_TRUE(eventually([&] { return ProcessCounts::now() == before; }))
        << "before: " << before << "\nafter: " << ProcessCounts::now();
    EXPECT_EQ(before.memory_mappings, 0U);
    if (kMemoryIsOurs) {
        EXPECT_LE(mappings_of(::getpid()), mappings_before + kMappingsGrowthMax);
        EXPECT_LE(heap_bytes_in_use(), heap_before + kHeapGrowthMax);
    }
    EXPECT_EQ(host_.counters().sessions_opened.value(), 1 + kWarmUpRounds + kRounds);
    EXPECT_EQ(host_.counters().closed.total(), 1 + kWarmUpRounds + kRounds);
    EXPECT_GT(host_.counters().iotlb_misses.value(), 0U) << "rings asked behind an IOMMU";
    EXPECT_LT(points.size(), kRounds) << "not every cut was tried";
    EXPECT_EQ(device_.queues_running(), 0U);
    EXPECT_EQ(device_.held(), 0U);
}

}  // namespace
}  // namespace outrigger::testing
