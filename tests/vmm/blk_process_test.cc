// SPDX-License-Identifier: Apache-2.0
// The front end against outrigger-blk as a process: what a guest does with its disk, what an
// operator does to it, and what happens when its process dies.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <system_error>
#include <thread>

#include <signal.h>
#include <unistd.h>

#include "vhost-user-backend/base/shared_memory.h"

#include "tests/support/child_process.h"
#include "tests/support/process_counts.h"
#include "tests/vmm/proxied_disk.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;
using Phase = vmm::RemoteDevice::Phase;

constexpr uint64_t kDiskBytes = ProxiedDisk::kBlocks * ProxiedDisk::kBlockBytes;

class ProxiedDiskTest : public ::testing::Test {
  protected:
    void SetUp() override {
        ::signal(SIGPIPE, SIG_IGN);
        const char* program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        std::string name = ::testing::TempDir() + "proxied-disk-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        std::ofstream(folder_ / "image").close();
        fs::resize_file(folder_ / "image", kDiskBytes);
    }

    void TearDown() override {
        host_.reset();
        daemon_.reset();
        std::error_code ignored;  // a process that is about to end removes its socket itself
        fs::remove_all(folder_, ignored);
    }

    [[nodiscard]] std::string socket_path() const { return folder_ / "s"; }

    void start_daemon(const std::vector<std::string>& more = {}) {
        std::vector<std::string> arguments = {"--num-queues=2",
                                              "--queue-threads=2",
                                              "--lock=off",
                                              "--control-socket=" + (folder_ / "c").string(),
                                              "--blk-file=" + (folder_ / "image").string(),
                                              "--socket-path=" + socket_path()};
        arguments.insert(arguments.end(), more.begin(), more.end());
        daemon_ =
            std::make_unique<ChildProcess>(program_, ChildProcess::Options{.arguments = arguments});
    }

    /// Kills the daemon without a word, and starts another.
    void replace_daemon() {
        daemon_->send_signal(SIGKILL);
        ASSERT_TRUE(daemon_->wait());
        start_daemon();
    }

    void start_host(const vmm::ReconnectPolicy& reconnect = {}) {
        host_ = std::make_unique<ProxyHost>(ProxyHost::Options{
            .source = vmm::socket_source(socket_path()), .reconnect = reconnect});
        const auto connected = host_->connect();
        ASSERT_TRUE(connected) << connected.error().message;
    }

    void start_disk(const ProxyHost::Rings& rings = {.count = 2}) {
        start_daemon();
        start_host();
        host_->activate(rings);
        disk_.emplace(*host_, rings.count);
    }

    /// Kills `count` times under load; the load goes on until the last daemon serves.
    void kill_under_load(int count) {
        std::atomic<bool> killing = true;
        const auto kill_all = [&] {
            for (int i = 0; i < count && !HasFailure(); ++i) {
                ASSERT_TRUE(host_->reaches(Phase::kRunning));
                std::this_thread::sleep_for(std::chrono::milliseconds(5 + i * 37 % 60));
                replace_daemon();
                // Else the next kill would be of one that nobody has met.
                ASSERT_TRUE(eventually(
                    [&] { return host_->status().losses == static_cast<uint64_t>(i) + 1; }));
            }
        };
        std::thread killer([&] {
            kill_all();
            killing = false;
        });
        int rounds = 0;
        while (killing && !HasFailure()) {
            EXPECT_TRUE(disk_->write_all(static_cast<uint8_t>(++rounds)));
            EXPECT_TRUE(disk_->read_all());
        }
        killer.join();
        ASSERT_TRUE(disk_->write_all(0xa5));
        ASSERT_TRUE(disk_->read_all());
        std::cout << rounds << " rounds of " << 2 * ProxiedDisk::kBlocks << " requests, "
                  << host_->status().losses << " losses\n";
    }

    std::string program_;
    fs::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
    std::unique_ptr<ProxyHost> host_;
    std::optional<ProxiedDisk> disk_;
};

