// SPDX-License-Identifier: Apache-2.0
/// Rings behind a virtual IOMMU: what lacks a translation is waited for, and costs nothing else.
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {
namespace {

constexpr uint16_t kSize = 256;  // a descriptor table of one page, a used ring that crosses one
constexpr uint64_t kPage = 4096;
constexpr uint64_t kRing = 0x10000;
constexpr uint64_t kData = 0x40000;
constexpr uint64_t kMemoryBytes = 0x100000;
/// I/O virtual addresses are guest addresses plus this, unless a test scatters them.
constexpr uint64_t kIovaShift = 0x7'0000'0000;
constexpr uint32_t kFreshPackedBase = 0x80008000;

template <class Ring>
struct RingTraits;

template <>
struct RingTraits<SplitRing> {
    using Descriptor = SplitDescriptor;
    static constexpr uint32_t kBase = 0;

    static void offer(SplitRing& ring, const std::vector<Descriptor>& chain) {
        for (uint16_t i = 0; i < chain.size(); ++i) {
            SplitDescriptor descriptor = chain[i];
            if (i + 1U < chain.size()) {
                descriptor.flags |= kNext;
                descriptor.next = static_cast<uint16_t>(i + 1);
            }
            ring.set_descriptor(i, descriptor);
        }
        ring.offer(0);
    }

    static void offer_one(SplitRing& ring, uint16_t id, const Descriptor& buffer) {
        ring.set_descriptor(id, buffer);
        ring.offer(id);
    }
};

template <>
struct RingTraits<PackedRing> {
    using Descriptor = PackedDescriptor;
    static constexpr uint32_t kBase = kFreshPackedBase;

    static void offer(PackedRing& ring, const std::vector<Descriptor>& chain) {
        ring.offer(0, chain);
    }

    static void offer_one(PackedRing& ring, uint16_t id, const Descriptor& buffer) {
        ring.offer(id, {buffer});
    }
};

template <class Ring>
class TranslationWaitTest : public testing::Test {
  protected:
    using Traits = RingTraits<Ring>;
    using Descriptor = typename Traits::Descriptor;
    using Addresses = std::set<uint64_t>;

    [[nodiscard]] VirtqueueConfig config() const {
        VirtqueueConfig config = ring_.config();
        for (FrontendAddr* area :
             {&config.descriptor_area, &config.driver_area, &config.device_area}) {
            *area = FrontendAddr{static_cast<uint64_t>(*area) - GuestMemory::kFrontendShift +
                                 kIovaShift};
        }
        return config;
    }

    void create() {
        auto created = Virtqueue::create(config(), VringBase{Traits::kBase}, snapshot_);
        ASSERT_TRUE(created.has_value());
        queue_ = std::move(*created);
    }

    /// Maps [guest, guest + size) at its usual place.
    void map(uint64_t guest, uint64_t size, Access access = Access::kReadWrite) {
        map_to(guest + kIovaShift, guest, size, access);
    }

    void map_to(uint64_t iova, uint64_t guest, uint64_t size, Access access = Access::kReadWrite) {
        ASSERT_TRUE(iotlb_
                        .update({.iova = iova,
                                 .size = size,
                                 .target = guest + GuestMemory::kFrontendShift,
                                 .access = access})
                        .has_value());
        adopt(MemorySnapshot::Withdrawn::kNothing);
    }

    /// So many pages from `iova` on; none goes on where the one before it ends.
    void map_scattered(uint64_t iova, uint64_t pages) {
        for (uint64_t page = 0; page < pages; ++page) {
            ASSERT_TRUE(
                iotlb_
                    .update({.iova = iova + page * kPage,
                             .size = kPage,
                             .target = GuestMemory::kFrontendShift + kData + page % 2 * 2 * kPage,
                             .access = Access::kReadWrite})
                    .has_value());
        }
        adopt(MemorySnapshot::Withdrawn::kNothing);
    }

    void unmap(uint64_t guest, uint64_t size) {
        ASSERT_TRUE(iotlb_.invalidate(guest + kIovaShift, size).has_value());
        adopt(MemorySnapshot::Withdrawn::kSome);
    }

    void adopt(MemorySnapshot::Withdrawn withdrawn) {
        snapshot_ = snapshot_->with_translations(iotlb_, withdrawn);
        if (queue_ != nullptr) {
            queue_->adopt_memory(snapshot_);
        }
    }

    void map_ring() { map(kRing, 4 * kPage); }

    /// Pages that the ring asks for, as guest addresses.
    [[nodiscard]] Addresses missing_pages() {
        Addresses pages;
        EXPECT_TRUE(queue_->has_new_misses());
        for (const TranslationMiss& miss : queue_->take_misses()) {
            pages.insert((miss.iova - kIovaShift) & ~(kPage - 1));
        }
        return pages;
    }

    void offer(const std::vector<Descriptor>& chain) { Traits::offer(ring_, chain); }

    [[nodiscard]] static Descriptor buffer(uint64_t guest, uint32_t length, uint16_t flags = 0) {
        return {.address = guest + kIovaShift, .length = length, .flags = flags};
    }

    GuestMemory memory_{{{0, kMemoryBytes}}};
    Ring ring_{memory_, kSize, kRing};
    std::shared_ptr<const MemorySnapshot> snapshot_ =
        memory_.snapshot(1)->with_mode({.iommu = true});
    Iotlb iotlb_;
    std::unique_ptr<Virtqueue> queue_;
};

using Rings = testing::Types<SplitRing, PackedRing>;
TYPED_TEST_SUITE(TranslationWaitTest, Rings);

TYPED_TEST(TranslationWaitTest, RingWaitsForItsOwnMemory) {
    this->create();
    EXPECT_TRUE(this->missing_pages().contains(kRing));
    EXPECT_FALSE(this->queue_->has_new_misses());
    this->map(kData, kPage);
    this->offer({this->buffer(kData, 8)});
    EXPECT_FALSE(this->queue_->has_available());
    EXPECT_FALSE(this->queue_->pop().has_value());
    this->map_ring();
    EXPECT_TRUE(this->queue_->take_processing_request());
    EXPECT_TRUE(this->queue_->pop().has_value());
    EXPECT_FALSE(this->queue_->broken().has_value());
}

TYPED_TEST(TranslationWaitTest, RingTellsTheSameMissesOnce) {
    this->create();
    const auto pages = this->missing_pages();
    this->map(kData, kPage);
    EXPECT_FALSE(this->queue_->has_new_misses());
    // Those that changed are told, and so are all when the session forgot them.
    this->map(kRing, kPage);
    EXPECT_LT(this->missing_pages().size(), pages.size());
    this->unmap(kRing, kPage);
    EXPECT_EQ(this->missing_pages(), pages);
    this->queue_->tell_misses_again();
    EXPECT_EQ(this->missing_pages(), pages);
}

TYPED_TEST(TranslationWaitTest, OnlyLaterWaitsOfOneRequestGoOn) {
    this->map_ring();
    this->create();
    EXPECT_FALSE(this->queue_->goes_on_waiting());
    constexpr uint64_t kPages = MissList::kMax + 1;
    this->offer({this->buffer(kData, kPages * kPage)});
    EXPECT_FALSE(this->queue_->pop().has_value());
    EXPECT_FALSE(this->queue_->goes_on_waiting());
    this->map(kData, (kPages - 1) * kPage);
    EXPECT_FALSE(this->queue_->pop().has_value());
    EXPECT_TRUE(this->queue_->goes_on_waiting());
    this->map(kData + (kPages - 1) * kPage, kPage);
    EXPECT_TRUE(this->queue_->pop().has_value());
    EXPECT_FALSE(this->queue_->goes_on_waiting());
}

TYPED_TEST(TranslationWaitTest, RingThatWaitsForItsMemoryKnowsItsBase) {
    this->create();
    EXPECT_EQ(this->queue_->base().raw, TestFixture::Traits::kBase);
}

TYPED_TEST(TranslationWaitTest, RingNeedsToWriteItsDeviceArea) {
    this->map(kRing, 4 * kPage, Access::kRead);
    this->create();
    const auto misses = this->queue_->take_misses();
    ASSERT_FALSE(misses.empty());
    for (const TranslationMiss& miss : misses) {
        EXPECT_EQ(miss.access, Access::kReadWrite);
    }
}

TYPED_TEST(TranslationWaitTest, MissConsumesNothing) {
    this->map_ring();
    this->create();
    const uint32_t base = this->queue_->base().raw;
    this->offer({this->buffer(kData, 8)});
    EXPECT_TRUE(this->queue_->has_available());
    EXPECT_FALSE(this->queue_->pop().has_value());
    EXPECT_FALSE(this->queue_->has_available());
    EXPECT_FALSE(this->queue_->broken().has_value());
    EXPECT_EQ(this->queue_->base().raw, base);
    EXPECT_EQ(this->queue_->in_flight(), 0U);

    this->map(kData, kPage);
    EXPECT_TRUE(this->queue_->take_processing_request());
    EXPECT_TRUE(this->queue_->has_available());
    auto chain = this->queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->readable_bytes(), 8U);
}

TYPED_TEST(TranslationWaitTest, OneAttemptFindsTheMissesOfAllDescriptors) {
    this->map_ring();
    this->create();
    this->map(kData + kPage, kPage);
    this->offer({this->buffer(kData, 8),
                 this->buffer(kData + kPage, 8),
                 this->buffer(kData + 2 * kPage, 2 * kPage, kWrite)});
    EXPECT_FALSE(this->queue_->pop().has_value());
    const auto misses = this->queue_->take_misses();
    const std::vector<TranslationMiss> expected = {
        {.iova = kData + kIovaShift, .access = Access::kRead},
        {.iova = kData + 2 * kPage + kIovaShift, .access = Access::kWrite},
        {.iova = kData + 3 * kPage + kIovaShift, .access = Access::kWrite}};
    EXPECT_EQ(std::vector(misses.begin(), misses.end()), expected);
}

TYPED_TEST(TranslationWaitTest, SearchBehindAMissIsBounded) {
    // The first page lacks, the others lie one by one: as many as a chain may have pieces.
    constexpr uint64_t kPages = 4096;
    this->map_ring();
    this->create();
    const uint64_t iova = 0x5'0000'0000;
    this->map_scattered(iova + kPage, kPages - 1);
    const typename TestFixture::Descriptor wide = {.address = iova,
                                                   .length = uint32_t{kPages * kPage}};
    this->offer({wide, this->buffer(kData + 4 * kPage, 8)});
    EXPECT_FALSE(this->queue_->pop().has_value());
    EXPECT_FALSE(this->queue_->broken().has_value());
    const auto misses = this->queue_->take_misses();
    ASSERT_EQ(misses.size(), 1U);
    EXPECT_EQ(misses[0].iova, iova);
}

TYPED_TEST(TranslationWaitTest, LargeRequestsInPagesAreHeldBackLate) {
    // Linux sends up to 1.25 MiB in one request. 65536 pages are the limit of a ring.
    constexpr uint64_t kPages = 320;
    constexpr size_t kPopped = 205;
    this->map_ring();
    this->create();
    const uint64_t iova = 0x5'0000'0000;
    this->map_scattered(iova, kPages);
    for (uint16_t id = 0; id < kSize; ++id) {
        TestFixture::Traits::offer_one(
            this->ring_, id, {.address = iova, .length = uint32_t{kPages * kPage}});
    }
    std::vector<DescriptorChain> chains;
    while (auto chain = this->queue_->pop()) {
        chains.push_back(std::move(*chain));
    }
    EXPECT_EQ(chains.size(), kPopped);
    EXPECT_FALSE(this->queue_->broken().has_value());
    EXPECT_FALSE(this->queue_->has_available());
    chains.pop_back();
    EXPECT_TRUE(this->queue_->has_available());
}

TYPED_TEST(TranslationWaitTest, RingGoesOnWhenNothingLacksAnyMore) {
    this->map_ring();
    this->create();
    this->offer({this->buffer(kData, 8), this->buffer(kData + 2 * kPage, 8, kWrite)});
    EXPECT_FALSE(this->queue_->pop().has_value());
    EXPECT_EQ(this->missing_pages(), (std::set<uint64_t>{kData, kData + 2 * kPage}));
    this->map(kData, kPage);
    EXPECT_FALSE(this->queue_->has_available());
    EXPECT_FALSE(this->queue_->has_new_misses());
    this->map(kData + 2 * kPage, kPage);
    EXPECT_TRUE(this->queue_->pop().has_value());
}

TYPED_TEST(TranslationWaitTest, WritingNeedsItsPermission) {
    this->map_ring();
    this->create();
    this->map(kData, kPage, Access::kRead);
    this->offer({this->buffer(kData, 8, kWrite)});
    EXPECT_FALSE(this->queue_->pop().has_value());
    EXPECT_EQ(this->missing_pages(), (std::set<uint64_t>{kData}));
    this->map(kData, kPage, Access::kWrite);
    EXPECT_TRUE(this->queue_->pop().has_value());
}

TYPED_TEST(TranslationWaitTest, IndirectTableIsWaitedForAndThenItsBuffers) {
    this->map_ring();
    this->create();
    const uint64_t table = kData;
    write_table<typename TestFixture::Descriptor>(
        this->memory_, table, {this->buffer(kData + 4 * kPage, 8)});
    this->offer({this->buffer(table, 16, kIndirect)});
    EXPECT_FALSE(this->queue_->pop().has_value());
    EXPECT_EQ(this->missing_pages(), (std::set<uint64_t>{table}));
    this->map(table, kPage, Access::kRead);
    EXPECT_FALSE(this->queue_->pop().has_value());
    EXPECT_EQ(this->missing_pages(), (std::set<uint64_t>{kData + 4 * kPage}));
    this->map(kData + 4 * kPage, kPage);
    EXPECT_TRUE(this->queue_->pop().has_value());
}

TYPED_TEST(TranslationWaitTest, IndirectTableMayBeScattered) {
    // One entry in front of a page's border, one over it, one behind; the pages lie the other way.
    const uint64_t low = kData + 8 * kPage;
    const uint64_t high = kData + 2 * kPage;
    std::vector<typename TestFixture::Descriptor> entries;
    for (uint32_t i = 0; i < 3; ++i) {
        entries.push_back(this->buffer(kData, 10 + i));
    }
    entries[0].flags = kNext;
    entries[1].flags = kNext;
    if constexpr (std::is_same_v<TypeParam, SplitRing>) {
        entries[0].next = 1;
        entries[1].next = 2;
    }
    std::vector<char> bytes(3 * 16);
    std::memcpy(bytes.data(), entries.data(), bytes.size());
    constexpr size_t kFront = 16 + 5;
    this->memory_.write(low + kPage - kFront, {bytes.data(), kFront});
    this->memory_.write(high, {bytes.data() + kFront, bytes.size() - kFront});
    this->map_ring();
    this->create();
    this->map(kData, kPage);
    const uint64_t iova = 0x55550000;
    this->map_to(iova, low, kPage, Access::kRead);
    this->map_to(iova + kPage, high, kPage, Access::kRead);

    this->offer({{.address = iova + kPage - kFront, .length = 48, .flags = kIndirect}});
    auto chain = this->queue_->pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->readable_bytes(), 10U + 11 + 12);
}

