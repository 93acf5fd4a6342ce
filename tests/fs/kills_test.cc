// SPDX-License-Identifier: Apache-2.0
// outrigger-fs under its keeper, killed between two requests: all that the guest knows is known to
// the next process, whether inodes are found again by handle or by descriptor. What a kill in the
// midst of a request does is shown by fs-random with --kills (with_share.py).
#include <cerrno>
#include <set>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fs/directory_listing.h"
#include "tests/fs/fs_test.h"

namespace outrigger::testing {
namespace {

constexpr fuse_file_lock kWholeFile = {
    .start = 0, .end = 0x7fff'ffff'ffff'ffff, .type = F_WRLCK, .pid = 7};

class FsKills : public FsTest, public ::testing::WithParamInterface<const char*> {
  protected:
    void SetUp() override {
        if (!by_descriptor() && !has_handles()) {
            GTEST_SKIP() << "no handles here, or not root";
        }
        serve({.arguments = {"--posix-lock",
                             "--flock",
                             "--xattr",
                             std::string("--inode-file-handles=") + GetParam()},
               .keeper = true});
    }

    [[nodiscard]] static bool by_descriptor() { return std::string_view(GetParam()) == "never"; }

    std::string read(const OpenFile& file, uint32_t bytes) {
        const FuseAnswer answer = call(ask::read(file.node, file.fh, 0, bytes));
        EXPECT_EQ(answer.error(), 0) << daemon().complained();
        return answer.text();
    }

    int lock(const OpenFile& file, uint64_t owner, const fuse_file_lock& wish, uint32_t flags = 0) {
        return error_of(ask::lock(FUSE_SETLK, file.node, file.fh, owner, wish, flags));
    }
};

TEST_P(FsKills, NodesAndOpenFilesGoOn) {
    std::filesystem::create_directory(in_share("d"));
    const uint64_t directory = node_of("d");
    write_in_share("d/inner", "inside");
    const uint64_t inner = node_of("inner", directory);
    const OpenFile file = create("f", "content");
    kill();
    EXPECT_EQ(read(file, 7), "content");
    EXPECT_EQ(error_of(ask::write(file.node, file.fh, 0, "CONTENT")), 0);
    EXPECT_EQ(read_in_share("f"), "CONTENT");
    EXPECT_EQ(node_of("d"), directory);
    EXPECT_EQ(node_of("inner", directory), inner);
    EXPECT_EQ(error_of(ask::getattr(inner)), 0);
}

/// As a shell makes what it writes to.
TEST_P(FsKills, FilesThatWereMadeAndTruncatedAtOnceGoOn) {
    const OpenFile file = create("f", "content", O_RDWR | O_CREAT | O_TRUNC);
    const FuseAnswer made = call(ask::tmpfile(FUSE_ROOT_ID, O_RDWR | O_TRUNC));
    ASSERT_EQ(made.error(), 0);
    const OpenFile nameless{.node = made.as<fuse_entry_out>().nodeid,
                            .fh = made.as<fuse_open_out>(sizeof(fuse_entry_out)).fh};
    EXPECT_EQ(error_of(ask::write(nameless.node, nameless.fh, 0, "content")), 0);
    for (int i = 0; i < 2; ++i) {
        kill();
        EXPECT_EQ(read(file, 7), "content");
        EXPECT_EQ(read(nameless, 7), "content");
        EXPECT_EQ(error_of(ask::write(file.node, file.fh, 0, "content")), 0);
    }
}

TEST_P(FsKills, ANodeIsForgottenWhenAllItsLookupsAre) {
    write_in_share("f", "");
    const uint64_t node = node_of("f");
    (void)node_of("f");
    kill();
    (void)node_of("f");
    (void)guest().call(ask::forget(node, 2), FuseGuest::kHighPriority);
    EXPECT_EQ(error_of(ask::getattr(node)), 0);
    kill();
    EXPECT_EQ(error_of(ask::getattr(node)), 0);
    (void)guest().call(ask::forget(node, 1), FuseGuest::kHighPriority);
    EXPECT_TRUE(eventually([&] { return error_of(ask::getattr(node)) == ESTALE; }));
}

TEST_P(FsKills, NumbersOfWhatIsGoneDoNotComeBack) {
    const OpenFile file = create("f");
    ASSERT_EQ(error_of(ask::release(file.node, file.fh)), 0);
    (void)guest().call(ask::forget(file.node, 1), FuseGuest::kHighPriority);
    EXPECT_TRUE(eventually([&] { return error_of(ask::getattr(file.node)) == ESTALE; }));
    kill();
    const OpenFile other = create("g");
    EXPECT_NE(other.node, file.node);
    EXPECT_NE(other.fh, file.fh);
    EXPECT_EQ(error_of(ask::getattr(file.node)), ESTALE);
    EXPECT_EQ(error_of(ask::read(file.node, file.fh, 0, 1)), EBADF);
}

TEST_P(FsKills, AFileThatWasRemovedWhileItIsOpenGoesOn) {
    const OpenFile file = create("f", "content");
    ASSERT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, "f")), 0);
    const OpenFile replaced = create("g", "another");
    write_in_share("h", "");
    ASSERT_EQ(error_of(ask::rename(FUSE_ROOT_ID, "h", FUSE_ROOT_ID, "g")), 0);
    const FuseAnswer again = call(ask::open(file.node, O_RDONLY));
    ASSERT_EQ(again.error(), 0);
    kill();
    EXPECT_EQ(read(file, 7), "content");
    EXPECT_EQ(read(replaced, 7), "another");
    EXPECT_EQ(read({.node = file.node, .fh = again.as<fuse_open_out>().fh}, 7), "content");
    EXPECT_EQ(error_of(ask::getattr(file.node)), 0);
}

