// SPDX-License-Identifier: Apache-2.0
// QEMU's bytes, seen from a neighbour that locks as its block/file-posix.c does.
#include "devices/blk/image_lock.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <string>
#include <thread>

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "devices/blk/image_file.h"
#include "tests/support/loop_device.h"
#include "tests/support/temporary_image.h"

namespace outrigger::blk {
namespace {

constexpr off_t kReads = 100;
constexpr off_t kWrites = 101;
constexpr off_t kResizes = 103;
constexpr off_t kNobodyReads = 200;
constexpr off_t kNobodyWrites = 201;

class ImageLock : public testing::Test {
  protected:
    [[nodiscard]] UniqueFd open() const {
        return UniqueFd(::open(backing_.path().c_str(), O_RDWR | O_CLOEXEC));
    }

    static void neighbour_locks(const UniqueFd& fd, off_t byte) {
        struct flock lock = {};
        lock.l_type = F_RDLCK;
        lock.l_whence = SEEK_SET;
        lock.l_start = byte;
        lock.l_len = 1;
        EXPECT_EQ(::fcntl(fd.get(), F_OFD_SETLK, &lock), 0);
    }

    /// Would a neighbour find that byte locked?
    static bool neighbour_finds(const UniqueFd& fd, off_t byte) {
        struct flock lock = {};
        lock.l_type = F_WRLCK;
        lock.l_whence = SEEK_SET;
        lock.l_start = byte;
        lock.l_len = 1;
        EXPECT_EQ(::fcntl(fd.get(), F_OFD_GETLK, &lock), 0);
        return lock.l_type != F_UNLCK;
    }

    TemporaryImage backing_{4096};
    UniqueFd neighbour_ = open();
    UniqueFd ours_ = open();
};

TEST_F(ImageLock, WriterSaysThatItWritesAndThatNobodyElseMay) {
    ASSERT_EQ(lock_image_file(ours_.get(), false).os_error, 0);
    EXPECT_TRUE(neighbour_finds(neighbour_, kReads));
    EXPECT_TRUE(neighbour_finds(neighbour_, kWrites));
    EXPECT_TRUE(neighbour_finds(neighbour_, kNobodyWrites));
    EXPECT_FALSE(neighbour_finds(neighbour_, kNobodyReads)) << "qemu-img info goes on to work";
}

TEST_F(ImageLock, ReaderSaysThatNobodyMayWrite) {
    ASSERT_EQ(lock_image_file(ours_.get(), true).os_error, 0);
    EXPECT_TRUE(neighbour_finds(neighbour_, kReads));
    EXPECT_FALSE(neighbour_finds(neighbour_, kWrites));
    EXPECT_TRUE(neighbour_finds(neighbour_, kNobodyWrites));
    EXPECT_FALSE(neighbour_finds(neighbour_, kNobodyReads));
}

TEST_F(ImageLock, WriterIsRefusedBesideAWriter) {
    neighbour_locks(neighbour_, kWrites);
    EXPECT_EQ(lock_image_file(ours_.get(), false).os_error, EAGAIN);
}

TEST_F(ImageLock, ReaderIsRefusedBesideAWriter) {
    neighbour_locks(neighbour_, kWrites);
    EXPECT_EQ(lock_image_file(ours_.get(), true).os_error, EAGAIN);
}

TEST_F(ImageLock, ReaderIsRefusedBesideWhoResizes) {
    neighbour_locks(neighbour_, kResizes);
    EXPECT_EQ(lock_image_file(ours_.get(), true).os_error, EAGAIN);
}

TEST_F(ImageLock, WriterIsRefusedWhereAReaderBearsNoWriter) {
    neighbour_locks(neighbour_, kReads);
    neighbour_locks(neighbour_, kNobodyWrites);
    EXPECT_EQ(lock_image_file(ours_.get(), false).os_error, EAGAIN);
}

TEST_F(ImageLock, WriterIsTakenBesideAReaderThatBearsIt) {
    neighbour_locks(neighbour_, kReads);
    EXPECT_EQ(lock_image_file(ours_.get(), false).os_error, 0);
}

TEST_F(ImageLock, ReadersShare) {
    neighbour_locks(neighbour_, kReads);
    neighbour_locks(neighbour_, kNobodyWrites);
    EXPECT_EQ(lock_image_file(ours_.get(), true).os_error, 0);
}

TEST_F(ImageLock, LockOfTheWholeFileIsSeen) {
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    ASSERT_EQ(::fcntl(neighbour_.get(), F_OFD_SETLK, &lock), 0);
    EXPECT_EQ(lock_image_file(ours_.get(), true).os_error, EAGAIN);
}

TEST_F(ImageLock, HolderInThisProcessIsNamedSo) {
    ASSERT_EQ(lock_image_file(neighbour_.get(), false).os_error, 0);
    const ImageLockOutcome outcome = lock_image_file(ours_.get(), false);
    EXPECT_EQ(outcome.os_error, EAGAIN);
    EXPECT_EQ(outcome.holder, "another disk of this process");
}

TEST_F(ImageLock, HolderInAnotherProcessIsNamed) {
    const pid_t child = ::fork();
    if (child == 0) {
        // Its descriptors are copies of ours; a lock of its own belongs to this one alone.
        const UniqueFd fd = open();
        const bool locked = lock_image_file(fd.get(), false).os_error == 0;
        ::raise(locked ? SIGSTOP : SIGKILL);
        ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, WUNTRACED), child);
    ASSERT_TRUE(WIFSTOPPED(status));
    const ImageLockOutcome outcome = lock_image_file(ours_.get(), false);
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
    EXPECT_EQ(outcome.os_error, EAGAIN);
    EXPECT_EQ(outcome.holder, "process " + std::to_string(child) + " (unit-blk)");
}

TEST_F(ImageLock, LockOfAProcessIsNamed) {
    const pid_t child = ::fork();
    if (child == 0) {
        struct flock lock = {};
        lock.l_type = F_WRLCK;
        lock.l_whence = SEEK_SET;
        ::raise(::fcntl(neighbour_.get(), F_SETLK, &lock) == 0 ? SIGSTOP : SIGKILL);
        ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, WUNTRACED), child);
    ASSERT_TRUE(WIFSTOPPED(status));
    const ImageLockOutcome outcome = lock_image_file(ours_.get(), false);
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
    EXPECT_EQ(outcome.os_error, EAGAIN);
    EXPECT_EQ(outcome.holder, "process " + std::to_string(child) + " (unit-blk)");
}