TYPED_TEST(TranslationWaitTest, RefusedTranslationBreaksTheRing) {
    this->map_ring();
    this->create();
    this->offer({this->buffer(kData, 8)});
    EXPECT_FALSE(this->queue_->pop().has_value());
    const TranslationMiss miss = this->queue_->take_misses()[0];
    this->queue_->on_miss_answered({.iova = miss.iova + kPage, .access = miss.access}, true);
    EXPECT_FALSE(this->queue_->broken().has_value());
    this->queue_->on_miss_answered(miss, true);
    EXPECT_EQ(this->queue_->broken(), RingError::kBufferUnmapped);
    EXPECT_FALSE(this->queue_->has_new_misses());
}

TYPED_TEST(TranslationWaitTest, RefusedRingMemoryBreaksTheRing) {
    this->create();
    this->queue_->on_miss_answered(this->queue_->take_misses()[0], true);
    EXPECT_EQ(this->queue_->broken(), RingError::kRingUnmapped);
}

TYPED_TEST(TranslationWaitTest, AnswersThatBringNothingEndInABreak) {
    this->map_ring();
    this->create();
    this->offer({this->buffer(kData, 8)});
    EXPECT_FALSE(this->queue_->pop().has_value());
    int rounds = 0;
    while (!this->queue_->broken() && rounds < 100) {
        ++rounds;
        ASSERT_TRUE(this->queue_->has_new_misses());
        this->queue_->on_miss_answered(this->queue_->take_misses()[0], false);
    }
    EXPECT_GT(rounds, 1);
    EXPECT_LT(rounds, 10);
    EXPECT_EQ(this->queue_->broken(), RingError::kBufferUnmapped);
}

