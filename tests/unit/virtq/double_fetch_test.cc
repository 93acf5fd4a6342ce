// SPDX-License-Identifier: Apache-2.0
/// Every field of a ring that the device reads, changed between any two accesses of the device:
/// what comes of it is what the old value alone gives, or what the new value alone gives, never a
/// mixture that passed a check with one and was used with the other. And: each field is read once
/// for each decision, and nothing that the device wrote is read back.
///
/// The same table is then tried with a second thread that writes both values as fast as it can.
#include <algorithm>
#include <atomic>
#include <bit>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/support/access_trap.h"
#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {
namespace {

using outrigger::testing::AccessTrap;
using outrigger::testing::Flip;
using outrigger::testing::kHasAccessTrap;
using outrigger::testing::TrappedAccess;

constexpr uint16_t kSize = 8;
constexpr uint64_t kMemoryBytes = 0x10000;
constexpr uint64_t kRing = 0x1000;
constexpr uint64_t kAvailable = kRing + 16 * kSize;  // split
constexpr uint64_t kUsed = kAvailable + 24;          // split: 6 + 2 * 8, rounded up to 4
constexpr uint64_t kUsedEnd = kUsed + 6 + 8 * kSize;
constexpr uint64_t kDriverEvent = kRing + 16 * kSize;  // packed
constexpr uint64_t kDeviceEvent = kDriverEvent + 4;    // packed
constexpr uint64_t kTable = 0x4000;
constexpr uint64_t kOddTable = 0x4801;
constexpr uint64_t kData = 0x8000;
constexpr uint64_t kOther = 0xa000;
constexpr uint64_t kUnmapped = 0xdead'0000;

/// Where a descriptor's fields lie.
constexpr uint64_t kAddress = 0;
constexpr uint64_t kLength = 8;
constexpr uint64_t kSplitFlags = 12;
constexpr uint64_t kSplitNext = 14;
constexpr uint64_t kPackedId = 12;
constexpr uint64_t kPackedFlags = 14;

enum class Decision : uint8_t {
    kPop,      ///< what the next chain is
    kPublish,  ///< whether the driver is called for the second chain
};

/// One field, and two values that it may have while the device looks.
struct Case {
    const char* name;
    bool packed;
    uint64_t field;  ///< guest address
    uint32_t bytes;
    uint64_t before;
    uint64_t after;
    Decision decision = Decision::kPop;
    bool event_idx = false;
    uint64_t first_table = 0;  ///< the chain is a table there; 0: it is two descriptors
    bool same_outcome = false;
};

void PrintTo(const Case& one, std::ostream* out) {
    *out << one.name;
}

/// A ring with one chain to pop: a readable and a writable buffer, direct or in a table. Behind it
/// lies more that a changed field may name.
class Stage final {
  public:
    explicit Stage(const Case& one) : case_(one) {
        split_.set_descriptor(5, {.address = kOther, .length = 32, .flags = kWrite});
        one.packed ? write_packed() : write_split();
        put_field(one.before);
        VirtqueueConfig config = one.packed ? packed_.config() : split_.config();
        config.event_idx = one.event_idx;
        queue_ =
            Virtqueue::create(config, VringBase{one.packed ? 0x80008000U : 0U}, memory_.snapshot())
                .value();
        if (one.decision == Decision::kPublish) {
            queue_->pop()->complete(0);
            (void)queue_->publish();  // the first batch always calls
            if (one.packed) {
                packed_.offer(8, {{.address = kData, .length = 8}});
            } else {
                split_.offer(5);
            }
            queue_->pop()->complete(0);
        }
    }

    void put_field(uint64_t value) { std::memcpy(field(), &value, case_.bytes); }

    [[nodiscard]] std::byte* field() const { return memory_.at(case_.field); }

    [[nodiscard]] std::span<std::byte> memory() const { return {memory_.at(0), kMemoryBytes}; }

