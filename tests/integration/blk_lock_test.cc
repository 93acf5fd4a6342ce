// SPDX-License-Identifier: Apache-2.0
// outrigger-blk and QEMU's tools on one image: each sees the other.
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <signal.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"

#include "tests/support/child_process.h"
#include "tests/support/disk_guest.h"
#include "tests/support/temporary_image.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

class BlkLock : public ::testing::Test {
  protected:
    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        if (kPortableBuild) {
            GTEST_SKIP() << "this build has no locks that QEMU knows";
        }
        if (!fs::exists("/usr/bin/qemu-io") || !fs::exists("/usr/bin/qemu-img")) {
            GTEST_SKIP() << "qemu-utils is not installed";
        }
        std::string name = ::testing::TempDir() + "blk-lock-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }

    void TearDown() override { fs::remove_all(folder_); }

    [[nodiscard]] std::unique_ptr<ChildProcess> start_daemon(
        std::vector<std::string> more, const std::string& name = "blk.sock") const {
        more.push_back("--socket-path=" + (folder_ / name).string());
        more.push_back("--blk-file=" + backing_.path());
        return std::make_unique<ChildProcess>(program_, ChildProcess::Options{.arguments = more});
    }

    [[nodiscard]] driver::Frontend connect(const std::string& name) const {
        return driver::Frontend::connect(folder_ / name, driver::after(kPatience)).value();
    }

    struct Outcome {
        int status = -1;
        std::string printed;
    };

    [[nodiscard]] static Outcome run(const std::string& tool, std::vector<std::string> arguments) {
        ChildProcess process("/usr/bin/" + tool, {.arguments = std::move(arguments)});
        const auto ended = process.wait();
        return {.status = ended ? ended->status : -1,
                .printed = process.printed() + process.complained()};
    }

    [[nodiscard]] Outcome qemu_io(std::vector<std::string> options,
                                  const std::string& command) const {
        options.insert(options.end(), {"-f", "raw", "-c", command, backing_.path()});
        return run("qemu-io", std::move(options));
    }

    [[nodiscard]] bool somebody_locks_it() const {
        struct flock lock = {};
        lock.l_type = F_WRLCK;
        lock.l_whence = SEEK_SET;
        EXPECT_EQ(::fcntl(backing_.fd(), F_OFD_GETLK, &lock), 0);
        return lock.l_type != F_UNLCK;
    }

    /// qemu-io that has the image open until it is killed.
    [[nodiscard]] std::unique_ptr<ChildProcess> hold_image(std::vector<std::string> options) const {
        options.insert(options.end(), {"-f", "raw", "-c", "sleep 600000", backing_.path()});
        auto holder = std::make_unique<ChildProcess>("/usr/bin/qemu-io",
                                                     ChildProcess::Options{.arguments = options});
        EXPECT_TRUE(eventually([&] { return somebody_locks_it(); }));
        return holder;
    }

    TemporaryImage backing_{16 << 20};
    std::string program_;
    fs::path folder_;
};

TEST_F(BlkLock, QemuDoesNotWriteWhatWeWrite) {
    const auto daemon = start_daemon({});
    ASSERT_TRUE(daemon->wait_complained("listening"));
    const Outcome write = qemu_io({}, "write -P 0x5a 0 4096");
    EXPECT_NE(write.printed.find("lock"), std::string::npos) << write.printed;
    EXPECT_NE(write.status, 0);
    EXPECT_TRUE(backing_.holds(0, 4096, 0));
    const Outcome resize = run("qemu-img", {"resize", "-f", "raw", backing_.path(), "32M"});
    EXPECT_NE(resize.status, 0);
    EXPECT_EQ(backing_.size(), 16U << 20);
}

TEST_F(BlkLock, QemuDoesNotWriteWhatWeRead) {
    const auto daemon = start_daemon({"--read-only"});
    ASSERT_TRUE(daemon->wait_complained("listening"));
    EXPECT_NE(qemu_io({}, "write -P 0x5a 0 4096").status, 0);
    EXPECT_TRUE(backing_.holds(0, 4096, 0));
    EXPECT_EQ(qemu_io({"-r"}, "read 0 4096").status, 0) << "readers share";
}

TEST_F(BlkLock, QemuTellsOfAnImageThatWeWrite) {
    const auto daemon = start_daemon({});
    ASSERT_TRUE(daemon->wait_complained("listening"));
    const Outcome info = run("qemu-img", {"info", "-f", "raw", backing_.path()});
    EXPECT_EQ(info.status, 0) << info.printed;
}

