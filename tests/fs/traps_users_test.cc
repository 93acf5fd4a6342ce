// SPDX-License-Identifier: Apache-2.0
/// Traps 10, 13, 14, 16, 22, 23 and 26 once more: by whose rights something is done, under which
/// names attributes lie, and what one guest can pile up.
#include <array>
#include <cerrno>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/fs/fs_traps.h"
#include "tests/support/process_counts.h"

namespace outrigger::testing {
namespace {

constexpr uint32_t kSomebody = 41001;
constexpr gid_t kGroup = 41009;

class FsTrapUsers : public FsTraps {
  protected:
    void SetUp() override {
        if (::getuid() != 0) {
            GTEST_SKIP() << "this needs root";
        }
    }

    static FuseRequest as_somebody(FuseRequest request) {
        request.uid = kSomebody;
        request.gid = kSomebody;
        return request;
    }
};

// --- 10 ----------------------------------------------------------------------------------------

TEST_F(FsTrapUsers, FsTrap10CreateAsksWhetherItsUserMay) {
    // The guest took it for new, and has not looked at its mode.
    write_in_share("f", "root's");
    ASSERT_EQ(::chmod(in_share("f").c_str(), 0600), 0);
    write_in_share("g", "anybody's");
    ASSERT_EQ(::chmod(in_share("g").c_str(), 0666), 0);
    serve();
    for (const uint32_t flags :
         {uint32_t{O_RDONLY | O_CREAT}, uint32_t{O_RDWR | O_CREAT}, uint32_t{O_WRONLY | O_TRUNC}}) {
        EXPECT_EQ(error_of(as_somebody(ask::create(FUSE_ROOT_ID, "f", flags))), EACCES) << flags;
    }
    EXPECT_EQ(read_in_share("f"), "root's");
    EXPECT_EQ(error_of(as_somebody(ask::create(FUSE_ROOT_ID, "g", O_RDWR | O_CREAT))), 0);
    EXPECT_EQ(error_of(ask::create(FUSE_ROOT_ID, "f", O_RDWR | O_CREAT)), 0);
}

TEST_F(FsTrapUsers, FsTrap10GroupsOfTheDaemonAreNobodysInTheGuest) {
    std::filesystem::create_directory(in_share("d"));
    ASSERT_EQ(::chown(in_share("d").c_str(), 0, kGroup), 0);
    ASSERT_EQ(::chmod(in_share("d").c_str(), 0070), 0);
    std::vector<gid_t> before(static_cast<size_t>(::getgroups(0, nullptr)));
    ASSERT_GE(::getgroups(static_cast<int>(before.size()), before.data()), 0);
    ASSERT_EQ(::setgroups(1, &kGroup), 0);
    serve({.arguments = {"--sandbox=none"}});
    ASSERT_EQ(::setgroups(before.size(), before.data()), 0);
    const uint64_t directory = node_of("d");
    ASSERT_NE(directory, 0U);
    EXPECT_EQ(error_of(as_somebody(ask::mkdir(directory, "inside"))), EACCES);
}

TEST_F(FsTrapUsers, FsTrap10UsersAreTranslatedBothWays) {
    serve({.arguments = {"--translate-uid=map:41000:51000:10",
                         "--translate-gid=map:41000:61000:10",
                         "--translate-uid=forbid-guest:0:1000"}});
    const FuseAnswer made = call(as_somebody(ask::mkdir(FUSE_ROOT_ID, "d", 0777)));
    ASSERT_EQ(made.error(), EACCES) << "the root is root's";
    ASSERT_EQ(::chmod(share().c_str(), 0777), 0);
    const FuseAnswer second = call(as_somebody(ask::mkdir(FUSE_ROOT_ID, "d", 0777)));
    ASSERT_EQ(second.error(), 0);
    EXPECT_EQ(second.as<fuse_entry_out>().attr.uid, kSomebody);
    EXPECT_EQ(second.as<fuse_entry_out>().attr.gid, kSomebody);

    struct stat status {};

    ASSERT_EQ(::stat(in_share("d").c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 51001U);
    EXPECT_EQ(status.st_gid, 61001U);
    fuse_setattr_in in{};
    in.valid = FATTR_UID | FATTR_GID;
    in.uid = 41005;
    in.gid = 41006;
    const FuseAnswer given = call(ask::setattr(second.as<fuse_entry_out>().nodeid, in));
    EXPECT_EQ(given.as<fuse_attr_out>().attr.uid, 41005U);
    ASSERT_EQ(::stat(in_share("d").c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 51005U);
    EXPECT_EQ(status.st_gid, 61006U);
    // The forbidden make nothing, and are given nothing.
    EXPECT_EQ(error_of(ask::mkdir(FUSE_ROOT_ID, "roots")), EPERM);
    in.uid = 999;
    EXPECT_EQ(error_of(ask::setattr(second.as<fuse_entry_out>().nodeid, in)), EPERM);
    in.valid = FATTR_GID;
    EXPECT_EQ(error_of(ask::setattr(second.as<fuse_entry_out>().nodeid, in)), 0);
}

// --- 13 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap13SizeByAHandleOfAnotherFile) {
    serve();
    const OpenFile one = create("one", "0123456789");
    const OpenFile other = create("other", "abcdefghij");
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE | FATTR_FH;
    in.fh = other.fh;
    EXPECT_EQ(error_of(ask::setattr(one.node, in)), EBADF);
    EXPECT_EQ(read_in_share("one"), "0123456789");
    EXPECT_EQ(read_in_share("other"), "abcdefghij");
    in.fh = one.fh;
    in.size = 2;
    EXPECT_EQ(error_of(ask::setattr(one.node, in)), 0);
    EXPECT_EQ(read_in_share("one"), "01");
}

// --- 14 ----------------------------------------------------------------------------------------

class FsTrapMapped : public FsTraps {
  protected:
    static constexpr std::string_view kCapabilities = "security.capability";

    void SetUp() override {
        serve({.arguments = {"--xattrmap=:map::user.virtiofs.:"}});
        file_ = create("f", "0123456789");
        extended_ = (guest().init_flags() & FUSE_SETXATTR_EXT) != 0;
        ASSERT_EQ(set(kCapabilities, "powers"), 0);
    }

    int set(std::string_view name, std::string_view value) {
        return error_of(ask::setxattr(file_.node, name, value, extended_));
    }

    int get(std::string_view name) { return error_of(ask::getxattr(file_.node, name, 100)); }

    OpenFile file_;
    bool extended_ = false;
};

TEST_F(FsTrapMapped, FsTrap14CapabilitiesUnderAnotherNameGoByWrite) {
    EXPECT_EQ(get(kCapabilities), 0);
    EXPECT_EQ(error_of(ask::write(file_.node, file_.fh, 0, "x")), 0);
    EXPECT_EQ(get(kCapabilities), ENODATA);
}

TEST_F(FsTrapMapped, FsTrap14CapabilitiesUnderAnotherNameGoByTruncation) {
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    in.size = 5;
    EXPECT_EQ(error_of(ask::setattr(file_.node, in)), 0);
    EXPECT_EQ(get(kCapabilities), ENODATA);
}

TEST_F(FsTrapMapped, FsTrap14CapabilitiesUnderAnotherNameGoByOpeningToTruncate) {
    EXPECT_EQ(error_of(ask::open(file_.node, O_RDWR)), 0);
    EXPECT_EQ(get(kCapabilities), 0);
    EXPECT_EQ(error_of(ask::open(file_.node, O_RDWR | O_TRUNC)), 0);
    EXPECT_EQ(get(kCapabilities), ENODATA);
}

TEST_F(FsTrapMapped, FsTrap14CapabilitiesUnderAnotherNameGoWithTheOwner) {
    fuse_setattr_in in{};
    in.valid = FATTR_UID;
    in.uid = ::getuid();
    EXPECT_EQ(error_of(ask::setattr(file_.node, in)), 0);
    EXPECT_EQ(get(kCapabilities), ENODATA);
}

TEST_F(FsTrapMapped, FsTrap14CapabilitiesUnderAnotherNameStayBesides) {
    fuse_setattr_in in{};
    in.valid = FATTR_MTIME;
    in.mtime = 1;
    EXPECT_EQ(error_of(ask::setattr(file_.node, in)), 0);
    EXPECT_EQ(call(ask::read(file_.node, file_.fh, 0, 10)).error(), 0);
    EXPECT_EQ(get(kCapabilities), 0);
}

// --- 16 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap16AccessListsComeWithTheirOptionAlone) {
    // Linux 6.1 lets anybody set one where the device is not asked for them.
    const std::string list(
        "\2\0\0\0\1\0\7\0\xff\xff\xff\xff\4\0\7\0\xff\xff\xff\xff\x10\0\7\0\xff"
        "\xff\xff\xff\x20\0\7\0\xff\xff\xff\xff",
        36);
    constexpr std::string_view kDefault = "system.posix_acl_default";
    std::filesystem::create_directory(in_share("d"));
    if (::setxattr(in_share("d").c_str(), kDefault.data(), list.data(), list.size(), 0) != 0) {
        GTEST_SKIP() << "no access control lists here";
    }
    serve({.arguments = {"--xattr"}});
    const bool extended = (guest().init_flags() & FUSE_SETXATTR_EXT) != 0;
    const uint64_t node = node_of("d");
    for (const std::string_view name : {"system.posix_acl_access", "system.posix_acl_default"}) {
        EXPECT_EQ(error_of(ask::setxattr(node, name, list, extended)), EOPNOTSUPP) << name;
        EXPECT_EQ(error_of(ask::getxattr(node, name, 100)), EOPNOTSUPP) << name;
        EXPECT_EQ(error_of(ask::removexattr(node, name)), EOPNOTSUPP) << name;
    }
    EXPECT_EQ(call(ask::listxattr(node, 4096)).text().find("posix_acl"), std::string::npos);
    EXPECT_GT(::getxattr(in_share("d").c_str(), kDefault.data(), nullptr, 0), 0);
}

TEST_F(FsTrapMapped, FsTrap16NobodyGetsBehindThePrefix) {
    EXPECT_EQ(set("user.virtiofs.security.capability", "mine"), 0);
    EXPECT_EQ(call(ask::getxattr(file_.node, kCapabilities, 100)).text(), "powers");
    ASSERT_EQ(::setxattr(in_share("f").c_str(), "user.of-the-host", "x", 1, 0), 0);
    EXPECT_EQ(get("user.of-the-host"), ENODATA);
    EXPECT_EQ(call(ask::listxattr(file_.node, 4096)).text().find("host"), std::string::npos);
}

// --- 22 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap22TransfersAreNoLongerThanAgreedOn) {
    serve();
    constexpr uint32_t kLongest = 1 << 20;
    const std::string longer(kLongest + 1, 'x');
    const OpenFile file = create("f", std::string_view(longer).substr(1));
    EXPECT_EQ(call(ask::read(file.node, file.fh, 0, kLongest)).body().size(), kLongest);
    EXPECT_EQ(error_of(ask::write(file.node, file.fh, 0, longer)), EINVAL);
    const uint64_t directory = call(ask::opendir(FUSE_ROOT_ID)).as<fuse_open_out>().fh;
    EXPECT_EQ(error_of(ask::readdir(FUSE_ROOT_ID, directory, 0, kLongest)), 0);
}

// --- 23 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap23DirectIoOfMemoryThatIsNoSectors) {
    // As the guest's kernel reads and writes for itself: whole sectors of the file, its own memory.
    serve({.arguments = {"--allow-direct-io"}});
    const OpenFile file = create("f", std::string(8192, 'x'));
    const uint32_t flags = static_cast<uint32_t>(O_RDWR) | static_cast<uint32_t>(O_DIRECT);
    const FuseAnswer opened = call(ask::open(file.node, flags));
    ASSERT_EQ(opened.error(), 0);
    const uint64_t fh = opened.as<fuse_open_out>().fh;
    const std::string page(4096, 'y');
    const Bytes write = bytes_of(ask::write(file.node, fh, 4096, page), guest().next_unique());
    const auto begin = write.begin();
    const std::array parts = {Bytes(begin, begin + 80 + 100), Bytes(begin + 180, write.end())};
    const std::array<uint32_t, 1> room = {sizeof(fuse_out_header) + sizeof(fuse_write_out)};
    const FuseAnswer written = guest().call_raw(parts, room);
    EXPECT_EQ(written.error(), 0);
    EXPECT_EQ(written.as<fuse_write_out>().size, 4096U);
    EXPECT_EQ(read_in_share("f"), std::string(4096, 'x') + page);
    const std::array read = {bytes_of(ask::read(file.node, fh, 0, 8192), guest().next_unique())};
    const std::array<uint32_t, 3> pieces = {sizeof(fuse_out_header), 100, 8092};
    const FuseAnswer got = guest().call_raw(read, pieces);
    EXPECT_EQ(got.error(), 0);
    EXPECT_EQ(got.text(), std::string(4096, 'x') + page);
}