    /// Decides once and says what was decided.
    [[nodiscard]] std::string decide() {
        if (case_.decision == Decision::kPublish) {
            return queue_->publish() ? "call" : "no call";
        }
        auto chain = queue_->pop();
        if (!chain) {
            return queue_->broken() ? std::string(describe(*queue_->broken())) : "nothing";
        }
        std::string text = "chain " + std::to_string(chain->id());
        for (const iovec& piece : chain->take_reader().take_iovecs()) {
            text += " r" + describe_piece(piece);
        }
        for (const iovec& piece : chain->take_writer().take_iovecs()) {
            text += " w" + describe_piece(piece);
        }
        chain->complete(0);
        (void)queue_->publish();
        return text;
    }

  private:
    void write_split() {
        if (case_.first_table != 0) {
            write_table<SplitDescriptor>(
                memory_,
                case_.first_table,
                {{.address = kData, .length = 16, .flags = kNext, .next = 1},
                 {.address = kData + 64, .length = 8, .flags = kWrite},
                 {.address = kOther, .length = 32, .flags = kWrite}});
            split_.set_descriptor(0,
                                  {.address = case_.first_table, .length = 48, .flags = kIndirect});
        } else {
            split_.set_descriptor(0, {.address = kData, .length = 16, .flags = kNext, .next = 1});
            split_.set_descriptor(1, {.address = kData + 64, .length = 8, .flags = kWrite});
        }
        split_.offer(0);
    }

    void write_packed() {
        if (case_.first_table != 0) {
            write_table<PackedDescriptor>(memory_,
                                          case_.first_table,
                                          {{.address = kData, .length = 16},
                                           {.address = kData + 64, .length = 8, .flags = kWrite}});
            packed_.offer(7, {{.address = case_.first_table, .length = 32, .flags = kIndirect}});
        } else {
            packed_.offer(7,
                          {{.address = kData, .length = 16},
                           {.address = kData + 64, .length = 8, .flags = kWrite}});
        }
    }

    [[nodiscard]] std::string describe_piece(const iovec& piece) const {
        const auto offset =
            std::bit_cast<uintptr_t>(piece.iov_base) - std::bit_cast<uintptr_t>(memory_.at(0));
        EXPECT_LT(offset, kMemoryBytes);
        EXPECT_LE(piece.iov_len, kMemoryBytes - offset);
        return std::to_string(offset) + "+" + std::to_string(piece.iov_len);
    }

    Case case_;
    GuestMemory memory_{{{0, kMemoryBytes}}};
    SplitRing split_{memory_, kSize, kRing};
    PackedRing packed_{memory_, kSize, kRing};
    std::unique_ptr<Virtqueue> queue_;
};

class DoubleFetch : public ::testing::TestWithParam<Case> {
  protected:
    static std::string outcome_of(uint64_t value) {
        Stage stage(GetParam());
        stage.put_field(value);
        return stage.decide();
    }

