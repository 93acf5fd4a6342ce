// SPDX-License-Identifier: Apache-2.0
/// Escapes 1 to 28: by names, links and nodes that a guest makes or claims.
#include <array>
#include <cerrno>
#include <string>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fs/directory_listing.h"
#include "tests/fs/escapes.h"

namespace outrigger::testing {
namespace {

constexpr uint64_t kRoot = FUSE_ROOT_ID;

TEST_P(FsEscapes, Escape01LookupOfTheParent) {
    for (const std::string_view name : {"..", "../outside", "../secret", "sub/../../secret"}) {
        const FuseAnswer answer = attempt(ask::lookup(kRoot, name));
        if (answer.error() == 0) {
            // Then it is the root again, and nothing above.
            EXPECT_EQ(answer.as<fuse_entry_out>().nodeid, kRoot) << name;
        }
    }
}

TEST_P(FsEscapes, Escape02LookupOfTheParentFromBelow) {
    const uint64_t sub = node_of("sub");
    for (const std::string_view name : {"../..", "../../secret", "../../outside/target"}) {
        EXPECT_NE(attempt(ask::lookup(sub, name)).error(), 0) << name;
    }
}

TEST_P(FsEscapes, Escape03LookupOfAnAbsoluteName) {
    for (const std::string& name :
         {std::string("/"), std::string("/etc/passwd"), home_ / "secret"}) {
        EXPECT_NE(attempt(ask::lookup(kRoot, name)).error(), 0) << name;
    }
}

TEST_P(FsEscapes, Escape04CreateOutside) {
    for (const std::string& name :
         {std::string("../made"), std::string("../outside/made"), home_ / "outside/made"}) {
        EXPECT_NE(attempt(ask::create(kRoot, name, O_RDWR | O_CREAT)).error(), 0) << name;
    }
    EXPECT_FALSE(home_.has("made"));
}

TEST_P(FsEscapes, Escape05OpenOutsideByCreate) {
    for (const std::string& name :
         {std::string("../secret"), std::string("../outside/target"), home_ / "secret"}) {
        EXPECT_NE(attempt(ask::create(kRoot, name, O_RDWR | O_TRUNC)).error(), 0) << name;
    }
}

TEST_P(FsEscapes, Escape06MakeDirectoryOutside) {
    EXPECT_NE(attempt(ask::mkdir(kRoot, "../made")).error(), 0);
    EXPECT_NE(attempt(ask::mkdir(kRoot, home_ / "made")).error(), 0);
    EXPECT_NE(attempt(ask::mkdir(node_of("sub"), "../../made")).error(), 0);
    EXPECT_FALSE(home_.has("made"));
}

TEST_P(FsEscapes, Escape07MakeNodeOutside) {
    EXPECT_NE(attempt(ask::mknod(kRoot, "../made", S_IFREG | 0666)).error(), 0);
    EXPECT_NE(attempt(ask::mknod(kRoot, home_ / "made", S_IFCHR | 0666, 0x105)).error(), 0);
    EXPECT_FALSE(home_.has("made"));
}

TEST_P(FsEscapes, Escape08SymlinkOutsideByItsOwnName) {
    // GHSA-2gv2-cffp-j227: the name of the link, and not its target.
    EXPECT_NE(attempt(ask::symlink(kRoot, home_ / "made", "target")).error(), 0);
    EXPECT_NE(attempt(ask::symlink(kRoot, "../made", "target")).error(), 0);
    EXPECT_FALSE(home_.has("made"));
}

TEST_P(FsEscapes, Escape09HardLinkToTheOutside) {
    EXPECT_NE(attempt(ask::link(node_of("plain"), kRoot, "../made")).error(), 0);
    EXPECT_NE(attempt(ask::link(node_of("plain"), kRoot, home_ / "made")).error(), 0);
    EXPECT_FALSE(home_.has("made"));
}

TEST_P(FsEscapes, Escape10UnlinkOutside) {
    for (const std::string& name :
         {std::string("../secret"), std::string("../outside/target"), home_ / "secret"}) {
        EXPECT_NE(attempt(ask::unlink(kRoot, name)).error(), 0) << name;
    }
}

TEST_P(FsEscapes, Escape11RemoveDirectoryOutside) {
    std::filesystem::create_directory(home_ / "empty");
    EXPECT_NE(attempt(ask::rmdir(kRoot, "../empty")).error(), 0);
    EXPECT_NE(attempt(ask::rmdir(kRoot, home_ / "empty")).error(), 0);
    EXPECT_NE(attempt(ask::rmdir(kRoot, "..")).error(), 0);
    EXPECT_TRUE(home_.has("empty"));
}

TEST_P(FsEscapes, Escape12RenameToTheOutside) {
    for (const std::string& name :
         {std::string("../made"), home_ / "made", std::string("../outside/target")}) {
        EXPECT_NE(attempt(ask::rename(kRoot, "plain", kRoot, name)).error(), 0) << name;
        EXPECT_NE(attempt(ask::rename2(kRoot, "plain", kRoot, name, RENAME_NOREPLACE)).error(), 0);
    }
    EXPECT_FALSE(home_.has("made"));
}

TEST_P(FsEscapes, Escape13RenameFromTheOutside) {
    for (const std::string& name :
         {std::string("../secret"), home_ / "secret", std::string("../outside/target")}) {
        EXPECT_NE(attempt(ask::rename(kRoot, name, kRoot, "stolen")).error(), 0) << name;
    }
    EXPECT_NE(attempt(ask::rename(kRoot, "..", kRoot, "stolen")).error(), 0);
    EXPECT_FALSE(home_.has("share/stolen"));
}

TEST_P(FsEscapes, Escape14ExchangeWithTheOutside) {
    EXPECT_NE(attempt(ask::rename2(kRoot, "plain", kRoot, "../secret", RENAME_EXCHANGE)).error(),
              0);
    EXPECT_NE(attempt(ask::rename2(kRoot, "sub", kRoot, "../outside", RENAME_EXCHANGE)).error(), 0);
    EXPECT_NE(attempt(ask::rename2(kRoot, "sub", kRoot, "..", RENAME_EXCHANGE)).error(), 0);
}

TEST_P(FsEscapes, Escape15OpenOfALinkThatLeadsOut) {
    EXPECT_EQ(attempt(ask::symlink(kRoot, "out", home_ / "secret")).error(), 0);
    EXPECT_EQ(attempt(ask::symlink(kRoot, "up", "../secret")).error(), 0);
    for (const std::string_view name : {"out", "up"}) {
        const uint64_t node = node_of(name);
        ASSERT_NE(node, 0U);
        attack_node(node);
        for (const int flags : {O_RDONLY, O_RDWR, O_RDWR | O_TRUNC, O_RDONLY | O_NOFOLLOW}) {
            EXPECT_NE(attempt(ask::open(node, static_cast<uint32_t>(flags))).error(), 0) << name;
        }
    }
}

TEST_P(FsEscapes, Escape16CreateThroughALink) {
    EXPECT_EQ(attempt(ask::symlink(kRoot, "out", home_ / "secret")).error(), 0);
    EXPECT_EQ(attempt(ask::symlink(kRoot, "dangling", home_ / "made")).error(), 0);
    for (const std::string_view name : {"out", "dangling"}) {
        for (const uint32_t flags : {uint32_t{O_RDWR}, uint32_t{O_RDWR | O_TRUNC | O_CREAT}}) {
            EXPECT_NE(attempt(ask::create(kRoot, name, flags)).error(), 0) << name;
        }
    }
    EXPECT_FALSE(home_.has("made"));
}

TEST_P(FsEscapes, Escape17LookupThroughALinkToADirectory) {
    EXPECT_EQ(attempt(ask::symlink(kRoot, "out", home_ / "outside")).error(), 0);
    const uint64_t node = node_of("out");
    ASSERT_NE(node, 0U);
    EXPECT_NE(attempt(ask::lookup(node, "target")).error(), 0);
    EXPECT_NE(attempt(ask::lookup(kRoot, "out/target")).error(), 0);
    EXPECT_NE(attempt(ask::opendir(node)).error(), 0);
}

TEST_P(FsEscapes, Escape18MakeThroughALinkToADirectory) {
    EXPECT_EQ(attempt(ask::symlink(kRoot, "out", home_ / "outside")).error(), 0);
    const uint64_t node = node_of("out");
    EXPECT_NE(attempt(ask::mkdir(node, "made")).error(), 0);
    EXPECT_NE(attempt(ask::create(node, "made", O_RDWR)).error(), 0);
    EXPECT_NE(attempt(ask::symlink(node, "made", "x")).error(), 0);
    EXPECT_NE(attempt(ask::mkdir(kRoot, "out/made")).error(), 0);
    EXPECT_NE(attempt(ask::rename(kRoot, "plain", node, "made")).error(), 0);
}

TEST_P(FsEscapes, Escape19RemoveThroughALinkToADirectory) {
    EXPECT_EQ(attempt(ask::symlink(kRoot, "out", home_ / "outside")).error(), 0);
    const uint64_t node = node_of("out");
    EXPECT_NE(attempt(ask::unlink(node, "target")).error(), 0);
    EXPECT_NE(attempt(ask::unlink(kRoot, "out/target")).error(), 0);
    EXPECT_NE(attempt(ask::rename(node, "target", kRoot, "stolen")).error(), 0);
}

TEST_P(FsEscapes, Escape20ChangeWhatALinkLeadsTo) {
    EXPECT_EQ(attempt(ask::symlink(kRoot, "out", home_ / "outside/target")).error(), 0);
    const uint64_t node = node_of("out");
    fuse_setattr_in in{};
    in.valid = FATTR_MODE;
    in.mode = 0777;
    (void)attempt(ask::setattr(node, in));
    in.valid = FATTR_UID | FATTR_GID;
    in.uid = 41001;
    in.gid = 41001;
    (void)attempt(ask::setattr(node, in));
    in.valid = FATTR_SIZE;
    EXPECT_NE(attempt(ask::setattr(node, in)).error(), 0);
    in.valid = FATTR_ATIME | FATTR_MTIME;
    in.mtime = 12345;
    (void)attempt(ask::setattr(node, in));
}

TEST_P(FsEscapes, Escape21AttributesOfWhatALinkLeadsTo) {
    EXPECT_EQ(attempt(ask::symlink(kRoot, "out", home_ / "outside/target")).error(), 0);
    const uint64_t node = node_of("out");
    const bool extended = (guest().init_flags() & FUSE_SETXATTR_EXT) != 0;
    EXPECT_NE(attempt(ask::setxattr(node, "user.a", "value", extended)).error(), 0);
    (void)attempt(ask::setxattr(node, "trusted.a", "value", extended));
    (void)attempt(ask::removexattr(node, "user.a"));
}

TEST_P(FsEscapes, Escape22HardLinkToALink) {
    EXPECT_EQ(attempt(ask::symlink(kRoot, "out", home_ / "outside/target")).error(), 0);
    const FuseAnswer answer = attempt(ask::link(node_of("out"), kRoot, "hard"));

    // A link to the link itself is good; one to what it leads to is not.
    struct stat status {};

    if (answer.error() == 0) {
        ASSERT_EQ(::lstat(in_share("hard").c_str(), &status), 0);
        EXPECT_TRUE(S_ISLNK(status.st_mode));
    }
}

TEST_P(FsEscapes, Escape23LinkIntoTheDaemonsOwnDescriptors) {
    for (int fd = 0; fd < 40; ++fd) {
        const std::string name = numbered("fd", fd);
        EXPECT_EQ(attempt(ask::symlink(kRoot, name, numbered("/proc/self/fd/", fd))).error(), 0);
        attack_node(node_of(name));
    }
    EXPECT_EQ(attempt(ask::symlink(kRoot, "root", "/proc/self/root")).error(), 0);
    EXPECT_EQ(attempt(ask::symlink(kRoot, "cwd", "/proc/self/cwd/..")).error(), 0);
    attack_node(node_of("root"));
    attack_node(node_of("cwd"));
}

TEST_P(FsEscapes, Escape24DotsInsideADirectory) {
    const uint64_t sub = node_of("sub");
    const FuseAnswer up = attempt(ask::lookup(sub, ".."));
    if (up.error() == 0) {
        EXPECT_EQ(up.as<fuse_entry_out>().nodeid, kRoot);
    }
    EXPECT_NE(attempt(ask::mkdir(sub, "..")).error(), 0);
    EXPECT_NE(attempt(ask::unlink(sub, "..")).error(), 0);
    EXPECT_NE(attempt(ask::rename(sub, "..", kRoot, "x")).error(), 0);
    EXPECT_NE(attempt(ask::symlink(sub, "..", "x")).error(), 0);
}

TEST_P(FsEscapes, Escape25ParentOfADirectoryThatMoved) {
    EXPECT_EQ(attempt(ask::mkdir(kRoot, "a")).error(), 0);
    const uint64_t a = node_of("a");
    EXPECT_EQ(attempt(ask::mkdir(a, "b")).error(), 0);
    const uint64_t b = node_of("b", a);
    EXPECT_EQ(attempt(ask::rename(a, "b", kRoot, "b")).error(), 0);
    for (const std::string_view name : {"..", "../..", "../../outside/target"}) {
        const FuseAnswer answer = attempt(ask::lookup(b, name));
        EXPECT_TRUE(answer.error() != 0 || answer.as<fuse_entry_out>().nodeid == kRoot) << name;
    }
}

TEST_P(FsEscapes, Escape26ForgedNodes) {
    for (uint64_t node = 2; node < 600; ++node) {
        (void)attempt(ask::lookup(node, "target"));
        (void)attempt(ask::lookup(node, "secret"));
    }
    for (const uint64_t high : {uint64_t{1} << 32, uint64_t{1} << 48, uint64_t{1} << 63}) {
        attack_node(kRoot | high);
        attack_node(2 | high);
    }
}

TEST_P(FsEscapes, Escape27ForgedHandles) {
    for (uint64_t fh = 0; fh < 600; ++fh) {
        const FuseAnswer read = attempt(ask::read(kRoot, fh, 0, 4096));
        EXPECT_NE(read.error(), 0) << fh;
        (void)attempt(ask::read(node_of("plain"), fh, 0, 4096));
        (void)attempt(ask::write(kRoot, fh, 0, "broken"));
    }
}

TEST_P(FsEscapes, Escape28ListingsShowNothingAbove) {
    const uint64_t fh = attempt(ask::opendir(kRoot)).as<fuse_open_out>().fh;
    const Listing listing = list_directory(guest(), kRoot, fh, true, 4096);
    for (const ListedEntry& entry : listing.entries) {
        EXPECT_NE(entry.name, "secret");
        EXPECT_NE(entry.name, "outside");

        struct stat home {};

        ASSERT_EQ(::stat(home_.path().c_str(), &home), 0);
        EXPECT_NE(entry.inode, home.st_ino) << entry.name;
    }
}

INSTANTIATE_TEST_SUITE_P(Sandbox,
                         FsEscapes,
                         ::testing::Values("standard", "strict", "log", "none"),
                         [](const auto& mode) { return std::string(mode.param); });

}  // namespace
}  // namespace outrigger::testing
