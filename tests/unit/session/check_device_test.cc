// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/session/session.h"

namespace outrigger {
namespace {

/// Says of itself what the test says.
struct ClaimingDevice final : Device {
    [[nodiscard]] DeviceIdentity identity() const override { return claimed; }

    [[nodiscard]] DeviceAbilities abilities() const override { return able; }

    [[nodiscard]] FeatureSet offered_features() const override { return features; }

    void on_negotiated(FeatureSet /*agreed*/) override {}

    [[nodiscard]] Result<void> start_queue(QueueIndex /*index*/,
                                           Virtqueue& /*queue*/,
                                           Worker& /*worker*/) override {
        return {};
    }

    [[nodiscard]] QueueProgress process_queue(QueueIndex /*index*/) override {
        return QueueProgress::kDrained;
    }

    void stop_queue(QueueIndex /*index*/, std::move_only_function<void()> drained) override {
        drained();
    }

    [[nodiscard]] std::span<const StateSectionKind> state_sections() const override {
        return sections;
    }

    void reset() override {}

    DeviceIdentity claimed{.virtio_id = 42, .name = "claim"};
    DeviceAbilities able{};
    FeatureSet features{};
    std::vector<StateSectionKind> sections{};
};

TEST(CheckDevice, TheDefaultsCanBeServed) {
    EXPECT_TRUE(check_device(ClaimingDevice{}));
}

TEST(CheckDevice, TheLimitsCanBeServed) {
    ClaimingDevice device;
    device.claimed.queue_count = 256;
    device.claimed.queue_size_max = 32768;
    device.claimed.config_bytes = 256;
    device.features = FeatureSet::of({0, 23, 50, 63});
    constexpr std::array<uint64_t, 2> kRegions{0, 1 << 20};
    device.able.shared_memory = kRegions;

    EXPECT_TRUE(check_device(device));
}

TEST(CheckDevice, RefusesSectionsThatNoStateCanHave) {
    const auto served = [](std::vector<StateSectionKind> sections) {
        ClaimingDevice device;
        device.sections = std::move(sections);
        return check_device(device).has_value();
    };
    const StateSectionKind good{.id = 1, .name = "mode", .version = 1, .critical = true};
    const std::string long_name(kSectionNameBytesMax + 1, 'n');
    const auto with = [&](auto StateSectionKind::*field, auto value) {
        StateSectionKind kind = good;
        kind.*field = value;
        return std::vector{kind};
    };
    EXPECT_TRUE(served({good}));
    EXPECT_FALSE(served({good, good}));
    EXPECT_FALSE(served(with(&StateSectionKind::id, 0U)));
    EXPECT_FALSE(served(with(&StateSectionKind::version, 0U)));
    EXPECT_FALSE(served(with(&StateSectionKind::name, std::string_view("a\nb"))));
    EXPECT_FALSE(served(with(&StateSectionKind::name, std::string_view(long_name))));
}

TEST(CheckDevice, RefusesADeviceWithoutQueues) {
    ClaimingDevice device;
    device.claimed.queue_count = 0;

    EXPECT_EQ(check_device(device).error().message,
              "the device \"claim\" cannot be served: queue_count is 0, not 1 to 256");
}

TEST(CheckDevice, RefusesMoreQueuesThanAMessageCanName) {
    ClaimingDevice device;
    device.claimed.queue_count = 257;

    EXPECT_FALSE(check_device(device));
}

TEST(CheckDevice, RefusesRingsOfImpossibleSize) {
    ClaimingDevice device;
    device.claimed.queue_size_max = 0;
    EXPECT_FALSE(check_device(device));

    device.claimed.queue_size_max = 32769;
    EXPECT_FALSE(check_device(device));
}

TEST(CheckDevice, RefusesAConfigurationSpaceLargerThanAMessage) {
    ClaimingDevice device;
    device.claimed.config_bytes = 257;

    EXPECT_FALSE(check_device(device));
}

TEST(CheckDevice, RefusesNotesThatNoJournalHolds) {
    ClaimingDevice device;
    device.claimed.outcome_bytes = 512;
    EXPECT_TRUE(check_device(device));
    device.claimed.outcome_bytes = 513;
    EXPECT_FALSE(check_device(device));
}

TEST(CheckDevice, RefusesBitsOfTheFramework) {
    ClaimingDevice device;
    device.features = FeatureSet::of({0, 32});

    const auto checked = check_device(device);

    ASSERT_FALSE(checked);
    EXPECT_NE(checked.error().message.find("0x100000000"), std::string::npos)
        << checked.error().message;
}

TEST(CheckDevice, RefusesTheBitsBesideTheDevicesOwn) {
    ClaimingDevice device;
    device.features = FeatureSet::of({24});
    EXPECT_FALSE(check_device(device));

    device.features = FeatureSet::of({49});
    EXPECT_FALSE(check_device(device));
}

TEST(CheckDevice, RefusesSharedMemoryOfAPartOfAPage) {
    ClaimingDevice device;
    constexpr std::array<uint64_t, 1> kRegions{4097};
    device.able.shared_memory = kRegions;

    EXPECT_FALSE(check_device(device));
}

}  // namespace
}  // namespace outrigger
