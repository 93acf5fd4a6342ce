// SPDX-License-Identifier: Apache-2.0
/// A guest with a share moves to another daemon, which must know all that the guest knows: what
/// others have lost on the way (reference: virtiofsd 1.14), and what it is allowed to lose.
#include <cerrno>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/fs/fs_test.h"

namespace outrigger::testing {
namespace {

constexpr fuse_file_lock kWholeFile = {
    .start = 0, .end = 0x7fff'ffff'ffff'ffff, .type = F_WRLCK, .pid = 7};

class FsMoves : public FsTest {
  protected:
    ~FsMoves() override {
        if (other_) {
            EXPECT_EQ(::kill(other_->pid(), 0), 0) << other_->complained();
            other_->send_signal(SIGTERM);
            EXPECT_EQ(other_->wait().value_or(Ended{}), (Ended{.status = 0}));
        }
    }

    /// A daemon beside the first, of the same directory.
    void start_other(const std::vector<std::string>& options = {}) {
        std::vector<std::string> arguments = {
            "--socket-path=" + other_socket(), "--shared-dir=" + share(), "--keeper=none"};
        arguments.insert(arguments.end(), options.begin(), options.end());
        other_.emplace(std::getenv("OUTRIGGER_FS_PROGRAM"),
                       ChildProcess::Options{.arguments = arguments});
    }

    [[nodiscard]] std::string other_socket() const { return home_ / "other-socket"; }

    /// From the daemon of serve() to one with these options.
    void move(const std::vector<std::string>& options = {}) {
        const auto state = guest().leave();
        ASSERT_TRUE(state) << daemon().complained();
        start_other(options);
        ASSERT_TRUE(guest().arrive(other_socket(), *state)) << other_->complained();
    }

    [[nodiscard]] static bool is_root() { return ::getuid() == 0; }

    std::optional<ChildProcess> other_;
};

TEST_F(FsMoves, NodesAndOpenFilesGoOn) {
    serve();
    std::filesystem::create_directory(in_share("d"));
    const uint64_t directory = node_of("d");
    const OpenFile file = create("f", "0123456789");
    const uint64_t listed = call(ask::opendir(directory)).as<fuse_open_out>().fh;
    write_in_share("d/inside", "x");
    move();
    EXPECT_EQ(call(ask::read(file.node, file.fh, 3, 4)).text(), "3456");
    EXPECT_EQ(error_of(ask::write(file.node, file.fh, 0, "abc")), 0);
    EXPECT_EQ(read_in_share("f"), "abc3456789");
    EXPECT_NE(node_of("inside", directory), 0U);
    EXPECT_EQ(error_of(ask::readdir(directory, listed, 0, 4096)), 0);
    EXPECT_EQ(error_of(ask::release(file.node, file.fh)), 0);
    EXPECT_EQ(error_of(ask::releasedir(directory, listed)), 0);
    EXPECT_EQ(node_of("f"), file.node);
    // What it gives out from now on is nobody's yet.
    const OpenFile next = create("next", "x");
    EXPECT_NE(next.node, file.node);
    EXPECT_NE(next.fh, listed);
}

/// As a shell makes what it writes to.
TEST_F(FsMoves, FilesThatWereMadeAndTruncatedAtOnceGoOn) {
    serve();
    const OpenFile file = create("f", "0123456789", O_RDWR | O_CREAT | O_TRUNC);
    move();
    EXPECT_EQ(call(ask::read(file.node, file.fh, 3, 4)).text(), "3456");
    EXPECT_EQ(error_of(ask::write(file.node, file.fh, 0, "abc")), 0);
    EXPECT_EQ(read_in_share("f"), "abc3456789");
}

TEST_F(FsMoves, FilesThatHaveOnlyAnotherNameGoOn) {
    serve();
    std::filesystem::create_directories(in_share("d/e"));
    const uint64_t directory = node_of("e", node_of("d"));
    const OpenFile file = create("f", "content");
    const OpenFile plain = create("g", "another");
    ASSERT_EQ(error_of(ask::link(file.node, directory, "other")), 0);
    ASSERT_EQ(error_of(ask::link(plain.node, FUSE_ROOT_ID, "h")), 0);
    // By which the daemon has them pinned.
    ASSERT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, "f")), 0);
    ASSERT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, "g")), 0);
    ASSERT_EQ(error_of(ask::release(plain.node, plain.fh)), 0);
    move();
    EXPECT_EQ(call(ask::read(file.node, file.fh, 0, 7)).text(), "content");
    EXPECT_EQ(error_of(ask::getattr(plain.node)), 0);
    EXPECT_EQ(node_of("other", directory), file.node);
    EXPECT_EQ(node_of("h"), plain.node);
}

