// SPDX-License-Identifier: Apache-2.0
// outrigger-blk on a zoned block device of the host, which OUTRIGGER_ZONED_DEVICE names and whose
// contents are lost. tests/guest/zoned runs this in a guest that has some; elsewhere it skips.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <future>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/blkzoned.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/support/child_process.h"
#include "tests/support/wait.h"
#include "tests/support/zone_guest.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

/// How the host is asked: "uring", "threads", or "polled", which is io_uring with --io-poll.
class ZonedHost : public ::testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        const char* const device = std::getenv("OUTRIGGER_ZONED_DEVICE");
        if (device == nullptr) {
            GTEST_SKIP() << "OUTRIGGER_ZONED_DEVICE names no zoned device to use up";
        }
        device_ = device;
        const char* const program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        std::string name = ::testing::TempDir() + "zoned-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        reset_zones();
    }

    void TearDown() override {
        if (daemon_ != nullptr) {
            stop();
        }
        if (!folder_.empty()) {
            fs::remove_all(folder_);
        }
    }

    /// By the kernel, while nobody serves the device.
    void reset_zones() const {
        const UniqueFd fd(::open(device_.c_str(), O_RDWR | O_CLOEXEC));
        blk_zone_range all{};
        all.nr_sectors = kernel_sectors();
        ASSERT_EQ(::ioctl(fd.get(), BLKRESETZONE, &all), 0);
    }

    [[nodiscard]] uint64_t kernel_sectors() const {
        const UniqueFd fd(::open(device_.c_str(), O_RDONLY | O_CLOEXEC));
        return static_cast<uint64_t>(::lseek(fd.get(), 0, SEEK_END)) / 512;
    }

    /// What the kernel says of one zone.
    [[nodiscard]] blk_zone kernel_zone(uint64_t sector) const {
        // struct blk_zone_report, whose array at the end is no C++, and one zone.
        const std::array<uint64_t, 2> head{sector, 1};
        std::array<std::byte, sizeof head + sizeof(blk_zone)> report{};
        static_assert(sizeof head == sizeof(blk_zone_report));
        std::memcpy(report.data(), &head, sizeof head);
        const UniqueFd fd(::open(device_.c_str(), O_RDONLY | O_CLOEXEC));
        EXPECT_EQ(::ioctl(fd.get(), BLKREPORTZONE, report.data()), 0);
        blk_zone zone{};
        std::memcpy(&zone, report.data() + sizeof head, sizeof zone);
        return zone;
    }

    void begin(std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(),
                         {"--socket-path=" + (folder_ / "blk.sock").string(),
                          "--blk-file=" + device_,
                          "--sandbox=log",
                          "--queue-threads=2"});
        daemon_ =
            std::make_unique<ChildProcess>(program_, ChildProcess::Options{.arguments = arguments});
    }

    [[nodiscard]] static bool is_polled() { return GetParam() == std::string("polled"); }

    void serve(const std::vector<std::string>& more = {}) {
        std::vector<std::string> arguments{"--cache=none"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        if (is_polled()) {
            arguments.insert(arguments.end(), {"--io-engine=uring", "--io-poll=on"});
        } else {
            arguments.push_back(std::string("--io-engine=") + GetParam());
        }
        begin(std::move(arguments));
    }

    /// The keeper's one child.
    void kill_worker() const {
        ASSERT_TRUE(eventually([&] {
            const pid_t pid = daemon_->first_child();
            return pid > 0 && ::kill(pid, SIGKILL) == 0;
        }));
    }

    [[nodiscard]] ZoneGuest guest(uint16_t queue_count = 1) const {
        return ZoneGuest(
            driver::Frontend::connect(folder_ / "blk.sock", driver::after(kPatience)).value(),
            queue_count);
    }

    void stop() {
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), (Ended{.status = 0})) << daemon_->complained();
        // --sandbox=log names what it must not do.
        EXPECT_EQ(daemon_->complained().find("not allow"), std::string::npos)
            << daemon_->complained();
        if (is_polled()) {
            EXPECT_EQ(daemon_->complained().find("poll"), std::string::npos)
                << daemon_->complained();
        }
        daemon_ = nullptr;
    }

    /// The zones, and which of them are written in order.
    static std::vector<ToldZone> ordered_zones(ZoneGuest& guest) {
        std::vector<ToldZone> zones = guest.report(0, 4096).value();
        std::erase_if(zones, [](const ToldZone& zone) { return zone.type != 2; });
        return zones;
    }

    static std::vector<std::byte> noise(size_t bytes, uint32_t seed) {
        std::minstd_rand random(seed);
        std::vector<std::byte> data(bytes);
        std::ranges::generate(data, [&] { return static_cast<std::byte>(random() >> 8); });
        return data;
    }

    static void expect_holds(ZoneGuest& guest, const ZoneGuest::Append& append) {
        std::vector<std::byte> back(append.data.size());
        EXPECT_EQ(guest.read(append.sector, back), VIRTIO_BLK_S_OK);
        EXPECT_EQ(back, append.data) << "at sector " << append.sector;
    }

    std::string device_;
    std::string program_;
    fs::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
};

