// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/zoned/zone_table.h"

#include <vector>

#include <gtest/gtest.h>

namespace outrigger::blk {
namespace {

constexpr uint64_t kZone = 65536;

/// Says what the test says.
class ListedZones final : public ZoneHost {
  public:
    int32_t report(uint64_t offset_bytes, std::span<ImageZone> out) override {
        size_t count = 0;
        for (const ImageZone& zone : zones) {
            if (zone.start_bytes + zone.length_bytes > offset_bytes && count < out.size()) {
                out[count++] = zone;
            }
        }
        return static_cast<int32_t>(count);
    }

    int32_t manage(ZoneCommand /*command*/, uint64_t /*offset*/, uint64_t /*length*/) override {
        return 0;
    }

    std::vector<ImageZone> zones;
};

class Waiter final : public ZoneTable::Holder {
  public:
    void on_turn() override { ++turns; }

    int turns = 0;
};

class ZoneTableTest : public testing::Test {
  protected:
    ZoneTableTest() {
        for (uint64_t i = 0; i < 4; ++i) {
            host_.zones.push_back(
                {.start_bytes = i * kZone,
                 .length_bytes = i == 3 ? kZone / 2 : kZone,
                 .capacity_bytes = kZone / 2,
                 .write_pointer_bytes = i * kZone,
                 .type = i == 0 ? ZoneType::kConventional : ZoneType::kSequentialRequired,
                 .state = i == 0 ? ZoneState::kNoWritePointer : ZoneState::kEmpty});
        }
    }

    [[nodiscard]] Result<std::unique_ptr<ZoneTable>> load() {
        return ZoneTable::load(host_,
                               3 * kZone + kZone / 2,
                               {.model = ZoneModel::kHostManaged,
                                .zone_bytes = kZone,
                                .write_granularity_bytes = 4096});
    }

    void expect_refused() { EXPECT_FALSE(load()); }

