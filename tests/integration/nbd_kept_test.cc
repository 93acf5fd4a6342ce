// SPDX-License-Identifier: Apache-2.0
// outrigger-blk before an NBD server, whose process is killed and started again by the keeper.
#include <fstream>
#include <string>

#include <signal.h>

#include "tests/integration/nbd_test.h"

namespace outrigger::testing {
namespace {

/// The daemon has a keeper, and its process is killed, mostly while the server is away.
class NbdKept : public NbdTest {
  protected:
    [[nodiscard]] pid_t process() const { return daemon_->first_child(); }

    /// The next one is there when this returns.
    void kill_process() const {
        const pid_t before = process();
        ASSERT_GT(before, 0) << daemon_->complained();
        ASSERT_EQ(::kill(before, SIGKILL), 0);
        ASSERT_TRUE(eventually([&] {
            const pid_t now = process();
            return now > 0 && now != before;
        })) << daemon_->complained();
    }

    void lose_both() {
        const pid_t pid = process();
        ASSERT_GT(pid, 0) << daemon_->complained();
        server_->send_signal(SIGKILL);
        EXPECT_TRUE(server_->wait());
        ASSERT_EQ(::kill(pid, SIGKILL), 0);
        ASSERT_TRUE(daemon_->wait_complained("waiting for it, because guests have the disk"))
            << daemon_->complained();
    }

    static constexpr const char* kServer = "nbdkit -f -U nbd.sock file disk.raw";
};

TEST_F(NbdKept, ProcessThatIsStartedAgainWaitsForTheServer) {
    serve(kServer);
    start({"--keeper=fork", "--nbd-unflushed=kept"});
    {
        DiskGuest guest(connect());
        write_all(guest, 5);
        lose_both();
        serve(kServer);
        expect_same(guest.read_all(kStepBytes), pattern(0, kDiskBytes, 5));
        write_all(guest, 6);
        flush(guest);
        expect_same(file_bytes(), pattern(0, kDiskBytes, 6));
    }
    stop();
}

// The process that knew what was answered and not flushed is no more.
TEST_F(NbdKept, ServerThatWentAwayMeanwhileMayHaveLostWrites) {
    serve(kServer);
    start({"--keeper=fork"});
    {
        DiskGuest guest(connect());
        write_all(guest, 5);
        lose_both();
        serve(kServer);
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
        DiskRequest request{.type = VIRTIO_BLK_T_FLUSH};
        EXPECT_EQ(guest.run_one(request), VIRTIO_BLK_S_IOERR);
    }
    stop();
}

// Told of once: whoever asks the server again is told that all is well.
TEST_F(NbdKept, FlushThatFailedGoesOnFailingInTheNextProcess) {
    serve(
        "nbdkit -f -U nbd.sock eval get_size='echo 1M' can_write='exit 0' can_flush='exit 0'"
        " pread='head -c $3 /dev/zero' pwrite='cat >/dev/null'"
        " flush=\"test ! -e $PWD/fail || { echo EIO >&2; exit 1; }\"");
    start({"--keeper=fork"});
    {
        DiskGuest guest(connect());
        flush(guest);
        kill_process();
        flush(guest);
        std::ofstream(folder_ / "fail").flush();
        DiskRequest request{.type = VIRTIO_BLK_T_FLUSH};
        EXPECT_EQ(guest.run_one(request), VIRTIO_BLK_S_IOERR);
        fs::remove(folder_ / "fail");
        kill_process();
        EXPECT_EQ(guest.run_one(request), VIRTIO_BLK_S_IOERR);
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
    }
    stop();
}

TEST_F(NbdKept, ProcessThatWaitsForTheServerCanBeTold) {
    serve(kServer);
    start({"--keeper=fork"});
    DiskGuest guest(connect());
    lose_both();
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), (Ended{.status = 0})) << daemon_->complained();
    EXPECT_FALSE(fs::exists(folder_ / "blk.sock"));
}

}  // namespace
}  // namespace outrigger::testing
