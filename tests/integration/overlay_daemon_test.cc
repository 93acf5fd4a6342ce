// SPDX-License-Identifier: Apache-2.0
// outrigger-blk with an overlay, as a process: guests with several queues under load against a
// model of the disk, and what is left after kill -9 at random moments.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <signal.h>

#include <gtest/gtest.h>

#include "tests/integration/load_guest.h"
#include "tests/support/child_process.h"
#include "tests/support/disk_model.h"
#include "tests/support/temporary_image.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

class OverlayDaemonTest : public ::testing::Test {
  protected:
    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        const char* const directory = std::getenv("TMPDIR");
        std::string name =
            std::string(directory != nullptr ? directory : "/var/tmp") + "/overlay-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        socket_ = folder_ / "blk.sock";
        layer_ = folder_ / "layer";
        base_ = folder_ / "base.img";
        std::vector<std::byte> content(kBaseSectors * 512);
        DiskModel::fill_base(0, content);
        std::ofstream file(base_, std::ios::binary);
        // SAFETY: bytes may be looked at as characters.
        file.write(reinterpret_cast<const char*>(content.data()),
                   static_cast<std::streamsize>(content.size()));
    }

    void TearDown() override {
        daemon_.reset();
        server_.reset();
        fs::remove_all(folder_);
    }

    void start(const std::vector<std::string>& more = {}) {
        std::vector<std::string> arguments{"--socket-path=" + socket_.string(),
                                           base_option_ + base_.string(),
                                           "--overlay=" + layer_.string(),
                                           "--overlay-create",
                                           "--overlay-size=8M",
                                           "--overlay-cluster=4K",
                                           "--queue-threads=2",
                                           "--sandbox=log"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        daemon_ =
            std::make_unique<ChildProcess>(program_, ChildProcess::Options{.arguments = arguments});
    }

    void stop() {
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), (Ended{.status = 0})) << daemon_->complained();
        EXPECT_EQ(daemon_->complained().find("not allowed"), std::string::npos)
            << daemon_->complained();
    }

    [[nodiscard]] driver::Frontend connect() {
        return driver::Frontend::connect(socket_, driver::after(kPatience)).value();
    }

    /// outrigger-blk overlay ...: its exit status, and what it printed.
    int command(const std::vector<std::string>& more) {
        std::vector<std::string> arguments{"overlay"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        ChildProcess child(program_, {.arguments = arguments});
        const auto ended = child.wait();
        output_ = child.printed() + child.complained();
        return ended ? ended->status : -1;
    }

    [[nodiscard]] bool output_has(const std::string& text) const {
        return output_.find(text) != std::string::npos;
    }

    std::string program_;
    fs::path folder_;
    fs::path socket_;
    fs::path layer_;
    fs::path base_;
    std::string base_option_ = "--blk-file=";
    std::string output_;
    std::unique_ptr<ChildProcess> server_;
    std::unique_ptr<ChildProcess> daemon_;
    DiskModel model_{kSectors, kBaseSectors};
};

enum class Base : uint8_t { kRaw, kQcow2, kNbd };

struct Setup {
    const char* name;
    bool packed = false;
    std::vector<std::string> options{};
    Base base = Base::kRaw;
    bool may_be_refused = false;  ///< where the host or the build cannot do it
};

class OverlayLoadTest : public OverlayDaemonTest, public ::testing::WithParamInterface<Setup> {
  protected:
    /// The base in another form than that of a raw file.
    void set_up_base() {
        if (GetParam().base == Base::kRaw) {
            return;
        }
        if (std::system("qemu-img --version >/dev/null 2>&1 && "
                        "qemu-nbd --version >/dev/null 2>&1") != 0) {
            GTEST_SKIP() << "needs qemu-img and qemu-nbd (Debian: qemu-utils)";
        }
        if (GetParam().base == Base::kQcow2) {
            const std::string compressed = (folder_ / "base.qcow2").string();
            const std::string convert =
                "qemu-img convert -f raw -O qcow2 -c " + base_.string() + " " + compressed;
            ASSERT_EQ(std::system(convert.c_str()), 0);
            base_ = compressed;
            return;
        }
        const fs::path socket = folder_ / "nbd.sock";
        server_ = std::make_unique<ChildProcess>(
            "/bin/sh",
            ChildProcess::Options{.arguments = {"-c",
                                                "exec qemu-nbd -r -t -e 16 -f raw -k " +
                                                    socket.string() + " " + base_.string()}});
        ASSERT_TRUE(eventually([&] { return fs::exists(socket); })) << server_->complained();
        base_option_ = "--blk-nbd=nbd+unix:///?socket=";
        base_ = socket;
    }
};

