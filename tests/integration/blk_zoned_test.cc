// SPDX-License-Identifier: Apache-2.0
// A disk with zones over a session: who may drive it, and what its driver sees.
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <future>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "devices/blk/blk_device.h"
#include "tests/support/printers.h"
#include "tests/support/session_host.h"
#include "tests/support/zone_guest.h"
#include "tests/support/zoned_disk.h"

namespace outrigger::testing {
namespace {

constexpr uint64_t kZoneSectors = 128;
constexpr size_t kBlock = 4096;
constexpr uint8_t kDriverWithFeatures = 1 | 2 | 8;  // ACKNOWLEDGE, DRIVER, FEATURES_OK
constexpr uint8_t kFeaturesOk = 8;

class BlkZoned : public ::testing::Test {
  protected:
    void serve(const ZonedDiskOptions& options = {},
               uint16_t queue_count = 1,
               ErrorPolicy error_policy = ErrorPolicy::kReport) {
        disk_ = std::make_unique<ZonedDisk>(options);
        device_ = std::make_unique<BlkDevice>(
            disk_->make_image().value(),
            BlkDeviceOptions{.shape = {.queue_count = queue_count}, .error_policy = error_policy});
        host_ = std::make_unique<SessionHost>(*device_,
                                              SessionHostOptions{.worker_count = queue_count});
    }

