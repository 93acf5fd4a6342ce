// SPDX-License-Identifier: Apache-2.0
// A disk workload that verifies, against a disk that is a few lines of this file.
#include "tools/outrigger-bench/blk_workload.h"

#include <cstring>
#include <deque>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <linux/virtio_blk.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/little_endian.h"

#include "tools/outrigger-bench/backend.h"

namespace outrigger::bench {
namespace {

constexpr uint32_t kSlots = 3;
constexpr uint32_t kBlocks = 8;
constexpr uint32_t kBlockBytes = 512;

class VerifyingWorkload : public ::testing::Test {
  protected:
    ~VerifyingWorkload() override { std::filesystem::remove(plan_.verify_state); }

    VerifyingWorkload() {
        plan_.verify = true;
        plan_.verify_state = ::testing::TempDir() + "workload-" + std::to_string(::getpid());
        plan_.area_bytes = kBlocks * kBlockBytes;
        plan_.block_bytes = kBlockBytes;
        plan_.access = Access::kRandWrite;
        plan_.depth = kSlots;
        plan_.ring_size = 16;
    }

    /// A workload as a new run of the program has it.
    void begin_run() {
        workload_.emplace(plan_, 0);
        memory_ = create_guest_memory(plan_, device_needs(plan_)).value();
        workload_->assume();
        ASSERT_TRUE(workload_->allocate(memory_, kSlots));
    }

    /// Requests of a phase as the load makes them, up to `count`; those in flight end.
    Verdict run(Phase phase, uint32_t count = UINT32_MAX) {
        const auto entered = workload_->enter(phase);
        EXPECT_TRUE(entered);
        std::deque<uint32_t> in_flight;
        Verdict worst = Verdict::kGood;
        const auto submit = [&](uint32_t slot) {
            if (count == 0) {
                return;
            }
            const auto segments = workload_->begin(slot);
            if (!segments.empty()) {
                --count;
                // What was written is there only once the request comes back.
                requests_[slot] = {segments.begin(), segments.end()};
                in_flight.push_back(slot);
            }
        };
        for (uint32_t slot = 0; slot < kSlots; ++slot) {
            submit(slot);
        }
        while (!in_flight.empty()) {
            const uint32_t slot = in_flight.front();
            in_flight.pop_front();
            answer(requests_[slot], in_flight.size());
            worst = std::max(worst, workload_->finish(slot, {}));
            submit(slot);
        }
        return worst;
    }

    void answer(const std::vector<driver::Segment>& request, size_t others) {
        LittleEndian<uint32_t> type;
        LittleEndian<uint64_t> sector;
        const std::byte* const header = memory_.data(request[0].address, 16);
        std::memcpy(&type, header, sizeof type);
        std::memcpy(&sector, header + 8, sizeof sector);
        if (type.value() == VIRTIO_BLK_T_FLUSH) {
            ++flushes_;
            flushed_in_company_ = flushed_in_company_ || others != 0;
        } else {
            std::byte* const data = memory_.data(request[1].address, kBlockBytes);
            std::byte* const block = disk_.data() + sector.value() * 512;
            const bool writes = type.value() == VIRTIO_BLK_T_OUT;
            std::memcpy(writes ? block : data, writes ? data : block, kBlockBytes);
        }
        *memory_.data(request.back().address, 1) = std::byte{VIRTIO_BLK_S_OK};
    }

    void lose_all() { disk_.assign(disk_.size(), std::byte{0}); }

    BenchPlan plan_;
    driver::GuestMemory memory_;
    std::optional<BlkWorkload> workload_;
    std::vector<std::byte> disk_ = std::vector<std::byte>(kBlocks * kBlockBytes);
    std::vector<driver::Segment> requests_[kSlots];
    uint32_t flushes_ = 0;
    bool flushed_in_company_ = false;
};

TEST_F(VerifyingWorkload, FillIsMadeSafe) {
    begin_run();
    ASSERT_EQ(run(Phase::kPrepare), Verdict::kGood);
    EXPECT_EQ(flushes_, 1U);
    EXPECT_FALSE(flushed_in_company_);
    ASSERT_TRUE(workload_->close());
    lose_all();
    begin_run();

    EXPECT_EQ(run(Phase::kPrepare), Verdict::kWrong);
}

TEST_F(VerifyingWorkload, WhatACleanEndLeavesIsSafe) {
    begin_run();
    ASSERT_EQ(run(Phase::kPrepare), Verdict::kGood);
    const std::vector<std::byte> filled = disk_;
    ASSERT_EQ(run(Phase::kLoad, 100), Verdict::kGood);
    ASSERT_EQ(run(Phase::kCheck), Verdict::kGood);
    ASSERT_TRUE(workload_->close());
    disk_ = filled;
    begin_run();

    EXPECT_EQ(run(Phase::kPrepare), Verdict::kWrong);
}

TEST_F(VerifyingWorkload, NextRunFindsWhatTheLastHasLeft) {
    for (int i = 0; i < 3; ++i) {
        begin_run();
        EXPECT_EQ(run(Phase::kPrepare), Verdict::kGood) << workload_->complaint();
        EXPECT_EQ(run(Phase::kLoad, 100), Verdict::kGood) << workload_->complaint();
        EXPECT_EQ(run(Phase::kCheck), Verdict::kGood) << workload_->complaint();
        EXPECT_TRUE(workload_->close());
    }
}

TEST_F(VerifyingWorkload, RunThatEndsAtOnceLeavesNoStaleState) {
    begin_run();
    ASSERT_EQ(run(Phase::kPrepare), Verdict::kGood);
    ASSERT_TRUE(workload_->close());
    begin_run();
    ASSERT_EQ(run(Phase::kPrepare), Verdict::kGood);
    // Nothing was changed yet.
    EXPECT_TRUE(std::filesystem::exists(plan_.verify_state));
    ASSERT_EQ(run(Phase::kLoad, 100), Verdict::kGood);

    EXPECT_FALSE(std::filesystem::exists(plan_.verify_state));
}

TEST_F(VerifyingWorkload, WithoutStateNothingIsFlushed) {
    plan_.verify_state.clear();
    begin_run();
    EXPECT_EQ(run(Phase::kPrepare), Verdict::kGood);
    EXPECT_EQ(run(Phase::kCheck), Verdict::kGood);

    EXPECT_EQ(flushes_, 0U);
}

}  // namespace
}  // namespace outrigger::bench
