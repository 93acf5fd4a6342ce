// SPDX-License-Identifier: Apache-2.0
/// Traps 9 to 15 and 23: what is made, opened, renamed and changed.
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/fs/fs_traps.h"

namespace outrigger::testing {
namespace {

// Of protocol 7.36, unnamed in <linux/fuse.h>'s structures of before.
constexpr uint32_t kOpenKillSuidgid = 1;

// --- 9 -----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap09WhatWasMadeIsWhatIsNamed) {
    serve();
    std::atomic<bool> stop{false};
    std::thread host([&] {
        while (!stop) {
            write_in_share("other", "the host's");
            (void)std::rename(in_share("other").c_str(), in_share("new").c_str());
        }
    });
    int made_count = 0;
    for (int i = 0; i < 300; ++i) {
        const FuseAnswer made = call(ask::create(FUSE_ROOT_ID, "new", O_RDWR));
        if (made.error() != 0) {
            continue;  // an open of what is there may meet what is just replaced
        }
        ++made_count;
        const auto entry = made.as<fuse_entry_out>();
        const uint64_t fh = made.as<fuse_open_out>(sizeof entry).fh;
        fuse_getattr_in by_handle{};
        by_handle.getattr_flags = FUSE_GETATTR_FH;
        by_handle.fh = fh;
        FuseRequest request = ask::getattr(entry.nodeid);
        request.arguments = FuseArguments().add(by_handle);
        const FuseAnswer of_handle = call(request);
        EXPECT_EQ(of_handle.error(), 0);
        // The file behind the handle is the node that came with it.
        EXPECT_EQ(of_handle.as<fuse_attr_out>().attr.ino, entry.attr.ino);
        // And what is written by the one is in the other, whoever has the name by now.
        EXPECT_EQ(error_of(ask::write(entry.nodeid, fh, 0, "by the handle")), 0);
        EXPECT_EQ(call(ask::getattr(entry.nodeid)).as<fuse_attr_out>().attr.size, 13U);
        EXPECT_EQ(error_of(ask::release(entry.nodeid, fh)), 0);
        (void)call(ask::unlink(FUSE_ROOT_ID, "new"));
        (void)guest().call(ask::forget(entry.nodeid, 1), FuseGuest::kHighPriority);
    }
    stop = true;
    host.join();
    EXPECT_GT(made_count, 0);
    expect_alive();
}

// --- 10 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap10CreateOfWhatIsThere) {
    write_in_share("f", "content");
    serve();
    EXPECT_EQ(error_of(ask::create(FUSE_ROOT_ID, "f", O_RDWR | O_CREAT | O_EXCL)), EEXIST);
    const FuseAnswer opened = call(ask::create(FUSE_ROOT_ID, "f", O_RDWR | O_CREAT));
    ASSERT_EQ(opened.error(), 0);
    EXPECT_EQ(read_in_share("f"), "content");
    const uint64_t node = opened.as<fuse_entry_out>().nodeid;
    const uint64_t fh = opened.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
    EXPECT_EQ(call(ask::read(node, fh, 0, 100)).text(), "content");
    EXPECT_EQ(error_of(ask::create(FUSE_ROOT_ID, "f", O_RDWR | O_CREAT | O_TRUNC)), 0);
    EXPECT_EQ(read_in_share("f"), "");
}

TEST_F(FsTraps, FsTrap10CreateDoesNotFollowLinks) {
    std::filesystem::create_symlink(home_ / "secret", in_share("out"));
    std::filesystem::create_symlink("../secret", in_share("up"));
    std::filesystem::create_symlink("../made", in_share("dangling"));
    serve();
    for (const std::string_view name : {"out", "up", "dangling"}) {
        for (const uint32_t flags : {uint32_t{O_RDWR}, uint32_t{O_RDWR | O_TRUNC}}) {
            EXPECT_NE(error_of(ask::create(FUSE_ROOT_ID, name, flags)), 0) << name;
        }
    }
    EXPECT_EQ(home_.read("secret"), kSecret);
    EXPECT_FALSE(home_.has("made"));
    expect_alive();
}

TEST_F(FsTraps, FsTrap10CreateDoesNotOpenOtherKinds) {
    ASSERT_EQ(::mkfifo(in_share("fifo").c_str(), 0666), 0);
    std::filesystem::create_directory(in_share("d"));
    const bool has_device = ::mknod(in_share("dev").c_str(), S_IFCHR | 0666, makedev(1, 5)) == 0;
    serve();
    // A fifo without a reader would block who opens it to write.
    EXPECT_NE(error_of(ask::create(FUSE_ROOT_ID, "fifo", O_WRONLY)), -1);
    EXPECT_EQ(error_of(ask::create(FUSE_ROOT_ID, "d", O_WRONLY)), EISDIR);
    if (has_device) {
        const FuseAnswer answer = call(ask::create(FUSE_ROOT_ID, "dev", O_RDONLY));
        EXPECT_NE(answer.error(), 0);
    }
    expect_alive();
}

