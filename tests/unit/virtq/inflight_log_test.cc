// SPDX-License-Identifier: Apache-2.0
// What an in-flight buffer may say that is not so: every field comes from a front end.
// What is right is the business of inflight_crash_test.cc.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/virtq/inflight_buffer.h"
#include "vhost-user-backend/virtq/inflight_layout.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger {
namespace {

using test::GuestMemory;
using test::put;

constexpr uint16_t kRingSize = 8;
constexpr uint64_t kMemoryBytes = 65536;
constexpr uint64_t kData = 0x8000;

UniqueFd file_of(size_t bytes) {
    return create_shared_memory("inflight-test", bytes).value();
}

/// A ring of either format with a log, on whose chains nobody has worked yet.
class InflightLog : public ::testing::TestWithParam<bool> {
  protected:
    [[nodiscard]] bool packed() const { return GetParam(); }

    [[nodiscard]] std::byte* log() const { return buffer_->part(0).data(); }

    [[nodiscard]] std::byte* entry(uint16_t index) const {
        return packed() ? log() + PackedInflight::kHeaderBytes +
                              size_t{index} * PackedInflight::kEntryBytes
                        : log() + SplitInflight::kHeaderBytes +
                              size_t{index} * SplitInflight::kEntryBytes;
    }

    [[nodiscard]] Result<std::unique_ptr<Virtqueue>, VirtqueueSetupError> start(
        uint32_t base, bool base_is_known = false) const {
        VirtqueueConfig config = packed() ? packed_.config() : split_.config();
        config.in_order = in_order_;
        return Virtqueue::create(config,
                                 VringBase{base},
                                 memory_.snapshot(),
                                 {.buffer = buffer_, .queue = 0, .base_is_known = base_is_known});
    }

