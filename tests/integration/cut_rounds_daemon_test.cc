// SPDX-License-Identifier: Apache-2.0
// A thousand front ends that come and go, each in the middle of something else: the daemons, seen
// from outside, are as they were.
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <linux/virtio_blk.h>
#include <signal.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/cut_session.h"
#include "tests/support/loops.h"
#include "tests/support/process_counts.h"
#include "tests/support/temporary_image.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

constexpr size_t kRounds = 1000;
/// What is made once and kept (threads for image I/O, heaps at their largest) is there after so
/// many.
constexpr size_t kWarmUpRounds = 200;
/// 64 bytes a round, because a process is seen from outside in whole pages.
constexpr size_t kOwnMemoryGrowthMax = 64 * kRounds;
/// A heap may grow by a piece: not one for each round.
constexpr size_t kMappingsGrowthMax = 4;

class CutRoundsDaemon : public ::testing::TestWithParam<LoopKind> {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) {
            GTEST_SKIP() << "the daemon hides its descriptors from its own user";
        }
        std::string name = ::testing::TempDir() + "cut-rounds-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        socket_ = folder_ / "device.sock";
    }

    void TearDown() override {
        daemon_.reset();
        if (!folder_.empty()) {
            fs::remove_all(folder_);
        }
    }

    void start(const char* variable, std::vector<std::string> arguments) {
        const char* program = std::getenv(variable);
        ASSERT_NE(program, nullptr) << variable << " names the program under test";
        arguments.push_back("--socket-path=" + socket_.string());
        arguments.push_back(GetParam() == LoopKind::kUring ? "--io=uring" : "--io=asio");
        daemon_ =
            std::make_unique<ChildProcess>(program, ChildProcess::Options{.arguments = arguments});
    }

    [[nodiscard]] driver::Frontend connect() const {
        return driver::Frontend::connect(socket_, driver::after(kPatience)).value();
    }

    struct Measure {
        ProcessCounts counts;
        size_t mappings;
        size_t own_memory_bytes;
    };

    /// Taken while a front end is served that has shared nothing yet: one at a time is, so all
    /// that was of the ones before is gone or about to go, or will not go.
    [[nodiscard]] Measure measure() const {
        driver::Frontend frontend = connect();
        EXPECT_TRUE(frontend.get_features());
        return {.counts = settled_counts_of(daemon_->pid()),
                .mappings = mappings_of(daemon_->pid()),
                .own_memory_bytes = own_memory_bytes_of(daemon_->pid())};
    }

    void play(const SessionPlan& plan, const std::vector<CutPoint>& points, size_t count) {
        for (size_t i = 0; i < count; ++i) {
            play_round(connect(), plan, points, i);
            ASSERT_FALSE(HasFailure()) << "round " << i;
        }
    }

    void expect_nothing_left_behind(const SessionPlan& plan) {
        const auto points = play_whole_session(connect(), plan);
        play(plan, points, kWarmUpRounds);
        ASSERT_FALSE(HasFailure());
        const Measure before = measure();

        play(plan, points, kRounds);

        ASSERT_FALSE(HasFailure());
        const Measure after = measure();
        EXPECT_EQ(after.counts, before.counts);
        EXPECT_EQ(after.counts.memory_mappings, 0U);
        EXPECT_EQ(after.counts.shared_memories, 0U);
        if (kMemoryIsOurs) {
            EXPECT_LE(after.mappings, before.mappings + kMappingsGrowthMax);
            EXPECT_LE(after.own_memory_bytes, before.own_memory_bytes + kOwnMemoryGrowthMax);
        }
        (void)play_whole_session(connect(), plan);
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), (Ended{.status = 0}));
    }

    fs::path folder_;
    fs::path socket_;
    std::unique_ptr<ChildProcess> daemon_;
};

INSTANTIATE_TEST_SUITE_P(Loops,
                         CutRoundsDaemon,
                         ::testing::ValuesIn(loops_of_this_build()),
                         [](const auto& row) {
                             return row.param == LoopKind::kUring ? "Uring" : "Asio";
                         });

TEST_P(CutRoundsDaemon, AThousandSessionsLeaveRngAsItWas) {
    start("OUTRIGGER_RNG_PROGRAM", {});
    SessionPlan plan;
    plan.queue_count = 1;
    plan.make_request = [](driver::GuestMemory& memory) {
        return std::vector<driver::Segment>{
            {.address = memory.allocate(512, 16).value(), .length = 512, .device_writable = true}};
    };
    expect_nothing_left_behind(plan);
}

/// Reads and writes in turn, so that some are on their way to the image whenever the end comes.
std::vector<driver::Segment> make_blk_request(driver::GuestMemory& memory) {
    constexpr uint32_t kDataBytes = 4096;
    static uint64_t serial = 0;
    const bool write = ++serial % 2 != 0;
    std::array<std::byte, 16> header{};
    const uint32_t type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
    const uint64_t sector = serial % 256 * 8;
    std::memcpy(header.data(), &type, sizeof type);
    std::memcpy(header.data() + 8, &sector, sizeof sector);
    const GuestAddr head = memory.allocate(header.size(), 16).value();
    memory.write(head, header);
    return {{.address = head, .length = 16, .device_writable = false},
            {.address = memory.allocate(kDataBytes, 512).value(),
             .length = kDataBytes,
             .device_writable = !write},
            {.address = memory.allocate(1, 1).value(), .length = 1, .device_writable = true}};
}

TEST_P(CutRoundsDaemon, AThousandSessionsLeaveBlkAsItWas) {
    const TemporaryImage image(uint64_t{16} << 20);
    start("OUTRIGGER_BLK_PROGRAM", {"--blk-file=" + image.path(), "--queue-threads=2"});
    SessionPlan plan;
    plan.writable_config_offset = offsetof(virtio_blk_config, wce);
    plan.make_request = make_blk_request;
    expect_nothing_left_behind(plan);
}

}  // namespace
}  // namespace outrigger::testing
