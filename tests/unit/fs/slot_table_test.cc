// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/slot_table.h"

#include <atomic>
#include <cstddef>
#include <fstream>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

struct Thing {
    int value = 0;
    int* cleared = nullptr;

    void clear() {
        value = 0;
        if (cleared != nullptr) {
            ++*std::exchange(cleared, nullptr);
        }
    }
};

using Things = SlotTable<Thing>;

uint64_t add(Things& table, int value) {
    Things::Ref entry = table.allocate();
    entry->value = value;
    table.publish(entry);
    return entry.id();
}

TEST(SlotTable, FirstNumberIsOne) {
    Things table;
    EXPECT_EQ(add(table, 7), 1U);
}

TEST(SlotTable, FindsWhatWasPublished) {
    Things table;
    const uint64_t id = add(table, 7);
    const Things::Ref found = table.find(id);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->value, 7);
}

TEST(SlotTable, DoesNotFindWhatWasNotPublished) {
    Things table;
    const Things::Ref entry = table.allocate();
    EXPECT_FALSE(table.find(entry.id()));
}

TEST(SlotTable, DoesNotFindZero) {
    Things table;
    (void)add(table, 7);
    EXPECT_FALSE(table.find(0));
}

TEST(SlotTable, DoesNotFindASlotBeyondAll) {
    Things table;
    (void)add(table, 7);
    EXPECT_FALSE(table.find(UINT32_MAX));
    EXPECT_FALSE(table.find(Things::kSlotsMax));
    EXPECT_FALSE(table.find(2));
}

TEST(SlotTable, DoesNotFindAnotherGeneration) {
    Things table;
    const uint64_t id = add(table, 7);
    EXPECT_FALSE(table.find(id + (uint64_t{1} << 32)));
}

TEST(SlotTable, NumberOfARetiredEntryFindsNotTheNextOne) {
    Things table;
    const uint64_t id = add(table, 7);
    {
        Things::Ref entry = table.find(id);
        EXPECT_TRUE(table.retire(entry));
    }
    const uint64_t next = add(table, 8);
    EXPECT_EQ(Things::index_of(next), Things::index_of(id));
    EXPECT_NE(next, id);
    EXPECT_FALSE(table.find(id));
    EXPECT_TRUE(table.find(next));
}

TEST(SlotTable, RetiresOnce) {
    Things table;
    const uint64_t id = add(table, 7);
    Things::Ref entry = table.find(id);
    EXPECT_TRUE(table.retire(entry));
    EXPECT_FALSE(table.retire(entry));
}

TEST(SlotTable, KeepsARetiredEntryForWhoUsesIt) {
    Things table;
    int cleared = 0;
    const uint64_t id = add(table, 7);
    Things::Ref user = table.find(id);
    user->cleared = &cleared;
    {
        Things::Ref entry = table.find(id);
        EXPECT_TRUE(table.retire(entry));
    }
    EXPECT_EQ(cleared, 0);
    EXPECT_EQ(user->value, 7);
    EXPECT_EQ(table.size(), 1U);
    user.release();
    EXPECT_EQ(cleared, 1);
    EXPECT_EQ(table.size(), 0U);
}

TEST(SlotTable, WorksOnAnEntryThatNobodyUses) {
    Things table;
    const uint64_t id = add(table, 7);
    int seen = 0;
    EXPECT_FALSE(table.while_unused(id, [&](Thing& thing) {
        seen = thing.value;
        return false;
    }));
    EXPECT_EQ(seen, 7);
    EXPECT_TRUE(table.find(id));
}

TEST(SlotTable, DoesNotWorkOnAnEntryThatIsUsed) {
    Things table;
    const uint64_t id = add(table, 7);
    const Things::Ref user = table.find(id);
    EXPECT_FALSE(table.while_unused(id, [](Thing&) {
        ADD_FAILURE() << "somebody uses it";
        return true;
    }));
}

