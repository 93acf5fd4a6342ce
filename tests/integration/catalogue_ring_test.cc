// SPDX-License-Identifier: Apache-2.0
// Rows 33 to 41 of the catalogue: what a hostile driver writes into a ring, split and packed. What
// only one format has is in its own tests at the end.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/integration/catalogue.h"

namespace outrigger::testing {
namespace {

using driver::kDescriptorIndirect;
using driver::kDescriptorNext;
using driver::kDescriptorWrite;

constexpr uint16_t kRingSize = 64;
constexpr GuestAddr kUnmapped{0xdead'0000'0000};

/// A descriptor of either format.
struct Raw {
    GuestAddr address{};
    uint32_t length = 0;
    uint16_t flags = 0;
};

class CatalogueRing : public Catalogue {
  protected:
    void run_two(bool packed) {
        run({.packed = packed, .queue_count = 2, .queue_size = kRingSize});
        target_ = memory_.allocate(0x1000, 0x1000).value();
        table_ = memory_.allocate(2048 * driver::kDescriptorBytes, 64).value();
    }

    /// Makes these descriptors available as one chain, whatever they say. Split ones follow one
    /// another from index 0; packed ones have buffer id `id`.
    void offer(std::vector<Raw> chain, uint16_t id = 7) {
        if (auto* const split = queue().split()) {
            for (uint16_t i = 0; i < chain.size(); ++i) {
                split->write_descriptor(i,
                                        {.address = static_cast<uint64_t>(chain[i].address),
                                         .length = chain[i].length,
                                         .flags = chain[i].flags,
                                         .next = static_cast<uint16_t>(i + 1)});
            }
            split->publish_head(0);
        } else {
            offer_packed(chain, id);
        }
        queue().kick();
    }

    /// Writes entries of an indirect table at `table_`, each naming the next.
    void write_table(const std::vector<Raw>& entries) {
        const bool split = queue().split() != nullptr;
        std::vector<uint64_t> words;
        for (size_t i = 0; i < entries.size(); ++i) {
            const uint64_t flags = entries[i].flags;
            const uint64_t next = i + 1;
            words.push_back(static_cast<uint64_t>(entries[i].address));
            words.push_back(entries[i].length | (split ? flags << 32 | next << 48 : flags << 48));
        }
        memory_.write(table_, std::as_bytes(std::span(words)));
    }

    [[nodiscard]] Raw table_of(size_t entries) const {
        return {.address = table_,
                .length = static_cast<uint32_t>(entries * driver::kDescriptorBytes),
                .flags = kDescriptorIndirect};
    }

    /// The chain that offer() made came back with that used length.
    void expect_used(uint32_t length) {
        EXPECT_TRUE(eventually([&] {
            if (auto* const split = queue().split()) {
                const auto element = split->poll_used_element();
                return element && element->length == length;
            }
            const auto descriptor = queue().packed()->poll_used_descriptor(1);
            return descriptor &&
                   ((descriptor->flags & kDescriptorWrite) != 0 ? descriptor->length : 0) == length;
        }));
        EXPECT_EQ(counters().rings_broken.total(), 0U);
    }

    GuestAddr target_{};  ///< a page of guest memory
    GuestAddr table_{};   ///< room for an indirect table of 2048 entries

