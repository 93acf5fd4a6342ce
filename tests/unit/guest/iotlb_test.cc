// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/iotlb.h"

#include <array>
#include <optional>
#include <random>

#include <gtest/gtest.h>

namespace outrigger {
namespace {

constexpr uint64_t kLast = UINT64_MAX;

std::vector<IotlbMapping> all(const Iotlb& iotlb) {
    std::vector<IotlbMapping> mappings;
    for (size_t i = 0; i < iotlb.size(); ++i) {
        mappings.push_back(iotlb[i]);
    }
    return mappings;
}

Iotlb with(const std::vector<IotlbMapping>& mappings) {
    Iotlb iotlb;
    for (const IotlbMapping& mapping : mappings) {
        EXPECT_TRUE(iotlb.update(mapping).has_value());
    }
    return iotlb;
}

TEST(Iotlb, KeepsMappingsInTheOrderOfTheirAddresses) {
    const IotlbMapping high{.iova = 0x9000, .size = 0x1000, .target = 1};
    const IotlbMapping low{.iova = 0x1000, .size = 0x1000, .target = 2};
    EXPECT_EQ(all(with({high, low})), (std::vector{low, high}));
}

TEST(Iotlb, UpdateReplacesWhatItOverlaps) {
    const Iotlb iotlb = with({{.iova = 0x1000, .size = 0x3000, .target = 0x10000},
                              {.iova = 0x4000, .size = 0x3000, .target = 0x20000},
                              {.iova = 0x3000, .size = 0x2000, .target = 0x90000}});
    EXPECT_EQ(all(iotlb),
              (std::vector<IotlbMapping>{{.iova = 0x1000, .size = 0x2000, .target = 0x10000},
                                         {.iova = 0x3000, .size = 0x2000, .target = 0x90000},
                                         {.iova = 0x5000, .size = 0x2000, .target = 0x21000}}));
}

TEST(Iotlb, InvalidateCutsAMappingInTwo) {
    Iotlb iotlb =
        with({{.iova = 0x1000, .size = 0x4000, .target = 0x10000, .access = Access::kReadWrite}});
    EXPECT_TRUE(iotlb.invalidate(0x2000, 0x1000).has_value());
    EXPECT_EQ(
        all(iotlb),
        (std::vector<IotlbMapping>{
            {.iova = 0x1000, .size = 0x1000, .target = 0x10000, .access = Access::kReadWrite},
            {.iova = 0x3000, .size = 0x2000, .target = 0x12000, .access = Access::kReadWrite}}));
}

TEST(Iotlb, InvalidateBesideAMappingLeavesIt) {
    Iotlb iotlb = with({{.iova = 0x1000, .size = 0x1000, .target = 0x10000}});
    const auto before = all(iotlb);
    EXPECT_TRUE(iotlb.invalidate(0, 0x1000).has_value());
    EXPECT_TRUE(iotlb.invalidate(0x2000, 0x1000).has_value());
    EXPECT_EQ(all(iotlb), before);
}

TEST(Iotlb, InvalidateOfSizeZeroReachesTheLastAddress) {
    Iotlb iotlb = with({{.iova = 0x1000, .size = 1, .target = 1},
                        {.iova = 0x5000, .size = 1, .target = 2},
                        {.iova = kLast, .size = 1, .target = 3}});
    EXPECT_TRUE(iotlb.invalidate(0x5000, 0).has_value());
    EXPECT_EQ(all(iotlb), (std::vector<IotlbMapping>{{.iova = 0x1000, .size = 1, .target = 1}}));
    EXPECT_TRUE(iotlb.invalidate(0, 0).has_value());
    EXPECT_EQ(iotlb.size(), 0U);
}

TEST(Iotlb, MappingMayEndAtTheLastAddress) {
    Iotlb iotlb;
    EXPECT_TRUE(iotlb.update({.iova = kLast - 0xfff, .size = 0x1000}).has_value());
    EXPECT_TRUE(iotlb.update({.iova = 0, .size = 0x1000, .target = kLast - 0xfff}).has_value());
}

TEST(Iotlb, RefusesAMappingOneByteBehindTheLastAddress) {
    Iotlb iotlb;
    EXPECT_EQ(iotlb.update({.iova = kLast - 0xffe, .size = 0x1000}).error(), IotlbError::kWraps);
    EXPECT_EQ(iotlb.update({.iova = 0, .size = 0x1000, .target = kLast - 0xffe}).error(),
              IotlbError::kWraps);
    EXPECT_EQ(iotlb.size(), 0U);
}

TEST(Iotlb, RefusesAnEmptyMapping) {
    Iotlb iotlb = with({{.iova = 0x1000, .size = 0x1000}});
    EXPECT_EQ(iotlb.update({.iova = 0x1000, .size = 0}).error(), IotlbError::kEmpty);
    EXPECT_EQ(iotlb.size(), 1U);
}

TEST(Iotlb, RefusesAnInvalidationThatWrapsAndKeepsAll) {
    Iotlb iotlb = with({{.iova = 0x1000, .size = 0x1000}});
    EXPECT_EQ(iotlb.invalidate(0x1000, kLast).error(), IotlbError::kWraps);
    EXPECT_EQ(iotlb.size(), 1U);
}

TEST(Iotlb, ForgetsTheOldestWhenFull) {
    Iotlb iotlb;
    // The oldest is not the lowest.
    ASSERT_TRUE(iotlb.update({.iova = 0x5000'0000, .size = 1, .target = 7}).has_value());
    for (uint64_t i = 1; i < Iotlb::kMappingsMax; ++i) {
        ASSERT_TRUE(iotlb.update({.iova = i * 0x1000, .size = 1}).has_value());
    }
    ASSERT_EQ(iotlb.size(), Iotlb::kMappingsMax);
    ASSERT_TRUE(iotlb.update({.iova = 0, .size = 1}).has_value());
    EXPECT_EQ(iotlb.size(), Iotlb::kMappingsMax);
    EXPECT_EQ(iotlb[Iotlb::kMappingsMax - 1].iova, (Iotlb::kMappingsMax - 1) * 0x1000);
}

TEST(Iotlb, CuttingAFullTableStaysWithinItsBound) {
    Iotlb iotlb;
    for (uint64_t i = 0; i < Iotlb::kMappingsMax; ++i) {
        ASSERT_TRUE(iotlb.update({.iova = i * 0x1000, .size = 0x1000}).has_value());
    }
    ASSERT_TRUE(iotlb.invalidate(0x7400, 0x100).has_value());
    EXPECT_EQ(iotlb.size(), Iotlb::kMappingsMax);
    EXPECT_EQ(iotlb[0].iova, 0x1000U);
}

/// Every byte of a small address space on its own.
class Model final {
  public:
    static constexpr uint64_t kBytes = 64;

    void update(const IotlbMapping& mapping) {
        for (uint64_t i = 0; i < mapping.size; ++i) {
            bytes_.at(mapping.iova + i) = {.target = mapping.target + i, .access = mapping.access};
        }
    }

    void invalidate(uint64_t iova, uint64_t size) {
        for (uint64_t i = 0; i < size; ++i) {
            bytes_.at(iova + i).reset();
        }
    }

    void expect_same(const Iotlb& iotlb) const {
        std::array<std::optional<Byte>, kBytes> seen{};
        for (size_t i = 0; i < iotlb.size(); ++i) {
            const IotlbMapping& mapping = iotlb[i];
            ASSERT_TRUE(i == 0 || iotlb[i - 1].iova + iotlb[i - 1].size <= mapping.iova);
            for (uint64_t at = 0; at < mapping.size; ++at) {
                seen.at(mapping.iova + at) = {.target = mapping.target + at,
                                              .access = mapping.access};
            }
        }
        ASSERT_EQ(seen, bytes_);
    }

  private:
    struct Byte {
        uint64_t target;
        Access access;

        friend bool operator==(const Byte&, const Byte&) = default;
    };

    std::array<std::optional<Byte>, kBytes> bytes_{};
};

TEST(Iotlb, BehavesLikeASimpleModelUnderRandomChanges) {
    std::mt19937 random(20261121);
    const auto below = [&random](uint64_t bound) { return random() % bound; };
    Iotlb iotlb;
    Model model;
    for (int round = 0; round < 20'000; ++round) {
        const uint64_t iova = below(Model::kBytes);
        const uint64_t size = 1 + below(Model::kBytes - iova);
        if (below(3) == 0) {
            ASSERT_TRUE(iotlb.invalidate(iova, size).has_value());
            model.invalidate(iova, size);
        } else {
            const IotlbMapping mapping = {.iova = iova,
                                          .size = size,
                                          .target = below(1000),
                                          .access = static_cast<Access>(1 + below(3))};
            ASSERT_TRUE(iotlb.update(mapping).has_value());
            model.update(mapping);
        }
        model.expect_same(iotlb);
        ASSERT_FALSE(HasFatalFailure());
    }
}

}  // namespace
}  // namespace outrigger
