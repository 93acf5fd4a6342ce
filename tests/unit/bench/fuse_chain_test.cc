// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/fuse_chain.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "tools/outrigger-bench/calibration.h"
#include "tools/outrigger-bench/workload.h"

namespace outrigger::bench {
namespace {

/// A chain, and a back end that writes into it.
class FuseChainTest : public ::testing::Test {
  protected:
    /// A WRITE of 512 bytes.
    std::span<const driver::Segment> write_chain() {
        fuse_write_in in{};
        in.size = 512;
        chain_.begin(FUSE_WRITE, 7);
        chain_.add(in);
        chain_.add_data(512);
        chain_.expect<fuse_write_out>();
        return chain_.finish();
    }

    template <class T>
    T read(const driver::Segment& segment) {
        T value;
        std::memcpy(&value, memory_.data(segment.address, sizeof value), sizeof value);
        return value;
    }

    template <class T>
    void write(const driver::Segment& segment, const T& value) {
        std::memcpy(memory_.data(segment.address, sizeof value), &value, sizeof value);
    }

    fuse_out_header answer_to(std::span<const driver::Segment> segments, uint32_t length) {
        return {.len = length, .error = 0, .unique = read<fuse_in_header>(segments.front()).unique};
    }

    static constexpr uint32_t kWritten = sizeof(fuse_out_header) + sizeof(fuse_write_out);

    driver::GuestMemory memory_ = driver::GuestMemory::create(1 << 20).value();
    FuseChain chain_ = FuseChain::create(memory_, 4096).value();
};

TEST_F(FuseChainTest, HeaderSaysHowLongTheRequestIs) {
    const auto segments = write_chain();

    ASSERT_EQ(segments.size(), 5U);
    const auto header = read<fuse_in_header>(segments[0]);
    EXPECT_EQ(header.len, sizeof(fuse_in_header) + sizeof(fuse_write_in) + 512);
    EXPECT_EQ(header.opcode, FUSE_WRITE);
    EXPECT_EQ(header.nodeid, 7U);
    EXPECT_EQ(segments[1].length, sizeof(fuse_write_in));
    EXPECT_EQ(segments[2].length, 512U);
    EXPECT_FALSE(segments[2].device_writable);
    EXPECT_TRUE(segments[3].device_writable);
    EXPECT_EQ(segments[4].length, sizeof(fuse_write_out));
}

TEST_F(FuseChainTest, NamesEndWithNul) {
    chain_.begin(FUSE_LOOKUP, FUSE_ROOT_ID);
    chain_.add_name("name");
    chain_.expect<fuse_entry_out>();
    const auto segments = chain_.finish();

    EXPECT_EQ(segments[1].length, 5U);
    EXPECT_EQ(std::memcmp(memory_.data(segments[1].address, 5), "name", 5), 0);
}

TEST_F(FuseChainTest, WhatIsNotAnsweredHasNoRoomForIt) {
    chain_.begin(FUSE_BATCH_FORGET, 0);
    chain_.add(fuse_batch_forget_in{.count = 0, .dummy = 0});

    EXPECT_EQ(chain_.finish(false).size(), 2U);
}

TEST_F(FuseChainTest, AnswerIsRead) {
    const auto segments = write_chain();
    write(segments[3], answer_to(segments, kWritten));
    write(segments[4], fuse_write_out{.size = 512, .padding = 0});

    EXPECT_EQ(chain_.error(kWritten), 0);
    EXPECT_EQ(chain_.answer_at<fuse_write_out>(0).size, 512U);
}

TEST_F(FuseChainTest, ErrorIsRead) {
    const auto segments = write_chain();
    auto header = answer_to(segments, sizeof(fuse_out_header));
    header.error = -ENOSPC;
    write(segments[3], header);

    EXPECT_EQ(chain_.error(sizeof(fuse_out_header)), ENOSPC);
}

TEST_F(FuseChainTest, NoAnswerIsNone) {
    (void)write_chain();

    EXPECT_EQ(chain_.error(0), -1);
    EXPECT_EQ(chain_.error(sizeof(fuse_out_header)), -1);
    EXPECT_EQ(chain_.error(kWritten), -1);
}

TEST_F(FuseChainTest, AnswerToAnotherRequestIsNone) {
    const auto first = answer_to(write_chain(), kWritten);
    const auto segments = write_chain();
    write(segments[3], first);

    EXPECT_EQ(chain_.error(kWritten), -1);
}

TEST_F(FuseChainTest, AnswerOfAnotherLengthIsNone) {
    const auto segments = write_chain();
    write(segments[3], answer_to(segments, kWritten));
    EXPECT_EQ(chain_.error(kWritten - 1), -1);
    EXPECT_EQ(chain_.error(kWritten + 1), -1);

    write(segments[3], answer_to(segments, kWritten - 1));
    EXPECT_EQ(chain_.error(kWritten - 1), -1);

    write(segments[3], answer_to(segments, kWritten + 1));
    EXPECT_EQ(chain_.error(kWritten + 1), -1);
}

TEST_F(FuseChainTest, ErrorWithTheWrongSignIsNone) {
    const auto segments = write_chain();
    auto header = answer_to(segments, kWritten);
    header.error = 5;
    write(segments[3], header);

    EXPECT_EQ(chain_.error(kWritten), -1);
}

TEST_F(FuseChainTest, DataMayBeShorterThanItsRoom) {
    chain_.begin(FUSE_READ, 7);
    chain_.add(fuse_read_in{});
    chain_.expect_data(4096);
    const auto segments = chain_.finish();
    constexpr uint32_t kLength = sizeof(fuse_out_header) + 10;
    write(segments[2], answer_to(segments, kLength));

    EXPECT_EQ(chain_.error(kLength), 0);
    EXPECT_EQ(chain_.data_length(kLength), 10U);

    constexpr uint32_t kTooLong = sizeof(fuse_out_header) + 4097;
    write(segments[2], answer_to(segments, kTooLong));
    EXPECT_EQ(chain_.error(kTooLong), -1);
}

TEST(FsWorkload, ChainsFitTheRing) {
    EXPECT_LE(FuseChain::kSegmentsMax, kSegmentsMax);
    EXPECT_EQ(descriptors_per_request({.workload = WorkloadKind::kFs}), FuseChain::kSegmentsMax);
}

/// Against a device that answers at once, and says nothing.
TEST(FsWorkload, CostsOfEachAccessCanBeMeasured) {
    for (const Access access : {Access::kRandRead,
                                Access::kWrite,
                                Access::kGetattr,
                                Access::kStat,
                                Access::kCreate,
                                Access::kReadDirectory}) {
        const BenchPlan plan{
            .workload = WorkloadKind::kFs, .access = access, .depth = 4, .ring_size = 32};
        const auto cost = calibrate(plan, std::chrono::milliseconds(5));

        ASSERT_TRUE(cost) << cost.error().message;
        EXPECT_GT(cost->rate, 0.0) << name_of(access);
    }
}

}  // namespace
}  // namespace outrigger::bench