TEST(SlotTable, SaysOfAnEntryThatIsGoneThatAllIsDone) {
    Things table;
    const uint64_t id = add(table, 7);
    {
        Things::Ref entry = table.find(id);
        EXPECT_TRUE(table.retire(entry));
    }
    const auto fail = [](Thing&) {
        ADD_FAILURE() << "there is none";
        return false;
    };
    EXPECT_TRUE(table.while_unused(id, fail));
    EXPECT_TRUE(table.while_unused(uint64_t{1} << 33 | 1, fail));
    EXPECT_TRUE(table.while_unused(12'345, fail));
    (void)add(table, 8);
    EXPECT_TRUE(table.while_unused(id, fail));
}

TEST(SlotTable, TellsAllThatCanBeFound) {
    Things table;
    for (int i = 0; i < 2000; ++i) {
        (void)add(table, i);
    }
    Things::Ref gone = table.find(1000);
    EXPECT_TRUE(table.retire(gone));
    int sum = 0;
    table.for_each([&](Things::Ref&) { ++sum; });
    EXPECT_EQ(sum, 1999);
}

TEST(SlotTable, RestoresANumberOfElsewhere) {
    Things table;
    constexpr uint64_t kId = (uint64_t{5} << 32) | 9;
    {
        Things::Ref entry = table.restore(kId, 100);
        ASSERT_TRUE(entry);
        entry->value = 7;
        table.publish(entry);
    }
    table.finish_restoring(0);
    ASSERT_TRUE(table.find(kId));
    EXPECT_EQ(table.find(kId)->value, 7);
    EXPECT_EQ(table.size(), 1U);
}

TEST(SlotTable, RestoresNoNumberTwice) {
    Things table;
    Things::Ref entry = table.restore(9, 100);
    table.publish(entry);
    EXPECT_FALSE(table.restore(9, 100));
    EXPECT_FALSE(table.restore((uint64_t{1} << 32) | 9, 100));
}

TEST(SlotTable, RestoresNoImpossibleNumber) {
    Things table;
    EXPECT_FALSE(table.restore(0, 100));
    EXPECT_FALSE(table.restore(100, 100));
    EXPECT_FALSE(table.restore(UINT32_MAX, UINT32_MAX));
}

TEST(SlotTable, GivesOutNewNumbersBehindARestoration) {
    Things table;
    constexpr uint64_t kId = (uint64_t{5} << 32) | 3;
    {
        Things::Ref entry = table.restore(kId, 100);
        table.publish(entry);
    }
    table.finish_restoring(7);
    for (int i = 0; i < 5; ++i) {
        const uint64_t id = add(table, i);
        EXPECT_GE(id >> 32, 8U);
        EXPECT_NE(Things::index_of(id), Things::index_of(kId));
    }
}

TEST(SlotTable, ASlotThatWasFreeAndIsRestoredIsNotGivenOut) {
    Things table;
    const uint64_t first = add(table, 1);
    {
        Things::Ref entry = table.find(first);
        EXPECT_TRUE(table.retire(entry));
    }
    {
        Things::Ref entry = table.restore(first, 100);
        ASSERT_TRUE(entry);
        table.publish(entry);
    }
    table.finish_restoring(0);
    EXPECT_NE(Things::index_of(add(table, 2)), Things::index_of(first));
    EXPECT_NE(Things::index_of(add(table, 3)), Things::index_of(first));
}

TEST(SlotTable, ThreadsThatFindAndRetireClearEachEntryOnce) {
    Things table;
    std::atomic<int> retired = 0;
    const auto work = [&] {
        for (int i = 0; i < 20'000; ++i) {
            const uint64_t id = add(table, i);
            Things::Ref other = table.find(id ^ 1);
            if (other && table.retire(other)) {
                ++retired;
            }
            Things::Ref own = table.find(id);
            if (own && table.retire(own)) {
                ++retired;
            }
        }
    };
    std::thread one(work);
    std::thread two(work);
    one.join();
    two.join();
    EXPECT_EQ(retired.load(), 40'000);
    EXPECT_EQ(table.size(), 0U);
}

struct Counted {
    static inline size_t made = 0;

    Counted() { ++made; }

    void clear() {}
};

TEST(SlotTable, TakesNoMemoryForNumbersThatARestoredOneLeavesOut) {
    SlotTable<Counted> table;
    Counted::made = 0;
    constexpr uint64_t kLast = SlotTable<Counted>::kSlotsMax - 1;
    {
        auto entry = table.restore(kLast, SlotTable<Counted>::kSlotsMax);
        ASSERT_TRUE(entry);
        table.publish(entry);
        table.finish_restoring(1);
        EXPECT_LE(Counted::made, 1024U);
    }
    // They are there all the same, and newer than all that were restored.
    for (int i = 0; i < 3000; ++i) {
        auto entry = table.allocate();
        ASSERT_TRUE(entry);
        EXPECT_GT(entry.id() >> 32, 1U);
        table.publish(entry);
    }
    EXPECT_EQ(table.size(), 3001U);
    EXPECT_LE(Counted::made, 4 * 1024U);
    EXPECT_TRUE(table.find(kLast));
}

TEST(SlotTable, NumbersThatLieFarApartCostLittleMoreThanOthers) {
    SlotTable<Counted> table;
    Counted::made = 0;
    constexpr uint64_t kEntries = 16'000;
    constexpr uint64_t kApart = SlotTable<Counted>::kSlotsMax / kEntries;
    for (uint64_t i = 1; i <= kEntries; ++i) {
        auto entry = table.restore(i * kApart, SlotTable<Counted>::kSlotsMax);
        ASSERT_TRUE(entry) << i;
        table.publish(entry);
    }
    table.finish_restoring(1);
    EXPECT_LE(Counted::made, 16 * kEntries);
    for (uint64_t i = 1; i <= kEntries; ++i) {
        ASSERT_TRUE(table.find(i * kApart)) << i;
        ASSERT_FALSE(table.find(i * kApart - 1)) << i;
    }
}

TEST(SlotTable, TellsAllThatLieFarApart) {
    Things table;
    constexpr uint32_t kLast = Things::kSlotsMax - 1;
    const std::vector<uint32_t> slots = {16, 16'383, 16'384, 65'535, 131'072, kLast};
    for (const uint32_t slot : slots) {
        Things::Ref entry = table.restore(slot, Things::kSlotsMax);
        ASSERT_TRUE(entry) << slot;
        table.publish(entry);
    }
    table.finish_restoring(0);
    std::vector<uint32_t> told;
    table.for_each([&](Things::Ref& entry) { told.push_back(Things::index_of(entry.id())); });
    EXPECT_EQ(told, slots);
}

/// The bytes that a kernel which promises no more than it has (overcommit_memory=2) charges us, of
/// which it may put whole huge pages in memory with the first byte that is written
/// (transparent_hugepage=always).
size_t private_writable_bytes() {
    std::ifstream file("/proc/self/statm");
    size_t size = 0, resident = 0, shared = 0, text = 0, lib = 0, data = 0;
    file >> size >> resident >> shared >> text >> lib >> data;
    EXPECT_TRUE(file);
    return data * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

TEST(SlotTable, TakesNoMemoryForRoomThatNobodyUses) {
    constexpr size_t kTables = 64;
    const size_t before = private_writable_bytes();
    std::vector<std::unique_ptr<Things>> tables;
    for (size_t i = 0; i < kTables; ++i) {
        tables.push_back(std::make_unique<Things>());
        (void)add(*tables.back(), 7);
    }
    EXPECT_LE(private_writable_bytes() - before, kTables * (size_t{64} << 10));
}

}  // namespace
}  // namespace outrigger::fs