TYPED_TEST(TranslationWaitTest, AnswerBehindItsTranslationChangesNothing) {
    this->map_ring();
    this->create();
    this->offer({this->buffer(kData, 8)});
    EXPECT_FALSE(this->queue_->pop().has_value());
    const TranslationMiss miss = this->queue_->take_misses()[0];
    this->map(kData, kPage);
    this->queue_->on_miss_answered(miss, false);
    EXPECT_FALSE(this->queue_->has_new_misses());
    EXPECT_TRUE(this->queue_->pop().has_value());
}

TYPED_TEST(TranslationWaitTest, TableThatNeverHoldsAChainIsGivenUp) {
    // Whatever comes goes again before it can be used.
    this->map_ring();
    this->create();
    this->map(kData + kPage, kPage);
    this->offer({this->buffer(kData, 2 * kPage)});
    int attempts = 0;
    while (!this->queue_->broken() && attempts < 100'000) {
        ++attempts;
        EXPECT_FALSE(this->queue_->pop().has_value());
        if (this->queue_->broken()) {
            break;
        }
        const bool first = this->missing_pages().contains(kData);
        this->unmap(first ? kData + kPage : kData, kPage);
        this->map(first ? kData : kData + kPage, kPage);
    }
    EXPECT_EQ(this->queue_->broken(), RingError::kBufferUnmapped);
    EXPECT_LT(attempts, 1000);
}