TEST_F(FsMoves, WhatInitAgreedOnGoesAlong) {
    // virtiofsd 1.14 forgot it, and died of the next SETXATTR, which is longer with POSIX_ACL.
    const std::vector<std::string> options = {"--xattr", "--posix-acl=auto"};
    serve({.arguments = options});
    const OpenFile file = create("f", "x");
    ASSERT_NE(guest().init_flags() & FUSE_SETXATTR_EXT, 0U);
    move(options);
    EXPECT_EQ(error_of(ask::setxattr(file.node, "user.a", "value", true)), 0);
    EXPECT_EQ(call(ask::getxattr(file.node, "user.a", 100)).text(), "value");
}

TEST_F(FsMoves, WhatTheOtherSideHasNoOptionForIsRefused) {
    for (const std::string option : {"--writeback", "--posix-lock", "--flock", "--killpriv-v2"}) {
        serve({.arguments = {option}});
        const auto state = guest().leave();
        ASSERT_TRUE(state) << daemon().complained();
        start_other({});
        EXPECT_FALSE(guest().arrive(other_socket(), *state)) << option;
        EXPECT_NE(other_->complained().find(option), std::string::npos) << other_->complained();
        guest_.reset();
        other_.reset();
        daemon_.reset();
    }
}

TEST_F(FsMoves, SupplementaryGroupsAreStillBelieved) {
    // virtiofsd 1.14 answered EACCES from then on.
    if (!is_root()) {
        GTEST_SKIP() << "this needs root";
    }
    std::filesystem::create_directory(in_share("d"));
    ASSERT_EQ(::chown(in_share("d").c_str(), 0, 41009), 0);
    ASSERT_EQ(::chmod(in_share("d").c_str(), 02770), 0);
    serve();
    const uint64_t directory = node_of("d");
    move();
    FuseRequest request = ask::mkdir(directory, "inside1");
    request.uid = 41001;
    request.gid = 41001;

    struct {
        uint32_t size = 16;
        uint32_t type = kExtensionGroups;
        uint32_t count = 1;
        uint32_t group = 41009;
    } const groups;

    request.arguments =
        FuseArguments().add(fuse_mkdir_in{.mode = 0755, .umask = 022}).name("inside1").add(groups);
    request.total_extlen = 2;
    EXPECT_EQ(error_of(request), 0);
}

TEST_F(FsMoves, AppendingIsStillOfEachWrite) {
    // virtiofsd 1.14 opened with the guest's O_APPEND again, and write-back went to the end.
    serve({.arguments = {"--writeback"}});
    const OpenFile file = create("f", "", O_RDWR | O_APPEND);
    EXPECT_EQ(error_of(ask::write(file.node, file.fh, 0, "AAAA")), 0);
    move({"--writeback"});
    EXPECT_EQ(error_of(ask::write(file.node, file.fh, 0, "BB", FUSE_WRITE_CACHE)), 0);
    EXPECT_EQ(read_in_share("f"), "BBAA");
}

TEST_F(FsMoves, NamesOfAnyBytesGoAlong) {
    serve();
    const std::string name = "\xff\xfe name\n";
    const OpenFile file = create(name, "content");
    move();
    EXPECT_EQ(call(ask::read(file.node, file.fh, 0, 100)).text(), "content");
    EXPECT_EQ(node_of(name), file.node);
}

TEST_F(FsMoves, ARemovedFileThatIsOpenGoesAlongByItsHandle) {
    if (!has_handles()) {
        GTEST_SKIP() << "this needs root, and a file system with handles";
    }
    const std::vector<std::string> options = {"--inode-file-handles=mandatory"};
    serve({.arguments = options});
    const OpenFile file = create("f", "0123456789");
    EXPECT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, "f")), 0);
    move(options);
    EXPECT_EQ(call(ask::read(file.node, file.fh, 0, 100)).text(), "0123456789");
    daemon_.reset();
    EXPECT_EQ(call(ask::read(file.node, file.fh, 0, 100)).text(), "0123456789");
    EXPECT_EQ(call(ask::getattr(file.node)).as<fuse_attr_out>().attr.nlink, 0U);
}