    std::unique_ptr<ZonedDisk> disk_;
    std::unique_ptr<BlkDevice> device_;
    std::unique_ptr<SessionHost> host_;
};

/// Every bit of the offer but that of zones.
driver::BringUpOptions without_zones() {
    return {.features = driver::kUsualFeatures.without(kZonedFeature)};
}

// VIRTIO 1.3, 5.2.5.2: "the device with the VIRTIO_BLK_Z_HM zone model MUST fail to set the
// FEATURES_OK device status bit when the driver writes the Device Status field."
TEST_F(BlkZoned, HostManagedDiskRefusesADriverThatKnowsOfNoZones) {
    serve();
    driver::Frontend frontend = host_->connect();
    const auto agreed = driver::negotiate(frontend, without_zones());
    ASSERT_FALSE(agreed);
    EXPECT_EQ(agreed.error().step, "SET_FEATURES");
    EXPECT_EQ(frontend.set_status(kDriverWithFeatures), driver::Answer::kAccepted);
    EXPECT_EQ(frontend.get_status().value() & kFeaturesOk, 0U);
}

TEST_F(BlkZoned, HostManagedDiskTakesADriverThatKnowsOfZones) {
    serve();
    driver::Frontend frontend = host_->connect();
    ASSERT_TRUE(driver::negotiate(frontend, {}));
    EXPECT_EQ(frontend.set_status(kDriverWithFeatures), driver::Answer::kAccepted);
    EXPECT_EQ(frontend.get_status().value() & kFeaturesOk, kFeaturesOk);
}

TEST_F(BlkZoned, RefusedDriverMayTryAgain) {
    serve();
    driver::Frontend frontend = host_->connect();
    ASSERT_FALSE(driver::negotiate(frontend, without_zones()));
    EXPECT_TRUE(driver::negotiate(frontend, {}));
}

TEST_F(BlkZoned, HostAwareDiskTakesEveryDriver) {
    serve({.sequential = ZoneType::kSequentialPreferred});
    driver::Frontend frontend = host_->connect();
    EXPECT_TRUE(driver::negotiate(frontend, without_zones()));
}

TEST_F(BlkZoned, DriverReadsWhatTheZonesAre) {
    serve({.open_zones_max = 3, .active_zones_max = 4});
    ZoneGuest guest(host_->connect());
    EXPECT_TRUE(guest.has_feature(kZonedFeature));
    const BlkConfigSpace space = guest.config();
    EXPECT_EQ(space.zoned.zone_sectors.value(), kZoneSectors);
    EXPECT_EQ(space.zoned.max_open_zones.value(), 3U);
    EXPECT_EQ(space.zoned.max_active_zones.value(), 4U);
    EXPECT_EQ(space.zoned.max_append_sectors.value(), kZoneSectors);
    EXPECT_EQ(space.zoned.write_granularity.value(), kBlock);
    EXPECT_EQ(space.zoned.model, 1);
}

TEST_F(BlkZoned, DriverWritesReportsAndResets) {
    serve();
    ZoneGuest guest(host_->connect());
    const std::vector<std::byte> data(2 * kBlock, std::byte{0x42});
    EXPECT_EQ(guest.write(kZoneSectors + 8, data), kStatusZoneUnalignedWrite);
    EXPECT_EQ(guest.write(kZoneSectors, data), VIRTIO_BLK_S_OK);
    std::vector<std::byte> back(2 * kBlock);
    EXPECT_EQ(guest.read(kZoneSectors, back), VIRTIO_BLK_S_OK);
    EXPECT_EQ(back, data);
    auto zones = guest.report(0, 100);
    ASSERT_TRUE(zones);
    ASSERT_EQ(zones->size(), 8U);
    EXPECT_EQ((*zones)[0].type, 1);
    EXPECT_EQ((*zones)[1].type, 2);
    EXPECT_EQ((*zones)[1].write_pointer, kZoneSectors + 16);
    EXPECT_EQ((*zones)[1].capacity, 96U);
    EXPECT_EQ(guest.change(kZoneFinishType, kZoneSectors), VIRTIO_BLK_S_OK);
    EXPECT_EQ(guest.write(kZoneSectors + 16, data), kStatusZoneInvalidCommand);
    EXPECT_EQ(guest.change(kZoneResetAllType, 0), VIRTIO_BLK_S_OK);
    zones = guest.report(kZoneSectors + 5, 1);
    ASSERT_TRUE(zones);
    ASSERT_EQ(zones->size(), 1U);
    EXPECT_EQ((*zones)[0].state, 1) << "empty";
    EXPECT_EQ(guest.change(kZoneOpenType, 0), kStatusZoneInvalidCommand) << "conventional";
}

TEST_F(BlkZoned, AppendsOfTwoQueuesToOneZoneHaveAPlaceEach) {
    serve({.zones = 3, .zone_bytes = 1 << 20, .capacity_bytes = 1 << 20}, 2);
    ZoneGuest guest(host_->connect(), 2);
    std::vector<ZoneGuest::Append> appends;
    for (size_t i = 0; i < 250; ++i) {
        appends.push_back({.zone_sector = 2048,
                           .data = std::vector<std::byte>(kBlock, static_cast<std::byte>(i + 1))});
    }
    ASSERT_TRUE(guest.append(appends));
    std::set<uint64_t> sectors;
    for (size_t i = 0; i < appends.size(); ++i) {
        EXPECT_EQ(appends[i].status, VIRTIO_BLK_S_OK);
        EXPECT_TRUE(sectors.insert(appends[i].sector).second) << "two in one place";
        EXPECT_EQ(disk_->bytes(appends[i].sector * 512, kBlock), appends[i].data);
    }
    EXPECT_EQ(disk_->zone(1).write_pointer_bytes, (1 << 20) + 250 * kBlock);
}

TEST_F(BlkZoned, ReportThatTheErrorPolicyHeldBeginsAnew) {
    serve({.zones = 600, .zone_bytes = kBlock, .capacity_bytes = kBlock}, 1, ErrorPolicy::kStop);
    ZoneGuest guest(host_->connect());
    disk_->fail_reports(1, 1);
    auto told = std::async(std::launch::async, [&] { return guest.report(0, 600); });
    ASSERT_TRUE(eventually([&] { return device_->shared().held.load() == 1; }));
    host_->on_control([&] { device_->resume(host_->control_loop(), [] {}); });
    const auto zones = told.get();
    ASSERT_TRUE(zones);
    EXPECT_EQ(zones->size(), 600U);
}

/// So many writes of one block after the other, from the begin of the first sequential zone on.
std::vector<ZoneGuest::Append> writes_in_order(size_t count) {
    std::vector<ZoneGuest::Append> writes;
    for (size_t i = 0; i < count; ++i) {
        writes.push_back({.zone_sector = kZoneSectors + i * kBlock / 512,
                          .data = std::vector<std::byte>(kBlock, static_cast<std::byte>(i + 1)),
                          .type = VIRTIO_BLK_T_OUT});
    }
    return writes;
}

TEST_F(BlkZoned, WritesBehindOneThatTheErrorPolicyHeldAreHeldToo) {
    serve({}, 1, ErrorPolicy::kStop);
    ZoneGuest guest(host_->connect());
    disk_->fail_next_write(EIO, 0);
    std::vector<ZoneGuest::Append> writes = writes_in_order(4);
    auto told = std::async(std::launch::async, [&] { return guest.append(writes); });
    ASSERT_TRUE(eventually([&] { return device_->shared().held.load() == 4; }));
    host_->on_control([&] { device_->resume(host_->control_loop(), [] {}); });
    ASSERT_TRUE(told.get());
    for (size_t i = 0; i < writes.size(); ++i) {
        EXPECT_EQ(writes[i].status, VIRTIO_BLK_S_OK) << i;
        EXPECT_EQ(disk_->bytes(writes[i].zone_sector * 512, kBlock), writes[i].data);
    }
}

TEST_F(BlkZoned, HeldWriteThatTheHostTookInPartIsWrittenToItsEnd) {
    serve({}, 1, ErrorPolicy::kStop);
    ZoneGuest guest(host_->connect());
    disk_->fail_next_write(EIO, kBlock);
    const std::vector<std::byte> data(3 * kBlock, std::byte{0x42});
    auto told = std::async(std::launch::async, [&] { return guest.write(kZoneSectors, data); });
    ASSERT_TRUE(eventually([&] { return device_->shared().held.load() == 1; }));
    host_->on_control([&] { device_->resume(host_->control_loop(), [] {}); });
    EXPECT_EQ(told.get(), VIRTIO_BLK_S_OK);
    EXPECT_EQ(disk_->bytes(kZoneSectors * 512, 3 * kBlock), data);
}

TEST_F(BlkZoned, WritesBehindAHeldOneThatIsGivenUpAreTold) {
    serve({}, 1, ErrorPolicy::kStop);
    ZoneGuest guest(host_->connect());
    disk_->fail_next_write(EIO, 0);
    std::vector<ZoneGuest::Append> writes = writes_in_order(2);
    auto told = std::async(std::launch::async, [&] { return guest.append(writes); });
    ASSERT_TRUE(eventually([&] { return device_->shared().held.load() == 2; }));
    EXPECT_TRUE(guest.frontend().get_vring_base(0)) << "nobody waits for the operator any more";
    ASSERT_TRUE(told.get());
    EXPECT_EQ(writes[0].status, VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(writes[1].status, kStatusZoneUnalignedWrite);
}

TEST_F(BlkZoned, HeldAppendThatTheHostTookInPartIsContinued) {
    serve({}, 1, ErrorPolicy::kStop);
    ZoneGuest guest(host_->connect());
    disk_->fail_next_write(ENOSPC, kBlock);
    ZoneGuest::Append append{.zone_sector = kZoneSectors,
                             .data = std::vector<std::byte>(3 * kBlock, std::byte{0x42})};
    guest.begin_append(append);
    ASSERT_TRUE(eventually([&] { return device_->shared().held.load() == 1; }));
    host_->on_control([&] { device_->resume(host_->control_loop(), [] {}); });
    ASSERT_TRUE(guest.end_append());
    EXPECT_EQ(append.status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(append.sector, kZoneSectors);
    EXPECT_EQ(disk_->bytes(kZoneSectors * 512, 3 * kBlock), append.data);
    EXPECT_EQ(disk_->zone(1).write_pointer_bytes, kZoneSectors * 512 + 3 * kBlock);
}

// What was noted of it is found by whoever has the ring next.
TEST_F(BlkZoned, AppendThatWasBegunAndSetAsideIsThereOnce) {
    serve({}, 1, ErrorPolicy::kStop);
    ZoneGuest guest(host_->connect(),
                    1,
                    FeatureSet::of({wire::bit(wire::ProtocolFeature::kInflightShmfd),
                                    wire::bit(wire::ProtocolFeature::kGetVringBaseInflight)}));
    ASSERT_TRUE(guest.queue(0).stop(guest.frontend()));
    ASSERT_TRUE(guest.frontend().get_inflight_fd(1, 256));
    ASSERT_TRUE(guest.start_queue(0));
    disk_->fail_next_write(ENOSPC, kBlock);
    ZoneGuest::Append append{.zone_sector = kZoneSectors,
                             .data = std::vector<std::byte>(3 * kBlock, std::byte{0x42})};
    guest.begin_append(append);
    ASSERT_TRUE(eventually([&] { return device_->shared().held.load() == 1; }));
    ASSERT_TRUE(guest.queue(0).stop(guest.frontend()));
    EXPECT_EQ(device_->shared().held.load(), 0U);
    host_->on_control([&] { device_->resume(host_->control_loop(), [] {}); });
    ASSERT_TRUE(guest.start_queue(0));
    ASSERT_TRUE(guest.end_append());
    EXPECT_EQ(append.status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(append.sector, kZoneSectors);
    EXPECT_EQ(disk_->bytes(kZoneSectors * 512, 3 * kBlock), append.data);
    EXPECT_EQ(disk_->zone(1).write_pointer_bytes, kZoneSectors * 512 + 3 * kBlock);
}

TEST_F(BlkZoned, UnalignedWriteIsToldWhileNothingIsHeld) {
    serve({}, 1, ErrorPolicy::kStop);
    ZoneGuest guest(host_->connect());
    EXPECT_EQ(guest.write(kZoneSectors + 8, std::vector<std::byte>(kBlock)),
              kStatusZoneUnalignedWrite);
    EXPECT_EQ(device_->shared().held.load(), 0U);
}

TEST_F(BlkZoned, ReadOnlyByTheOperatorKeepsZonesAsTheyAre) {
    serve();
    ZoneGuest guest(host_->connect());
    std::atomic<bool> applied = false;
    host_->on_control([&] {
        BlkSettings settings = device_->settings();
        settings.geometry.read_only = true;
        device_->apply(settings, host_->control_loop(), [&] { applied = true; });
    });
    ASSERT_TRUE(eventually([&] { return applied.load(); }));
    EXPECT_EQ(guest.change(kZoneResetAllType, 0), VIRTIO_BLK_S_IOERR);
    EXPECT_TRUE(guest.report(0, 8));
}

}  // namespace
}  // namespace outrigger::testing