INSTANTIATE_TEST_SUITE_P(Engines, ZonedHost, ::testing::Values("uring", "threads", "polled"));

TEST_P(ZonedHost, ReportIsTheKernels) {
    serve();
    ZoneGuest guest = this->guest();
    const BlkConfigSpace space = guest.config();
    EXPECT_EQ(space.zoned.model, 1);
    const uint64_t zone_sectors = space.zoned.zone_sectors;
    const auto zones = guest.report(0, 4096).value();
    ASSERT_EQ(zones.size(), (kernel_sectors() + zone_sectors - 1) / zone_sectors);
    for (const ToldZone& zone : zones) {
        const blk_zone expected = kernel_zone(zone.start);
        EXPECT_EQ(zone.start, expected.start);
        EXPECT_EQ(zone.capacity, expected.capacity);
        EXPECT_EQ(zone.type, expected.type);
        EXPECT_EQ(zone.state, expected.cond);
        EXPECT_EQ(zone.write_pointer, expected.wp);
    }
}

TEST_P(ZonedHost, WritesFollowTheWritePointerAndMayBeReadBack) {
    serve();
    ZoneGuest guest = this->guest();
    const ToldZone zone = ordered_zones(guest).at(1);
    const auto data = noise(3 * 65536, 1);
    EXPECT_EQ(guest.write(zone.start + 128, data), kStatusZoneUnalignedWrite);
    EXPECT_EQ(guest.write(zone.start, data), VIRTIO_BLK_S_OK);
    EXPECT_EQ(guest.write(zone.start, data), kStatusZoneUnalignedWrite);
    EXPECT_EQ(guest.flush(), VIRTIO_BLK_S_OK);
    std::vector<std::byte> back(data.size());
    EXPECT_EQ(guest.read(zone.start, back), VIRTIO_BLK_S_OK);
    EXPECT_EQ(back, data);
    EXPECT_EQ(kernel_zone(zone.start).wp, zone.start + data.size() / 512);
}