/// Somebody on the host has moved it; the guest merely remembers.
TEST_F(FsMoves, AFileThatLeftTheShareHoldsUpNobody) {
    std::vector<std::string> options;
    if (has_handles()) {
        options.emplace_back("--inode-file-handles=mandatory");
    }
    serve({.arguments = options});
    const OpenFile file = create("f", "0123456789");
    EXPECT_EQ(error_of(ask::release(file.node, file.fh)), 0);
    std::filesystem::rename(in_share("f"), home_ / "outside");
    move(options);
    EXPECT_NE(error_of(ask::getattr(file.node)), 0);
    EXPECT_NE(create("f", "x").node, file.node);
}

TEST_F(FsMoves, ARemovedFileThatIsOpenRefusesToMoveWithoutHandles) {
    serve();
    const OpenFile file = create("f", "0123456789");
    EXPECT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, "f")), 0);
    EXPECT_FALSE(guest().leave());
    ASSERT_TRUE(guest().stay());
    EXPECT_EQ(call(ask::read(file.node, file.fh, 0, 100)).text(), "0123456789");
}

class FsMovesLocks : public FsMoves {
  protected:
    const std::vector<std::string> options_ = {"--posix-lock", "--flock"};

    int lock(const OpenFile& file, uint64_t owner, const fuse_file_lock& wish, uint32_t flags = 0) {
        return error_of(ask::lock(FUSE_SETLK, file.node, file.fh, owner, wish, flags));
    }

    /// What the host has to say to somebody who wants it.
    [[nodiscard]] bool is_locked_on_the_host(std::string_view name, off_t at) const {
        const UniqueFd fd(::open(in_share(name).c_str(), O_RDWR | O_CLOEXEC));
        struct flock probe = {};
        probe.l_type = F_WRLCK;
        probe.l_whence = SEEK_SET;
        probe.l_start = at;
        probe.l_len = 1;
        EXPECT_EQ(::fcntl(fd.get(), F_OFD_GETLK, &probe), 0);
        return probe.l_type != F_UNLCK;
    }
};

TEST_F(FsMovesLocks, LocksGoAlong) {
    serve({.arguments = options_});
    const OpenFile file = create("f", "0123456789");
    fuse_file_lock part = kWholeFile;
    part.start = 2;
    part.end = 5;
    ASSERT_EQ(lock(file, 1, part), 0);
    part.start = 4;
    part.end = 4;
    part.type = F_UNLCK;
    ASSERT_EQ(lock(file, 1, part), 0);
    move(options_);
    EXPECT_TRUE(is_locked_on_the_host("f", 2));
    EXPECT_TRUE(is_locked_on_the_host("f", 5));
    EXPECT_FALSE(is_locked_on_the_host("f", 4));
    EXPECT_FALSE(is_locked_on_the_host("f", 6));
    EXPECT_EQ(lock(file, 2, kWholeFile), EAGAIN);
    const FuseAnswer holder = call(ask::lock(FUSE_GETLK, file.node, file.fh, 2, kWholeFile));
    EXPECT_EQ(holder.as<fuse_lk_out>().lk.pid, 7U);
    EXPECT_EQ(error_of(ask::flush(file.node, file.fh, 1)), 0);
    EXPECT_EQ(lock(file, 2, kWholeFile), 0);
}