INSTANTIATE_TEST_SUITE_P(
    Setups,
    OverlayLoadTest,
    ::testing::Values(
        Setup{.name = "Split"},
        Setup{.name = "Packed", .packed = true},
        Setup{.name = "SplitCopyOnReadAndFill",
              .options = {"--overlay-copy-on-read", "--overlay-fill", "--overlay-fill-rate=8M"}},
        Setup{.name = "PackedCopyOnReadAndFill",
              .packed = true,
              .options = {"--overlay-copy-on-read", "--overlay-fill", "--overlay-fill-rate=8M"}},
        Setup{.name = "Threads", .options = {"--io-engine=threads", "--overlay-fill"}},
        Setup{.name = "Asio", .options = {"--io=asio", "--overlay-fill"}},
        Setup{.name = "WriteThrough", .options = {"--cache=writethrough"}},
        Setup{.name = "Direct",
              .options = {"--cache=none", "--overlay-fill", "--overlay-copy-on-read"},
              .may_be_refused = true},
        Setup{.name = "OnQcow2",
              .options = {"--image-format=qcow2", "--overlay-fill", "--overlay-fill-rate=8M"},
              .base = Base::kQcow2},
        Setup{.name = "OnNbd",
              .options = {"--overlay-fill", "--overlay-fill-rate=8M"},
              .base = Base::kNbd,
              .may_be_refused = true}),
    [](const auto& setup) { return std::string(setup.param.name); });

TEST_P(OverlayLoadTest, GuestReadsWhatItWroteAndFindsItAfterARestart) {
    ASSERT_NO_FATAL_FAILURE(set_up_base());
    if (IsSkipped()) {
        return;
    }
    start(GetParam().options);
    const auto says = [&](const char* text) {
        return daemon_->complained().find(text) != std::string::npos;
    };
    ASSERT_TRUE(eventually([&] { return says("listening") || says("outrigger-blk: "); }));
    if (!says("listening") && GetParam().may_be_refused) {
        GTEST_SKIP() << "not here: " << daemon_->complained();
    }
    {
        LoadGuest guest(connect(), model_, 1, {.packed = GetParam().packed});
        EXPECT_TRUE(guest.run(8000, driver::after(kPatience), true)) << daemon_->complained();
        EXPECT_EQ(guest.mismatches(), 0U);
        EXPECT_EQ(guest.failures(), 0U);
        EXPECT_TRUE(model_.holds_now(0, guest.read_disk()));
    }
    stop();
    EXPECT_EQ(command({"check", layer_}), 0) << output_;
    EXPECT_EQ(command({"info", layer_}), 0) << output_;
    EXPECT_TRUE(output_has("state: closed")) << output_;
    start(GetParam().options);
    LoadGuest guest(connect(), model_, 2, {.packed = GetParam().packed});
    EXPECT_TRUE(model_.holds_now(0, guest.read_disk()));
}

/// How often the daemon is killed; more with OUTRIGGER_OVERLAY_KILLS.
int kill_count() {
    const char* const count = std::getenv("OUTRIGGER_OVERLAY_KILLS");
    return count == nullptr ? 6 : std::max(std::atoi(count), 1);
}

