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

    int ioctl_of(const OpenFile& file, uint32_t uid, unsigned long command, const auto& value) {
        FuseRequest request;
        request.opcode = FUSE_IOCTL;
        request.nodeid = file.node;
        request.uid = request.gid = uid;
        request.room = sizeof(fuse_ioctl_out);
        request.arguments = FuseArguments()
                                .add(fuse_ioctl_in{.fh = file.fh,
                                                   .flags = 0,
                                                   .cmd = static_cast<uint32_t>(command),
                                                   .arg = 0,
                                                   .in_size = sizeof value,
                                                   .out_size = 0})
                                .add(value);
        return error_of(request);
    }

    int set_flags(const OpenFile& file, uint32_t uid, int flags) {
        return ioctl_of(file, uid, FS_IOC_SETFLAGS, flags);
    }

    /// By which quotas are counted.
    int set_project(const OpenFile& file, uint32_t uid) {
        fsxattr attributes{};
        attributes.fsx_projid = 7;
        return ioctl_of(file, uid, FS_IOC_FSSETXATTR, attributes);
    }

    [[nodiscard]] int flags_on_the_host(std::string_view name) const {
        const UniqueFd fd(::open(in_share(name).c_str(), O_RDONLY | O_CLOEXEC));
        int flags = 0;
        return ::ioctl(fd.get(), FS_IOC_GETFLAGS, &flags) == 0 ? flags : 0;
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

// With handles no descriptor bounds them.
TEST_F(FsBounds, AGuestKnowsAsManyFilesAsItMay) {
    if (!has_handles()) {
        GTEST_SKIP() << "this needs root, and a file system with handles";
    }
    make_files();
    serve({.arguments = {"--inode-file-handles=mandatory", "--inodes-max=500"}});
    // The root is one of them.
    EXPECT_EQ(look_up_all(guest()), 499);
    EXPECT_EQ(error_of(ask::mkdir(FUSE_ROOT_ID, "d")), ENFILE);
    EXPECT_FALSE(std::filesystem::exists(in_share("d")));
    EXPECT_EQ(error_of(ask::create(FUSE_ROOT_ID, "new", O_RDWR)), ENFILE);
    EXPECT_FALSE(std::filesystem::exists(in_share("new")));
    // What it knows is opened all the same, and what it forgets makes room.
    const uint64_t known = node_of(numbered("f", 0));
    EXPECT_EQ(error_of(ask::open(known, O_RDONLY)), 0);
    const uint64_t forgotten = node_of(numbered("f", 1));
    EXPECT_EQ(node_of(numbered("f", 499)), 0U);
    (void)guest().submit(ask::forget(forgotten, 2));
    EXPECT_TRUE(eventually([&] { return node_of(numbered("f", 499)) != 0; }));
    EXPECT_EQ(node_of(numbered("f", 500)), 0U);
}

// Guests before Linux 5.13 pass the request on without a look at who asks.
TEST_F(FsBounds, FlagsAreTheOwnersAndRootsToChange) {
    if (::getuid() != 0) {
        GTEST_SKIP() << "this needs root";
    }
    write_in_share("f", "x");
    ASSERT_EQ(::chown(in_share("f").c_str(), 1000, 1000), 0);
    serve();
    const uint64_t node = node_of("f");
    const OpenFile file = {.node = node,
                           .fh = call(ask::open(node, O_RDONLY)).as<fuse_open_out>().fh};
    // Those that it has stay: a file system may refuse to take some away.
    const int flags = flags_on_the_host("f");
    const int marked = flags | FS_NODUMP_FL;
    if (set_flags(file, 0, marked) == ENOTTY) {
        GTEST_SKIP() << "files here have no flags";
    }
    EXPECT_EQ(set_flags(file, 0, flags), 0);
    EXPECT_EQ(set_flags(file, 1001, marked), EPERM);
    EXPECT_EQ(set_project(file, 1001), EPERM);
    EXPECT_EQ(flags_on_the_host("f"), flags);
    EXPECT_EQ(set_flags(file, 1000, marked), 0);
    EXPECT_EQ(flags_on_the_host("f"), marked);
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