TEST_F(FsMovesLocks, LocksOfFlockGoAlong) {
    serve({.arguments = options_});
    const OpenFile file = create("f", "0123456789");
    ASSERT_EQ(lock(file, 1, kWholeFile, FUSE_LK_FLOCK), 0);
    move(options_);
    const UniqueFd host(::open(in_share("f").c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_NE(::flock(host.get(), LOCK_EX | LOCK_NB), 0);
    EXPECT_EQ(error_of(ask::release(file.node, file.fh)), 0);
    EXPECT_EQ(::flock(host.get(), LOCK_EX | LOCK_NB), 0);
}

// The kernel lets go of the shared lock before it finds that somebody else has one, too.
TEST_F(FsMovesLocks, AFlockThatWasLostInATryDoesNotGoAlong) {
    serve({.arguments = options_});
    const OpenFile file = create("f", "0123456789");
    const UniqueFd host(::open(in_share("f").c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_EQ(::flock(host.get(), LOCK_SH | LOCK_NB), 0);
    fuse_file_lock shared = kWholeFile;
    shared.type = F_RDLCK;
    ASSERT_EQ(lock(file, 1, shared, FUSE_LK_FLOCK), 0);
    EXPECT_EQ(lock(file, 1, kWholeFile, FUSE_LK_FLOCK), EAGAIN);
    EXPECT_EQ(::flock(host.get(), LOCK_EX | LOCK_NB), 0) << "this kernel keeps it";
    EXPECT_EQ(::flock(host.get(), LOCK_UN), 0);
    move(options_);
    EXPECT_EQ(error_of(ask::getattr(file.node)), 0);
    EXPECT_EQ(::flock(host.get(), LOCK_EX | LOCK_NB), 0);
}

// EINTR would be the error 512 for a program that nobody has interrupted.
TEST_F(FsMovesLocks, WhoWaitsForALockWhenTheRingStopsIsTold) {
    serve({.arguments = options_});
    const OpenFile file = create("f", "0123456789");
    ASSERT_EQ(lock(file, 1, kWholeFile), 0);
    const auto waits = guest().submit(ask::lock(FUSE_SETLKW, file.node, file.fh, 2, kWholeFile, 0));
    ASSERT_TRUE(waits);
    ASSERT_EQ(error_of(ask::getattr(file.node)), 0);  // behind it
    ASSERT_TRUE(guest().leave());
    EXPECT_EQ(guest().wait(*waits).error(), ENOLCK);
}

TEST_F(FsMovesLocks, AGuestThatStaysHasItsLocks) {
    serve({.arguments = options_});
    const OpenFile file = create("f", "0123456789");
    ASSERT_EQ(lock(file, 1, kWholeFile), 0);
    ASSERT_TRUE(guest().leave());
    EXPECT_FALSE(is_locked_on_the_host("f", 0));
    ASSERT_TRUE(guest().stay());
    EXPECT_TRUE(is_locked_on_the_host("f", 0));
    EXPECT_EQ(lock(file, 2, kWholeFile), EAGAIN);
}

TEST_F(FsMovesLocks, ADaemonThatKeepsNoLocksRefusesThem) {
    serve({.arguments = options_});
    const OpenFile file = create("f", "0123456789");
    ASSERT_EQ(lock(file, 1, kWholeFile), 0);
    const auto state = guest().leave();
    ASSERT_TRUE(state);
    start_other();
    EXPECT_FALSE(guest().arrive(other_socket(), *state));
}

TEST_F(FsMoves, AFileThatIsMissingThereRefusesTheGuest) {
    serve();
    const OpenFile file = create("f", "x");
    const auto state = guest().leave();
    ASSERT_TRUE(state);
    std::filesystem::rename(in_share("f"), home_ / "away");
    start_other();
    EXPECT_FALSE(guest().arrive(other_socket(), *state));
    EXPECT_NE(other_->complained().find("'f'"), std::string::npos);
    (void)file;
}

TEST_F(FsMoves, AFileThatIsMissingThereIsAnErrorOfTheGuestsWhereTheOperatorSaysSo) {
    serve();
    const OpenFile lost = create("lost", "x");
    const OpenFile kept = create("kept", "content");
    const auto state = guest().leave();
    ASSERT_TRUE(state);
    std::filesystem::rename(in_share("lost"), home_ / "away");
    start_other({"--migration-on-error=guest-error"});
    ASSERT_TRUE(guest().arrive(other_socket(), *state)) << other_->complained();
    EXPECT_EQ(error_of(ask::getattr(lost.node)), ESTALE);
    EXPECT_EQ(error_of(ask::read(lost.node, lost.fh, 0, 10)), EIO);
    EXPECT_EQ(error_of(ask::release(lost.node, lost.fh)), 0);
    EXPECT_EQ(call(ask::read(kept.node, kept.fh, 0, 10)).text(), "content");
}

TEST_F(FsMoves, ManyFilesThatAreMissingThereAreSaidInFewLines) {
    constexpr int kFiles = 50;
    serve();
    for (int i = 0; i < kFiles; ++i) {
        write_in_share(numbered("lost\n", i), "x");
        ASSERT_NE(node_of(numbered("lost\n", i)), 0U);
    }
    const auto state = guest().leave();
    ASSERT_TRUE(state);
    for (int i = 0; i < kFiles; ++i) {
        std::filesystem::remove(in_share(numbered("lost\n", i)));
    }
    start_other({"--migration-on-error=guest-error"});
    ASSERT_TRUE(guest().arrive(other_socket(), *state)) << other_->complained();
    const std::string said = other_->complained();
    size_t lines = 0;
    for (size_t at = 0; (at = said.find("'lost?", at)) != std::string::npos; ++at) {
        ++lines;
    }
    EXPECT_EQ(lines, 8U) << said;
    EXPECT_NE(said.find("50 files"), std::string::npos) << said;
    EXPECT_EQ(said.find("lost\n"), std::string::npos) << "a name is no line of its own";
}

TEST_F(FsMoves, FiftyThousandNodesGoAlong) {
    if (!has_handles()) {
        GTEST_SKIP() << "this needs root, and a file system with handles";
    }
    // By handle, because a process may not have as many descriptors everywhere.
    const std::vector<std::string> options = {"--inode-file-handles=mandatory"};
    constexpr int kFiles = 50'000;
    constexpr int kOfADirectory = 1000;
    for (int i = 0; i < kFiles; i += kOfADirectory) {
        std::filesystem::create_directory(in_share(numbered("d", i)));
        for (int j = i; j < i + kOfADirectory; ++j) {
            const UniqueFd made(::open(in_share(numbered("d", i) + "/" + numbered("f", j)).c_str(),
                                       O_WRONLY | O_CREAT | O_CLOEXEC,
                                       0644));
            ASSERT_TRUE(made.valid());
        }
    }
    serve({.arguments = options});
    std::vector<uint64_t> nodes;
    uint64_t directory = 0;
    for (int i = 0; i < kFiles; ++i) {
        if (i % kOfADirectory == 0) {
            directory = node_of(numbered("d", i));
        }
        nodes.push_back(node_of(numbered("f", i), directory));
        ASSERT_NE(nodes.back(), 0U) << i;
    }
    move(options);
    for (int i = 0; i < kFiles; i += 97) {
        const FuseAnswer got = call(ask::getattr(nodes[static_cast<size_t>(i)]));
        ASSERT_EQ(got.error(), 0) << i;
        struct stat status = {};
        const std::string name = numbered("d", i - i % kOfADirectory) + "/" + numbered("f", i);
        ASSERT_EQ(::stat(in_share(name).c_str(), &status), 0);
        EXPECT_EQ(got.as<fuse_attr_out>().attr.ino, status.st_ino);
    }
}

// Whose paths, one by one, would be more than a state takes (64 MiB).
TEST_F(FsMoves, ManyNodesWithLongPathsGoAlong) {
    if (!has_handles()) {
        GTEST_SKIP() << "this needs root, and a file system with handles";
    }
    const std::vector<std::string> options = {"--inode-file-handles=mandatory"};
    constexpr int kFiles = 20'000;
    std::string path;
    for (int depth = 0; depth < 15; ++depth) {
        path += (depth == 0 ? "" : "/") + std::string(250, static_cast<char>('a' + depth));
    }
    std::filesystem::create_directories(in_share(path));
    serve({.arguments = options});
    uint64_t directory = FUSE_ROOT_ID;
    for (int depth = 0; depth < 15; ++depth) {
        directory = node_of(std::string(250, static_cast<char>('a' + depth)), directory);
        ASSERT_NE(directory, 0U);
    }
    std::vector<uint64_t> nodes;
    for (int i = 0; i < kFiles; ++i) {
        const FuseAnswer made = call(ask::mknod(directory, numbered("f", i), S_IFREG | 0600));
        ASSERT_EQ(made.error(), 0) << i;
        nodes.push_back(made.as<fuse_entry_out>().nodeid);
    }
    move(options);
    for (int i = 0; i < kFiles; i += 97) {
        EXPECT_EQ(node_of(numbered("f", i), directory), nodes[static_cast<size_t>(i)]);
    }
}

}  // namespace
}  // namespace outrigger::testing