TEST_P(ZonedHost, AppendsOfTwoQueuesFillAZone) {
    serve();
    ZoneGuest guest = this->guest(2);
    const ToldZone zone = ordered_zones(guest).at(0);
    std::vector<ZoneGuest::Append> appends;
    uint64_t sectors = 0;
    for (uint32_t i = 0; sectors < zone.capacity; ++i) {
        const uint64_t length = std::min<uint64_t>((i % 4 + 1) * 8, zone.capacity - sectors);
        appends.push_back({.zone_sector = zone.start, .data = noise(length * 512, i)});
        sectors += length;
    }
    ASSERT_TRUE(guest.append(appends));
    for (const ZoneGuest::Append& append : appends) {
        EXPECT_EQ(append.status, VIRTIO_BLK_S_OK);
        expect_holds(guest, append);
    }
    EXPECT_EQ(kernel_zone(zone.start).cond, BLK_ZONE_COND_FULL);
    std::vector<ZoneGuest::Append> late{
        {.zone_sector = zone.start, .data = std::vector<std::byte>(4096)}};
    ASSERT_TRUE(guest.append(late));
    EXPECT_EQ(late[0].status, kStatusZoneInvalidCommand);
    EXPECT_EQ(guest.change(kZoneResetType, zone.start), VIRTIO_BLK_S_OK);
    EXPECT_EQ(kernel_zone(zone.start).cond, BLK_ZONE_COND_EMPTY);
    ASSERT_TRUE(guest.append(late));
    EXPECT_EQ(late[0].status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(late[0].sector, zone.start);
}

TEST_P(ZonedHost, StatesAreThoseOfTheDevice) {
    serve();
    ZoneGuest guest = this->guest();
    const ToldZone zone = ordered_zones(guest).at(2);
    const auto state = [&] { return kernel_zone(zone.start).cond; };
    EXPECT_EQ(guest.change(kZoneOpenType, zone.start), VIRTIO_BLK_S_OK);
    EXPECT_EQ(state(), BLK_ZONE_COND_EXP_OPEN);
    EXPECT_EQ(guest.change(kZoneCloseType, zone.start), VIRTIO_BLK_S_OK);
    // Nothing was written. A namespace keeps such a zone among the active ones.
    EXPECT_TRUE(state() == BLK_ZONE_COND_EMPTY || state() == BLK_ZONE_COND_CLOSED);
    EXPECT_EQ(guest.write(zone.start, noise(4096, 1)), VIRTIO_BLK_S_OK);
    EXPECT_EQ(state(), BLK_ZONE_COND_IMP_OPEN);
    EXPECT_EQ(guest.change(kZoneCloseType, zone.start), VIRTIO_BLK_S_OK);
    EXPECT_EQ(state(), BLK_ZONE_COND_CLOSED);
    EXPECT_EQ(guest.change(kZoneFinishType, zone.start), VIRTIO_BLK_S_OK);
    EXPECT_EQ(state(), BLK_ZONE_COND_FULL);
    EXPECT_EQ(guest.write(zone.start + 8, noise(4096, 1)), kStatusZoneInvalidCommand);
    EXPECT_EQ(guest.change(kZoneOpenType, zone.start), kStatusZoneInvalidCommand);
    EXPECT_EQ(guest.change(kZoneResetAllType, 0), VIRTIO_BLK_S_OK);
    EXPECT_EQ(state(), BLK_ZONE_COND_EMPTY);
    EXPECT_EQ(guest.write(zone.start, noise(4096, 1)), VIRTIO_BLK_S_OK);
}

TEST_P(ZonedHost, ResourcesThatRunOutAreToldAsSuch) {
    serve();
    ZoneGuest guest = this->guest();
    const BlkConfigSpace space = guest.config();
    const uint32_t open_max = space.zoned.max_open_zones;
    if (open_max == 0) {
        GTEST_SKIP() << "this device has no limit";
    }
    const auto zones = ordered_zones(guest);
    ASSERT_GT(zones.size(), open_max);
    for (uint32_t i = 0; i < open_max; ++i) {
        EXPECT_EQ(guest.change(kZoneOpenType, zones[i].start), VIRTIO_BLK_S_OK);
    }
    const auto data = noise(4096, 1);
    EXPECT_EQ(guest.change(kZoneOpenType, zones[open_max].start), kStatusZoneOpenResource);
    EXPECT_EQ(guest.write(zones[open_max].start, data), kStatusZoneOpenResource);
    EXPECT_EQ(guest.change(kZoneFinishType, zones[0].start), VIRTIO_BLK_S_OK);
    EXPECT_EQ(guest.write(zones[open_max].start, data), VIRTIO_BLK_S_OK);
}

TEST_P(ZonedHost, ActiveZonesThatRunOutAreToldAsSuch) {
    serve();
    ZoneGuest guest = this->guest();
    const uint32_t active_max = guest.config().zoned.max_active_zones;
    if (active_max == 0) {
        GTEST_SKIP() << "this device has no limit";
    }
    const auto zones = ordered_zones(guest);
    ASSERT_GT(zones.size(), active_max);
    const auto data = noise(4096, 1);
    for (uint32_t i = 0; i < active_max; ++i) {
        EXPECT_EQ(guest.write(zones[i].start, data), VIRTIO_BLK_S_OK);
        EXPECT_EQ(guest.change(kZoneCloseType, zones[i].start), VIRTIO_BLK_S_OK);
    }
    EXPECT_EQ(guest.write(zones[active_max].start, data), kStatusZoneActiveResource);
    EXPECT_EQ(guest.change(kZoneOpenType, zones[active_max].start), kStatusZoneActiveResource);
}

TEST_P(ZonedHost, DaemonThatWasKilledKnowsEveryWritePointerAgain) {
    serve();
    std::vector<ZoneGuest::Append> appends;
    ToldZone zone;
    {
        ZoneGuest guest = this->guest(2);
        zone = ordered_zones(guest).at(1);
        for (uint32_t i = 0; i < 40; ++i) {
            appends.push_back({.zone_sector = zone.start, .data = noise(4096, i)});
        }
        ASSERT_TRUE(guest.append(appends));
        EXPECT_EQ(guest.flush(), VIRTIO_BLK_S_OK);
        daemon_->send_signal(SIGKILL);
        EXPECT_EQ(daemon_->wait(), (Ended{.signal = SIGKILL}));
    }
    serve();
    ZoneGuest guest = this->guest();
    for (const ZoneGuest::Append& append : appends) {
        EXPECT_EQ(append.status, VIRTIO_BLK_S_OK);
        expect_holds(guest, append);
    }
    EXPECT_EQ(guest.write(zone.start + 40 * 8, noise(4096, 99)), VIRTIO_BLK_S_OK);
}

// The front end does not notice: whoever takes the requests up again finds which of them the device
// has already.
TEST_P(ZonedHost, AppendsAndWritesAreThereOnceThoughTheProcessIsKilled) {
    serve({"--keeper=fork", "--keeper-restarts=1000"});
    ZoneGuest guest = this->guest();
    const auto zones = ordered_zones(guest);
    uint64_t appended = 0;
    uint64_t written = 0;
    std::vector<ZoneGuest::Append> all;
    for (uint32_t round = 0; round < 12; ++round) {
        std::vector<ZoneGuest::Append> requests;
        for (uint32_t i = 0; i < 16; ++i) {
            const bool append = i % 2 == 0;
            const auto data = noise(size_t{4096} * (1 + i / 2 % 3), round * 16 + i);
            uint64_t& sectors = append ? appended : written;
            requests.push_back(
                {.zone_sector = append ? zones.at(1).start : zones.at(2).start + sectors,
                 .data = data,
                 .type = append ? kZoneAppendType : uint32_t{VIRTIO_BLK_T_OUT}});
            sectors += data.size() / 512;
        }
        auto answered = std::async(std::launch::async, [&] { return guest.append(requests); });
        std::this_thread::sleep_for(std::chrono::microseconds(round * 700));
        kill_worker();
        ASSERT_TRUE(answered.get()) << daemon_->complained();
        std::ranges::move(requests, std::back_inserter(all));
    }
    for (ZoneGuest::Append& request : all) {
        EXPECT_EQ(request.status, VIRTIO_BLK_S_OK);
        if (request.type != kZoneAppendType) {
            request.sector = request.zone_sector;
        }
        expect_holds(guest, request);
    }
    EXPECT_EQ(kernel_zone(zones.at(1).start).wp, zones.at(1).start + appended)
        << "each is there once";
    EXPECT_EQ(kernel_zone(zones.at(2).start).wp, zones.at(2).start + written);
}

// The kernel takes a reset of another process while the daemon serves the device.
TEST_P(ZonedHost, AppendFindsTheWritePointerAfterSomebodyElsesReset) {
    serve();
    ZoneGuest guest = this->guest();
    const ToldZone zone = ordered_zones(guest).at(3);
    std::vector<ZoneGuest::Append> first{{.zone_sector = zone.start, .data = noise(65536, 1)}};
    ASSERT_TRUE(guest.append(first));
    EXPECT_EQ(first[0].sector, zone.start);
    const UniqueFd fd(::open(device_.c_str(), O_RDWR | O_CLOEXEC));
    blk_zone_range range{};
    range.sector = zone.start;
    range.nr_sectors = guest.config().zoned.zone_sectors;
    ASSERT_EQ(::ioctl(fd.get(), BLKRESETZONE, &range), 0);
    std::vector<ZoneGuest::Append> second{{.zone_sector = zone.start, .data = noise(4096, 2)}};
    ASSERT_TRUE(guest.append(second));
    EXPECT_EQ(second[0].status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(second[0].sector, zone.start);
    expect_holds(guest, second[0]);
}

TEST_P(ZonedHost, PageCacheIsRefusedAndReadingIsNot) {
    begin({});
    EXPECT_NE(daemon_->wait(), (Ended{.status = 0}));
    EXPECT_NE(daemon_->complained().find("--cache=none"), std::string::npos)
        << daemon_->complained();
    begin({"--read-only"});
    ZoneGuest guest = this->guest();
    EXPECT_FALSE(guest.has_feature(kZonedFeature)) << "a disk like any other";
    std::vector<std::byte> back(4096);
    EXPECT_EQ(guest.read(0, back), VIRTIO_BLK_S_OK);
}

}  // namespace
}  // namespace outrigger::testing