    ListedZones host_;
};

// --- What the host says --------------------------------------------------------------------------

TEST_F(ZoneTableTest, KnowsWhereZonesLieAndWhatTheyTake) {
    const auto table = load().value();
    EXPECT_EQ(table->index_of(3 * kZone - 1), 2U);
    EXPECT_EQ(table->length_of(2), kZone);
    EXPECT_EQ(table->length_of(3), kZone / 2) << "the last one is shorter";
    EXPECT_EQ(table->writing(1).write_pointer_bytes, kZone);
    EXPECT_EQ(table->writing(1).end_bytes, kZone + kZone / 2);
    EXPECT_TRUE(table->writing(1).known);
    EXPECT_FALSE(table->has_ordered(0, kZone));
    EXPECT_TRUE(table->has_ordered(0, kZone + 1));
    EXPECT_TRUE(table->is_in_one_zone(kZone, kZone));
    EXPECT_FALSE(table->is_in_one_zone(kZone, kZone + 1));
}

TEST_F(ZoneTableTest, RefusesAGapBetweenZones) {
    host_.zones[2].start_bytes += 4096;
    expect_refused();
}

TEST_F(ZoneTableTest, RefusesAZoneOfAnotherSize) {
    host_.zones[1].length_bytes = kZone / 2;
    expect_refused();
}

TEST_F(ZoneTableTest, RefusesMoreCapacityThanThereIsZone) {
    host_.zones[1].capacity_bytes = kZone + 4096;
    expect_refused();
}

TEST_F(ZoneTableTest, RefusesAWritePointerOutsideOfItsZone) {
    host_.zones[1].write_pointer_bytes = kZone - 4096;
    expect_refused();
}

TEST_F(ZoneTableTest, RefusesAWritePointerBehindTheCapacity) {
    host_.zones[1].write_pointer_bytes = kZone + kZone / 2 + 4096;
    expect_refused();
}

TEST_F(ZoneTableTest, RefusesAWritePointerInsideAGranule) {
    host_.zones[1].write_pointer_bytes += 512;
    expect_refused();
}

TEST_F(ZoneTableTest, TakesAnyWritePointerOfAZoneThatHasNone) {
    host_.zones[1].state = ZoneState::kFull;
    host_.zones[1].write_pointer_bytes = UINT64_MAX;
    EXPECT_TRUE(load());
}

TEST_F(ZoneTableTest, RefusesADiskOfFewerZones) {
    host_.zones.pop_back();
    expect_refused();
}

TEST_F(ZoneTableTest, RefusesZonesOfNoSize) {
    EXPECT_FALSE(ZoneTable::load(host_, kZone, {.model = ZoneModel::kHostManaged}));
}

TEST_F(ZoneTableTest, AZoneThatMakesNoSenseLaterIsNotKnown) {
    const auto table = load().value();
    ImageZone zone = host_.zones[1];
    zone.write_pointer_bytes += 8192;
    EXPECT_TRUE(table->learn(1, zone));
    EXPECT_EQ(table->writing(1).write_pointer_bytes, kZone + 8192);
    zone.type = ZoneType::kConventional;
    EXPECT_FALSE(table->learn(1, zone));
    EXPECT_FALSE(table->writing(1).known);
    ASSERT_EQ(table->learn_all(host_), 0);
    EXPECT_TRUE(table->writing(1).known);
    EXPECT_EQ(table->writing(1).write_pointer_bytes, kZone);
}

// --- Turns ---------------------------------------------------------------------------------------

TEST_F(ZoneTableTest, OneHasAZoneAtATimeInTheOrderOfAsking) {
    const auto table = load().value();
    Waiter first;
    Waiter second;
    Waiter third;
    Waiter elsewhere;
    EXPECT_TRUE(table->take(first, 1));
    EXPECT_FALSE(table->take(second, 1));
    EXPECT_FALSE(table->take(third, 1));
    EXPECT_TRUE(table->take(elsewhere, 2));
    table->release(first);
    EXPECT_EQ(second.turns, 1);
    EXPECT_EQ(third.turns, 0);
    table->release(second);
    EXPECT_EQ(third.turns, 1);
    table->release(third);
    table->release(elsewhere);
    EXPECT_TRUE(table->take(first, 1));
    table->release(first);
}

TEST_F(ZoneTableTest, WhoWantsAllWaitsForEachAndKeepsOthersOut) {
    const auto table = load().value();
    Waiter one;
    Waiter two;
    Waiter all;
    Waiter late;
    EXPECT_TRUE(table->take(one, 1));
    EXPECT_TRUE(table->take(two, 2));
    EXPECT_FALSE(table->take_all(all));
    EXPECT_FALSE(table->take(late, 3)) << "or all would never come";
    table->release(one);
    EXPECT_EQ(all.turns, 0);
    table->release(two);
    EXPECT_EQ(all.turns, 1);
    EXPECT_EQ(late.turns, 0);
    table->release(all);
    EXPECT_EQ(late.turns, 1);
    table->release(late);
}

TEST_F(ZoneTableTest, TwoWhoWantAllLetThoseBetweenThemPass) {
    const auto table = load().value();
    Waiter first;
    Waiter second;
    Waiter zone;
    Waiter same_zone;
    EXPECT_TRUE(table->take_all(first));
    EXPECT_FALSE(table->take(zone, 1));
    EXPECT_FALSE(table->take(same_zone, 1));
    EXPECT_FALSE(table->take_all(second));
    table->release(first);
    EXPECT_EQ(zone.turns, 1);
    EXPECT_EQ(same_zone.turns, 0);
    EXPECT_EQ(second.turns, 0);
    table->release(zone);
    EXPECT_EQ(same_zone.turns, 1);
    table->release(same_zone);
    EXPECT_EQ(second.turns, 1);
    table->release(second);
    EXPECT_TRUE(table->take_all(first));
    table->release(first);
}

}  // namespace
}  // namespace outrigger::blk