TYPED_TEST(TranslationWaitTest, HardErrorsAreNotWaitedFor) {
    this->map_ring();
    this->create();
    this->offer({this->buffer(kData, 8, kWrite), this->buffer(kData, 8)});
    EXPECT_FALSE(this->queue_->pop().has_value());
    EXPECT_EQ(this->queue_->broken(), RingError::kReadableAfterWritable);
    EXPECT_FALSE(this->queue_->has_new_misses());
}

TYPED_TEST(TranslationWaitTest, WithdrawnMemoryIsReleasedWhenItsChainIsBack) {
    this->map_ring();
    this->create();
    this->map(kData, kPage);
    this->offer({this->buffer(kData, 8)});
    auto chain = this->queue_->pop();
    ASSERT_TRUE(chain.has_value());
    this->map(kData + kPage, kPage);
    EXPECT_TRUE(this->queue_->old_memory_released());
    this->unmap(kData, kPage);
    EXPECT_FALSE(this->queue_->old_memory_released());
    chain->complete(0);
    EXPECT_TRUE(this->queue_->old_memory_released());
}

TYPED_TEST(TranslationWaitTest, ManyTranslationsUnderOneChainKeepOneSnapshot) {
    this->map_ring();
    this->create();
    this->map(kData, kPage);
    this->offer({this->buffer(kData, 8)});
    auto chain = this->queue_->pop();
    ASSERT_TRUE(chain.has_value());
    const std::weak_ptr<const MemorySnapshot> before = this->snapshot_;
    this->map(kData + kPage, kPage);
    EXPECT_TRUE(before.expired());
}