TEST_F(ProxiedDiskTest, WaitsForADaemonThatIsBeingStarted) {
    host_ = std::make_unique<ProxyHost>(
        ProxyHost::Options{.source = vmm::socket_source(socket_path())});
    std::thread late([this] {
        give_others_a_moment();
        start_daemon();
    });
    const auto connected = host_->connect();
    late.join();
    ASSERT_TRUE(connected) << connected.error().message;
    EXPECT_EQ(host_->device().queue_count(), 2);
}

TEST_F(ProxiedDiskTest, SaysWhatADiskIs) {
    start_daemon();
    start_host();
    vmm::RemoteDevice& device = host_->device();
    EXPECT_EQ(device.virtio_id(), 2);
    EXPECT_EQ(device.queue_count(), 2);
    EXPECT_EQ(device.config_bytes(), 96U);
    uint64_t sectors = 0;
    device.read_config(0, std::as_writable_bytes(std::span(&sectors, 1)));
    EXPECT_EQ(sectors, kDiskBytes / 512);
    const FeatureSet features(device.offered_features());
    EXPECT_TRUE(features.has(vmm::kVersion1Bit));
    EXPECT_TRUE(features.has(VIRTIO_BLK_F_FLUSH));
    EXPECT_FALSE(features.has(wire::kProtocolFeaturesBit)) << "the driver would see it";
    EXPECT_FALSE(features.has(wire::kLogAllBit)) << "the driver would see it";
    EXPECT_FALSE(features.has(driver::kAccessPlatformBit)) << "there is no IOMMU";
}

TEST_F(ProxiedDiskTest, ReadsWhatWasWritten) {
    start_disk();
    EXPECT_TRUE(disk_->write_all(1));
    EXPECT_TRUE(disk_->read_all());
    EXPECT_EQ(host_->needs_resets(), 0);
}

TEST_F(ProxiedDiskTest, ServesPackedRings) {
    start_disk({.count = 2, .packed = true});
    EXPECT_TRUE(disk_->write_all(1));
    EXPECT_TRUE(disk_->read_all());
}

TEST_F(ProxiedDiskTest, ServesAgainAfterAReset) {
    start_disk();
    ASSERT_TRUE(disk_->write_all(1));
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(host_->reset());
        ASSERT_TRUE(host_->reaches(Phase::kReady));
        host_->activate({.count = 2, .packed = i == 1});
        ASSERT_TRUE(disk_->read_all());
    }
}

TEST_F(ProxiedDiskTest, TakesWhatWasMadeAvailableBeforeItStarted) {
    start_daemon();
    start_host();
    daemon_->send_signal(SIGKILL);
    ASSERT_TRUE(daemon_->wait());
    host_->activate({.count = 1});
    disk_.emplace(*host_, uint16_t{1});
    // Nobody kicks for it, so whoever begins has to look.
    disk_->submit_silently(0, 3);
    start_daemon();
    ASSERT_TRUE(eventually([&] { return host_->queue(0).poll_used().has_value(); }));
}

TEST_F(ProxiedDiskTest, TellsTheDriverOfAnotherSize) {
    start_disk();
    const uint8_t generation = host_->device().config_generation();
    const char* ctl = std::getenv("OUTRIGGER_CTL_PROGRAM");
    ASSERT_NE(ctl, nullptr) << "names the control program";
    fs::resize_file(folder_ / "image", 2 * kDiskBytes);
    ChildProcess resize(
        ctl,
        {.arguments = {
             "--socket=" + (folder_ / "c").string(), "resize", std::to_string(2 * kDiskBytes)}});
    const auto ended = resize.wait();
    ASSERT_TRUE(ended && ended->status == 0) << resize.complained();
    ASSERT_TRUE(eventually([&] { return host_->config_changes() > 0; }));
    uint64_t sectors = 0;
    host_->device().read_config(0, std::as_writable_bytes(std::span(&sectors, 1)));
    EXPECT_EQ(sectors, 2 * kDiskBytes / 512);
    EXPECT_NE(host_->device().config_generation(), generation);
}