TEST_F(OverlayDaemonTest, KilledAtAnyMomentItKeepsAllFlushedDataAndItsBitmap) {
    std::minstd_rand random(2026);
    for (int round = 0; round < kill_count(); ++round) {
        SCOPED_TRACE("round " + std::to_string(round));
        const bool write_through = round % 4 == 3;
        start({"--overlay-fill",
               "--overlay-fill-rate=2M",
               "--overlay-copy-on-read",
               write_through ? "--cache=writethrough" : "--cache=writeback"});
        {
            LoadGuest guest(
                connect(), model_, static_cast<uint32_t>(random()), {.packed = round % 2 == 1});
            ASSERT_TRUE(model_.survived(0, guest.read_disk()));
            const std::chrono::milliseconds life(static_cast<int>(random() % 300));
            ASSERT_TRUE(guest.run(~size_t{0} >> 1, driver::after(life), false));
            daemon_->send_signal(SIGKILL);
            EXPECT_EQ(daemon_->wait(), (Ended{.signal = SIGKILL}));
            guest.take_last_answers();
            EXPECT_EQ(guest.mismatches(), 0U);
            EXPECT_EQ(guest.failures(), 0U);
        }
        if (write_through) {
            model_.flush_all();
        }
        ASSERT_EQ(command({"check", layer_}), 0) << output_;
        fs::remove(socket_);
    }
    start();
    LoadGuest guest(connect(), model_, 1, {});
    EXPECT_TRUE(model_.survived(0, guest.read_disk()));
}

TEST_F(OverlayDaemonTest, FillEndsAndThenTheBaseIsNotNeeded) {
    start({"--overlay-fill"});
    {
        LoadGuest guest(connect(), model_, 1, {});
        EXPECT_TRUE(daemon_->wait_complained("holds all of its base"));
    }
    stop();
    EXPECT_EQ(command({"info", layer_}), 0);
    EXPECT_TRUE(output_has("base-needed: no")) << output_;
}

TEST_F(OverlayDaemonTest, CommitMakesTheBaseWhatTheDiskWasAndEmptiesTheLayer) {
    start();
    {
        LoadGuest guest(connect(), model_, 1, {});
        EXPECT_TRUE(guest.run(3000, driver::after(kPatience), true));
        EXPECT_TRUE(guest.flush());
    }
    stop();
    ASSERT_EQ(command({"commit", layer_}), 0) << output_;
    EXPECT_EQ(fs::file_size(base_), kDiskBytes);
    ASSERT_EQ(command({"info", layer_}), 0) << output_;
    EXPECT_TRUE(output_has("clusters-present: 0\n")) << output_;
    std::ifstream file(base_, std::ios::binary);
    std::vector<char> content(kDiskBytes);
    file.read(content.data(), static_cast<std::streamsize>(content.size()));
    EXPECT_TRUE(model_.holds_now(0, std::as_bytes(std::span(content))));
    start();  // the layer knows its base again
    LoadGuest guest(connect(), model_, 2, {});
    EXPECT_TRUE(model_.holds_now(0, guest.read_disk()));
}

TEST_F(OverlayDaemonTest, CommitThatIsKilledAtAnyMomentIsFinishedByTheNext) {
    start();
    {
        LoadGuest guest(connect(), model_, 1, {});
        EXPECT_TRUE(guest.run(3000, driver::after(kPatience), true));
    }
    stop();
    std::minstd_rand random(7);
    for (int round = 0; round < 12; ++round) {
        ChildProcess commit(program_, {.arguments = {"overlay", "commit", layer_.string()}});
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 12000));
        commit.send_signal(SIGKILL);
        (void)commit.wait();
        ASSERT_EQ(command({"check", layer_}), 0) << output_;
        ASSERT_EQ(command({"info", layer_}), 0) << output_;
        if (output_has("commit interrupted")) {
            start();
            EXPECT_EQ(daemon_->wait(), (Ended{.status = 1}));
            EXPECT_NE(daemon_->complained().find("was interrupted"), std::string::npos);
            EXPECT_EQ(command({"discard", layer_}), 1);
        }
    }
    ASSERT_EQ(command({"commit", layer_}), 0) << output_;
    start();
    LoadGuest guest(connect(), model_, 2, {});
    EXPECT_TRUE(model_.holds_now(0, guest.read_disk()));
}

TEST_F(OverlayDaemonTest, DiscardMakesTheDiskItsBaseAgain) {
    start();
    {
        LoadGuest guest(connect(), model_, 1, {});
        EXPECT_TRUE(guest.run(1000, driver::after(kPatience), true));
    }
    stop();
    ASSERT_EQ(command({"discard", layer_}), 0) << output_;
    start();
    DiskModel fresh(kSectors, kBaseSectors);
    LoadGuest guest(connect(), fresh, 2, {});
    EXPECT_TRUE(fresh.holds_now(0, guest.read_disk()));
}