TYPED_TEST(TranslationWaitTest, WithdrawnRingIsMissedAndGoesOn) {
    this->map_ring();
    this->create();
    this->map(kData, kPage);
    this->unmap(kRing, 4 * kPage);
    EXPECT_TRUE(this->missing_pages().contains(kRing));
    this->offer({this->buffer(kData, 8, kWrite)});
    EXPECT_FALSE(this->queue_->pop().has_value());
    this->map_ring();
    auto chain = this->queue_->pop();
    ASSERT_TRUE(chain.has_value());
    chain->complete(4);
    (void)this->queue_->publish();
    EXPECT_EQ(this->ring_.used(0).length, 4U);
}

TYPED_TEST(TranslationWaitTest, ChainsOfAWithdrawnRingAreUsedWhereTheyWere) {
    this->map_ring();
    this->create();
    this->map(kData, kPage);
    this->offer({this->buffer(kData, 8, kWrite)});
    auto chain = this->queue_->pop();
    ASSERT_TRUE(chain.has_value());
    this->unmap(kRing, 4 * kPage);
    EXPECT_FALSE(this->queue_->old_memory_released());
    chain->complete(3);
    (void)this->queue_->publish();
    EXPECT_TRUE(this->queue_->old_memory_released());
    EXPECT_EQ(this->ring_.used(0).length, 3U);
}