/// More than is copied at a time, across the guest's buffers, and the end of the file.
TEST_F(FsTraps, FsTrap23DirectIoOfMuchMemoryThatIsNoSectors) {
    constexpr uint32_t kMegabyte = uint32_t{1} << 20;
    serve({.arguments = {"--allow-direct-io"}});
    std::string content;
    for (uint32_t i = 0; i < 2 * kMegabyte + 1234; ++i) {
        content.push_back(static_cast<char>('a' + i / 512 % 23 + i % 3));
    }
    write_in_share("f", content);
    const uint64_t node = node_of("f");
    const uint32_t flags = static_cast<uint32_t>(O_RDONLY) | static_cast<uint32_t>(O_DIRECT);
    const FuseAnswer opened = call(ask::open(node, flags));
    if (opened.error() != 0) {
        GTEST_SKIP() << "no direct I/O here";
    }
    const uint64_t fh = opened.as<fuse_open_out>().fh;
    for (const uint32_t offset : {uint32_t{0}, uint32_t{4096}}) {
        const std::array read = {
            bytes_of(ask::read(node, fh, offset, 2 * kMegabyte), guest().next_unique())};
        const std::array<uint32_t, 4> pieces = {
            sizeof(fuse_out_header), 100, kMegabyte, kMegabyte - 100};
        const FuseAnswer got = guest().call_raw(read, pieces);
        EXPECT_EQ(got.error(), 0) << offset;
        EXPECT_TRUE(got.text() == content.substr(offset, 2 * kMegabyte)) << offset;
    }
}

