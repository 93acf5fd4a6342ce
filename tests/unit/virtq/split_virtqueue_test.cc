// SPDX-License-Identifier: Apache-2.0
/// The split format: what a well-behaved driver gets.
#include "vhost-user-backend/virtq/split_virtqueue.h"

#include <array>
#include <string>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/probe.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {
namespace {

constexpr uint16_t kSize = 8;
constexpr uint64_t kRing = 0x1000;
constexpr uint64_t kData = 0x4000;
constexpr uint64_t kMore = 0x10000;  // the second region begins right behind the first

class SplitVirtqueueTest : public testing::Test {
  protected:
    void create(VirtqueueConfig config, uint32_t base = 0) {
        auto created = Virtqueue::create(config, VringBase{base}, memory_.snapshot());
        ASSERT_TRUE(created.has_value());
        queue_ = std::move(*created);
    }

    void create() { create(ring_.config()); }

    void create_event_idx(uint32_t base = 0) {
        VirtqueueConfig config = ring_.config();
        config.event_idx = true;
        create(config, base);
    }

    /// Head 0: 4 bytes to read; head 1: 4 bytes to write; and so on.
    void offer_simple(uint16_t head) {
        ring_.set_descriptor(head,
                             {.address = kData + 64ULL * head,
                              .length = 4,
                              .flags = head % 2 == 1 ? kWrite : uint16_t{0}});
        ring_.offer(head);
    }

    void complete_one(uint32_t written = 0) {
        auto chain = queue_->pop();
        ASSERT_TRUE(chain.has_value());
        chain->complete(written);
    }

    static std::string read_all(DescriptorChain& chain) {
        std::string bytes(chain.readable_bytes(), '\0');
        ChainReader reader = chain.take_reader();
        EXPECT_EQ(reader.read(std::as_writable_bytes(std::span(bytes))), bytes.size());
        return bytes;
    }

    GuestMemory memory_{{{0, kMore}, {kMore, 0x10000}}};
    SplitRing ring_{memory_, kSize, kRing};
    std::unique_ptr<Virtqueue> queue_;
};

TEST_F(SplitVirtqueueTest, EmptyRingYieldsNothing) {
    create();
    EXPECT_FALSE(queue_->has_available());
    EXPECT_FALSE(queue_->pop().has_value());
    EXPECT_FALSE(queue_->publish());
    EXPECT_FALSE(queue_->broken().has_value());
}

/// Whatever is fetched, of an empty ring and of a broken one, too: what is popped is the same.
/// Which lines are fetched nobody sees from here.
TEST_F(SplitVirtqueueTest, FetchingAheadTakesNothing) {
    create();
    queue_->prefetch(1);
    for (uint16_t round = 0; round < 3 * kSize; ++round) {
        const auto id = static_cast<uint16_t>(round % kSize);
        offer_simple(id);
        queue_->prefetch(0xffff);
        auto chain = queue_->pop();
        ASSERT_TRUE(chain.has_value());
        EXPECT_EQ(chain->id(), id);
        chain->prefetch_readable();
        chain->prefetch_writable();
        chain->complete(0);
        EXPECT_FALSE(queue_->has_available());
        (void)queue_->publish();
    }
    queue_->break_ring(RingError::kHeadOutOfRange);
    queue_->prefetch(kSize);
    EXPECT_EQ(queue_->counters().chains_popped.value(), 3U * kSize);
}

TEST_F(SplitVirtqueueTest, PopGivesReadableAndWritableParts) {
    create();
    memory_.write(kData, "header");
    ring_.set_descriptor(3, {.address = kData, .length = 6, .flags = kNext, .next = 5});
    ring_.set_descriptor(5, {.address = kData + 64, .length = 8, .flags = kWrite});
    ring_.offer(3);

    EXPECT_TRUE(queue_->has_available());
    auto chain = queue_->pop();

    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->id(), 3);
    EXPECT_EQ(chain->readable_bytes(), 6U);
    EXPECT_EQ(chain->writable_bytes(), 8U);
    EXPECT_EQ(read_all(*chain), "header");
    ChainWriter writer = chain->take_writer();
    EXPECT_EQ(writer.write(std::as_bytes(std::span("answer"))), 7U);
    chain->complete(7);
    EXPECT_EQ(memory_.read(kData + 64, 6), "answer");
}

TEST_F(SplitVirtqueueTest, NothingIsVisibleBeforePublish) {
    create();
    offer_simple(1);
    complete_one(2);
    EXPECT_EQ(ring_.used_index(), 0);
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), 1);
    EXPECT_EQ(ring_.used(0), (UsedElement{.id = 1, .length = 2}));
}

