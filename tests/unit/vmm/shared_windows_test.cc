// SPDX-License-Identifier: Apache-2.0
/// What back ends map, and what becomes of the files behind it. That they may lie about where it
/// goes is looked at in tests/vmm/backend_requests_test.cc.
#include "vmm-lite/frontend/shared_windows.h"

#include <array>
#include <map>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::vmm {
namespace {

constexpr uint64_t kPage = 4096;

class Watcher final : public DeviceProxy::SharedMemoryObserver {
  public:
    Result<void> on_mapped(const DeviceProxy::SharedPiece& piece) override {
        there[{piece.region, piece.offset}] = piece.bytes_there;
        return {};
    }

    void on_resized(uint8_t region, uint64_t offset, uint64_t bytes_there) override {
        ++changes;
        there[{region, offset}] = bytes_there;
    }

    void on_unmapping(uint8_t region, uint64_t offset) override { there.erase({region, offset}); }

    std::map<std::pair<uint8_t, uint64_t>, uint64_t> there;
    int changes = 0;
};

class SharedWindowsTest : public ::testing::Test {
  protected:
    SharedWindowsTest() {
        EXPECT_EQ(::ftruncate(file_.get(), 4 * kPage), 0);
        windows_.observe(&watcher_);
    }

    [[nodiscard]] bool map(uint64_t at, uint64_t bytes, uint64_t file_offset = 0) {
        return windows_
            .map({.shmid = 0,
                  .padding = {},
                  .fd_offset = file_offset,
                  .shm_offset = at,
                  .length = bytes,
                  .flags = 1},
                 UniqueFd(::fcntl(file_.get(), F_DUPFD_CLOEXEC, 0)))
            .has_value();
    }

    [[nodiscard]] uint64_t there(uint64_t at) { return watcher_.there.at({uint8_t{0}, at}); }

    void resize(uint64_t bytes) {
        ASSERT_EQ(::ftruncate(file_.get(), static_cast<off_t>(bytes)), 0);
        windows_.look_at_files();
    }

    // Not sealed, like a file of a disk.
    const UniqueFd file_{::memfd_create("window", MFD_CLOEXEC)};
    static constexpr size_t kPiecesMax = 20;

    SharedWindows windows_ = *SharedWindows::reserve(std::array{uint64_t{1} << 20U}, kPiecesMax);
    Watcher watcher_;
};

TEST_F(SharedWindowsTest, SaysHowMuchTheFileHas) {
    ASSERT_TRUE(map(0, 8 * kPage));
    EXPECT_EQ(there(0), 4 * kPage);
    ASSERT_TRUE(map(0x10000, 2 * kPage, 3 * kPage));
    EXPECT_EQ(there(0x10000), kPage);
    EXPECT_FALSE(map(0x20000, kPage, 4 * kPage)) << "nothing of it";
    EXPECT_FALSE(map(0x20000, kPage, uint64_t{1} << 63U));
    EXPECT_FALSE(map(0x20000, kPage, ~(kPage - 1)));
}

TEST_F(SharedWindowsTest, NoticesThatAFileBecomesShorterAndLonger) {
    ASSERT_TRUE(map(0, 2 * kPage));
    ASSERT_TRUE(map(0x10000, 2 * kPage, 2 * kPage));
    windows_.look_at_files();
    EXPECT_EQ(watcher_.changes, 0);
    resize(2 * kPage + 1);
    EXPECT_EQ(there(0), 2 * kPage);
    EXPECT_EQ(there(0x10000), kPage) << "a page that the file has the beginning of is there";
    EXPECT_EQ(watcher_.changes, 1);
    resize(kPage);
    EXPECT_EQ(there(0), kPage);
    EXPECT_EQ(there(0x10000), 0U);
    resize(0);
    EXPECT_EQ(there(0), 0U);
    resize(64 * kPage);
    EXPECT_EQ(there(0), 2 * kPage);
    EXPECT_EQ(there(0x10000), 2 * kPage);
}

TEST_F(SharedWindowsTest, RefusesWhatIsNoFile) {
    const auto map_fd = [this](int fd) {
        return windows_
            .map({.shmid = 0,
                  .padding = {},
                  .fd_offset = 0,
                  .shm_offset = 0,
                  .length = kPage,
                  .flags = 0},
                 UniqueFd(fd))
            .has_value();
    };
    EXPECT_FALSE(map_fd(::open("/", O_RDONLY | O_CLOEXEC)));
    EXPECT_FALSE(map_fd(::open("/dev/zero", O_RDWR | O_CLOEXEC)));
    EXPECT_FALSE(map_fd(::open("/proc/self/exe", O_PATH | O_CLOEXEC))) << "cannot be mapped";
    EXPECT_FALSE(map_fd(-1));
    EXPECT_TRUE(watcher_.there.empty());
    EXPECT_EQ(windows_.pieces(), 0U);
    EXPECT_TRUE(map(0, kPage)) << "what was refused left nothing behind";
}

TEST_F(SharedWindowsTest, RefusesFlagsThatItDoesNotKnow) {
    EXPECT_FALSE(windows_.map(
        {.shmid = 0, .padding = {}, .fd_offset = 0, .shm_offset = 0, .length = kPage, .flags = 2},
        UniqueFd(::fcntl(file_.get(), F_DUPFD_CLOEXEC, 0))));
}

TEST_F(SharedWindowsTest, AReadOnlyFileIsNotMappedWritable) {
    std::string path = "/proc/self/fd/" + std::to_string(file_.get());
    const auto map_with = [&](uint64_t flags) {
        return windows_
            .map({.shmid = 0,
                  .padding = {},
                  .fd_offset = 0,
                  .shm_offset = 0,
                  .length = kPage,
                  .flags = flags},
                 UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)))
            .has_value();
    };
    EXPECT_FALSE(map_with(1));
    EXPECT_TRUE(map_with(0));
}

/// The kernel's limits are those of the process: the pieces of all devices count.
TEST_F(SharedWindowsTest, HasSoManyPiecesAndNoMore) {
    auto other = *SharedWindows::reserve(std::array{(kPiecesMax + 1) * kPage}, kPiecesMax);
    ASSERT_TRUE(map(0, kPage));
    size_t mapped = 0;
    while (mapped <= kPiecesMax && other.map({.shmid = 0,
                                              .padding = {},
                                              .fd_offset = 0,
                                              .shm_offset = mapped * kPage,
                                              .length = kPage,
                                              .flags = 0},
                                             UniqueFd(::fcntl(file_.get(), F_DUPFD_CLOEXEC, 0)))) {
        ++mapped;
    }
    EXPECT_EQ(mapped, kPiecesMax - 1);
    EXPECT_FALSE(map(kPage, kPage));
    other.unmap_all();
    EXPECT_TRUE(map(kPage, kPage)) << "they have come back";
    SharedWindows moved = std::move(windows_);
    EXPECT_EQ(moved.pieces(), 2U);
}

TEST_F(SharedWindowsTest, LeaveHalfOfTheDescriptors) {
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const rlimit low{.rlim_cur = 200, .rlim_max = before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
    EXPECT_EQ(SharedWindows::pieces_max(), 100U);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_LE(SharedWindows::pieces_max(), 4096U);
}

}  // namespace
}  // namespace outrigger::vmm