TEST_F(ProxiedDiskTest, TellsTheBackEndAndItsHeirsWhatTheDriverWrote) {
    start_disk();
    constexpr uint32_t kWce = offsetof(virtio_blk_config, wce);
    const std::byte off{0};
    host_->device().write_config(kWce, std::span(&off, 1));
    std::byte wce{1};
    host_->device().read_config(kWce, std::span(&wce, 1));
    EXPECT_EQ(wce, off) << "the driver reads what it wrote at once";
    replace_daemon();
    ASSERT_TRUE(disk_->write_all(2));
    ASSERT_TRUE(eventually([&] {
        ChildProcess show(std::getenv("OUTRIGGER_CTL_PROGRAM"),
                          {.arguments = {"--socket=" + (folder_ / "c").string(), "show"}});
        (void)show.wait();
        return show.printed().find("writethrough") != std::string::npos;
    })) << daemon_->complained()
        << "a driver that saw write-through flushes no more";
    host_->device().read_config(kWce, std::span(&wce, 1));
    EXPECT_EQ(wce, off);
    EXPECT_EQ(host_->config_changes(), 0);
}

TEST_F(ProxiedDiskTest, SurvivesTwentyKillsUnderLoad) {
    start_disk();
    kill_under_load(20);
    EXPECT_EQ(host_->needs_resets(), 0);
    EXPECT_EQ(host_->status().losses, 20U);
}

TEST_F(ProxiedDiskTest, SurvivesKillsUnderLoadWithPackedRings) {
    start_disk({.count = 2, .packed = true});
    kill_under_load(10);
    EXPECT_EQ(host_->needs_resets(), 0);
}

TEST_F(ProxiedDiskTest, GivesUpABackEndThatDoesNotComeBack) {
    start_daemon();
    start_host({.patience = std::chrono::milliseconds(300)});
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    daemon_->send_signal(SIGKILL);
    ASSERT_TRUE(eventually([&] { return host_->needs_resets() == 1; }));
    EXPECT_EQ(host_->status().phase, Phase::kLost);
    EXPECT_NE(host_->status().last_loss.find("away for"), std::string::npos)
        << host_->status().last_loss;
}

TEST_F(ProxiedDiskTest, AResetFindsTheBackEndThatWasGivenUp) {
    start_daemon();
    start_host({.patience = std::chrono::milliseconds(300)});
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    daemon_->send_signal(SIGKILL);
    ASSERT_TRUE(host_->reaches(Phase::kLost));
    start_daemon();
    ASSERT_TRUE(daemon_->wait_complained("listening"));
    ASSERT_TRUE(host_->reset());
    ASSERT_TRUE(host_->reaches(Phase::kReady));
    host_->activate({.count = 1});
    disk_.emplace(*host_, uint16_t{1});
    EXPECT_TRUE(disk_->write_all(9));
    EXPECT_TRUE(disk_->read_all());
}

TEST_F(ProxiedDiskTest, AResetWhileTheBackEndIsAwayEndsAtOnce) {
    start_disk();
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    daemon_->send_signal(SIGKILL);
    ASSERT_TRUE(host_->reaches(Phase::kAway));
    EXPECT_TRUE(host_->reset());
    start_daemon();
    host_->activate({.count = 2});
    EXPECT_TRUE(disk_->write_all(4));
    EXPECT_TRUE(disk_->read_all());
}

TEST_F(ProxiedDiskTest, RefusesAnotherDiskInThePlaceOfTheLost) {
    start_disk({.count = 1});
    ASSERT_TRUE(disk_->write_all(1));
    daemon_->send_signal(SIGKILL);
    ASSERT_TRUE(daemon_->wait());
    start_daemon({"--read-only"});
    ASSERT_TRUE(eventually([&] {
        return host_->status().last_loss.find("another device than the one before: features") !=
               std::string::npos;
    })) << host_->status().last_loss;
    EXPECT_EQ(host_->status().queues_running, 0);
    // The right one may still come.
    replace_daemon();
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    EXPECT_TRUE(disk_->read_all());
    EXPECT_EQ(host_->needs_resets(), 0);
}

