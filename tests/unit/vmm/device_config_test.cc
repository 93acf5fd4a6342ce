// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/device_config.h"

#include <optional>
#include <utility>

#include <gtest/gtest.h>

namespace outrigger::vmm {
namespace {

constexpr FeatureSet kEverything = FeatureSet(~uint64_t{0});
constexpr unsigned kMac = 5;

Offer offer_of(const DeviceKind& kind) {
    return {.backend_features = kEverything,
            .features = offered_to_driver(kind, kEverything, true),
            .queue_count = kind.queue_count};
}

TEST(DeviceConfig, IsTheBackEndsWhereItGivesIt) {
    const DeviceKind& fs = *find_device_kind("fs");
    Offer offer = offer_of(fs);
    offer.has_config = true;
    offer.config = {std::byte{'x'}};
    const FeatureSet before = offer.features;
    EXPECT_TRUE(complete_offer(fs, {}, offer));
    EXPECT_EQ(offer.config.size(), 1U);
    EXPECT_EQ(offer.features, before);
    const auto both = complete_offer(fs, {.tag = "share"}, offer);
    ASSERT_FALSE(both);
    EXPECT_NE(both.error().message.find("tag="), std::string::npos);
}

TEST(DeviceConfig, OfAFileSystemIsItsTagAndItsQueues) {
    const DeviceKind& fs = *find_device_kind("fs");
    Offer offer = offer_of(fs);
    offer.queue_count = 4;
    ASSERT_TRUE(complete_offer(fs, {.tag = std::string(36, 't')}, offer));
    ASSERT_EQ(offer.config.size(), 40U);
    EXPECT_EQ(offer.config[35], std::byte{'t'});
    EXPECT_EQ(offer.config[36], std::byte{3});
    EXPECT_FALSE(offer.features.has(0)) << "a notification queue would have a size there";
    Offer without = offer_of(fs);
    const auto none = complete_offer(fs, {}, without);
    ASSERT_FALSE(none);
    EXPECT_NE(none.error().message.find("tag="), std::string::npos);
}

TEST(DeviceConfig, OfASocketDeviceIsItsAddress) {
    const DeviceKind& vsock = *find_device_kind("vsock");
    Offer offer = offer_of(vsock);
    ASSERT_TRUE(complete_offer(vsock, {.cid = 0x12345678}, offer));
    EXPECT_EQ(offer.config,
              (std::vector{std::byte{0x78},
                           std::byte{0x56},
                           std::byte{0x34},
                           std::byte{0x12},
                           std::byte{0},
                           std::byte{0},
                           std::byte{0},
                           std::byte{0}}));
    Offer without = offer_of(vsock);
    EXPECT_FALSE(complete_offer(vsock, {}, without));
}

/// Whether the driver sees a control queue, and how many rings.
std::pair<bool, uint16_t> completed_net(uint16_t queue_count,
                                        std::optional<uint16_t> pairs,
                                        FeatureSet of_backend = kEverything) {
    const DeviceKind& net = *find_device_kind("net");
    Offer offer = offer_of(net);
    offer.backend_features = of_backend;
    offer.features = offered_to_driver(net, of_backend, true);
    offer.queue_count = queue_count;
    offer.has_config = pairs.has_value();
    if (pairs) {
        offer.config.resize(24);
        offer.config[8] = static_cast<std::byte>(*pairs);
        offer.config[9] = static_cast<std::byte>(*pairs >> 8);
    }
    EXPECT_TRUE(complete_offer(net, {}, offer));
    for (const unsigned bit : {2U, 18U, 19U, 20U, 21U, 23U}) {
        EXPECT_EQ(offer.features.has(bit), offer.features.has(17) && (pairs || bit != 21)) << bit;
    }
    EXPECT_EQ(offer.features.has(22), offer.features.has(17) && of_backend.has(22));
    return {offer.features.has(17), offer.queue_count};
}

TEST(DeviceConfig, AControlQueueIsPassedOnWhereTheBackEndServesIt) {
    using Seen = std::pair<bool, uint16_t>;
    EXPECT_EQ(completed_net(3, 1), Seen(true, 3));
    EXPECT_EQ(completed_net(9, 4), Seen(true, 9));
    EXPECT_EQ(completed_net(255, 127), Seen(true, 255));
    EXPECT_EQ(completed_net(3, std::nullopt, kEverything.without(22)), Seen(true, 3));
    EXPECT_EQ(completed_net(8, 4), Seen(false, 2)) << "all are of pairs";
    EXPECT_EQ(completed_net(3, std::nullopt), Seen(false, 2)) << "three pairs, as DPDK counts";
    EXPECT_EQ(completed_net(3, 3), Seen(false, 2)) << "likewise";
    EXPECT_EQ(completed_net(1, 0), Seen(false, 2)) << "no pair";
    EXPECT_EQ(completed_net(1, 1), Seen(false, 2)) << "one pair";
    EXPECT_EQ(completed_net(5, 4), Seen(false, 2)) << "not as many as it says";
    EXPECT_EQ(completed_net(3, 1, kEverything.without(17)), Seen(false, 2)) << "no CTRL_VQ";
}

TEST(DeviceConfig, OfANetworkDeviceIsAnAddressOrNothing) {
    const DeviceKind& net = *find_device_kind("net");
    Offer given = offer_of(net);
    given.features = given.features.without(kMac);  // no back end need offer it
    ASSERT_TRUE(complete_offer(net, {.mac = std::array<uint8_t, 6>{2, 0, 0, 0, 0, 9}}, given));
    EXPECT_EQ(given.config.size(), 6U);
    EXPECT_EQ(given.config[5], std::byte{9});
    EXPECT_TRUE(given.features.has(kMac));
    Offer without = offer_of(net);
    ASSERT_TRUE(complete_offer(net, {}, without));
    EXPECT_TRUE(without.config.empty());
    for (const unsigned bit : {3U, kMac, 16U, 63U}) {
        EXPECT_FALSE(without.features.has(bit)) << bit << " speaks of a field";
    }
    EXPECT_TRUE(without.features.has(15)) << "MRG_RXBUF does not";
}

TEST(DeviceConfig, OfAConsoleMayBeMissing) {
    const DeviceKind& console = *find_device_kind("console");
    Offer offer = offer_of(console);
    ASSERT_TRUE(complete_offer(console, {}, offer));
    EXPECT_TRUE(offer.config.empty());
    EXPECT_FALSE(offer.features.has(1)) << "MULTIPORT has a number of ports";
}

}  // namespace
}  // namespace outrigger::vmm