// A FIFO is open in the guest alone, and a directory may be where a process works.
TEST_P(FsKills, WhatIsNoRegularFileGoesOnWhenItWasRemoved) {
    ASSERT_EQ(error_of(ask::mknod(FUSE_ROOT_ID, "fifo", S_IFIFO | 0600)), 0);
    ASSERT_EQ(error_of(ask::mkdir(FUSE_ROOT_ID, "d")), 0);
    const uint64_t fifo = node_of("fifo");
    const uint64_t directory = node_of("d");
    ASSERT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, "fifo")), 0);
    ASSERT_EQ(error_of(ask::rmdir(FUSE_ROOT_ID, "d")), 0);
    kill();
    EXPECT_EQ(error_of(ask::getattr(fifo)), 0);
    EXPECT_EQ(error_of(ask::getattr(directory)), 0);
    kill();
    EXPECT_EQ(error_of(ask::getattr(fifo)), 0);
}

TEST_P(FsKills, AFileWithoutANameGoesOnAndGetsOne) {
    const FuseAnswer made = call(ask::tmpfile(FUSE_ROOT_ID, O_RDWR));
    if (made.error() == EOPNOTSUPP) {
        GTEST_SKIP() << "the file system has no O_TMPFILE";
    }
    ASSERT_EQ(made.error(), 0);
    const OpenFile file = {.node = made.as<fuse_entry_out>().nodeid,
                           .fh = made.as<fuse_open_out>(sizeof(fuse_entry_out)).fh};
    ASSERT_EQ(error_of(ask::write(file.node, file.fh, 0, "content")), 0);
    kill();
    EXPECT_EQ(read(file, 7), "content");
    EXPECT_EQ(error_of(ask::link(file.node, FUSE_ROOT_ID, "f")), 0);
    EXPECT_EQ(read_in_share("f"), "content");
}

TEST_P(FsKills, LocksStay) {
    const OpenFile file = create("f");
    fuse_file_lock part = kWholeFile;
    part.start = 2;
    part.end = 5;
    ASSERT_EQ(lock(file, 1, part), 0);
    kill();
    EXPECT_EQ(lock(file, 2, kWholeFile), EAGAIN);
    const UniqueFd host(::open(in_share("f").c_str(), O_RDWR | O_CLOEXEC));
    struct flock probe = {};
    probe.l_type = F_WRLCK;
    probe.l_start = 3;
    probe.l_len = 1;
    ASSERT_EQ(::fcntl(host.get(), F_OFD_GETLK, &probe), 0);
    EXPECT_EQ(probe.l_type, F_WRLCK);
    part.type = F_UNLCK;
    EXPECT_EQ(lock(file, 1, part), 0);
    EXPECT_EQ(lock(file, 2, kWholeFile), 0);
    // Closed by whoever has it, and free for the host.
    probe.l_pid = 0;  // which the kernel wrote
    EXPECT_EQ(error_of(ask::flush(file.node, file.fh, 2)), 0);
    probe.l_type = F_WRLCK;
    ASSERT_EQ(::fcntl(host.get(), F_OFD_GETLK, &probe), 0);
    EXPECT_EQ(probe.l_type, F_UNLCK);
}

TEST_P(FsKills, WhoWaitsForALockWaitsOnBehindATakeOver) {
    const OpenFile file = create("f", "content");
    ASSERT_EQ(lock(file, 1, kWholeFile), 0);
    const auto waits = guest().submit(ask::lock(FUSE_SETLKW, file.node, file.fh, 2, kWholeFile, 0));
    ASSERT_TRUE(waits);
    ASSERT_EQ(error_of(ask::getattr(file.node)), 0);  // behind it
    ChildProcess next(std::getenv("OUTRIGGER_FS_PROGRAM"),
                      {.arguments = {"--take-over=" + std::to_string(daemon().pid())}});
    const auto ended = next.wait();
    ASSERT_TRUE(ended.has_value());
    ASSERT_EQ(*ended, (Ended{.status = 0})) << next.complained();
    ASSERT_EQ(error_of(ask::getattr(file.node)), 0);
    fuse_file_lock none = kWholeFile;
    none.type = F_UNLCK;
    ASSERT_EQ(lock(file, 1, none), 0);
    EXPECT_EQ(guest().wait(*waits).error(), 0);
    EXPECT_EQ(lock(file, 1, kWholeFile), EAGAIN);
}