  private:
    void offer_packed(const std::vector<Raw>& chain, uint16_t id) {
        driver::PackedRing& ring = *queue().packed();
        // Backwards, so that the head becomes available last.
        for (size_t i = chain.size(); i-- > 0;) {
            ring.write_descriptor(
                static_cast<uint16_t>(ring.next_slot() + i),
                {.address = static_cast<uint64_t>(chain[i].address),
                 .length = chain[i].length,
                 .id = id,
                 .flags = static_cast<uint16_t>(chain[i].flags | ring.available_flags())});
        }
        ring.skip_slots(static_cast<uint16_t>(chain.size()));
    }
};

class CatalogueBoth : public CatalogueRing, public ::testing::WithParamInterface<bool> {
  protected:
    CatalogueBoth() { run_two(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Formats, CatalogueBoth, ::testing::Bool(), [](const auto& format) {
    return std::string(format.param ? "Packed" : "Split");
});

TEST_P(CatalogueBoth, Row35ChainOfMoreDescriptorsThanTheRingHasBreaks) {
    // Split: the last one names the first. Packed: every slot says that there is one more.
    std::vector<Raw> chain(kRingSize, {.address = target_, .length = 1, .flags = kDescriptorNext});
    if (auto* const split = queue().split()) {
        for (uint16_t i = 0; i < kRingSize; ++i) {
            split->write_descriptor(i,
                                    {.address = static_cast<uint64_t>(target_),
                                     .length = 1,
                                     .flags = kDescriptorNext,
                                     .next = static_cast<uint16_t>((i + 1) % kRingSize)});
        }
        split->publish_head(0);
        queue().kick();
    } else {
        offer(chain);
    }
    expect_break_and_recovery(RingError::kChainTooLong);
}

TEST_P(CatalogueBoth, Row37IndirectWithNextBreaks) {
    write_table({{.address = target_, .length = 16}});
    Raw table = table_of(1);
    table.flags |= kDescriptorNext;
    offer({table, {.address = target_, .length = 1}});
    expect_break_and_recovery(RingError::kIndirectWithNext);
}

TEST_P(CatalogueBoth, Row37EmptyIndirectTableBreaks) {
    offer({table_of(0)});
    expect_break_and_recovery(RingError::kIndirectLength);
}

TEST_P(CatalogueBoth, Row37IndirectTableOfHalfADescriptorBreaks) {
    write_table({{.address = target_, .length = 16}});
    offer({{.address = table_, .length = 24, .flags = kDescriptorIndirect}});
    expect_break_and_recovery(RingError::kIndirectLength);
}

TEST_P(CatalogueBoth, Row37IndirectTableOfMoreThan1024EntriesBreaks) {
    offer({table_of(kIndirectEntriesMax + 1)});
    expect_break_and_recovery(RingError::kIndirectTooLong);
}

TEST_P(CatalogueBoth, Row37IndirectTableInUnmappedMemoryBreaks) {
    offer({{.address = kUnmapped, .length = 16, .flags = kDescriptorIndirect}});
    expect_break_and_recovery(RingError::kIndirectUnmapped);
}

TEST_P(CatalogueBoth, Row37IndirectTableThatEndsBehindMemoryBreaks) {
    const GuestAddr end{first_region().guest_address + first_region().size};
    offer({{.address = GuestAddr{static_cast<uint64_t>(end) - 16},
            .length = 32,
            .flags = kDescriptorIndirect}});
    expect_break_and_recovery(RingError::kIndirectUnmapped);
}

TEST_P(CatalogueBoth, Row38ReadableBehindWritableBreaks) {
    offer({{.address = target_,
            .length = 16,
            .flags = static_cast<uint16_t>(kDescriptorWrite | kDescriptorNext)},
           {.address = target_, .length = 16}});
    expect_break_and_recovery(RingError::kReadableAfterWritable);
}

TEST_P(CatalogueBoth, Row38ReadableBehindWritableInATableBreaks) {
    write_table({{.address = target_,
                  .length = 16,
                  .flags = static_cast<uint16_t>(
                      kDescriptorWrite | (queue().split() != nullptr ? kDescriptorNext : 0))},
                 {.address = target_, .length = 16}});
    offer({table_of(2)});
    expect_break_and_recovery(RingError::kReadableAfterWritable);
}

TEST_P(CatalogueBoth, Row39BufferInUnmappedMemoryBreaks) {
    offer({{.address = kUnmapped, .length = 16, .flags = kDescriptorWrite}});
    expect_break_and_recovery(RingError::kBufferUnmapped);
}

TEST_P(CatalogueBoth, Row39BufferThatEndsOneByteBehindMemoryBreaks) {
    const uint64_t end = first_region().guest_address + first_region().size;
    offer({{.address = GuestAddr{end - 15}, .length = 16}});
    expect_break_and_recovery(RingError::kBufferUnmapped);
}

TEST_P(CatalogueBoth, Row39BufferThatEndsWithMemoryIsServed) {
    const uint64_t end = first_region().guest_address + first_region().size;
    offer({{.address = GuestAddr{end - 16}, .length = 16}});
    expect_used(0);
}

TEST_P(CatalogueBoth, Row39BufferWhoseAddressWrapsBreaks) {
    offer({{.address = GuestAddr{~uint64_t{0} - 7}, .length = 16}});
    expect_break_and_recovery(RingError::kBufferWraps);
}

TEST_P(CatalogueBoth, Row39EmptyBufferIsServed) {
    offer({{.address = target_, .length = 0, .flags = kDescriptorWrite}});
    expect_used(0);
}

TEST_P(CatalogueBoth, Row39EmptyBufferInUnmappedMemoryDoesNoHarm) {
    offer({{.address = kUnmapped, .length = 0, .flags = kDescriptorWrite}});
    EXPECT_TRUE(eventually(
        [&] { return counters().rings_broken.total() == 1 || device_.answered() == 1; }));
    expect_containment_and_recovery();
}

TEST_P(CatalogueBoth, Row39ChainOfFourGibibytesBreaks) {
    const bool split = queue().split() != nullptr;
    std::vector<Raw> entries(1024,
                             {.address = kMemoryStart,
                              .length = kMemoryBytes,
                              .flags = split ? kDescriptorNext : uint16_t{0}});
    entries.back().flags = 0;
    write_table(entries);
    offer({table_of(entries.size())});
    expect_break_and_recovery(RingError::kChainBytesTooMany);
}

TEST_P(CatalogueBoth, Row39ChainOfOneByteLessThanFourGibibytesIsServed) {
    const bool split = queue().split() != nullptr;
    std::vector<Raw> entries(1024,
                             {.address = kMemoryStart,
                              .length = kMemoryBytes,
                              .flags = split ? kDescriptorNext : uint16_t{0}});
    entries.back().flags = 0;
    entries.back().length -= 1;
    write_table(entries);
    offer({table_of(entries.size())});
    expect_used(0);
}

// Not an error: the guest sees one range.
TEST_P(CatalogueBoth, Row39BufferAcrossTwoRegionsIsServedWhole) {
    const uint64_t boundary = first_region().guest_address + first_region().size;
    const auto second =
        memory_.add_region({.guest_address = GuestAddr{boundary}, .size = 0x1000}).value();
    EXPECT_EQ(frontend().add_mem_reg(memory_, second), Answer::kAccepted);
    std::array<std::byte, 64> sent{};
    std::ranges::generate(sent, [i = 1]() mutable { return static_cast<std::byte>(i++); });
    memory_.write(GuestAddr{boundary - 24}, std::span(sent).first(24));
    memory_.write(GuestAddr{boundary}, std::span(sent).subspan(24));
    // The answer lies across the boundary as well, behind the request's own bytes.
    const auto completion = queue().transact(
        std::array{
            driver::Segment{.address = GuestAddr{boundary - 24}, .length = 64},
            driver::Segment{
                .address = GuestAddr{boundary - 1024}, .length = 1000, .device_writable = true}},
        driver::after(kPatience));
    ASSERT_TRUE(completion);
    EXPECT_EQ(completion->length, 64U);
    std::array<std::byte, 64> echoed{};
    memory_.read(GuestAddr{boundary - 1024}, echoed);
    EXPECT_EQ(echoed, sent);
}

TEST_P(CatalogueBoth, Row39AnswerAcrossTwoRegionsIsWrittenWhole) {
    const uint64_t boundary = first_region().guest_address + first_region().size;
    const auto second =
        memory_.add_region({.guest_address = GuestAddr{boundary}, .size = 0x1000}).value();
    EXPECT_EQ(frontend().add_mem_reg(memory_, second), Answer::kAccepted);
    std::array<std::byte, 64> sent{};
    std::ranges::generate(sent, [i = 1]() mutable { return static_cast<std::byte>(i++); });
    memory_.write(target_, sent);
    const auto completion = queue().transact(
        std::array{driver::Segment{.address = target_, .length = 64},
                   driver::Segment{
                       .address = GuestAddr{boundary - 24}, .length = 64, .device_writable = true}},
        driver::after(kPatience));
    ASSERT_TRUE(completion);
    std::array<std::byte, 64> echoed{};
    memory_.read(GuestAddr{boundary - 24}, std::span(echoed).first(24));
    memory_.read(GuestAddr{boundary}, std::span(echoed).subspan(24));
    EXPECT_EQ(echoed, sent);
}

TEST_P(CatalogueBoth, Row40BufferThatIsItsOwnAnswerIsServed) {
    const std::array chain = {
        driver::Segment{.address = target_, .length = 64},
        driver::Segment{.address = target_, .length = 64, .device_writable = true}};
    EXPECT_EQ(queue().transact(chain, driver::after(kPatience)).value().length, 64U);
    expect_echo();
}

TEST_P(CatalogueBoth, Row40TwoRequestsWithOneAnswerBufferAreBothServed) {
    device_.hold(true);
    const std::array chain = {
        driver::Segment{.address = table_, .length = 64},
        driver::Segment{.address = target_, .length = 64, .device_writable = true}};
    ASSERT_TRUE(queue().try_add(chain, 1));
    ASSERT_TRUE(queue().try_add(chain, 2));
    queue().publish_and_kick();
    ASSERT_TRUE(eventually([&] { return device_.held() == 2; }));
    device_.hold(false);
    device_.release_held(QueueIndex{0});
    EXPECT_TRUE(eventually([&] { return queue().poll_used().has_value(); }));
    EXPECT_TRUE(eventually([&] { return queue().poll_used().has_value(); }));
    expect_echo();
}

// The ring may break or go on with what lies there now; the daemon and the other ring do not care.
TEST_P(CatalogueBoth, Row40AnswerThatOverwritesTheRingsDoesNoHarm) {
    const auto address = queue().vring_address(memory_);
    const auto region = first_region();
    for (const uint64_t user : {address.descriptor, address.available, address.used}) {
        std::array<std::byte, 256> junk{};
        std::ranges::generate(junk,
                              [i = 77U]() mutable { return static_cast<std::byte>(i *= 13U); });
        memory_.write(table_, junk);
        const GuestAddr ring{user - region.user_address + region.guest_address};
        const uint64_t answered = device_.answered();
        const std::array chain = {
            driver::Segment{.address = table_, .length = 256},
            driver::Segment{.address = ring, .length = 256, .device_writable = true}};
        ASSERT_TRUE(queue().try_add(chain, 1));
        queue().publish();
        queue().kick();
        ASSERT_TRUE(eventually([&] { return device_.answered() > answered; }));
        expect_echo(1);
        EXPECT_TRUE(queue().stop(frontend()));
        queue().reset();
        EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    }
    expect_echo();
}

TEST_P(CatalogueBoth, Row41SameHeadOrIdTwiceWhileInFlightBreaks) {
    device_.hold(true);
    offer({{.address = target_, .length = 1}});
    ASSERT_TRUE(eventually([&] { return device_.held() == 1; }));
    offer({{.address = target_, .length = 1}});
    expect_broken(RingError::kHeadInFlight);
    device_.hold(false);
    device_.release_held(QueueIndex{0});
    expect_containment_and_recovery();
}

TEST_P(CatalogueBoth, Row41SameHeadOrIdAgainAfterItWasUsedIsServed) {
    offer({{.address = target_, .length = 1}});
    expect_used(0);
    offer({{.address = target_, .length = 1}});
    expect_used(0);
}

// --- What only one format has ------------------------------------------------------------------

class CatalogueSplit : public CatalogueRing {
  protected:
    CatalogueSplit() { run_two(false); }

    [[nodiscard]] driver::SplitRing& ring() { return *queue().split(); }
};

TEST_F(CatalogueSplit, Row33AvailableIndexThatJumpsBeyondTheRingBreaks) {
    ring().write_available_index(kRingSize + 1);
    queue().kick();
    expect_break_and_recovery(RingError::kAvailableIndexJump);
}

TEST_F(CatalogueSplit, Row33AvailableIndexThatGoesBackBreaks) {
    expect_echo();
    ring().write_available_index(0);
    queue().kick();
    expect_break_and_recovery(RingError::kAvailableIndexJump);
}

TEST_F(CatalogueSplit, Row34HeadBeyondTheRingBreaks) {
    ring().publish_head(kRingSize);
    queue().kick();
    expect_break_and_recovery(RingError::kHeadOutOfRange);
}

TEST_F(CatalogueSplit, Row34LargestHeadBreaks) {
    ring().publish_head(0xffff);
    queue().kick();
    expect_break_and_recovery(RingError::kHeadOutOfRange);
}

TEST_F(CatalogueSplit, Row35DescriptorThatNamesItselfBreaks) {
    ring().write_descriptor(3,
                            {.address = static_cast<uint64_t>(target_),
                             .length = 1,
                             .flags = kDescriptorNext,
                             .next = 3});
    ring().publish_head(3);
    queue().kick();
    expect_break_and_recovery(RingError::kChainTooLong);
}

TEST_F(CatalogueSplit, Row35LoopInsideAnIndirectTableBreaks) {
    // Entry 1 names entry 1.
    const std::array<uint64_t, 4> words = {static_cast<uint64_t>(target_),
                                           1 | uint64_t{kDescriptorNext} << 32 | 1ULL << 48,
                                           static_cast<uint64_t>(target_),
                                           1 | uint64_t{kDescriptorNext} << 32 | 1ULL << 48};
    memory_.write(table_, std::as_bytes(std::span(words)));
    offer({table_of(2)});
    expect_break_and_recovery(RingError::kChainTooLong);
}

TEST_F(CatalogueSplit, Row37NestedIndirectTableBreaks) {
    write_table({{.address = table_, .length = 16, .flags = kDescriptorIndirect}});
    offer({table_of(1)});
    expect_break_and_recovery(RingError::kIndirectNested);
}

TEST_F(CatalogueSplit, Row36NextBeyondTheRingBreaks) {
    ring().write_descriptor(0,
                            {.address = static_cast<uint64_t>(target_),
                             .length = 1,
                             .flags = kDescriptorNext,
                             .next = kRingSize});
    ring().publish_head(0);
    queue().kick();
    expect_break_and_recovery(RingError::kNextOutOfRange);
}

TEST_F(CatalogueSplit, Row36NextBeyondAnIndirectTableBreaks) {
    write_table({{.address = target_, .length = 1, .flags = kDescriptorNext}});
    offer({table_of(1)});
    expect_break_and_recovery(RingError::kNextOutOfRange);
}

class CataloguePacked : public CatalogueRing {
  protected:
    CataloguePacked() { run_two(true); }
};

// 2.8: an id is the driver's own business; only SPDK takes it for an index.
TEST_F(CataloguePacked, Row34BufferIdBeyondTheRingIsServedAndReturned) {
    const uint16_t slot = queue().packed()->next_slot();
    offer({{.address = target_, .length = 1}}, 0xffff);
    expect_used(0);
    EXPECT_EQ(queue().packed()->read_descriptor(slot).id, 0xffff);
}

// 2.8.7: in an indirect table all flags but WRITE "are reserved and are ignored by the device". So
// nothing can be nested and no entry can name another: INDIRECT is not the error that it is in a
// split table, and the entry's own 16 bytes are served as a buffer.
TEST_F(CataloguePacked, Row37OtherFlagsThanWriteInAnIndirectTableAreIgnored) {
    write_table({{.address = table_, .length = 16, .flags = kDescriptorIndirect},
                 {.address = target_, .length = 16, .flags = kDescriptorNext}});
    offer({table_of(2)});
    expect_used(0);
}

class CatalogueNoIndirect : public CatalogueRing, public ::testing::WithParamInterface<bool> {};

INSTANTIATE_TEST_SUITE_P(Formats, CatalogueNoIndirect, ::testing::Bool(), [](const auto& format) {
    return std::string(format.param ? "Packed" : "Split");
});

TEST_P(CatalogueNoIndirect, Row37IndirectThatWasNotNegotiatedBreaks) {
    run({.packed = GetParam(), .indirect = false, .queue_count = 2, .queue_size = kRingSize});
    table_ = memory_.allocate(0x1000, 64).value();
    write_table({{.address = table_, .length = 16}});
    offer({table_of(1)});
    expect_break_and_recovery(RingError::kIndirectNotNegotiated);
}

}  // namespace
}  // namespace outrigger::testing