TYPED_TEST(TranslationWaitTest, KicksAskedForWhileWaitingAreArmedAfterwards) {
    this->map_ring();
    this->create();
    this->queue_->suppress_kicks();
    this->offer({this->buffer(kData, 8)});
    EXPECT_FALSE(this->queue_->pop().has_value());
    EXPECT_FALSE(this->queue_->enable_kicks());
    this->map(kData, kPage);
    EXPECT_TRUE(this->queue_->take_processing_request());
    if constexpr (std::is_same_v<TypeParam, SplitRing>) {
        EXPECT_FALSE(this->ring_.no_notify());
    } else {
        EXPECT_EQ(this->ring_.device_event_flags(), 0);
    }
}

TYPED_TEST(TranslationWaitTest, ScatteredRingIsServed) {
    if (kPortableBuild) {
        GTEST_SKIP() << "only Linux maps memory a second time";
    }
    // The guest's pages of the ring lie in the opposite order of its addresses.
    constexpr uint64_t kPages = 4;
    std::vector<std::byte> ring(kPages * kPage);
    this->offer({this->buffer(kData, 8, kWrite)});
    std::memcpy(ring.data(), this->memory_.at(kRing), ring.size());
    const auto scattered = [](uint64_t page) { return 0x80000 + (kPages - 1 - page) * 2 * kPage; };
    for (uint64_t page = 0; page < kPages; ++page) {
        std::memcpy(this->memory_.at(scattered(page)), ring.data() + page * kPage, kPage);
        this->map_to(kRing + kIovaShift + page * kPage, scattered(page), kPage);
    }
    this->create();
    this->map(kData, kPage);
    auto chain = this->queue_->pop();
    ASSERT_TRUE(chain.has_value());
    chain->complete(5);
    (void)this->queue_->publish();
    for (uint64_t page = 0; page < kPages; ++page) {
        std::memcpy(
            this->memory_.at(kRing + page * kPage), this->memory_.at(scattered(page)), kPage);
    }
    EXPECT_EQ(this->ring_.used(0).length, 5U);
}

TYPED_TEST(TranslationWaitTest, RingInPiecesSmallerThanPagesIsRefused) {
    this->map(kRing, 4 * kPage);
    this->map_to(kRing + kIovaShift + 512, 0x80000, 512);
    auto created =
        Virtqueue::create(this->config(), VringBase{TestFixture::Traits::kBase}, this->snapshot_);
    ASSERT_FALSE(created.has_value());
    EXPECT_EQ(created.error(), VirtqueueSetupError::kScattered);
}

TYPED_TEST(TranslationWaitTest, RingThatComesBackInSuchPiecesBreaks) {
    this->create();
    (void)this->queue_->take_misses();
    this->map_to(kRing + kIovaShift + 512, 0x80000, 512);
    this->map(kRing, 512);
    this->map(kRing + 1024, 4 * kPage - 1024);
    EXPECT_EQ(this->queue_->broken(), RingError::kRingUnmapped);
}

TYPED_TEST(TranslationWaitTest, RingThatWrapsIsRefused) {
    VirtqueueConfig config = this->config();
    config.descriptor_area = FrontendAddr{UINT64_MAX - 0xff};
    EXPECT_FALSE(Virtqueue::create(config, VringBase{TestFixture::Traits::kBase}, this->snapshot_)
                     .has_value());
}

}  // namespace
}  // namespace outrigger::test