TEST_F(OverlayDaemonTest, BaseIsNotWrittenAndAChangedOneIsRefused) {
    start();
    {
        LoadGuest guest(connect(), model_, 1, {});
        EXPECT_TRUE(guest.run(1000, driver::after(kPatience), true));
    }
    stop();
    std::vector<char> content(kBaseSectors * 512);
    std::ifstream(base_, std::ios::binary)
        .read(content.data(), static_cast<std::streamsize>(content.size()));
    std::vector<std::byte> expected(content.size());
    DiskModel::fill_base(0, expected);
    EXPECT_TRUE(std::ranges::equal(std::as_bytes(std::span(content)), expected));

    fs::last_write_time(base_, fs::last_write_time(base_) + std::chrono::seconds(1));
    start();
    EXPECT_EQ(daemon_->wait(), (Ended{.status = 1}));
    EXPECT_NE(daemon_->complained().find("--overlay-accept-base"), std::string::npos);
    ASSERT_EQ(command({"commit", layer_}), 1);
    start({"--overlay-accept-base"});
    ASSERT_TRUE(daemon_->wait_complained("listening"));
    stop();
    start();
    EXPECT_TRUE(daemon_->wait_complained("listening"));
}

TEST_F(OverlayDaemonTest, LayerInUseIsRefusedToEverybodyElse) {
    start();
    ASSERT_TRUE(daemon_->wait_complained("listening"));
    for (const char* name : {"commit", "discard"}) {
        EXPECT_EQ(command({name, layer_}), 1);
        EXPECT_TRUE(output_has("in use by")) << output_;
    }
}

TEST_F(OverlayDaemonTest, BaseInUseByAnOverlayMayBeReadButNotWrittenByOthers) {
    start();
    ASSERT_TRUE(daemon_->wait_complained("listening"));
    const std::string other = (folder_ / "other.sock").string();
    ChildProcess writer(program_,
                        {.arguments = {"--socket-path=" + other, "--blk-file=" + base_.string()}});
    EXPECT_EQ(writer.wait(), (Ended{.status = 1}));
    ChildProcess reader(
        program_,
        {.arguments = {"--socket-path=" + other, "--blk-file=" + base_.string(), "--read-only"}});
    EXPECT_TRUE(reader.wait_complained("listening"));
}

TEST_F(OverlayDaemonTest, CutOffAndForeignLayersAreRefused) {
    start();
    ASSERT_TRUE(daemon_->wait_complained("listening"));
    stop();
    fs::resize_file(layer_, fs::file_size(layer_) - 4096);
    start();
    EXPECT_EQ(daemon_->wait(), (Ended{.status = 1}));
    EXPECT_NE(daemon_->complained().find("was cut off"), std::string::npos);
    fs::copy_file(base_, layer_, fs::copy_options::overwrite_existing);
    start();
    EXPECT_EQ(daemon_->wait(), (Ended{.status = 1}));
    EXPECT_NE(daemon_->complained().find("not a usable overlay layer"), std::string::npos);
    EXPECT_EQ(command({"check", layer_}), 1);
}

TEST_F(OverlayDaemonTest, MissingLayerIsMadeOnlyWhenAskedFor) {
    const std::vector<std::string> arguments{"--socket-path=" + socket_.string(),
                                             "--blk-file=" + base_.string(),
                                             "--overlay=" + layer_.string()};
    ChildProcess refused(program_, {.arguments = arguments});
    EXPECT_EQ(refused.wait(), (Ended{.status = 1}));
    EXPECT_NE(refused.complained().find("--overlay-create"), std::string::npos);
    EXPECT_FALSE(fs::exists(layer_));
}

TEST_F(OverlayDaemonTest, CommandsRefuseWrongCommandLines) {
    EXPECT_EQ(command({}), 2);
    EXPECT_EQ(command({"frobnicate", layer_}), 2);
    EXPECT_EQ(command({"info"}), 2);
    EXPECT_EQ(command({"info", layer_, "--base=x"}), 2);
    EXPECT_EQ(command({"commit", layer_, "--base="}), 2);
    EXPECT_EQ(command({"--help"}), 0);
    EXPECT_TRUE(output_has("discard")) << output_;
}

}  // namespace
}  // namespace outrigger::testing