// --- 26 ----------------------------------------------------------------------------------------

/// With as few descriptors as the daemon takes: 1024 for the guest.
class FsTrapFew : public FsTraps {
  protected:
    static constexpr int kFiles = 1100;
    static constexpr std::string_view kLimit = "--rlimit-nofile=2048";

    /// What a guest holds then, with the daemon's own.
    static constexpr size_t kDescriptorsMax = 1024 + 100;

    void use_all() {
        for (int i = 0; i < kFiles; ++i) {
            write_in_share(numbered("f", i), "x");
        }
        int error = 0;
        for (int i = 0; i < kFiles && error == 0; ++i) {
            error = error_of(ask::lookup(FUSE_ROOT_ID, numbered("f", i)));
        }
        ASSERT_EQ(error, ENFILE);
    }
};

TEST_F(FsTrapFew, FsTrap26NothingIsMadeThatCannotBeHeld) {
    serve({.arguments = {std::string(kLimit)}});
    use_all();
    EXPECT_EQ(error_of(ask::mkdir(FUSE_ROOT_ID, "d")), ENFILE);
    EXPECT_EQ(error_of(ask::mknod(FUSE_ROOT_ID, "n", S_IFREG | 0644)), ENFILE);
    EXPECT_EQ(error_of(ask::symlink(FUSE_ROOT_ID, "s", "target")), ENFILE);
    EXPECT_EQ(error_of(ask::create(FUSE_ROOT_ID, "c", O_RDWR)), ENFILE);
    for (const std::string_view name : {"d", "n", "s", "c"}) {
        EXPECT_FALSE(home_.has("share/" + std::string(name))) << name;
    }
    expect_alive();
}

