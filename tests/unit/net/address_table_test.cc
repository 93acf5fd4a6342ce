// SPDX-License-Identifier: Apache-2.0
#include "devices/net/address_table.h"

#include <array>

#include <gtest/gtest.h>

namespace outrigger::net {
namespace {

constexpr StationAddress kStation = 0x5254'0000'0001;

class AddressTableTest : public ::testing::Test {
  protected:
    AddressTable table_{{.addresses_max = 2, .age_max = std::chrono::seconds(300)}};
    AddressTable::Clock::time_point now_{};
};

TEST_F(AddressTableTest, KnowsWhatItLearned) {
    EXPECT_FALSE(table_.find(kStation, now_));
    EXPECT_TRUE(table_.learn(kStation, 3, now_));
    EXPECT_EQ(table_.find(kStation, now_), 3U);
    EXPECT_FALSE(table_.find(kStation + 1, now_));
}

TEST_F(AddressTableTest, ForgetsWhatWasNotSeenForLong) {
    ASSERT_TRUE(table_.learn(kStation, 3, now_));
    EXPECT_TRUE(table_.find(kStation, now_ + std::chrono::seconds(300)));
    EXPECT_FALSE(table_.find(kStation, now_ + std::chrono::seconds(301)));
    ASSERT_TRUE(table_.learn(kStation, 3, now_ + std::chrono::seconds(200)));
    EXPECT_TRUE(table_.find(kStation, now_ + std::chrono::seconds(500)));
}

TEST_F(AddressTableTest, StationMayMove) {
    ASSERT_TRUE(table_.learn(kStation, 3, now_));
    ASSERT_TRUE(table_.learn(kStation, 4, now_));
    EXPECT_EQ(table_.find(kStation, now_), 4U);
    // It counts where it is.
    EXPECT_TRUE(table_.learn(kStation + 1, 3, now_));
    EXPECT_TRUE(table_.learn(kStation + 2, 3, now_));
    EXPECT_FALSE(table_.learn(kStation + 3, 3, now_));
}

TEST_F(AddressTableTest, PortHasNoMoreThanItMay) {
    ASSERT_TRUE(table_.learn(kStation, 3, now_));
    ASSERT_TRUE(table_.learn(kStation + 1, 3, now_));
    EXPECT_FALSE(table_.learn(kStation + 2, 3, now_));
    EXPECT_TRUE(table_.learn(kStation, 3, now_));
    EXPECT_TRUE(table_.learn(kStation + 2, 4, now_));
    // A station of another port does not move to a full one.
    EXPECT_FALSE(table_.learn(kStation + 2, 3, now_));
    EXPECT_EQ(table_.find(kStation + 2, now_), 4U);
    EXPECT_EQ(table_.size(), 3U);
}

TEST_F(AddressTableTest, StationsThatAreNotNamedGo) {
    ASSERT_TRUE(table_.learn(kStation, 3, now_));
    ASSERT_TRUE(table_.learn(kStation + 1, 3, now_));
    ASSERT_TRUE(table_.learn(kStation + 2, 4, now_));
    const std::array<StationAddress, 2> kept = {kStation + 1, kStation + 9};
    table_.forget_port_but(3, kept);
    EXPECT_FALSE(table_.find(kStation, now_));
    EXPECT_EQ(table_.find(kStation + 1, now_), 3U);
    EXPECT_EQ(table_.find(kStation + 2, now_), 4U);
    // There is room again for one, and no more.
    EXPECT_TRUE(table_.learn(kStation + 3, 3, now_));
    EXPECT_FALSE(table_.learn(kStation + 4, 3, now_));
    table_.forget_port_but(5, kept);
    EXPECT_EQ(table_.size(), 3U);
}

TEST_F(AddressTableTest, OnePortMayHaveMore) {
    table_.set_addresses_max(4, 3);
    for (StationAddress i = 0; i < 3; ++i) {
        EXPECT_TRUE(table_.learn(kStation + i, 4, now_));
    }
    EXPECT_FALSE(table_.learn(kStation + 3, 4, now_));
    // Until it is forgotten.
    EXPECT_EQ(table_.forget_port(4).size(), 3U);
    EXPECT_TRUE(table_.learn(kStation, 4, now_));
    EXPECT_TRUE(table_.learn(kStation + 1, 4, now_));
    EXPECT_FALSE(table_.learn(kStation + 2, 4, now_));
}

TEST_F(AddressTableTest, OldStationsMakeRoom) {
    ASSERT_TRUE(table_.learn(kStation, 3, now_));
    ASSERT_TRUE(table_.learn(kStation + 1, 3, now_ + std::chrono::seconds(200)));
    EXPECT_TRUE(table_.learn(kStation + 2, 3, now_ + std::chrono::seconds(400)));
    EXPECT_EQ(table_.size(), 2U);
}

// Whoever invents addresses does not have the whole table looked at for each of them.
TEST_F(AddressTableTest, OldStationsAreLookedForOnceInAWhile) {
    AddressTable table{{.addresses_max = 1, .age_max = AddressTable::kLookPause / 4}};
    ASSERT_TRUE(table.learn(1, 1, now_));
    ASSERT_FALSE(table.learn(2, 1, now_));
    EXPECT_FALSE(table.learn(2, 1, now_ + AddressTable::kLookPause / 2));
    EXPECT_TRUE(table.learn(2, 1, now_ + AddressTable::kLookPause));
    EXPECT_EQ(table.size(), 1U);
}

TEST_F(AddressTableTest, StationThatMovesToAFullPortWhoseStationsAreOldIsKept) {
    ASSERT_TRUE(table_.learn(kStation, 3, now_));
    ASSERT_TRUE(table_.learn(kStation + 1, 3, now_));
    ASSERT_TRUE(table_.learn(kStation + 2, 4, now_));
    const auto later = now_ + std::chrono::seconds(400);
    EXPECT_TRUE(table_.learn(kStation + 2, 3, later));
    EXPECT_EQ(table_.find(kStation + 2, later), 3U);
    EXPECT_EQ(table_.size(), 1U);
}

TEST_F(AddressTableTest, StationsGoWithTheirPort) {
    ASSERT_TRUE(table_.learn(kStation, 3, now_));
    ASSERT_TRUE(table_.learn(kStation + 1, 4, now_));
    table_.forget_port(3);
    EXPECT_FALSE(table_.find(kStation, now_));
    EXPECT_TRUE(table_.find(kStation + 1, now_));
}

TEST(StationAddressTest, IsSixBytesInTheirOrder) {
    const std::array<std::byte, 8> bytes{std::byte{0},
                                         std::byte{0x52},
                                         std::byte{0x54},
                                         std::byte{0},
                                         std::byte{0},
                                         std::byte{0},
                                         std::byte{1},
                                         std::byte{9}};
    EXPECT_EQ(read_station(bytes, 1), kStation);
    EXPECT_FALSE(is_group(kStation));
    EXPECT_TRUE(is_group(kEverybody));
    EXPECT_TRUE(is_group(0x0100'5e00'0001));
    EXPECT_TRUE(is_of_the_link(0x0180'c200'000e));
    EXPECT_FALSE(is_of_the_link(0x0180'c200'0010));
    EXPECT_FALSE(is_of_the_link(0x0100'5e00'0001));
}

}  // namespace
}  // namespace outrigger::net