TEST_F(SplitVirtqueueTest, BatchBecomesVisibleAtOnceInOrderOfCompletion) {
    create();
    offer_simple(0);
    offer_simple(1);
    offer_simple(3);
    auto first = queue_->pop();
    auto second = queue_->pop();
    auto third = queue_->pop();
    ASSERT_TRUE(first && second && third);

    third->complete(1);
    first->complete(0);
    second->complete(4);

    EXPECT_EQ(ring_.used_index(), 0);
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), 3);
    EXPECT_EQ(ring_.used(0), (UsedElement{.id = 3, .length = 1}));
    EXPECT_EQ(ring_.used(1), (UsedElement{.id = 0, .length = 0}));
    EXPECT_EQ(ring_.used(2), (UsedElement{.id = 1, .length = 4}));
    EXPECT_EQ(queue_->counters().batches_published.value(), 1U);
}

TEST_F(SplitVirtqueueTest, DroppedChainReturnsWithLengthZero) {
    create();
    offer_simple(1);
    { auto dropped = queue_->pop(); }
    EXPECT_EQ(queue_->in_flight(), 0U);
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used(0), (UsedElement{.id = 1, .length = 0}));
}

TEST_F(SplitVirtqueueTest, MovedChainReturnsOnce) {
    create();
    offer_simple(1);
    offer_simple(0);
    auto chain = queue_->pop();
    auto other = queue_->pop();
    ASSERT_TRUE(chain && other);

    *other = std::move(*chain);  // head 0 goes back, head 1 lives on
    EXPECT_EQ(queue_->in_flight(), 1U);
    chain.reset();
    EXPECT_EQ(queue_->in_flight(), 1U);
    other.reset();

    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), 2);
    EXPECT_EQ(ring_.used(0).id, 0U);
    EXPECT_EQ(ring_.used(1).id, 1U);
}

TEST_F(SplitVirtqueueTest, IndicesWrapAtSixteenBits) {
    ring_.start_at(0xfff0);
    create(ring_.config(), 0xfff0);
    for (uint32_t round = 0; round < 32; ++round) {
        offer_simple(static_cast<uint16_t>(round % kSize));
        complete_one();
        EXPECT_TRUE(queue_->publish());
        EXPECT_EQ(ring_.used_index(), static_cast<uint16_t>(0xfff1 + round));
        EXPECT_EQ(ring_.used(static_cast<uint16_t>(0xfff0 + round)).id, round % kSize);
    }
    EXPECT_EQ(queue_->base().raw, 0x0010U);
}

TEST_F(SplitVirtqueueTest, FullRingAcrossTheSixteenBitWrap) {
    ring_.start_at(0xfffc);
    create(ring_.config(), 0xfffc);
    for (uint16_t head = 0; head < kSize; ++head) {
        offer_simple(head);
    }
    for (uint16_t head = 0; head < kSize; ++head) {
        complete_one();
    }
    EXPECT_FALSE(queue_->pop().has_value());
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(ring_.used_index(), 4);
    EXPECT_FALSE(queue_->broken().has_value());
}

TEST_F(SplitVirtqueueTest, HeadsThatCanBePoppedAreCounted) {
    ring_.start_at(0xfffe);
    create(ring_.config(), 0xfffe);
    EXPECT_EQ(queue_->available_count(), 0U);
    for (uint16_t head = 0; head < 4; ++head) {
        offer_simple(head);
        EXPECT_EQ(queue_->available_count(), head + 1U);
    }
    complete_one();
    EXPECT_EQ(queue_->available_count(), 3U);
    // A driver may say anything.
    ring_.set_available_index(0x7000);
    EXPECT_EQ(queue_->available_count(), kSize);
}

TEST_F(SplitVirtqueueTest, UsedIndexIsTakenFromTheRing) {
    ring_.start_at(7);
    ring_.set_available_index(9);
    create(ring_.config(), 9);  // heads 7 and 8 were in flight with another device
    EXPECT_FALSE(queue_->has_available());
    EXPECT_EQ(queue_->base().raw, 9U);
}

// --- Indirect tables ---------------------------------------------------------------------------

TEST_F(SplitVirtqueueTest, IndirectTableIsFollowedByNext) {
    create();
    memory_.write(kData, "onetwo");
    write_table<SplitDescriptor>(memory_,
                                 kData + 0x100,
                                 {{.address = kData, .length = 3, .flags = kNext, .next = 2},
                                  {.address = kData + 64, .length = 5, .flags = kWrite},
                                  {.address = kData + 3, .length = 3, .flags = kNext, .next = 1}});
    ring_.set_descriptor(0, {.address = kData + 0x100, .length = 48, .flags = kIndirect});
    ring_.offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(read_all(*chain), "onetwo");
    EXPECT_EQ(chain->writable_bytes(), 5U);
}

