// SPDX-License-Identifier: Apache-2.0
// Reads of a qcow2 disk whose kernel is played by the test.
#include "devices/blk/qcow2/qcow2_queue.h"

#include <algorithm>
#include <cerrno>
#include <deque>
#include <memory>
#include <optional>

#include <zlib.h>

#include <gtest/gtest.h>

#include "tests/unit/blk/file_queue_fixture.h"
#include "tests/unit/blk/qcow2/qcow2_bytes.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kCluster = 4096;
constexpr uint64_t kSpan = 512 * kCluster;

/// The L2 table of the disk's first part is cluster 2; its clusters are `entries`.
class Qcow2QueueTest : public testing::Test {
  protected:
    Qcow2QueueTest() : loop_(create_event_loop(LoopKind::kAsio).value()) {
        add_layer(4 * kSpan);
        layers_[0].l2_tables = {2 * kCluster, 0, kDamagedTable, 0};
    }

    ~Qcow2QueueTest() override { EXPECT_TRUE(calls_.empty()) << "a call was not looked at"; }

    void add_layer(uint64_t size_bytes) {
        ImageLayer layer;
        layer.path = "disk.qcow2";
        layer.size_bytes = size_bytes;
        layer.geometry = {.version = 3, .cluster_bits = 12, .file_bytes = 100 * kCluster};
        layers_.push_back(std::move(layer));
    }

    void add_raw_layer(uint64_t size_bytes) {
        add_layer(size_bytes);
        layers_.back().raw = true;
        layers_.back().geometry.file_bytes = size_bytes;
    }

    void make_queue() {
        std::vector<std::unique_ptr<IoEngine>> engines;
        for (size_t i = 0; i < layers_.size(); ++i) {
            engines.push_back(std::make_unique<ScriptedEngine>(calls_));
        }
        queue_ = std::make_unique<Qcow2Queue>(
            layers_,
            std::move(engines),
            std::make_unique<ScriptedEngine>(decompressions_),
            *loop_,
            Qcow2QueueLimits{.requests_max = 8, .memory = budget_.take_share()});
    }

    struct Read {
        TestRequest request;
        std::vector<std::byte> memory;
        iovec segment{};
    };

    Read& read(uint64_t offset, size_t bytes) {
        if (!queue_) {
            make_queue();
        }
        Read& read = reads_.emplace_back();
        read.memory.assign(bytes, std::byte{0x11});
        read.segment = {.iov_base = read.memory.data(), .iov_len = bytes};
        read.request.offset_bytes = offset;
        read.request.length_bytes = bytes;
        read.request.data = std::span(&read.segment, 1);
        queue_->submit(read.request);
        return read;
    }

    /// Looks at the oldest call, and answers it with those bytes.
    void expect_call(uint64_t offset, size_t bytes, std::span<const std::byte> answer) {
        ASSERT_FALSE(calls_.empty());
        IoOperation& operation = *calls_.front();
        calls_.pop_front();
        EXPECT_EQ(operation.opcode, IoOpcode::kRead);
        EXPECT_EQ(operation.offset_bytes, offset);
        ASSERT_EQ(operation.segment_count, 1U);
        ASSERT_EQ(operation.segments->iov_len, bytes);
        ASSERT_LE(answer.size(), bytes);
        std::ranges::copy(answer, static_cast<std::byte*>(operation.segments->iov_base));
        operation.on_complete(static_cast<int32_t>(answer.size()), 0);
    }

    void expect_call(uint64_t offset, size_t bytes, int fill) {
        expect_call(offset, bytes, std::vector<std::byte>(bytes, static_cast<std::byte>(fill)));
    }

    void fail_call(int os_error) {
        ASSERT_FALSE(calls_.empty());
        IoOperation& operation = *calls_.front();
        calls_.pop_front();
        operation.on_complete(-os_error, 0);
    }

    void decompress() {
        ASSERT_FALSE(decompressions_.empty());
        IoOperation& operation = *decompressions_.front();
        decompressions_.pop_front();
        operation.on_complete(Qcow2Queue::decompression_call()(-1, operation), 0);
    }

    static std::vector<std::byte> filled(size_t bytes, int value) {
        return std::vector<std::byte>(bytes, static_cast<std::byte>(value));
    }

    std::unique_ptr<EventLoop> loop_;
    std::vector<ImageLayer> layers_;
    std::deque<IoOperation*> calls_;
    std::deque<IoOperation*> decompressions_;
    std::deque<Read> reads_;
    Qcow2Bytes table_{4096};
    Qcow2Budget budget_;
    std::unique_ptr<Qcow2Queue> queue_;
};

TEST_F(Qcow2QueueTest, TableIsReadOnceAndNeighboursInOneCall) {
    table_.u64(0, 5 * kCluster).u64(8, 6 * kCluster).u64(16, 8 * kCluster);
    Read& first = read(512, 3 * kCluster - 512);
    expect_call(2 * kCluster, 4096, table_.bytes());
    expect_call(5 * kCluster + 512, 2 * kCluster - 512, 0x55);
    expect_call(8 * kCluster, kCluster, 0x88);
    EXPECT_EQ(first.request.result, 0);
    EXPECT_EQ(first.memory[2 * kCluster - 513], std::byte{0x55});
    EXPECT_EQ(first.memory[2 * kCluster - 512], std::byte{0x88});
    Read& second = read(0, 512);
    expect_call(5 * kCluster, 512, 0x66);
    EXPECT_EQ(second.memory, filled(512, 0x66));
}