// --- 11 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap11EachFlagDoesWhatItSays) {
    write_in_share("a", "a");
    write_in_share("b", "b");
    serve();
    EXPECT_EQ(error_of(ask::rename2(1, "a", 1, "b", RENAME_NOREPLACE)), EEXIST);
    EXPECT_EQ(error_of(ask::rename2(1, "a", 1, "b", RENAME_EXCHANGE)), 0);
    EXPECT_EQ(read_in_share("a"), "b");
    EXPECT_EQ(read_in_share("b"), "a");
    EXPECT_EQ(error_of(ask::rename2(1, "a", 1, "missing", RENAME_EXCHANGE)), ENOENT);
    const int error = error_of(ask::rename2(1, "a", 1, "c", RENAME_WHITEOUT));
    if (error == 0) {
        struct stat status {};

        ASSERT_EQ(::lstat(in_share("a").c_str(), &status), 0) << "a plain rename";
        EXPECT_TRUE(S_ISCHR(status.st_mode));
        EXPECT_EQ(read_in_share("c"), "b");
    } else {
        EXPECT_EQ(read_in_share("a"), "b");
    }
}

TEST_F(FsTraps, FsTrap11UnknownFlagsAreRefused) {
    write_in_share("a", "a");
    serve();
    for (const uint32_t flags : {8U, 0x80U, 0x8000'0000U, 0xffff'ffffU, 3U, 6U}) {
        EXPECT_NE(error_of(ask::rename2(1, "a", 1, "b", flags)), 0) << flags;
    }
    EXPECT_EQ(read_in_share("a"), "a");
}

// --- 12 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap12NamelessFilesGetAName) {
    serve();
    const FuseAnswer made = call(ask::tmpfile(FUSE_ROOT_ID, O_RDWR | O_TMPFILE));
    ASSERT_EQ(made.error(), 0);
    const auto entry = made.as<fuse_entry_out>();
    const uint64_t fh = made.as<fuse_open_out>(sizeof entry).fh;
    EXPECT_EQ(entry.attr.nlink, 0U);
    EXPECT_EQ(error_of(ask::write(entry.nodeid, fh, 0, "nameless")), 0);
    const FuseAnswer linked = call(ask::link(entry.nodeid, FUSE_ROOT_ID, "named"));
    ASSERT_EQ(linked.error(), 0);
    EXPECT_EQ(linked.as<fuse_entry_out>().nodeid, entry.nodeid);
    EXPECT_EQ(linked.as<fuse_entry_out>().attr.nlink, 1U);
    EXPECT_EQ(read_in_share("named"), "nameless");
    EXPECT_EQ(error_of(ask::link(entry.nodeid, FUSE_ROOT_ID, "named")), EEXIST);
}

// --- 13 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap13SizeOfAFileThatCannotBeWritten) {
    write_in_share("f", "0123456789");
    ASSERT_EQ(::chmod(in_share("f").c_str(), 0444), 0);
    serve();
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    in.size = 4;
    const FuseAnswer answer = call(ask::setattr(node_of("f"), in));
    EXPECT_EQ(answer.error(), 0);
    EXPECT_EQ(answer.as<fuse_attr_out>().attr.size, 4U);
    EXPECT_EQ(read_in_share("f"), "0123");
}

TEST_F(FsTraps, FsTrap13SizeOfOtherKinds) {
    ASSERT_EQ(::mkfifo(in_share("fifo").c_str(), 0666), 0);
    std::filesystem::create_directory(in_share("d"));
    std::filesystem::create_symlink("d", in_share("s"));
    serve();
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    for (const std::string_view name : {"fifo", "d", "s"}) {
        const int error = error_of(ask::setattr(node_of(name), in));
        EXPECT_GT(error, 0) << name;  // and at once
    }
    expect_alive();
}

TEST_F(FsTraps, FsTrap13OneTimeAlone) {
    write_in_share("f", "x");
    const std::array times = {timespec{.tv_sec = 1000, .tv_nsec = 1},
                              timespec{.tv_sec = 2000, .tv_nsec = 2}};
    ASSERT_EQ(::utimensat(AT_FDCWD, in_share("f").c_str(), times.data(), 0), 0);
    serve();
    fuse_setattr_in in{};
    in.valid = FATTR_MTIME;
    in.mtime = 3000;
    in.mtimensec = 3;
    const FuseAnswer answer = call(ask::setattr(node_of("f"), in));
    EXPECT_EQ(answer.error(), 0);
    EXPECT_EQ(answer.as<fuse_attr_out>().attr.atime, 1000U);
    EXPECT_EQ(answer.as<fuse_attr_out>().attr.atimensec, 1U);
    EXPECT_EQ(answer.as<fuse_attr_out>().attr.mtime, 3000U);
    in.mtimensec = 1'000'000'000;
    EXPECT_EQ(error_of(ask::setattr(node_of("f"), in)), EINVAL);
}