TEST_F(ImageLock, LockEndsWithItsDescriptor) {
    ASSERT_EQ(lock_image_file(ours_.get(), false).os_error, 0);
    ours_ = UniqueFd();
    EXPECT_FALSE(neighbour_finds(neighbour_, kWrites));
    EXPECT_FALSE(neighbour_finds(neighbour_, kNobodyWrites));
}

TEST_F(ImageLock, UnlockedItIsFree) {
    ASSERT_EQ(lock_image_file(ours_.get(), false).os_error, 0);
    unlock_image_file(ours_.get());
    EXPECT_EQ(lock_image_file(neighbour_.get(), false).os_error, 0);
}

// --- Locked while it is used ---------------------------------------------------------------------

class ImageInUse : public ImageLock {
  protected:
    [[nodiscard]] std::unique_ptr<ImageFile> open_image() const {
        return ImageFile::open({.path = backing_.path(),
                                .lock_in_use = true,
                                .busy_patience = std::chrono::milliseconds(0)})
            .value();
    }
};

TEST_F(ImageInUse, OpenAloneLocksNothing) {
    const auto image = open_image();
    EXPECT_FALSE(neighbour_finds(neighbour_, kReads));
    EXPECT_FALSE(neighbour_finds(neighbour_, kNobodyWrites));
}

TEST_F(ImageInUse, OneAtATimeUsesIt) {
    const auto first = open_image();
    const auto second = open_image();
    ASSERT_TRUE(first->lock_for_use());
    EXPECT_FALSE(second->lock_for_use());
    first->unlock();
    EXPECT_TRUE(second->lock_for_use());
    EXPECT_FALSE(first->lock_for_use());
}

TEST_F(ImageInUse, WhoIsRefusedIsNotInTheWay) {
    const auto first = open_image();
    const auto second = open_image();
    ASSERT_TRUE(first->lock_for_use());
    ASSERT_FALSE(second->lock_for_use());
    first->unlock();
    // The second one holds nothing back: not even what it locked before it saw the first.
    EXPECT_FALSE(neighbour_finds(neighbour_, kWrites));
    EXPECT_TRUE(first->lock_for_use());
}