TEST_F(Qcow2QueueTest, UnallocatedWithoutALayerBelowIsZero) {
    Read& part = read(kSpan, 8192);
    EXPECT_EQ(part.request.result, 0);
    EXPECT_EQ(part.memory, filled(8192, 0));
}

TEST_F(Qcow2QueueTest, BelowTheEndOfABackingFileIsZero) {
    add_raw_layer(kSpan + 700);
    Read& part = read(kSpan, 1024);
    expect_call(kSpan, 700, 0x77);
    EXPECT_EQ(part.request.result, 0);
    std::vector<std::byte> wanted = filled(700, 0x77);
    wanted.resize(1024);
    EXPECT_EQ(part.memory, wanted);
}

TEST_F(Qcow2QueueTest, ShortAnswersGoOnWithTheRest) {
    table_.u64(0, 5 * kCluster);
    Read& part = read(0, kCluster);
    expect_call(2 * kCluster, 4096, table_.bytes());
    expect_call(5 * kCluster, kCluster, filled(1000, 1));
    expect_call(5 * kCluster + 1000, kCluster - 1000, 2);
    EXPECT_EQ(part.request.result, 0);
    EXPECT_EQ(part.memory[999], std::byte{1});
    EXPECT_EQ(part.memory[1000], std::byte{2});
}

TEST_F(Qcow2QueueTest, ShortAnswersOfATableGoOnWithTheRest) {
    table_.u64(0, 5 * kCluster).u64(8 * 511, 7 * kCluster);
    Read& first = read(0, 512);
    Read& last = read(511 * kCluster, 512);
    const std::span<const std::byte> table = table_.bytes();
    expect_call(2 * kCluster, 4096, table.first(8));
    expect_call(2 * kCluster + 8, 4088, table.subspan(8, 4000));
    expect_call(2 * kCluster + 4008, 88, table.subspan(4008));
    // Who waited for the table comes first.
    expect_call(7 * kCluster, 512, 7);
    expect_call(5 * kCluster, 512, 5);
    EXPECT_EQ(first.request.result, 0);
    EXPECT_EQ(first.memory, filled(512, 5));
    EXPECT_EQ(last.request.result, 0);
    EXPECT_EQ(last.memory, filled(512, 7));
}

TEST_F(Qcow2QueueTest, TableThatEndsEarlyFailsAndIsNotKept) {
    table_.u64(0, 5 * kCluster);
    Read& early = read(0, 512);
    expect_call(2 * kCluster, 4096, std::span(table_.bytes()).first(100));
    expect_call(2 * kCluster + 100, 3996, std::span<const std::byte>());
    EXPECT_EQ(early.request.result, EIO);
    Read& later = read(0, 512);
    expect_call(2 * kCluster, 4096, table_.bytes());
    expect_call(5 * kCluster, 512, 5);
    EXPECT_EQ(later.request.result, 0);
}

TEST_F(Qcow2QueueTest, DataThatIsGoneFails) {
    table_.u64(0, 5 * kCluster);
    Read& part = read(0, kCluster);
    expect_call(2 * kCluster, 4096, table_.bytes());
    expect_call(5 * kCluster, kCluster, std::span<const std::byte>());
    EXPECT_EQ(part.request.result, EIO);
}

TEST_F(Qcow2QueueTest, RestOfTheLastClusterIsZero) {
    layers_[0].geometry.file_bytes = 5 * kCluster + 100;
    table_.u64(0, 5 * kCluster);
    Read& part = read(0, kCluster);
    expect_call(2 * kCluster, 4096, table_.bytes());
    expect_call(5 * kCluster, 100, 9);
    EXPECT_EQ(part.request.result, 0);
    EXPECT_EQ(part.memory[99], std::byte{9});
    EXPECT_EQ(part.memory[100], std::byte{0});
}

TEST_F(Qcow2QueueTest, DamagedTableFails) {
    EXPECT_EQ(read(2 * kSpan, 512).request.result, EIO);
}

TEST_F(Qcow2QueueTest, DamagedEntryFailsItsReadsOnly) {
    table_.u64(0, 200 * kCluster).u64(8, 6 * kCluster);
    Read& damaged = read(0, 2 * kCluster);
    Read& sound = read(kCluster, kCluster);
    expect_call(2 * kCluster, 4096, table_.bytes());
    EXPECT_EQ(damaged.request.result, EIO);
    expect_call(6 * kCluster, kCluster, 6);
    EXPECT_EQ(sound.request.result, 0);
}