/// VIRTIO 1.3, 2.7.5.3.2: "The device MUST handle the case of zero or more normal chained
/// descriptors followed by a single descriptor with flags&VIRTQ_DESC_F_INDIRECT."
TEST_F(SplitVirtqueueTest, IndirectTableMayFollowDirectDescriptors) {
    create();
    memory_.write(kData, "direct+table");
    write_table<SplitDescriptor>(memory_,
                                 kData + 0x101,  // at any alignment
                                 {{.address = kData + 7, .length = 5}});
    ring_.set_descriptor(0, {.address = kData, .length = 7, .flags = kNext, .next = 1});
    ring_.set_descriptor(1, {.address = kData + 0x101, .length = 16, .flags = kIndirect});
    ring_.offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(read_all(*chain), "direct+table");
}

/// VIRTIO 1.3, 2.7.5.3.2: "The device MUST ignore the write-only flag
/// (flags&VIRTQ_DESC_F_WRITE) in the descriptor that refers to an indirect table."
TEST_F(SplitVirtqueueTest, WriteFlagOnIndirectDescriptorIsIgnored) {
    create();
    write_table<SplitDescriptor>(memory_, kData + 0x100, {{.address = kData, .length = 3}});
    ring_.set_descriptor(0, {.address = kData + 0x100, .length = 16, .flags = kIndirect | kWrite});
    ring_.offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->readable_bytes(), 3U);
    EXPECT_EQ(chain->writable_bytes(), 0U);
}

TEST_F(SplitVirtqueueTest, IndirectTableMayBeLongerThanTheRing) {
    create();
    std::vector<SplitDescriptor> entries;
    for (uint16_t i = 0; i < 4 * kSize; ++i) {
        entries.push_back(
            {.address = kData, .length = 1, .flags = kNext, .next = static_cast<uint16_t>(i + 1)});
    }
    entries.back().flags = 0;
    write_table(memory_, kData + 0x100, entries);
    ring_.set_descriptor(0,
                         {.address = kData + 0x100,
                          .length = static_cast<uint32_t>(16 * entries.size()),
                          .flags = kIndirect});
    ring_.offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->readable_bytes(), 4U * kSize);
}

// --- Buffers -----------------------------------------------------------------------------------

TEST_F(SplitVirtqueueTest, BufferAcrossRegionsIsSplit) {
    create();
    memory_.write(kMore - 3, "abc");
    memory_.write(kMore, "defg");
    ring_.set_descriptor(0, {.address = kMore - 3, .length = 7});
    ring_.offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->readable_bytes(), 7U);
    ChainReader reader = chain->take_reader();
    const auto pieces = reader.take_iovecs();
    ASSERT_EQ(pieces.size(), 2U);
    EXPECT_EQ(pieces[0].iov_len, 3U);
    EXPECT_EQ(pieces[1].iov_len, 4U);
    EXPECT_EQ(std::memcmp(pieces[1].iov_base, "defg", 4), 0);
}

TEST_F(SplitVirtqueueTest, BufferMayEndWithTheLastByteOfMemory) {
    create();
    ring_.set_descriptor(0, {.address = kMore + 0x10000 - 4, .length = 4});
    ring_.offer(0);
    EXPECT_TRUE(queue_->pop().has_value());
}

TEST_F(SplitVirtqueueTest, EmptyBufferIsNoSegmentWhereverItPoints) {
    create();
    ring_.set_descriptor(0, {.address = ~0ULL, .length = 0, .flags = kNext, .next = 1});
    ring_.set_descriptor(1, {.address = kData, .length = 2, .flags = kNext, .next = 2});
    ring_.set_descriptor(2, {.address = kData, .length = 0, .flags = kWrite});
    ring_.offer(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->readable_bytes(), 2U);
    EXPECT_EQ(chain->writable_bytes(), 0U);
    EXPECT_EQ(chain->take_reader().take_iovecs().size(), 1U);
    EXPECT_TRUE(chain->take_writer().take_iovecs().empty());
}

#ifndef OUTRIGGER_NO_USDT
/// Buffers that are whole take another way then, on which each piece is told of.
TEST_F(SplitVirtqueueTest, ChainIsTheSameWhileItsPiecesAreWatched) {
    outrigger_translate_semaphore = 1;
    create();
    memory_.write(kData, "header");
    memory_.write(kMore - 3, "abc");
    memory_.write(kMore, "defg");
    ring_.set_descriptor(0, {.address = kData, .length = 6, .flags = kNext, .next = 1});
    ring_.set_descriptor(1, {.address = kData, .length = 0, .flags = kNext, .next = 2});
    ring_.set_descriptor(2, {.address = kMore - 3, .length = 7, .flags = kNext, .next = 3});
    ring_.set_descriptor(3, {.address = kData + 64, .length = 8, .flags = kWrite});
    ring_.offer(0);
    auto chain = queue_->pop();
    outrigger_translate_semaphore = 0;

    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->readable_bytes(), 13U);
    EXPECT_EQ(chain->writable_bytes(), 8U);
    EXPECT_EQ(read_all(*chain), "headerabcdefg");
    ASSERT_EQ(chain->take_writer().take_iovecs().size(), 1U);
}
#endif