    [[nodiscard]] uint32_t fresh_base() const { return packed() ? 0x8000'8000 : 0; }

    void offer(uint16_t id) {
        if (packed()) {
            test::PackedDescriptor descriptor{
                .address = kData, .length = 16, .id = id, .flags = test::kWrite};
            descriptor.flags |= test::kAvailableBit;
            std::memcpy(packed_.entry(driver_index_++), &descriptor, sizeof descriptor);
            return;
        }
        put<uint16_t>(memory_.at(16ULL * kRingSize + 4 + 2ULL * driver_index_), id);
        split_.set_available_index(++driver_index_);
    }

    /// A device that takes `count` requests and dies with the log as it is then.
    void die_with(uint16_t count) {
        std::memset(memory_.at(0), 0, kData);
        std::memset(log(), 0, buffer_->part(0).size());
        driver_index_ = 0;
        for (uint16_t head = 0; head < kRingSize; ++head) {
            split_.set_descriptor(head, {.address = kData, .length = 16, .flags = test::kWrite});
        }
        auto queue = start(fresh_base()).value();
        for (uint16_t id = 0; id < count; ++id) {
            offer(id);
            chains_.push_back(*queue->pop());
        }
        std::vector<std::byte> left(buffer_->part(0).begin(), buffer_->part(0).end());
        std::vector<std::byte> ring(kData);
        std::memcpy(ring.data(), memory_.at(0), kData);
        chains_.clear();
        queue.reset();
        std::memcpy(log(), left.data(), left.size());
        std::memcpy(memory_.at(0), ring.data(), kData);
    }

    static std::vector<uint16_t> pop_all(Virtqueue& queue, std::vector<DescriptorChain>& chains) {
        std::vector<uint16_t> ids;
        while (auto chain = queue.pop()) {
            ids.push_back(chain->id());
            chains.push_back(*std::move(chain));
        }
        return ids;
    }

    void expect_refused(const std::function<void()>& damage) {
        die_with(3);
        damage();
        const auto queue = start(fresh_base());
        ASSERT_FALSE(queue);
        EXPECT_EQ(queue.error(), VirtqueueSetupError::kInflight);
    }

    GuestMemory memory_{{{0, kMemoryBytes}}};
    test::SplitRing split_{memory_, kRingSize, 0};
    test::PackedRing packed_{memory_, kRingSize, 0};
    std::shared_ptr<const InflightBuffer> buffer_ = InflightBuffer::create(2, kRingSize).value();
    std::vector<DescriptorChain> chains_;
    uint16_t driver_index_ = 0;
    bool in_order_ = false;
};

/// What a split log does not have.
class InflightLogOfAPackedRing : public InflightLog {};

/// Which format is in it makes no difference.
class InflightLogInAFile : public InflightLog {};

TEST_P(InflightLog, GivesWhatWasInFlightInTheOrderOfPopping) {
    die_with(3);
    auto queue = start(0x1234 & 0x7).value();  // what the base says does not count
    std::vector<DescriptorChain> chains;
    EXPECT_EQ(pop_all(*queue, chains), (std::vector<uint16_t>{0, 1, 2}));
    chains.clear();
}

TEST_P(InflightLog, SaysWhichChainsSomebodyHadBefore) {
    die_with(2);
    auto queue = start(fresh_base()).value();
    offer(5);
    std::vector<DescriptorChain> chains;
    EXPECT_EQ(pop_all(*queue, chains), (std::vector<uint16_t>{0, 1, 5}));
    EXPECT_TRUE(chains[0].is_replayed());
    EXPECT_TRUE(chains[1].is_replayed());
    EXPECT_FALSE(chains[2].is_replayed());
    // The slots that they had are used again.
    chains.clear();
    (void)queue->publish();
    offer(1);
    EXPECT_FALSE(queue->pop().value().is_replayed());
}

TEST_P(InflightLog, CallsOnceThoughNothingBecomesVisible) {
    die_with(0);
    auto queue = start(fresh_base()).value();
    EXPECT_TRUE(queue->publish());
    EXPECT_FALSE(queue->publish());
}

TEST_P(InflightLog, OfANewRingCallsNobody) {
    auto queue = start(fresh_base()).value();
    EXPECT_FALSE(queue->publish());
}

TEST_P(InflightLog, BeginsWhereAMigratedRingStands) {
    // A ring that comes from elsewhere: its used index is far from 0, and the buffer is empty.
    const uint32_t base = packed() ? 0x8005'8005 : 500;
    if (!packed()) {
        split_.start_at(500);
    }
    {
        auto queue = start(base).value();
        EXPECT_FALSE(queue->pop());
    }
    auto queue = start(base).value();
    EXPECT_EQ(queue->base().raw, base);
}

TEST_P(InflightLog, KeepsAChainThatWasSetAside) {
    die_with(0);
    {
        auto queue = start(fresh_base()).value();
        for (uint16_t id = 0; id < 3; ++id) {
            offer(id);
            chains_.push_back(*queue->pop());
        }
        chains_[1].set_aside();
        chains_[0].complete(0);
        chains_[2].complete(0);
        chains_.clear();
        (void)queue->publish();
        EXPECT_EQ(queue->in_flight(), 0U);
        EXPECT_EQ(queue->counters().chains_set_aside.value(), 1U);
    }
    offer(3);
    auto queue = start(fresh_base(), true).value();
    std::vector<DescriptorChain> chains;
    EXPECT_EQ(pop_all(*queue, chains), (std::vector<uint16_t>{1, 3}));
    chains.clear();
}

TEST_P(InflightLog, KeepsWhatWasCompletedBehindAChainThatWasSetAsideInOrder) {
    die_with(0);
    in_order_ = true;
    {
        auto queue = start(fresh_base()).value();
        for (uint16_t id = 0; id < 4; ++id) {
            offer(id);
            chains_.push_back(*queue->pop());
        }
        chains_[2].complete(0);
        chains_[1].set_aside();
        chains_[0].complete(0);
        chains_[3].complete(0);
        chains_.clear();
        (void)queue->publish();
        EXPECT_EQ(queue->in_flight(), 0U);
    }
    auto queue = start(fresh_base(), true).value();
    std::vector<DescriptorChain> chains;
    EXPECT_EQ(pop_all(*queue, chains), (std::vector<uint16_t>{1, 2, 3}));
    chains.clear();
}

TEST_P(InflightLog, LetsAKnownBaseCountWhenNothingIsInFlight) {
    die_with(0);
    const uint32_t base = packed() ? 0x0003'0003 : 0;
    EXPECT_EQ(start(base, true).value()->base().raw, base);
    // And that is what it says from now on.
    EXPECT_EQ(start(fresh_base()).value()->base().raw, base);
}

TEST_P(InflightLog, OutweighsAKnownBaseWhenSomethingIsInFlight) {
    die_with(2);
    auto queue = start(fresh_base(), true).value();
    std::vector<DescriptorChain> chains;
    EXPECT_EQ(pop_all(*queue, chains), (std::vector<uint16_t>{0, 1}));
    chains.clear();
}

TEST_P(InflightLog, IsBegunAnewForAnotherSizeWhereTheBaseIsKnown) {
    die_with(0);
    put<uint16_t>(log() + InflightHeader::kEntryCount, 4);
    EXPECT_EQ(start(fresh_base(), true).value()->base().raw, fresh_base());
}

TEST_P(InflightLog, RefusesAnotherVersion) {
    expect_refused([this] { put<uint16_t>(log() + InflightHeader::kVersion, 9); });
}

TEST_P(InflightLog, RefusesFeaturesThatItDoesNotKnow) {
    expect_refused([this] { put<uint64_t>(log() + InflightHeader::kFeatures, 1); });
}

TEST_P(InflightLog, RefusesARingOfAnotherSize) {
    expect_refused([this] { put<uint16_t>(log() + InflightHeader::kEntryCount, 4); });
}

TEST_P(InflightLog, RefusesACounterThatCouldWrap) {
    expect_refused([this] { put<uint64_t>(entry(1) + SplitInflight::kCounter, ~uint64_t{0}); });
}

TEST_P(InflightLog, RefusesIndicesBeyondTheEntries) {
    expect_refused([this] {
        if (packed()) {
            put<uint32_t>(log() + PackedInflight::kFreeHeads, 0xffff'ffff);
        } else {
            put<uint16_t>(log() + SplitInflight::kLastBatchHead, kRingSize);
            put<uint16_t>(log() + SplitInflight::kUsedIndex, 0xffff);  // a batch of one
        }
    });
}

TEST_P(InflightLog, RefusesABatchLargerThanTheRing) {
    expect_refused([this] {
        if (packed()) {
            put<uint64_t>(log() + PackedInflight::kUsedPositions, 0x7fff);
        } else {
            put<uint16_t>(log() + SplitInflight::kUsedIndex, 0x7000);
        }
    });
}

TEST_P(InflightLog, RefusesALoop) {
    if (!packed()) {
        // A batch is a count of steps, so a loop ends by itself: head 1 is done, the rest is not.
        die_with(3);
        put<uint16_t>(log() + SplitInflight::kLastBatchHead, 1);
        put<uint16_t>(entry(1) + SplitInflight::kNext, 1);
        put<uint16_t>(log() + SplitInflight::kUsedIndex, 0xfffd);
        auto queue = start(0).value();
        std::vector<DescriptorChain> chains;
        EXPECT_EQ(pop_all(*queue, chains), (std::vector<uint16_t>{0, 2}));
        chains.clear();
        return;
    }
    expect_refused([this] { put<uint16_t>(entry(5) + PackedInflight::kNext, 3); });
}

TEST_P(InflightLogOfAPackedRing, RefusesAnEntryThatIsNowhere) {
    expect_refused([this] { put<uint8_t>(entry(1) + PackedInflight::kInflight, 0); });
}

TEST_P(InflightLogOfAPackedRing, RefusesAChainOfMoreEntriesThanThereAre) {
    expect_refused([this] { put<uint16_t>(entry(1) + PackedInflight::kCount, 0xffff); });
}

TEST_P(InflightLogOfAPackedRing, TreatsItsCopiesLikeTheDriversDescriptors) {
    die_with(2);
    put<uint64_t>(entry(0) + PackedInflight::kAddress, kMemoryBytes);
    auto queue = start(fresh_base()).value();
    EXPECT_FALSE(queue->pop());
    EXPECT_EQ(queue->broken(), RingError::kBufferUnmapped);
}

TEST_P(InflightLogOfAPackedRing, BreaksTheRingOfAnEntryThatTheDriverStillHolds) {
    die_with(2);
    put<uint16_t>(entry(1) + PackedInflight::kId, 0);  // as the chain before
    auto queue = start(fresh_base()).value();
    auto chain = queue->pop();
    ASSERT_TRUE(chain);
    EXPECT_FALSE(queue->pop());
    EXPECT_EQ(queue->broken(), RingError::kHeadInFlight);
    chain->complete(0);
}

TEST_P(InflightLog, SurvivesAnyBytes) {
    std::mt19937 random(7);  // NOLINT: the same each time
    size_t started = 0;
    for (int round = 0; round < 3000; ++round) {
        die_with(3);
        const size_t end =
            packed() ? PackedInflight::bytes(kRingSize) : SplitInflight::bytes(kRingSize);
        for (int change = 0; change < 3; ++change) {
            log()[random() % end] = static_cast<std::byte>(random() % 12);
        }
        auto queue = start(fresh_base());
        if (!queue) {
            continue;
        }
        ++started;
        std::vector<DescriptorChain> chains;
        const auto ids = pop_all(**queue, chains);
        EXPECT_LE(ids.size(), kRingSize);
        for (DescriptorChain& chain : chains) {
            chain.complete(0);
        }
        (void)(*queue)->publish();
        chains.clear();
    }
    EXPECT_GT(started, 0U);
    EXPECT_LT(started, 3000U);
}

TEST_P(InflightLogInAFile, BreaksTheRingWhenItIsTruncated) {
    // A file that is not sealed, as a front end may pass.
    char name[] = "/tmp/outrigger-inflight-XXXXXX";
    UniqueFd file(::mkstemp(name));
    ASSERT_TRUE(file.valid());
    ::unlink(name);
    const size_t bytes = 8192;
    ASSERT_EQ(::ftruncate(file.get(), bytes), 0);
    const int raw = file.get();
    buffer_ = InflightBuffer::map(
                  std::move(file), {.bytes = bytes, .queue_count = 1, .queue_size = kRingSize}, 1)
                  .value();
    auto queue = start(0).value();
    offer(0);
    auto chain = queue->pop();
    ASSERT_TRUE(chain);
    ASSERT_EQ(::ftruncate(raw, 0), 0);
    chain->complete(0);
    (void)queue->publish();
    EXPECT_TRUE(queue->memory_was_lost());
    EXPECT_EQ(queue->broken(), RingError::kMemoryLost);
}

INSTANTIATE_TEST_SUITE_P(Formats, InflightLog, ::testing::Bool(), [](const auto& format) {
    return format.param ? "Packed" : "Split";
});

INSTANTIATE_TEST_SUITE_P(Packed, InflightLogOfAPackedRing, ::testing::Values(true));
INSTANTIATE_TEST_SUITE_P(Split, InflightLogInAFile, ::testing::Values(false));

TEST(InflightBuffer, HasRoomForLargerRingsThanWereAskedFor) {
    const auto buffer = InflightBuffer::create(3, 128).value();
    EXPECT_EQ(buffer->description().queue_size, 128);
    for (uint16_t queue = 0; queue < 3; ++queue) {
        EXPECT_TRUE(PackedInflightLog::fits(buffer->part(queue), 1024));
        EXPECT_FALSE(PackedInflightLog::fits(buffer->part(queue), 1026));
    }
    EXPECT_TRUE(buffer->part(3).empty());
}

TEST(InflightBuffer, PartsDoNotOverlapAndAreAligned) {
    const auto buffer = InflightBuffer::map(file_of(65536), {65536, 0, 3, 128}, 3).value();
    const auto first = buffer->part(0);
    const auto second = buffer->part(1);
    EXPECT_EQ(first.data() + first.size(), second.data());
    EXPECT_EQ(first.size() % kInflightAlignment, 0U);
    EXPECT_EQ(buffer->part(2).data() + buffer->part(2).size() <= first.data() + 65536, true);
}

struct BadDescription {
    const char* name;
    InflightDescription description;
    InflightBufferError error;
};

class InflightBufferRefuses : public ::testing::TestWithParam<BadDescription> {};

TEST_P(InflightBufferRefuses, IsNotMapped) {
    const auto buffer = InflightBuffer::map(file_of(4096), GetParam().description, 2);
    ASSERT_FALSE(buffer);
    EXPECT_EQ(buffer.error(), GetParam().error);
}

INSTANTIATE_TEST_SUITE_P(
    Descriptions,
    InflightBufferRefuses,
    ::testing::Values(
        BadDescription{"NoQueues", {4096, 0, 0, 64}, InflightBufferError::kQueueCount},
        BadDescription{"MoreQueues", {4096, 0, 3, 8}, InflightBufferError::kQueueCount},
        BadDescription{"NoSize", {4096, 0, 1, 0}, InflightBufferError::kQueueSize},
        BadDescription{"HugeSize", {4096, 0, 1, 65535}, InflightBufferError::kQueueSize},
        BadDescription{"NoBytes", {0, 0, 1, 64}, InflightBufferError::kSize},
        BadDescription{"TooFewBytes", {2048, 0, 2, 64}, InflightBufferError::kSize},
        BadDescription{"AllBytes", {~uint64_t{0}, 0, 1, 64}, InflightBufferError::kSize},
        BadDescription{"OddOffset", {2048, 3, 1, 64}, InflightBufferError::kOffset},
        BadDescription{"OffsetWraps", {4096, ~uint64_t{7}, 1, 64}, InflightBufferError::kOffset},
        BadDescription{"BeyondTheFile", {4096, 64, 1, 64}, InflightBufferError::kFile}),
    [](const auto& bad) { return bad.param.name; });

}  // namespace
}  // namespace outrigger