TEST_F(FsTraps, FsTrap13SymlinksAreChangedThemselves) {
    home_.write("outside", "x");
    ASSERT_EQ(::chmod((home_ / "outside").c_str(), 0640), 0);
    std::filesystem::create_symlink(home_ / "outside", in_share("s"));
    serve();
    fuse_setattr_in in{};
    in.valid = FATTR_MODE;
    in.mode = 0777;
    (void)call(ask::setattr(node_of("s"), in));
    in.valid = FATTR_UID | FATTR_GID;
    in.uid = 41001;
    in.gid = 41001;
    (void)call(ask::setattr(node_of("s"), in));

    struct stat status {};

    ASSERT_EQ(::stat((home_ / "outside").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0640U);
    EXPECT_EQ(status.st_uid, ::getuid());
    expect_alive();
}

// --- 14 ----------------------------------------------------------------------------------------

class FsTrapKill : public FsTraps {
  protected:
    void SetUp() override {
        if (::getuid() != 0) {
            GTEST_SKIP() << "this needs root";
        }
        write_in_share("f", "0123456789");
        ASSERT_EQ(::chmod(in_share("f").c_str(), 06777), 0);
        serve({.arguments = {"--killpriv-v2", "--xattr"}});
        if ((guest().init_flags() & FUSE_HANDLE_KILLPRIV_V2) == 0) {
            GTEST_SKIP() << "the daemon leaves it to the guest";
        }
    }

    [[nodiscard]] mode_t mode() const {
        struct stat status {};

        EXPECT_EQ(::stat(in_share("f").c_str(), &status), 0);
        return status.st_mode & 07777;
    }
};

TEST_F(FsTrapKill, FsTrap14ByWrite) {
    const uint64_t node = node_of("f");
    const uint64_t fh = call(ask::open(node, O_RDWR)).as<fuse_open_out>().fh;
    EXPECT_EQ(error_of(ask::write(node, fh, 0, "x")), 0);
    EXPECT_EQ(mode(), 06777U);
    EXPECT_EQ(error_of(ask::write(node, fh, 0, "x", FUSE_WRITE_KILL_SUIDGID)), 0);
    EXPECT_EQ(mode(), 0777U);
}

TEST_F(FsTrapKill, FsTrap14ByTruncation) {
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    in.size = 5;
    const uint64_t node = node_of("f");
    EXPECT_EQ(error_of(ask::setattr(node, in)), 0);
    EXPECT_EQ(mode(), 06777U);
    in.valid |= FATTR_KILL_SUIDGID;
    EXPECT_EQ(error_of(ask::setattr(node, in)), 0);
    EXPECT_EQ(mode(), 0777U);
}

TEST_F(FsTrapKill, FsTrap14ByOpeningToTruncate) {
    const uint64_t node = node_of("f");
    FuseRequest request = ask::open(node, O_RDWR | O_TRUNC);
    request.arguments = FuseArguments().add(
        fuse_open_in{.flags = O_RDWR | O_TRUNC, .open_flags = kOpenKillSuidgid});
    EXPECT_EQ(error_of(request), 0);
    EXPECT_EQ(mode(), 0777U);
}

TEST_F(FsTrapKill, FsTrap14ByChangeOfOwner) {
    fuse_setattr_in in{};
    in.valid = FATTR_UID | FATTR_GID;
    in.uid = 41001;
    in.gid = 41001;
    EXPECT_EQ(error_of(ask::setattr(node_of("f"), in)), 0);
    EXPECT_EQ(mode(), 0777U);
}

// --- 15 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap15UmaskAndDefaultLists) {
    // Version 2: user rwx, group rwx, mask rwx, others rwx; each 8 bytes.
    const std::string list(
        "\2\0\0\0\1\0\7\0\xff\xff\xff\xff\4\0\7\0\xff\xff\xff\xff\x10\0\7\0\xff"
        "\xff\xff\xff\x20\0\7\0\xff\xff\xff\xff",
        36);
    std::filesystem::create_directory(in_share("with"));
    std::filesystem::create_directory(in_share("without"));
    if (::setxattr(
            in_share("with").c_str(), "system.posix_acl_default", list.data(), list.size(), 0) !=
        0) {
        GTEST_SKIP() << "no access control lists here";
    }
    serve({.arguments = {"--xattr", "--posix-acl=auto"}});
    if ((guest().init_flags() & FUSE_DONT_MASK) == 0) {
        GTEST_SKIP() << "the guest masks";
    }
    const std::array directories = {node_of("with"), node_of("without")};
    const std::array<uint32_t, 2> expected = {0777, 0755};
    for (size_t i = 0; i < directories.size(); ++i) {
        FuseRequest request = ask::mkdir(directories[i], "d");
        request.arguments =
            FuseArguments().add(fuse_mkdir_in{.mode = 0777, .umask = 022}).name("d");
        const FuseAnswer answer = call(request);
        ASSERT_EQ(answer.error(), 0);
        EXPECT_EQ(answer.as<fuse_entry_out>().attr.mode & 07777U, expected[i]);
    }
}