TEST_F(FsTrapFew, FsTrap26ByHandleAGuestKnowsMoreThanThereAreDescriptors) {
    if (!has_handles()) {
        GTEST_SKIP() << "this needs root, and a file system with handles";
    }
    constexpr int kMany = 5000;
    for (int i = 0; i < kMany; ++i) {
        write_in_share(numbered("f", i), numbered("", i));
    }
    serve({.arguments = {std::string(kLimit), "--inode-file-handles=mandatory", "--xattr"}});
    std::vector<uint64_t> nodes;
    for (int i = 0; i < kMany; ++i) {
        nodes.push_back(node_of(numbered("f", i)));
        ASSERT_NE(nodes.back(), 0U) << i;
    }
    EXPECT_LT(ProcessCounts::of(daemon().pid()).descriptors, kDescriptorsMax);
    const bool extended = (guest().init_flags() & FUSE_SETXATTR_EXT) != 0;
    for (int i = 0; i < kMany; i += 50) {
        const uint64_t node = nodes[static_cast<size_t>(i)];
        const FuseAnswer opened = call(ask::open(node, O_RDWR));
        ASSERT_EQ(opened.error(), 0) << i;
        const uint64_t fh = opened.as<fuse_open_out>().fh;
        EXPECT_EQ(call(ask::read(node, fh, 0, 100)).text(), numbered("", i));
        EXPECT_EQ(error_of(ask::release(node, fh)), 0);
        EXPECT_EQ(error_of(ask::setxattr(node, "user.a", "b", extended)), 0);
        EXPECT_EQ(error_of(ask::link(node, FUSE_ROOT_ID, numbered("l", i))), 0);
        EXPECT_EQ(node_of(numbered("l", i)), node);
    }
    // What holds a descriptor still runs out, and the share lives on.
    int error = 0;
    std::vector<OpenFile> open;
    for (size_t i = 0; i < nodes.size() && error == 0; ++i) {
        const FuseAnswer opened = call(ask::open(nodes[i], O_RDONLY));
        error = opened.error();
        open.push_back({.node = nodes[i], .fh = opened.as<fuse_open_out>().fh});
    }
    EXPECT_EQ(error, ENFILE);
    EXPECT_EQ(error_of(ask::getattr(nodes.front())), 0);
    EXPECT_EQ(error_of(ask::release(open.front().node, open.front().fh)), 0);
    EXPECT_EQ(error_of(ask::open(nodes.back(), O_RDONLY)), 0);
    // A file that the host removes is gone, whatever gets its number next.
    ASSERT_TRUE(std::filesystem::remove(in_share(numbered("f", 1))));
    write_in_share("next", "x");
    EXPECT_NE(node_of("next"), nodes[1]);
    expect_alive();
}

TEST_F(FsTrapFew, FsTrap26LocksAreDescriptorsToo) {
    serve({.arguments = {std::string(kLimit), "--posix-lock"}});
    const OpenFile file = create("f", "x");
    const fuse_file_lock shared = {.start = 0, .end = 10, .type = F_RDLCK, .pid = 1};
    uint64_t owners = 0;
    int error = 0;
    while (error == 0 && owners < 3000) {
        error = error_of(ask::lock(FUSE_SETLK, file.node, file.fh, ++owners, shared));
    }
    EXPECT_EQ(error, ENFILE);
    EXPECT_LT(ProcessCounts::of(daemon().pid()).descriptors, kDescriptorsMax);
    write_in_share("g", "x");
    EXPECT_EQ(error_of(ask::lookup(FUSE_ROOT_ID, "g")), ENFILE);
    // Who closes the file gives them back.
    for (uint64_t owner = 1; owner <= 10; ++owner) {
        EXPECT_EQ(error_of(ask::flush(file.node, file.fh, owner)), 0);
    }
    EXPECT_NE(node_of("g"), 0U);
}

}  // namespace
}  // namespace outrigger::testing