TEST_F(ImageInUse, LockedTwiceItIsUnlockedOnce) {
    const auto image = open_image();
    ASSERT_TRUE(image->lock_for_use());
    ASSERT_TRUE(image->lock_for_use());
    EXPECT_TRUE(neighbour_finds(neighbour_, kWrites));
    image->unlock();
    image->unlock();
    EXPECT_FALSE(neighbour_finds(neighbour_, kWrites));
}

TEST_F(ImageInUse, WhoOpensItForGoodSeesWhoUsesIt) {
    const auto image = open_image();
    ASSERT_TRUE(image->lock_for_use());
    const ImageFileOptions for_good{.path = backing_.path(),
                                    .busy_patience = std::chrono::milliseconds(0)};
    EXPECT_FALSE(ImageFile::open(for_good));
    image->unlock();
    const auto opened = ImageFile::open(for_good);
    ASSERT_TRUE(opened);
    EXPECT_FALSE(image->lock_for_use());
}

TEST_F(ImageInUse, WaitsForWhoIsAboutToLeave) {
    const auto first = open_image();
    const auto second = ImageFile::open({.path = backing_.path(), .lock_in_use = true}).value();
    ASSERT_TRUE(first->lock_for_use());
    Result<void> locked = failure(Error{});
    std::thread waits([&] { locked = second->lock_for_use(); });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    first->unlock();
    waits.join();
    EXPECT_TRUE(locked);
}

// --- Waiting for what a killed process left ------------------------------------------------------

/// Locks the image, as seen from /proc, for nobody: the one descriptor is on its way through a
/// socket. So are the files of a killed process while io_uring ends what it began.
class ImageOfNobody : public ImageLock {
  protected:
    void SetUp() override {
        std::array<int, 2> ends{};
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends.data()), 0);
        sender_.reset(ends[0]);
        receiver_.reset(ends[1]);
        neighbour_locks(neighbour_, kWrites);
        send(neighbour_.get());
        neighbour_.reset();
    }

    void send(int fd) const {
        alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof fd)> control{};
        char byte = 0;
        iovec data = {.iov_base = &byte, .iov_len = 1};
        msghdr message = {};
        message.msg_iov = &data;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        cmsghdr* const header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
        ASSERT_EQ(::sendmsg(sender_.get(), &message, 0), 1);
    }

    /// What is still in the socket is closed with it.
    void let_go() {
        sender_.reset();
        receiver_.reset();
    }

    UniqueFd sender_;
    UniqueFd receiver_;
};

TEST_F(ImageOfNobody, IsWaitedFor) {
    std::thread later([this] {
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        let_go();
    });
    const auto file =
        ImageFile::open({.path = backing_.path(), .busy_patience = std::chrono::minutes(1)});
    later.join();
    EXPECT_TRUE(file) << file.error().message;
}

TEST_F(ImageOfNobody, IsRefusedWhenPatienceEnds) {
    const auto file =
        ImageFile::open({.path = backing_.path(), .busy_patience = std::chrono::milliseconds(60)});
    ASSERT_FALSE(file);
    EXPECT_NE(file.error().message.find("in use by another process"), std::string::npos)
        << file.error().message;
}

TEST_F(ImageLock, WhoIsThereIsNotWaitedFor) {
    neighbour_locks(neighbour_, kWrites);
    // It would be until the test is ended.
    const auto file =
        ImageFile::open({.path = backing_.path(), .busy_patience = std::chrono::hours(1)});
    EXPECT_FALSE(file);
}

TEST(ImageBusy, DeviceThatSomebodyHasForHimselfIsWaitedFor) {
    const TemporaryImage backing(1 << 20);
    const auto device = LoopDevice::create(backing.fd(), 512);
    if (!device) {
        GTEST_SKIP() << "no loop device can be made here";
    }
    UniqueFd other(::open(device->path().c_str(), O_RDWR | O_EXCL | O_CLOEXEC));
    ASSERT_TRUE(other.valid());
    std::thread later([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        other.reset();
    });
    const auto file =
        ImageFile::open({.path = device->path(), .busy_patience = std::chrono::minutes(1)});
    later.join();
    EXPECT_TRUE(file) << file.error().message;
}

}  // namespace
}  // namespace outrigger::blk
