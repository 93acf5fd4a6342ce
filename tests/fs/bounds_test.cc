// SPDX-License-Identifier: Apache-2.0
// What one guest may take, and leaves to others.
#include <array>
#include <string>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fs/fs_test.h"

namespace outrigger::testing {
namespace {

constexpr fuse_file_lock kWholeFile = {
    .start = 0, .end = 0x7fff'ffff'ffff'ffff, .type = F_WRLCK, .pid = 7};

/// As many as a guest may lock of a file.
constexpr uint64_t kRangesMax = 4096;

class FsBounds : public FsTest {
  protected:
    int lock(const OpenFile& file, uint64_t owner, uint64_t at, uint32_t type = F_WRLCK) {
        const fuse_file_lock byte = {.start = at, .end = at, .type = type, .pid = 7};
        return error_of(ask::lock(FUSE_SETLK, file.node, file.fh, owner, byte, 0));
    }

    int unlock_all(const OpenFile& file, uint64_t owner) {
        fuse_file_lock all = kWholeFile;
        all.type = F_UNLCK;
        return error_of(ask::lock(FUSE_SETLK, file.node, file.fh, owner, all, 0));
    }

    /// Every second byte, as long as that goes.
    uint64_t lock_many(const OpenFile& file, uint64_t owner) {
        uint64_t count = 0;
        while (count <= kRangesMax && lock(file, owner, 2 * count) == 0) {
            ++count;
        }
        return count;
    }

    /// How many names a guest can look up of those that make_files() made.
    static int look_up_all(FuseGuest& guest) {
        int found = 0;
        for (int i = 0; i < kFiles; ++i) {
            const int error = guest.call(ask::lookup(FUSE_ROOT_ID, numbered("f", i))).error();
            EXPECT_TRUE(error == 0 || error == ENFILE) << error;
            found += error == 0;
        }
        return found;
    }

    void make_files() const {
        for (int i = 0; i < kFiles; ++i) {
            ASSERT_EQ(::mknod(in_share(numbered("f", i)).c_str(), S_IFREG | 0644, 0), 0);
        }
    }

    static constexpr int kFiles = 2000;
};

TEST_F(FsBounds, OfTwoSharesEachFindsItsPartOfTheDescriptors) {
    make_files();
    const std::string second = in_share("../second");
    serve({.arguments = {"--rlimit-nofile=3072",
                         "--device=socket-path=" + in_share("../socket"),
                         "--device=socket-path=" + second}});
    FuseGuest other(second);
    ASSERT_EQ(other.trouble(), "");
    ASSERT_EQ(other.init().error(), 0);
    // 1024 are for the process, a quarter of the others for the other share alone.
    const int found = look_up_all(guest());
    EXPECT_GT(found, 1400);
    EXPECT_LE(found, 2048 - 512);
    const int others = look_up_all(other);
    EXPECT_GT(others, 500);
    EXPECT_LE(found + others, 2048);
    EXPECT_EQ(guest().call(ask::getattr(FUSE_ROOT_ID)).error(), 0);
}

TEST_F(FsBounds, AnOwnerWithAllLocksCanUnlockThem) {
    serve({.arguments = {"--posix-lock"}});
    const OpenFile file = create("f");
    EXPECT_EQ(lock_many(file, 1), kRangesMax);
    EXPECT_EQ(lock(file, 1, 2 * kRangesMax), ENOLCK);
    EXPECT_EQ(lock(file, 1, 2, F_UNLCK), 0);
    EXPECT_EQ(lock(file, 1, 2 * kRangesMax), 0);
    EXPECT_EQ(unlock_all(file, 1), 0);
    EXPECT_EQ(lock(file, 2, 0), 0);
}

TEST_F(FsBounds, LocksOfAFileAreCountedForAllOwners) {
    serve({.arguments = {"--posix-lock"}});
    const OpenFile file = create("f");
    const OpenFile another = create("g");
    EXPECT_EQ(lock_many(file, 1), kRangesMax);
    EXPECT_EQ(lock(file, 2, 1), ENOLCK);
    EXPECT_EQ(lock(another, 2, 1), 0);
    // What its owner closes is counted no more.
    EXPECT_EQ(error_of(ask::flush(file.node, file.fh, 1)), 0);
    EXPECT_EQ(lock(file, 2, 1), 0);
}

TEST_F(FsBounds, RootOfAGuestWhoIsSomebodyElseHereIsRoot) {
    if (::getuid() != 0) {
        GTEST_SKIP() << "this needs root";
    }
    std::filesystem::create_directory(in_share("d"));
    ASSERT_EQ(::chown(in_share("d").c_str(), 101'000, 101'000), 0);
    ASSERT_EQ(::chmod(in_share("d").c_str(), 0755), 0);
    serve({.arguments = {"--translate-uid=map:0:100000:65536",
                         "--translate-gid=map:0:100000:65536"}});
    ASSERT_EQ(::chmod(share().c_str(), 0755), 0);
    const uint64_t directory = node_of("d");
    EXPECT_EQ(error_of(ask::mkdir(directory, "of-root")), 0);
    struct stat status = {};
    ASSERT_EQ(::stat(in_share("d/of-root").c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 100'000U);
    FuseRequest request = ask::mkdir(directory, "of-somebody");
    request.uid = request.gid = 1001;
    EXPECT_EQ(error_of(request), EACCES);
}

}  // namespace
}  // namespace outrigger::testing
