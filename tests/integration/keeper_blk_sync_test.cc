// SPDX-License-Identifier: Apache-2.0
// A sync fails, and the kernel says so once. The guest's flushes go on failing, whichever process
// serves its disk by then: one that the keeper started again, another program, or one that has read
// the file of --config again.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include <linux/virtio_blk.h>
#include <signal.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/disk_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kDiskBytes = uint64_t{1} << 20;

struct Kind {
    const char* name;
    const char* more;  ///< lines of the section
};

class FailedSyncTest : public ::testing::TestWithParam<Kind> {
  protected:
    void SetUp() override {
        const char* const program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        const char* const module = std::getenv("OUTRIGGER_FAILING_SYNC");
        ASSERT_NE(program, nullptr) << "names the program under test";
        ASSERT_NE(module, nullptr) << "names what is preloaded";
        program_ = program;
        module_ = module;
        std::string name = ::testing::TempDir() + "failed-sync-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        for (const char* const file : {"image", "switch"}) {
            std::ofstream(folder_ / file).close();
            fs::resize_file(folder_ / file, kDiskBytes);
        }
        write_config("");
    }

    void TearDown() override {
        daemon_.reset();
        std::error_code ignored;  // a process that is about to end removes its socket itself
        fs::remove_all(folder_, ignored);
    }

    void write_config(const std::string& more) const {
        std::string lines = GetParam().more;
        if (const size_t at = lines.find("LAYER"); at != std::string::npos) {
            lines.replace(at, 5, (folder_ / "layer").string());
        }
        std::ofstream(folder_ / "config")
            << "[disk]\nsocket-path = " << (folder_ / "s").string()
            << "\nblk-file = " << (folder_ / "image").string() << "\nio-engine = threads\n"
            << lines << more;
    }

    void start() {
        // env becomes the program. Sanitizers want to be first, unless they are told.
        const char* const asan = std::getenv("ASAN_OPTIONS");
        daemon_ = std::make_unique<ChildProcess>(
            "/usr/bin/env",
            ChildProcess::Options{
                .arguments = {"LD_PRELOAD=" + module_,
                              "OUTRIGGER_SYNC_FAILS=" + (folder_ / "switch").string(),
                              std::string("ASAN_OPTIONS=") + (asan != nullptr ? asan : "") +
                                  ":verify_asan_link_order=0",
                              program_,
                              "--config=" + (folder_ / "config").string(),
                              "--keeper=fork",
                              "--keeper-restarts=100"}});
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
    }

    [[nodiscard]] DiskGuest connect() const {
        return DiskGuest(
            driver::Frontend::connect(folder_ / "s", driver::after(kPatience)).value());
    }

    [[nodiscard]] bool will_fail() const { return std::ifstream(folder_ / "switch").get() == 1; }

    void let_next_sync_fail() const {
        std::fstream file(folder_ / "switch", std::ios::in | std::ios::out | std::ios::binary);
        file.put(1);
    }

    static int write(DiskGuest& guest) {
        DiskRequest request{.type = VIRTIO_BLK_T_OUT, .data = std::vector<std::byte>(4096)};
        return guest.run_one(request);
    }

    static int flush(DiskGuest& guest) {
        DiskRequest request{.type = VIRTIO_BLK_T_FLUSH};
        return guest.run_one(request);
    }

    /// Of the guest's writes and flushes, by the process that serves now.
    void expect_failed(DiskGuest& guest, const std::string& when) {
        EXPECT_EQ(write(guest), VIRTIO_BLK_S_OK) << when << daemon_->complained();
        EXPECT_EQ(flush(guest), VIRTIO_BLK_S_IOERR) << when << daemon_->complained();
    }

    [[nodiscard]] size_t count(const std::string& what) const {
        const std::string said = daemon_->complained();
        size_t found = 0;
        for (size_t at = said.find(what); at != std::string::npos; at = said.find(what, at + 1)) {
            ++found;
        }
        return found;
    }

    void kill_process() const {
        const pid_t process = daemon_->first_child();
        ASSERT_GT(process, 0);
        const size_t before = count("starting it again");
        ASSERT_EQ(::kill(process, SIGKILL), 0);
        ASSERT_TRUE(eventually([&] { return count("starting it again") > before; }));
    }

    void reload(const std::string& more) {
        write_config(more);
        const size_t before = count("the new program has taken over");
        daemon_->send_signal(SIGHUP);
        ASSERT_TRUE(eventually([&] { return count("the new program has taken over") > before; }))
            << daemon_->complained();
    }

    std::string program_;
    std::string module_;
    fs::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
};

TEST_P(FailedSyncTest, IsRememberedByEveryProcessThatFollows) {
    ASSERT_NO_FATAL_FAILURE(start());
    {
        DiskGuest guest = connect();
        EXPECT_EQ(write(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(flush(guest), VIRTIO_BLK_S_OK);
        ASSERT_NO_FATAL_FAILURE(kill_process());
        EXPECT_EQ(write(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(flush(guest), VIRTIO_BLK_S_OK) << "nothing has failed yet";

        EXPECT_EQ(write(guest), VIRTIO_BLK_S_OK);
        let_next_sync_fail();
        EXPECT_EQ(flush(guest), VIRTIO_BLK_S_IOERR);
        ASSERT_FALSE(will_fail()) << "nobody has asked the kernel";
        expect_failed(guest, "in the same process: ");
        ASSERT_NO_FATAL_FAILURE(kill_process());
        expect_failed(guest, "behind a kill: ");
        ASSERT_NO_FATAL_FAILURE(kill_process());
        expect_failed(guest, "behind the next kill: ");
        ASSERT_NO_FATAL_FAILURE(reload("limit-ops = 100000\n"));
        expect_failed(guest, "behind SIGHUP: ");
        ChildProcess asks(program_,
                          {.arguments = {"--take-over=" + std::to_string(daemon_->pid())}});
        EXPECT_EQ(asks.wait(), (Ended{.status = 0})) << asks.complained() << daemon_->complained();
        expect_failed(guest, "behind a take-over: ");
    }
    {
        DiskGuest guest = connect();
        expect_failed(guest, "of another guest: ");
    }
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), (Ended{.status = 0})) << daemon_->complained();
    ASSERT_NO_FATAL_FAILURE(start());
    DiskGuest guest = connect();
    EXPECT_EQ(write(guest), VIRTIO_BLK_S_OK);
    EXPECT_EQ(flush(guest), VIRTIO_BLK_S_OK) << "the daemon was started anew";
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    FailedSyncTest,
    ::testing::Values(Kind{"File", ""}, Kind{"Overlay", "overlay = LAYER\noverlay-create = on\n"}),
    [](const auto& kind) { return std::string(kind.param.name); });

}  // namespace
}  // namespace outrigger::testing
