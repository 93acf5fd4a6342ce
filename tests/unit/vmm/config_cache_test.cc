// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/config_cache.h"

#include <array>

#include <gtest/gtest.h>

namespace outrigger::vmm {
namespace {

constexpr std::array<std::byte, 8> kContent = {std::byte{0},
                                               std::byte{1},
                                               std::byte{2},
                                               std::byte{3},
                                               std::byte{4},
                                               std::byte{5},
                                               std::byte{6},
                                               std::byte{7}};

class ConfigCacheTest : public ::testing::Test {
  protected:
    void SetUp() override { cache_.reset(kContent); }

    [[nodiscard]] std::byte at(uint32_t offset) const {
        std::byte byte{0xff};
        cache_.read(offset, std::span(&byte, 1));
        return byte;
    }

    bool write(uint32_t offset, std::initializer_list<std::byte> bytes) {
        return cache_.write(offset, std::span(bytes.begin(), bytes.size()));
    }

    ConfigCache cache_;
};

TEST_F(ConfigCacheTest, ReadsZeroesBehindTheEnd) {
    std::array<std::byte, 4> out;
    out.fill(std::byte{0xff});
    cache_.read(6, out);
    EXPECT_EQ(out, (std::array{std::byte{6}, std::byte{7}, std::byte{0}, std::byte{0}}));
    cache_.read(~uint32_t{0}, out);
    EXPECT_EQ(out[0], std::byte{0});
}

TEST_F(ConfigCacheTest, DropsWhatIsWrittenBehindTheEnd) {
    EXPECT_FALSE(write(8, {std::byte{9}}));
    EXPECT_FALSE(write(~uint32_t{0}, {std::byte{9}}));
    EXPECT_TRUE(write(7, {std::byte{9}, std::byte{9}}));
    const auto told = cache_.take_write();
    ASSERT_TRUE(told);
    EXPECT_EQ(told->offset, 7U);
    EXPECT_EQ(told->bytes.size(), 1U);
    EXPECT_FALSE(cache_.take_write());
}

TEST_F(ConfigCacheTest, SaysOnceThatThereIsSomethingToTell) {
    EXPECT_TRUE(write(1, {std::byte{9}}));
    EXPECT_FALSE(write(2, {std::byte{9}}));
    EXPECT_FALSE(write(5, {std::byte{9}}));
    EXPECT_EQ(cache_.take_write()->bytes.size(), 2U) << "neighbours go together";
    EXPECT_EQ(cache_.take_write()->offset, 5U);
    EXPECT_FALSE(cache_.take_write());
    EXPECT_TRUE(write(1, {std::byte{9}}));
}

TEST_F(ConfigCacheTest, AChangeAtTheBackEndIsAnotherGeneration) {
    auto changed = kContent;
    EXPECT_FALSE(cache_.update(changed));
    EXPECT_EQ(cache_.generation(), 0);
    changed[3] = std::byte{0x33};
    EXPECT_TRUE(cache_.update(changed));
    EXPECT_EQ(cache_.generation(), 1);
    EXPECT_EQ(at(3), std::byte{0x33});
}

TEST_F(ConfigCacheTest, AnUpdateLeavesWhatTheDriverWroteAndNobodyWasTold) {
    ASSERT_TRUE(write(3, {std::byte{0x77}}));
    EXPECT_FALSE(cache_.update(kContent));
    EXPECT_EQ(at(3), std::byte{0x77});
    ASSERT_TRUE(cache_.take_write());
    EXPECT_TRUE(cache_.update(kContent)) << "the back end did not take it";
    EXPECT_EQ(at(3), std::byte{3});
}

TEST_F(ConfigCacheTest, TellsAnotherBackEndEverythingSinceTheReset) {
    ASSERT_TRUE(write(3, {std::byte{0x77}}));
    ASSERT_TRUE(cache_.take_write());
    cache_.tell_again();
    EXPECT_FALSE(cache_.update(kContent)) << "the driver's word holds";
    EXPECT_EQ(at(3), std::byte{0x77});
    EXPECT_EQ(cache_.take_write()->offset, 3U);
    cache_.forget_driver();
    cache_.tell_again();
    EXPECT_FALSE(cache_.take_write());
    EXPECT_TRUE(cache_.update(kContent));
}

}  // namespace
}  // namespace outrigger::vmm