// --- Calls -------------------------------------------------------------------------------------

TEST_F(SplitVirtqueueTest, FirstPublishWantsACallWhateverTheDriverSays) {
    create();
    ring_.set_no_interrupt(true);
    offer_simple(0);
    complete_one();
    EXPECT_TRUE(queue_->publish());
    EXPECT_FALSE(queue_->publish());
}

TEST_F(SplitVirtqueueTest, NoInterruptFlagSuppressesCalls) {
    create();
    offer_simple(0);
    complete_one();
    EXPECT_TRUE(queue_->publish());

    ring_.set_no_interrupt(true);
    offer_simple(0);
    complete_one();
    EXPECT_FALSE(queue_->publish());

    ring_.set_no_interrupt(false);
    offer_simple(0);
    complete_one();
    EXPECT_TRUE(queue_->publish());
    EXPECT_EQ(queue_->counters().calls_wanted.value(), 2U);
}

class SplitEventIndexTest : public SplitVirtqueueTest {
  protected:
    void SetUp() override {
        ring_.start_at(0xfffe);
        create_event_idx(0xfffe);
        offer_simple(0);
        complete_one();
        ASSERT_TRUE(queue_->publish());  // the first: used index 0xffff
    }

    bool publish_batch(uint16_t count) {
        for (uint16_t head = 0; head < count; ++head) {
            offer_simple(head);
            complete_one();
        }
        return queue_->publish();
    }
};

TEST_F(SplitEventIndexTest, CallWhenTheBatchBeginsAtTheEvent) {
    ring_.set_used_event(0xffff);
    EXPECT_TRUE(publish_batch(3));
}

TEST_F(SplitEventIndexTest, CallWhenTheBatchEndsAtTheEvent) {
    ring_.set_used_event(1);
    EXPECT_TRUE(publish_batch(3));
}

TEST_F(SplitEventIndexTest, NoCallOneBeforeTheEvent) {
    ring_.set_used_event(2);
    EXPECT_FALSE(publish_batch(3));
}

TEST_F(SplitEventIndexTest, NoCallForAnEventOfThePast) {
    ring_.set_used_event(0xfffe);
    EXPECT_FALSE(publish_batch(3));
}

TEST_F(SplitEventIndexTest, NoInterruptFlagMeansNothing) {
    ring_.set_no_interrupt(true);
    ring_.set_used_event(0xffff);
    EXPECT_TRUE(publish_batch(1));
}

// --- Kicks -------------------------------------------------------------------------------------

TEST_F(SplitVirtqueueTest, KicksAreSuppressedByFlag) {
    create();
    EXPECT_FALSE(queue_->enable_kicks());
    EXPECT_FALSE(ring_.no_notify());
    queue_->suppress_kicks();
    EXPECT_TRUE(ring_.no_notify());
    EXPECT_FALSE(queue_->enable_kicks());
    EXPECT_FALSE(ring_.no_notify());
}

TEST_F(SplitVirtqueueTest, EnableKicksSeesWorkThatCameMeanwhile) {
    create();
    queue_->suppress_kicks();
    offer_simple(0);
    EXPECT_TRUE(queue_->enable_kicks());
}

TEST_F(SplitVirtqueueTest, EnableKicksAsksForTheNextIndex) {
    ring_.start_at(0xffff);
    create_event_idx(0xffff);
    EXPECT_FALSE(queue_->enable_kicks());
    EXPECT_EQ(ring_.available_event(), 0xffff);
    offer_simple(0);
    complete_one();
    EXPECT_FALSE(queue_->enable_kicks());
    EXPECT_EQ(ring_.available_event(), 0);
}

/// VIRTIO 1.3, 2.7.10.1: with EVENT_IDX "the device MUST set flags to 0".
TEST_F(SplitVirtqueueTest, FlagStaysZeroWithEventIndex) {
    create_event_idx();
    queue_->suppress_kicks();
    EXPECT_FALSE(ring_.no_notify());
}

TEST_F(SplitVirtqueueTest, RequestedProcessingIsTakenOnce) {
    create();
    EXPECT_FALSE(queue_->take_processing_request());
    queue_->request_processing();
    EXPECT_TRUE(queue_->take_processing_request());
    EXPECT_FALSE(queue_->take_processing_request());
}

}  // namespace
}  // namespace outrigger::test