TEST_F(ProxiedDiskTest, GoesOnWhereItWasSuspended) {
    start_disk();
    ASSERT_TRUE(disk_->write_all(1));
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(host_->suspend());
        EXPECT_EQ(host_->status().phase, Phase::kReady);
        // Queued while nobody looks: taken when the ring goes on, from its true base.
        ASSERT_TRUE(host_->resume());
        ASSERT_TRUE(disk_->write_all(static_cast<uint8_t>(i)));
        ASSERT_TRUE(disk_->read_all());
    }
}

TEST_F(ProxiedDiskTest, TakesRequestsThatCameWhileItWasSuspended) {
    start_disk({.count = 1});
    ASSERT_TRUE(disk_->write_all(1));
    ASSERT_TRUE(host_->suspend());
    // CH reads the available index here, and would skip these.
    disk_->submit_silently(0, 1);
    disk_->submit_silently(0, 2);
    ASSERT_TRUE(host_->resume());
    int answered = 0;
    ASSERT_TRUE(eventually([&] {
        answered += host_->queue(0).poll_used() ? 1 : 0;
        return answered == 2;
    }));
}

TEST_F(ProxiedDiskTest, GivesAndTakesItsState) {
    start_disk();
    ASSERT_TRUE(disk_->write_all(1));
    const auto save = [&] {
        return host_->ask<std::vector<std::byte>>(
            [&](auto done) { host_->device().save_state(std::move(done)); });
    };
    EXPECT_FALSE(save()) << "its rings run";
    ASSERT_TRUE(host_->suspend());
    const auto state = save();
    ASSERT_TRUE(state) << state.error().message;
    EXPECT_FALSE(state->empty());
    const auto load = [&](const std::vector<std::byte>& bytes) {
        return host_->ask([&](auto done) { host_->device().load_state(bytes, std::move(done)); });
    };
    const auto loaded = load(*state);
    EXPECT_TRUE(loaded) << loaded.error().message;
    const auto damaged = load(std::vector<std::byte>(300000, std::byte{7}));
    EXPECT_FALSE(damaged);
    ASSERT_TRUE(host_->resume());
    EXPECT_TRUE(disk_->read_all());
}

TEST_F(ProxiedDiskTest, LogsWhatItWrites) {
    start_disk();
    const vmm::DirtyLog log{.fd = vmm::share(create_shared_memory("log", 16384).value()),
                            .bytes = 16384};
    const auto set_log = [&](std::optional<vmm::DirtyLog> wanted) {
        return host_->ask([&](auto done) { host_->device().set_log(wanted, std::move(done)); });
    };
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    ASSERT_TRUE(set_log(log));
    ASSERT_TRUE(disk_->write_all(5));
    std::vector<std::byte> bits(16384);
    const auto dirty = [&] {
        EXPECT_EQ(::pread(log.fd->get(), bits.data(), bits.size(), 0), 16384);
        return std::ranges::any_of(bits, [](std::byte byte) { return byte != std::byte{0}; });
    };
    EXPECT_TRUE(dirty()) << "status bytes and used rings were written";
    ASSERT_TRUE(set_log(std::nullopt));
    const std::vector<std::byte> zeroes(16384);
    ASSERT_EQ(::pwrite(log.fd->get(), zeroes.data(), zeroes.size(), 0), 16384);
    ASSERT_TRUE(disk_->write_all(6));
    EXPECT_FALSE(dirty());
}

TEST_F(ProxiedDiskTest, LeavesNothingBehind) {
    start_daemon();
    start_host();
    host_.reset();
    const ProcessCounts before = ProcessCounts::now();
    for (int i = 0; i < 5; ++i) {
        start_host();
        host_->activate({.count = 2});
        ASSERT_TRUE(host_->reaches(Phase::kRunning));
        ASSERT_TRUE(host_->reset());
        host_.reset();
    }
    EXPECT_TRUE(comes_down_to(before));
}

}  // namespace
}  // namespace outrigger::testing