TEST_F(FsTraps, FsTrap15UmaskOfOneRequestIsNotThatOfTheNext) {
    serve({.arguments = {"--xattr", "--posix-acl=auto"}});
    FuseRequest strict = ask::mkdir(FUSE_ROOT_ID, "strict");
    strict.arguments =
        FuseArguments().add(fuse_mkdir_in{.mode = 0777, .umask = 077}).name("strict");
    EXPECT_EQ(error_of(strict), 0);
    const FuseAnswer open = call(ask::mkdir(FUSE_ROOT_ID, "open", 0777));
    EXPECT_EQ(open.as<fuse_entry_out>().attr.mode & 07777U, 0777U);
}

// --- 23 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap23SpecialFilesAreNotOpened) {
    ASSERT_EQ(::mkfifo(in_share("fifo").c_str(), 0666), 0);
    serve();
    std::vector<std::string_view> names = {"fifo"};
    if (error_of(ask::mknod(FUSE_ROOT_ID, "zero", S_IFCHR | 0666, (1U << 8) | 5)) == 0) {
        names.emplace_back("zero");
    }
    ASSERT_EQ(error_of(ask::mknod(FUSE_ROOT_ID, "socket", S_IFSOCK | 0666)), 0);
    names.emplace_back("socket");
    for (const std::string_view name : names) {
        const uint64_t node = node_of(name);
        ASSERT_NE(node, 0U) << name;
        for (const int flags :
             {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_NONBLOCK, O_RDONLY | O_TRUNC}) {
            EXPECT_GT(error_of(ask::open(node, static_cast<uint32_t>(flags))), 0) << name;
        }
        EXPECT_GT(error_of(ask::opendir(node)), 0) << name;
    }
    expect_alive();
}

TEST_F(FsTraps, FsTrap23FlagsOfOpening) {
    serve();
    const OpenFile file = create("f", "0123456789");
    // As another one's file, O_NOATIME would be refused by the host; O_DIRECT wants an alignment
    // that a guest's memory does not have.
    for (const int flags : {O_RDWR | O_NOATIME,
                            O_RDWR | O_DIRECT,
                            O_RDWR | O_SYNC,
                            O_RDWR | O_PATH,
                            O_RDWR | O_DIRECTORY,
                            O_RDWR | O_NOFOLLOW,
                            O_RDWR | O_CREAT | O_EXCL,
                            O_RDWR | O_CLOEXEC | O_ASYNC}) {
        const FuseAnswer opened = call(ask::open(file.node, static_cast<uint32_t>(flags)));
        EXPECT_NE(opened.error(), -1) << flags;
        if (opened.error() == 0) {
            const uint64_t fh = opened.as<fuse_open_out>().fh;
            const FuseAnswer read = call(ask::read(file.node, fh, 3, 4));
            EXPECT_TRUE(read.error() == 0 ? read.text() == "3456" : read.error() > 0) << flags;
            EXPECT_EQ(error_of(ask::release(file.node, fh)), 0);
        }
    }
    EXPECT_EQ(read_in_share("f"), "0123456789");
    expect_alive();
}

TEST_F(FsTraps, FsTrap23DirectIoOfAnyAlignment) {
    serve({.arguments = {"--allow-direct-io"}});
    const OpenFile file = create("f", std::string(10'000, 'x'));
    const FuseAnswer opened =
        call(ask::open(file.node, static_cast<uint32_t>(O_RDWR) | static_cast<uint32_t>(O_DIRECT)));
    ASSERT_EQ(opened.error(), 0);
    const uint64_t fh = opened.as<fuse_open_out>().fh;
    EXPECT_EQ(call(ask::read(file.node, fh, 0, 4096)).text(), std::string(4096, 'x'));
    const FuseAnswer odd = call(ask::read(file.node, fh, 5, 100));
    EXPECT_TRUE(odd.error() == EINVAL || odd.text() == std::string(100, 'x'));
    EXPECT_NE(error_of(ask::write(file.node, fh, 3, "odd")), -1);
    expect_alive();
}

}  // namespace
}  // namespace outrigger::testing