TEST_P(FsKills, LocksOfFlockStay) {
    const OpenFile file = create("f");
    ASSERT_EQ(lock(file, 1, kWholeFile, FUSE_LK_FLOCK), 0);
    kill();
    const UniqueFd host(::open(in_share("f").c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_NE(::flock(host.get(), LOCK_EX | LOCK_NB), 0);
    kill();
    EXPECT_NE(::flock(host.get(), LOCK_EX | LOCK_NB), 0);
    ASSERT_EQ(error_of(ask::release(file.node, file.fh)), 0);
    EXPECT_EQ(::flock(host.get(), LOCK_EX | LOCK_NB), 0);
}

TEST_P(FsKills, AListingGoesOnWhereItWas) {
    std::set<std::string> names;
    for (int i = 0; i < 300; ++i) {
        names.insert(numbered("file", i));
        write_in_share(numbered("file", i), "");
    }
    const FuseAnswer opened = call(ask::opendir(FUSE_ROOT_ID));
    ASSERT_EQ(opened.error(), 0);
    const uint64_t fh = opened.as<fuse_open_out>().fh;
    std::multiset<std::string> seen;
    uint64_t offset = 0;
    for (int round = 0; round < 100; ++round) {
        const FuseAnswer answer = call(ask::readdir(FUSE_ROOT_ID, fh, offset, 1024));
        ASSERT_EQ(answer.error(), 0);
        const auto entries = entries_of(answer, false);
        if (entries.empty()) {
            break;
        }
        for (const auto& entry : entries) {
            if (entry.name.starts_with("file")) {
                seen.insert(entry.name);
            }
            offset = entry.offset;
        }
        if (round == 3) {
            kill();
        }
    }
    EXPECT_EQ(seen, std::multiset<std::string>(names.begin(), names.end()));
}

TEST_P(FsKills, WhatTheHostReplacedIsAnotherFile) {
    write_in_share("f", "old");
    const uint64_t node = node_of("f");
    kill();
    std::filesystem::remove(in_share("f"));
    write_in_share("f", "new");
    EXPECT_NE(node_of("f"), node);
}

// Inodes with handles are open to nobody behind a kill, and the host gives their numbers again.
TEST_P(FsKills, FilesWithTheNumbersOfOthersGoOn) {
    std::vector<uint64_t> old;
    for (size_t i = 0; i < 8; ++i) {
        write_in_share(numbered("old", i), "");
        old.push_back(node_of(numbered("old", i)));
    }
    kill();
    std::vector<OpenFile> files;
    for (size_t i = 0; i < 8; ++i) {
        std::filesystem::remove(in_share(numbered("old", i)));
    }
    for (size_t i = 0; i < 8; ++i) {
        files.push_back(create(numbered("new", i), numbered("content", i)));
    }
    for (int round = 0; round < 2; ++round) {
        kill();
        for (size_t i = 0; i < 8; ++i) {
            EXPECT_EQ(read(files[i], 8), numbered("content", i));
            EXPECT_EQ(node_of(numbered("new", i)), files[i].node);
            (void)guest().call(ask::forget(files[i].node, 1), FuseGuest::kHighPriority);
        }
    }
    for (const uint64_t node : old) {
        // A descriptor brings the removed file back, a handle does not.
        EXPECT_EQ(error_of(ask::getattr(node)), by_descriptor() ? 0 : ESTALE);
    }
}

TEST_P(FsKills, AShareWhoseDirectoryWasReplacedIsNotGoneOnWith) {
    const pid_t before = serving();
    ASSERT_GT(before, 0);
    std::filesystem::rename(share(), share() + "-old");
    std::filesystem::create_directory(share());
    ::kill(before, SIGKILL);
    // It says why, and the front end sees the connection end.
    EXPECT_EQ(daemon().wait().value_or(Ended{}), (Ended{.status = 1}));
    EXPECT_NE(daemon().complained().find("is not the directory any more"), std::string::npos);
    daemon_.reset();
}

TEST_P(FsKills, ADriverThatBeginsAnewFindsNothingOfTheOldOne) {
    const OpenFile file = create("f", "content");
    kill();
    ASSERT_EQ(error_of(ask::destroy()), 0);
    ASSERT_EQ(guest().init(kInitFlagsOfLinux).error(), 0);
    EXPECT_EQ(error_of(ask::getattr(file.node)), ESTALE);
    EXPECT_EQ(error_of(ask::read(file.node, file.fh, 0, 1)), EBADF);
    kill();
    EXPECT_EQ(error_of(ask::getattr(file.node)), ESTALE);
    EXPECT_NE(node_of("f"), 0U);
}

INSTANTIATE_TEST_SUITE_P(Inodes,
                         FsKills,
                         ::testing::Values("never", "mandatory"),
                         [](const auto& one) { return std::string(one.param); });

}  // namespace
}  // namespace outrigger::testing