TEST_F(BlkLock, WeDoNotOpenWhatQemuWritesAndSayWho) {
    const auto holder = hold_image({});
    for (const std::string option : {"--cache=writeback", "--read-only"}) {
        const auto daemon = start_daemon({option});
        EXPECT_EQ(daemon->wait(), (Ended{.status = 1})) << option;
        EXPECT_NE(
            daemon->complained().find("process " + std::to_string(holder->pid()) + " (qemu-io)"),
            std::string::npos)
            << daemon->complained();
    }
}

TEST_F(BlkLock, WeReadBesideAReaderOfQemus) {
    const auto holder = hold_image({"-r"});
    const auto daemon = start_daemon({"--read-only"});
    EXPECT_TRUE(daemon->wait_complained("listening"));
}

TEST_F(BlkLock, SwitchedOffNobodySeesAnything) {
    const auto holder = hold_image({});
    const auto daemon = start_daemon({"--lock=off"});
    EXPECT_TRUE(daemon->wait_complained("listening"));
}

DiskRequest write_of(std::byte value) {
    return {.type = VIRTIO_BLK_T_OUT, .data = std::vector(4096, value)};
}

/// Two daemons have the image open, as at the two ends of a migration.
TEST_F(BlkLock, WithRunningGuestsTakeTurns) {
    for (const std::string engine : {"--io-engine=auto", "--io-engine=threads"}) {
        const std::vector<std::string> options{"--lock=running", "--sandbox=on", engine};
        const auto first = start_daemon(options, "first.sock");
        const auto second = start_daemon(options, "second.sock");
        ASSERT_TRUE(first->wait_complained("listening"));
        ASSERT_TRUE(second->wait_complained("listening"));
        EXPECT_FALSE(somebody_locks_it()) << "nobody runs";

        DiskGuest source(connect("first.sock"), {.queue_count = 2});
        DiskRequest write = write_of(std::byte{1});
        EXPECT_EQ(source.run_one(write), VIRTIO_BLK_S_OK);
        EXPECT_NE(qemu_io({}, "write -P 0x5a 0 4096").status, 0);
        const auto for_good = start_daemon({}, "third.sock");
        EXPECT_EQ(for_good->wait(), (Ended{.status = 1}));

        ASSERT_TRUE(source.frontend().get_vring_base(0));
        EXPECT_TRUE(somebody_locks_it()) << "the other queue runs";
        ASSERT_TRUE(source.frontend().get_vring_base(1));
        EXPECT_FALSE(somebody_locks_it());
        {
            // The source stays connected meanwhile.
            DiskGuest destination(connect("second.sock"));
            write = write_of(std::byte{2});
            EXPECT_EQ(destination.run_one(write), VIRTIO_BLK_S_OK);
            EXPECT_TRUE(somebody_locks_it());
        }
        EXPECT_TRUE(eventually([&] { return !somebody_locks_it(); })) << "it has hung up";
    }
}

TEST_F(BlkLock, WithRunningTheSecondGuestCannotStart) {
    const auto first = start_daemon({"--lock=running", "--sandbox=on"}, "first.sock");
    const auto second = start_daemon({"--lock=running", "--sandbox=on"}, "second.sock");
    ASSERT_TRUE(first->wait_complained("listening"));
    ASSERT_TRUE(second->wait_complained("listening"));
    DiskGuest source(connect("first.sock"));

    driver::Frontend frontend = connect("second.sock");
    auto memory = driver::GuestMemory::create(4 << 20).value();
    EXPECT_FALSE(driver::bring_up(frontend, memory, {}));
    // It tries for as long as the driver waits for an answer.
    EXPECT_TRUE(second->wait_complained("is in use")) << second->complained();

    DiskRequest write = write_of(std::byte{1});
    EXPECT_EQ(source.run_one(write), VIRTIO_BLK_S_OK) << "and the first has not noticed";
}

TEST_F(BlkLock, ImageIsFreeWhenTheDaemonHasGone) {
    {
        const auto daemon = start_daemon({});
        ASSERT_TRUE(daemon->wait_complained("listening"));
        daemon->send_signal(SIGKILL);
        EXPECT_TRUE(daemon->wait());
    }
    EXPECT_EQ(qemu_io({}, "write -P 0x5a 0 4096").status, 0);
}

}  // namespace
}  // namespace outrigger::testing