TEST_F(Qcow2QueueTest, ReadsThatWaitForATableGoOnTogether) {
    table_.u64(0, 5 * kCluster);
    Read& first = read(0, 512);
    Read& second = read(512, 512);
    Read& third = read(kCluster, 512);
    ASSERT_EQ(calls_.size(), 1U);
    expect_call(2 * kCluster, 4096, table_.bytes());
    EXPECT_EQ(third.request.result, 0);
    ASSERT_EQ(calls_.size(), 2U);
    calls_.pop_front();
    calls_.pop_front();
    EXPECT_FALSE(first.request.result || second.request.result);
}

TEST_F(Qcow2QueueTest, TableThatCannotBeReadIsTriedByTheNext) {
    table_.u64(0, 1);
    Read& first = read(0, 512);
    Read& second = read(512, 512);
    fail_call(EIO);
    EXPECT_EQ(first.request.result, EIO);
    expect_call(2 * kCluster, 4096, table_.bytes());
    EXPECT_EQ(second.request.result, 0);
}

TEST_F(Qcow2QueueTest, CompressedClusterIsExpandedOnceForAllItsReads) {
    std::vector<std::byte> packed(256);
    z_stream stream = {};
    ASSERT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
    std::vector<std::byte> plain = filled(kCluster, 0x42);
    plain[100] = std::byte{1};
    // SAFETY: bytes are bytes.
    stream.next_in = reinterpret_cast<Bytef*>(plain.data());
    stream.avail_in = kCluster;
    // SAFETY: likewise.
    stream.next_out = reinterpret_cast<Bytef*>(packed.data());
    stream.avail_out = 256;
    ASSERT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
    deflateEnd(&stream);

    table_.u64(0, uint64_t{1} << 62 | (7 * kCluster + 256));
    Read& first = read(0, 512);
    expect_call(2 * kCluster, 4096, table_.bytes());
    Read& second = read(3000, 600);
    ASSERT_EQ(calls_.size(), 1U);
    expect_call(7 * kCluster + 256, 256, packed);
    decompress();
    EXPECT_EQ(first.request.result, 0);
    EXPECT_EQ(first.memory[100], std::byte{1});
    EXPECT_EQ(second.request.result, 0);
    EXPECT_EQ(second.memory, filled(600, 0x42));
    EXPECT_EQ(read(0, kCluster).memory, plain);
}

/// Large clusters of a layer leave room for one compressed cluster at a time.
TEST_F(Qcow2QueueTest, ReadThatWaitsForRoomForItsInputGoesOn) {
    add_layer(4 * kSpan);
    layers_[1].geometry.cluster_bits = 21;
    table_.u64(0, uint64_t{1} << 62 | (7 * kCluster)).u64(8, uint64_t{1} << 62 | (8 * kCluster));
    Read& first = read(0, 512);
    Read& second = read(kCluster, 512);
    expect_call(2 * kCluster, 4096, table_.bytes());
    ASSERT_EQ(calls_.size(), 1U);
    expect_call(8 * kCluster, 512, 0xff);
    decompress();
    EXPECT_EQ(second.request.result, EIO);
    expect_call(7 * kCluster, 512, 0xff);
    decompress();
    EXPECT_EQ(first.request.result, EIO);
}

TEST_F(Qcow2QueueTest, LayerBelowIsReadOnlyWhereTheOneAboveHasNothing) {
    add_raw_layer(4 * kSpan);
    table_.u64(8, 5 * kCluster);
    Read& both = read(0, 3 * kCluster);
    expect_call(2 * kCluster, 4096, table_.bytes());
    expect_call(0, kCluster, 1);
    expect_call(5 * kCluster, kCluster, 5);
    expect_call(2 * kCluster, kCluster, 2);
    EXPECT_EQ(both.request.result, 0);
    EXPECT_EQ(both.memory[kCluster - 1], std::byte{1});
    EXPECT_EQ(both.memory[kCluster], std::byte{5});
    EXPECT_EQ(both.memory[2 * kCluster], std::byte{2});
}

TEST_F(Qcow2QueueTest, WhatDoesNotExpandFails) {
    table_.u64(0, uint64_t{1} << 62 | (7 * kCluster));
    Read& part = read(0, 512);
    expect_call(2 * kCluster, 4096, table_.bytes());
    expect_call(7 * kCluster, 512, 0xff);
    decompress();
    EXPECT_EQ(part.request.result, EIO);
}

TEST_F(Qcow2QueueTest, LongZeroesLetOthersHaveTheirTurn) {
    layers_[0].l2_tables = {0, 0, 0, 0};
    Read& part = read(0, 3 << 20);
    EXPECT_FALSE(part.request.result);
    while (loop_->run_once(EventLoop::Clock::time_point::min())) {
    }
    EXPECT_EQ(part.request.result, 0);
    EXPECT_EQ(part.memory, filled(3 << 20, 0));
}

TEST_F(Qcow2QueueTest, NothingIsWritten) {
    make_queue();
    TestRequest request;
    request.command = ImageCommand::kWrite;
    queue_->submit(request);
    EXPECT_EQ(request.result, EROFS);
    TestRequest flush;
    flush.command = ImageCommand::kFlush;
    queue_->submit(flush);
    EXPECT_EQ(flush.result, 0);
}

}  // namespace
}  // namespace outrigger::blk