    const std::string before_ = outcome_of(GetParam().before);
    const std::string after_ = outcome_of(GetParam().after);
};

TEST_P(DoubleFetch, ValuesDiffer) {
    // Else the case proves nothing.
    EXPECT_EQ(before_ == after_, GetParam().same_outcome) << before_;
}

TEST_P(DoubleFetch, FieldThatChangesBetweenAnyTwoAccessesGivesOneOutcomeOrTheOther) {
    if (!kHasAccessTrap) {
        GTEST_SKIP() << "this system cannot trap accesses";
    }
    size_t access_count = 0;
    bool old_value_was_used = false;
    for (size_t after = 1; after == 1 || after <= access_count; ++after) {
        Stage stage(GetParam());
        AccessTrap trap(stage.memory(),
                        Flip{.field = stage.field(),
                             .value = GetParam().after,
                             .bytes = GetParam().bytes,
                             .after_accesses = after});
        const std::string outcome = stage.decide();
        access_count = std::max(access_count, trap.finish().size());
        EXPECT_TRUE(outcome == before_ || outcome == after_)
            << "changed behind access " << after << ": " << outcome << "\nis neither " << before_
            << "\nnor " << after_;
        old_value_was_used |= outcome == before_;
    }
    EXPECT_GT(access_count, 0U);
    EXPECT_TRUE(old_value_was_used);
}

TEST_P(DoubleFetch, EachFieldIsReadOnceAndNothingIsReadBack) {
    if (!kHasAccessTrap) {
        GTEST_SKIP() << "this system cannot trap accesses";
    }
    Stage stage(GetParam());
    AccessTrap trap(stage.memory(), Flip{});
    EXPECT_EQ(stage.decide(), before_);
    std::map<size_t, int> reads;
    std::map<size_t, int> writes;
    for (const TrappedAccess& access : trap.finish()) {
        if (access.is_write) {
            ++writes[access.offset];
            continue;
        }
        EXPECT_EQ(++reads[access.offset], 1) << "read again at " << access.offset;
        EXPECT_FALSE(writes.contains(access.offset)) << "read back at " << access.offset;
        if (GetParam().packed) {
            EXPECT_FALSE(access.offset >= kDeviceEvent && access.offset < kDeviceEvent + 4);
        } else {
            EXPECT_FALSE(access.offset >= kUsed && access.offset < kUsedEnd) << access.offset;
        }
    }
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kRaces = 200;
#else
constexpr int kRaces = 1000;
#endif

/// For fields that a driver writes with one store, which those of an odd table are not, and that
/// are read once, which those of a loop are not.
class DoubleFetchRace : public DoubleFetch {};

TEST_P(DoubleFetchRace, AThreadThatWritesBothValuesGetsOneOutcomeOrTheOther) {
    std::atomic<Stage*> stage = nullptr;
    std::atomic<bool> stopping = false;
    std::atomic<bool> writing = false;
    std::thread hostile([&] {
        while (!stopping.load()) {
            writing.store(true);
            if (Stage* const target = stage.load()) {
                // As a driver would: whole fields, each with one store.
                for (const uint64_t value : {GetParam().after, GetParam().before}) {
                    switch (GetParam().bytes) {
                        case 2:
                            put(target->field(), static_cast<uint16_t>(value));
                            break;
                        case 4:
                            put(target->field(), static_cast<uint32_t>(value));
                            break;
                        default:
                            put(target->field(), value);
                    }
                }
            }
            writing.store(false);
        }
    });
    for (int i = 0; i < kRaces; ++i) {
        Stage fresh(GetParam());
        stage.store(&fresh);
        const std::string outcome = fresh.decide();
        stage.store(nullptr);
        while (writing.load()) {
            std::this_thread::yield();
        }
        EXPECT_TRUE(outcome == before_ || outcome == after_) << outcome;
    }
    stopping.store(true);
    hostile.join();
}

std::string name_of(const ::testing::TestParamInfo<Case>& instance) {
    return instance.param.name;
}

constexpr uint64_t kSecond = kRing + 16;

constexpr uint64_t half(uint64_t flags, uint64_t wrap) {
    return flags | (wrap != 0 ? kAvailableBit : kUsedBit);
}

const auto kSplitCases = ::testing::Values(
    Case{"IndexJumps", false, kAvailable + 2, 2, 1, kSize + 2},
    Case{"IndexGoesBack", false, kAvailable + 2, 2, 1, 0},
    Case{"HeadNamesAnother", false, kAvailable + 4, 2, 0, 5},
    Case{"HeadLeavesTheRing", false, kAvailable + 4, 2, 0, kSize},
    Case{"AddressMoves", false, kRing + kAddress, 8, kData, kOther},
    Case{"AddressLeavesMemory", false, kRing + kAddress, 8, kData, kUnmapped},
    Case{"AddressOfTheSecondMoves", false, kSecond + kAddress, 8, kData + 64, kOther},
    Case{"LengthGrows", false, kRing + kLength, 4, 16, 4096},
    Case{"LengthLeavesMemory", false, kRing + kLength, 4, 16, 0xffff'ffff},
    Case{"LengthVanishes", false, kRing + kLength, 4, 16, 0},
    Case{"FlagsEndTheChain", false, kRing + kSplitFlags, 2, kNext, 0},
    Case{"FlagsTurnTheDirection", false, kRing + kSplitFlags, 2, kNext, kNext | kWrite},
    Case{"FlagsMakeATable", false, kRing + kSplitFlags, 2, kNext, kIndirect},
    Case{"FlagsOfTheSecondTurn", false, kSecond + kSplitFlags, 2, kWrite, 0},
    Case{"NextNamesAnother", false, kRing + kSplitNext, 2, 1, 5},
    Case{"NextLeavesTheRing", false, kRing + kSplitNext, 2, 1, kSize});
INSTANTIATE_TEST_SUITE_P(Split, DoubleFetch, kSplitCases, name_of);
INSTANTIATE_TEST_SUITE_P(Split, DoubleFetchRace, kSplitCases, name_of);

Case in_table(Case one, uint64_t table = kTable) {
    one.first_table = table;
    one.field += table;
    return one;
}

const auto kSplitTableCases =
    ::testing::Values(in_table({"AddressMoves", false, kAddress, 8, kData, kOther}),
                      in_table({"AddressLeavesMemory", false, kAddress, 8, kData, kUnmapped}),
                      in_table({"LengthGrows", false, kLength, 4, 16, 4096}),
                      in_table({"LengthLeavesMemory", false, kLength, 4, 16, 0xffff'ffff}),
                      in_table({"FlagsEndTheChain", false, kSplitFlags, 2, kNext, 0}),
                      in_table({"FlagsTurnTheDirection", false, kSplitFlags, 2, kNext, 3}),
                      in_table({"FlagsNest", false, kSplitFlags, 2, kNext, kIndirect}),
                      in_table({"NextNamesAnother", false, kSplitNext, 2, 1, 2}),
                      in_table({"NextLeavesTheTable", false, kSplitNext, 2, 1, 3}),
                      Case{.name = "TablesLengthGrows",
                           .packed = false,
                           .field = kRing + kLength,
                           .bytes = 4,
                           .before = 48,
                           .after = 16,
                           .first_table = kTable},
                      Case{.name = "TablesAddressMoves",
                           .packed = false,
                           .field = kRing + kAddress,
                           .bytes = 8,
                           .before = kTable,
                           .after = kUnmapped,
                           .first_table = kTable});
INSTANTIATE_TEST_SUITE_P(SplitTable, DoubleFetch, kSplitTableCases, name_of);
INSTANTIATE_TEST_SUITE_P(SplitTable, DoubleFetchRace, kSplitTableCases, name_of);

// A loop comes to the descriptor again, and what it says by then counts: outcomes without number.
INSTANTIATE_TEST_SUITE_P(
    SplitLoops,
    DoubleFetch,
    ::testing::Values(Case{"NextMakesALoop", false, kRing + kSplitNext, 2, 1, 0},
                      in_table({"NextMakesALoopInATable", false, kSplitNext, 2, 1, 0})),
    name_of);

// At an odd address halves of descriptors are not loaded atomically: one instruction each, still.
const auto kSplitOddTableCases =
    ::testing::Values(in_table({"AddressMoves", false, kAddress, 8, kData, kOther}, kOddTable),
                      in_table({"LengthGrows", false, kLength, 4, 16, 4096}, kOddTable),
                      in_table({"NextLeavesTheTable", false, kSplitNext, 2, 1, 3}, kOddTable));
INSTANTIATE_TEST_SUITE_P(SplitOddTable, DoubleFetch, kSplitOddTableCases, name_of);

const auto kSplitCallsCases = ::testing::Values(
    Case{"FlagSuppresses", false, kAvailable, 2, 0, 1, Decision::kPublish},
    Case{"FlagsOfNoMeaning", false, kAvailable, 2, 0, 0xfffe, Decision::kPublish, false, 0, true},
    Case{"EventMovesOn", false, kAvailable + 4 + 2 * kSize, 2, 1, 100, Decision::kPublish, true});
INSTANTIATE_TEST_SUITE_P(SplitCalls, DoubleFetch, kSplitCallsCases, name_of);
INSTANTIATE_TEST_SUITE_P(SplitCalls, DoubleFetchRace, kSplitCallsCases, name_of);

const auto kPackedCases = ::testing::Values(
    Case{"AddressMoves", true, kRing + kAddress, 8, kData, kOther},
    Case{"AddressLeavesMemory", true, kRing + kAddress, 8, kData, kUnmapped},
    Case{"AddressOfTheSecondMoves", true, kSecond + kAddress, 8, kData + 64, kOther},
    Case{"LengthGrows", true, kRing + kLength, 4, 16, 4096},
    Case{"LengthLeavesMemory", true, kRing + kLength, 4, 16, 0xffff'ffff},
    Case{"LengthOfTheSecondGrows", true, kSecond + kLength, 4, 8, 4096},
    Case{"IdIsAnother", true, kSecond + kPackedId, 2, 7, 0xffff},
    Case{"FlagsEndTheChain", true, kRing + kPackedFlags, 2, half(kNext, 1), half(0, 1)},
    Case{"FlagsTurnTheDirection", true, kRing + kPackedFlags, 2, half(1, 1), half(3, 1)},
    Case{"FlagsMakeATable", true, kRing + kPackedFlags, 2, half(1, 1), half(4, 1)},
    // Not available any more, and other than it was: the chain is the old one or none.
    Case{"FlagsTakeTheChainBack", true, kRing + kPackedFlags, 2, half(1, 1), half(2, 0)},
    Case{"FlagsOfTheSecondTurn", true, kSecond + kPackedFlags, 2, half(2, 1), half(0, 1)},
    Case{"FlagsOfTheSecondGoOn", true, kSecond + kPackedFlags, 2, half(2, 1), half(3, 1)});
INSTANTIATE_TEST_SUITE_P(Packed, DoubleFetch, kPackedCases, name_of);
INSTANTIATE_TEST_SUITE_P(Packed, DoubleFetchRace, kPackedCases, name_of);

const auto kPackedTableCases =
    ::testing::Values(in_table({"AddressMoves", true, kAddress, 8, kData, kOther}),
                      in_table({"AddressLeavesMemory", true, kAddress, 8, kData, kUnmapped}),
                      in_table({"LengthGrows", true, kLength, 4, 16, 4096}),
                      in_table({"LengthLeavesMemory", true, kLength, 4, 16, 0xffff'ffff}),
                      in_table({"FlagsTurnTheDirection", true, kPackedFlags, 2, 0, kWrite}),
                      Case{.name = "TablesLengthShrinks",
                           .packed = true,
                           .field = kRing + kLength,
                           .bytes = 4,
                           .before = 32,
                           .after = 16,
                           .first_table = kTable});
INSTANTIATE_TEST_SUITE_P(PackedTable, DoubleFetch, kPackedTableCases, name_of);
INSTANTIATE_TEST_SUITE_P(PackedTable, DoubleFetchRace, kPackedTableCases, name_of);

INSTANTIATE_TEST_SUITE_P(
    PackedOddTable,
    DoubleFetch,
    ::testing::Values(in_table({"AddressMoves", true, kAddress, 8, kData, kOther}, kOddTable),
                      in_table({"LengthGrows", true, kLength, 4, 16, 4096}, kOddTable)),
    name_of);

constexpr uint64_t kWrapOn = 1 << 15;

const auto kPackedCallsCases =
    ::testing::Values(Case{"FlagsSuppress", true, kDriverEvent + 2, 2, 0, 1, Decision::kPublish},
                      Case{"OffsetMovesOn",
                           true,
                           kDriverEvent,
                           4,
                           (2 | kWrapOn) | 2 << 16,
                           (5 | kWrapOn) | 2 << 16,
                           Decision::kPublish,
                           true},
                      Case{"WrapCounterFlips",
                           true,
                           kDriverEvent,
                           4,
                           (2 | kWrapOn) | 2 << 16,
                           2 | 2 << 16,
                           Decision::kPublish,
                           true},
                      Case{"OffsetAndFlagsChangeTogether",
                           true,
                           kDriverEvent,
                           4,
                           (5 | kWrapOn) | 2 << 16,
                           0,
                           Decision::kPublish,
                           true});
INSTANTIATE_TEST_SUITE_P(PackedCalls, DoubleFetch, kPackedCallsCases, name_of);
INSTANTIATE_TEST_SUITE_P(PackedCalls, DoubleFetchRace, kPackedCallsCases, name_of);

}  // namespace
}  // namespace outrigger::test
