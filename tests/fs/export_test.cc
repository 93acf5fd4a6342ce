// SPDX-License-Identifier: Apache-2.0
// A guest that exports the share by NFS: its kernel asks by number for what it has forgotten, and
// for the directory of a directory. A number leads to the file that it was given for, or nowhere.
#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost-user-backend/state/device_state.h"

#include "tests/fs/fs_test.h"

namespace outrigger::testing {
namespace {

class FsExport : public FsTest {
  protected:
    void begin(std::vector<std::string> more = {}, bool keeper = false) {
        if (!has_handles()) {
            GTEST_SKIP() << "no handles here, or not root";
        }
        more.insert(more.end(), {"--nfs-export", "--inode-file-handles=mandatory"});
        serve({.arguments = more, .keeper = keeper});
        ASSERT_NE(guest().init_flags() & FUSE_EXPORT_SUPPORT, 0U);
    }

    /// A file of the share that the guest has known.
    uint64_t forgotten(std::string_view name, uint64_t parent = FUSE_ROOT_ID) {
        const uint64_t node = node_of(name, parent);
        EXPECT_NE(node, 0U) << name;
        forget(node, 1);
        return node;
    }

    void forget(uint64_t node, uint64_t count) {
        EXPECT_TRUE(guest().call(ask::forget(node, count), FuseGuest::kHighPriority).used);
    }

    FuseAnswer look_up(uint64_t node, std::string_view dots) {
        return call(ask::lookup(node, dots));
    }

    uint64_t number_of(const FuseAnswer& answer) {
        return answer.error() == 0 ? answer.as<fuse_entry_out>().nodeid : 0;
    }

    /// Does the daemon hold a file that nobody finds any more?
    [[nodiscard]] bool holds_removed(const std::string& name) {
        return holds(daemon(), name + " (deleted)");
    }

    /// Has the process a file open whose path ends with that?
    [[nodiscard]] static bool holds(const ChildProcess& process, const std::string& end) {
        for (const auto& entry : std::filesystem::directory_iterator(
                 "/proc/" + std::to_string(process.pid()) + "/fd")) {
            std::error_code gone;
            if (std::filesystem::read_symlink(entry, gone).string().ends_with(end)) {
                return true;
            }
        }
        return false;
    }

    /// At another daemon of the same directory.
    void arrive(std::string_view state, const std::vector<std::string>& more = {}) {
        std::vector<std::string> arguments = {"--socket-path=" + (home_ / "other"),
                                              "--shared-dir=" + share(),
                                              "--keeper=none",
                                              "--inode-file-handles=mandatory",
                                              "--nfs-export"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        other_.emplace(std::getenv("OUTRIGGER_FS_PROGRAM"),
                       ChildProcess::Options{.arguments = arguments});
        ASSERT_TRUE(guest().arrive(home_ / "other", state)) << other_->complained();
    }

    std::optional<ChildProcess> other_;
};

TEST_F(FsExport, IsNotOfferedUnlessAskedFor) {
    serve();
    EXPECT_EQ(guest().init_flags() & FUSE_EXPORT_SUPPORT, 0U);
    EXPECT_EQ(look_up(FUSE_ROOT_ID, ".").error(), EINVAL);
}

TEST_F(FsExport, NeedsHandles) {
    ChildProcess refused(std::getenv("OUTRIGGER_FS_PROGRAM"),
                         ChildProcess::Options{.arguments = {"--socket-path=" + (home_ / "socket"),
                                                             "--shared-dir=" + share(),
                                                             "--nfs-export"}});
    const auto ended = refused.wait();
    ASSERT_TRUE(ended.has_value());
    EXPECT_NE(ended->status, 0);
    EXPECT_NE(refused.complained().find("--inode-file-handles"), std::string::npos);
}

TEST_F(FsExport, WhatWasForgottenIsFoundByItsNumber) {
    begin();
    if (IsSkipped()) {
        return;
    }
    write_in_share("f", "content");
    const uint64_t node = forgotten("f");
    const FuseAnswer found = look_up(node, ".");
    ASSERT_EQ(found.error(), 0);
    EXPECT_EQ(number_of(found), node);
    EXPECT_EQ(found.as<fuse_entry_out>().generation, 0U);
    EXPECT_EQ(found.as<fuse_entry_out>().attr.size, 7U);
    EXPECT_EQ(node_of("f"), node) << "and by its name";
    // That were two look-ups.
    forget(node, 2);
    EXPECT_EQ(number_of(look_up(node, ".")), node);
    expect_alive();
}

TEST_F(FsExport, LinksAndSpecialFilesToo) {
    begin();
    if (IsSkipped()) {
        return;
    }
    ASSERT_EQ(::mkfifo(in_share("fifo").c_str(), 0600), 0);
    ASSERT_EQ(::symlink("/etc/passwd", in_share("link").c_str()), 0);
    for (const std::string_view name : {"fifo", "link"}) {
        const uint64_t node = forgotten(name);
        EXPECT_EQ(number_of(look_up(node, ".")), node) << name;
    }
    EXPECT_EQ(look_up(node_of("link"), "..").error(), ENOTDIR);
}

TEST_F(FsExport, NumbersThatNobodyWasGivenLeadNowhere) {
    begin();
    if (IsSkipped()) {
        return;
    }
    write_in_share("f", "");
    const uint64_t node = forgotten("f");
    for (const uint64_t forged :
         {uint64_t{0}, node + 1, node | uint64_t{1} << 32, node | uint64_t{1} << 24, UINT64_MAX}) {
        EXPECT_EQ(look_up(forged, ".").error(), ESTALE) << forged;
        EXPECT_EQ(look_up(forged, "..").error(), ESTALE) << forged;
    }
    for (const std::string_view name : {"...", "../f", "./f", "/", "", "..\n"}) {
        EXPECT_NE(look_up(FUSE_ROOT_ID, name).error(), 0) << name;
    }
    expect_alive();
}

TEST_F(FsExport, WhatIsRemovedIsGoneAndFree) {
    begin();
    if (IsSkipped()) {
        return;
    }
    write_in_share("before", "x");
    write_in_share("after", "x");
    const uint64_t before = node_of("before");
    const uint64_t after = forgotten("after");
    ASSERT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, "before")), 0);
    EXPECT_EQ(look_up(before, ".").error(), ESTALE) << "though it is not forgotten yet";
    EXPECT_EQ(error_of(ask::getattr(before)), 0);
    forget(before, 1);
    std::filesystem::remove(in_share("after"));
    EXPECT_EQ(look_up(before, ".").error(), ESTALE);
    EXPECT_EQ(look_up(after, ".").error(), ESTALE);
    EXPECT_FALSE(holds_removed("before"));
    EXPECT_FALSE(holds_removed("after"));
    // Whoever has the name, or the inode's number, now is somebody else.
    write_in_share("after", "y");
    EXPECT_NE(node_of("after"), after);
    EXPECT_EQ(look_up(after, ".").error(), ESTALE);
}

TEST_F(FsExport, TheDirectoryAboveIsFound) {
    begin();
    if (IsSkipped()) {
        return;
    }
    std::filesystem::create_directories(in_share("a/b"));
    const uint64_t above = node_of("a");
    const uint64_t below = forgotten("b", above);
    forget(above, 1);
    EXPECT_EQ(number_of(look_up(below, "..")), above);
    EXPECT_EQ(number_of(look_up(above, "..")), uint64_t{FUSE_ROOT_ID});
    std::filesystem::rename(in_share("a/b"), in_share("c"));
    EXPECT_EQ(number_of(look_up(below, "..")), uint64_t{FUSE_ROOT_ID});
}

TEST_F(FsExport, NothingIsAboveTheShare) {
    begin();
    if (IsSkipped()) {
        return;
    }
    EXPECT_EQ(number_of(look_up(FUSE_ROOT_ID, "..")), uint64_t{FUSE_ROOT_ID});
    EXPECT_EQ(number_of(look_up(FUSE_ROOT_ID, ".")), uint64_t{FUSE_ROOT_ID});
    std::filesystem::create_directories(in_share("a/b"));
    const uint64_t node = forgotten("b", node_of("a"));
    std::filesystem::rename(in_share("a/b"), home_ / "b");
    EXPECT_EQ(look_up(node, "..").error(), ESTALE) << "it is not in the share any more";
    std::filesystem::rename(home_ / "b", in_share("a/b"));
    EXPECT_NE(number_of(look_up(node, "..")), 0U);
}

TEST_F(FsExport, ATableThatIsFullForgetsTheOldest) {
    begin({"--inodes-max=64"});
    if (IsSkipped()) {
        return;
    }
    std::vector<uint64_t> nodes;
    for (int i = 0; i < 200; ++i) {
        write_in_share(numbered("f", i), "x");
        nodes.push_back(forgotten(numbered("f", i)));
        ASSERT_NE(nodes.back(), 0U) << i;
    }
    EXPECT_EQ(look_up(nodes.front(), ".").error(), ESTALE);
    EXPECT_EQ(number_of(look_up(nodes.back(), ".")), nodes.back());
    // What the guest still knows does not make room.
    for (int i = 0; i < 100; ++i) {
        const int error = call(ask::lookup(FUSE_ROOT_ID, numbered("f", i))).error();
        EXPECT_EQ(error, i < 62 ? 0 : ENFILE) << i;
    }
}

TEST_F(FsExport, TheNextProcessKnowsThemToo) {
    begin({}, true);
    if (IsSkipped()) {
        return;
    }
    std::filesystem::create_directory(in_share("d"));
    write_in_share("d/f", "content");
    const uint64_t directory = node_of("d");
    const uint64_t node = forgotten("f", directory);
    forget(directory, 1);
    for (int i = 0; i < 2; ++i) {
        kill();
        EXPECT_EQ(number_of(look_up(node, ".")), node);
        EXPECT_EQ(node_of("d"), directory);
        forget(node, 1);
        forget(directory, 1);
    }
    kill();
    std::filesystem::remove(in_share("d/f"));
    EXPECT_EQ(look_up(node, ".").error(), ESTALE);
}

TEST_F(FsExport, TheyGoAlongWithTheGuest) {
    begin();
    if (IsSkipped()) {
        return;
    }
    write_in_share("f", "content");
    write_in_share("gone", "content");
    write_in_share("late", "content");
    const uint64_t node = forgotten("f");
    const uint64_t gone = forgotten("gone");
    const uint64_t late = forgotten("late");
    std::filesystem::remove(in_share("gone"));
    const auto state = guest().leave();
    ASSERT_TRUE(state) << daemon().complained();
    // Of what is forgotten nobody keeps the guest from moving by removing it meanwhile.
    std::filesystem::remove(in_share("late"));
    arrive(*state);
    EXPECT_EQ(number_of(look_up(node, ".")), node);
    EXPECT_EQ(look_up(gone, ".").error(), ESTALE);
    EXPECT_EQ(look_up(late, ".").error(), ESTALE);
    EXPECT_EQ(node_of("f"), node);
}

/// Builds of a time wrote them among the others, without look-ups.
TEST_F(FsExport, AStateThatNamesThemAmongTheKnownIsTaken) {
    begin();
    if (IsSkipped()) {
        return;
    }
    constexpr std::string_view kName = "forgotten";
    write_in_share(std::string(kName), "content");
    write_in_share("known", "content");
    (void)node_of(kName);
    const uint64_t known = node_of("known");
    const auto state = guest().leave();
    ASSERT_TRUE(state) << daemon().complained();
    auto parsed = parse_state(std::as_bytes(std::span(*state)));
    ASSERT_TRUE(parsed);
    size_t count = 0;
    for (StateSection& section : parsed->sections) {
        // Look-ups, type, bytes of the path as before and others.
        const std::string tail = std::string{'\0', static_cast<char>(kName.size())} + kName.data();
        const auto bytes = std::as_bytes(std::span(tail));
        const auto at = std::ranges::search(section.bytes, bytes).begin();
        if (section.id == 2 && at != section.bytes.end()) {
            ASSERT_EQ(*(at - 2), std::byte{1});
            *(at - 2) = std::byte{0};
            ++count;
        }
    }
    ASSERT_EQ(count, 1U);
    const auto changed = encode_state(*parsed);
    ASSERT_TRUE(changed);
    arrive(*changed);
    EXPECT_EQ(error_of(ask::getattr(known)), 0);
    EXPECT_EQ(node_of("known"), known);
    EXPECT_NE(node_of(kName), 0U);
}

TEST_F(FsExport, AFileThatTookTheNameOfAForgottenOneHasNotItsNumber) {
    begin();
    if (IsSkipped()) {
        return;
    }
    write_in_share("f", "content");
    const uint64_t node = forgotten("f");
    const auto state = guest().leave();
    ASSERT_TRUE(state) << daemon().complained();
    write_in_share("new", "another");
    std::filesystem::rename(in_share("new"), in_share("f"));
    arrive(*state);
    EXPECT_EQ(look_up(node, ".").error(), ESTALE);
    EXPECT_NE(node_of("f"), node);
}

// Which was there before it, and is found first.
TEST_F(FsExport, AForgottenNameThatLeadsToAKnownFileDoesNotKeepTheGuest) {
    begin();
    if (IsSkipped()) {
        return;
    }
    write_in_share("x", "content");
    write_in_share("y", "another");
    const uint64_t lost = forgotten("x");
    const uint64_t known = node_of("y");
    const auto state = guest().leave();
    ASSERT_TRUE(state) << daemon().complained();
    std::filesystem::remove(in_share("x"));
    std::filesystem::create_hard_link(in_share("y"), in_share("x"));
    arrive(*state);
    EXPECT_EQ(look_up(lost, ".").error(), ESTALE);
    EXPECT_EQ(error_of(ask::getattr(known)), 0);
    EXPECT_EQ(node_of("x"), known);
}

TEST_F(FsExport, NobodyHoldsThemBehindAMove) {
    begin();
    if (IsSkipped()) {
        return;
    }
    write_in_share("f", "content");
    (void)forgotten("f");
    ASSERT_FALSE(holds(daemon(), "/f"));
    const auto state = guest().leave();
    ASSERT_TRUE(state) << daemon().complained();
    EXPECT_FALSE(holds(daemon(), "/f"));
    arrive(*state);
    EXPECT_FALSE(holds(*other_, "/f"));
}

// Of whom many would be more than a state takes, and more than the other side's --inodes-max.
TEST_F(FsExport, AsManyGoAlongAsThereIsRoomFor) {
    begin();
    if (IsSkipped()) {
        return;
    }
    constexpr int kFiles = 20'000;
    constexpr int kDepth = 14;
    std::array<uint64_t, 2> directories = {FUSE_ROOT_ID, FUSE_ROOT_ID};
    for (const int side : {0, 1}) {
        std::string path;
        for (int depth = 0; depth < kDepth; ++depth) {
            const std::string name(250, static_cast<char>((side == 0 ? 'a' : 'A') + depth));
            path += name + "/";
            ASSERT_TRUE(std::filesystem::create_directories(in_share(path)));
            directories.at(static_cast<size_t>(side)) =
                node_of(name, directories.at(static_cast<size_t>(side)));
        }
    }
    // In turn in one directory and the other: the path before says nothing of the next.
    std::vector<uint64_t> nodes;
    for (int i = 0; i < kFiles; ++i) {
        const uint64_t directory = directories.at(static_cast<size_t>(i % 2));
        const FuseAnswer made = call(ask::mknod(directory, numbered("f", i), S_IFREG | 0600));
        ASSERT_EQ(made.error(), 0) << i;
        nodes.push_back(made.as<fuse_entry_out>().nodeid);
        forget(nodes.back(), 1);
    }
    const auto state = guest().leave();
    ASSERT_TRUE(state) << daemon().complained();
    arrive(*state, {"--inodes-max=2000"});
    EXPECT_EQ(number_of(look_up(nodes.back(), ".")), nodes.back());
    EXPECT_EQ(number_of(look_up(nodes.at(kFiles - 1000), ".")), nodes.at(kFiles - 1000));
    EXPECT_EQ(look_up(nodes.front(), ".").error(), ESTALE);
    EXPECT_NE(node_of("f0", directories[0]), 0U) << "they make room";
}

TEST_F(FsExport, ADaemonThatDoesNotKeepThemRefusesTheGuest) {
    begin();
    if (IsSkipped()) {
        return;
    }
    const auto state = guest().leave();
    ASSERT_TRUE(state) << daemon().complained();
    other_.emplace(std::getenv("OUTRIGGER_FS_PROGRAM"),
                   ChildProcess::Options{.arguments = {"--socket-path=" + (home_ / "other"),
                                                       "--shared-dir=" + share(),
                                                       "--keeper=none",
                                                       "--inode-file-handles=mandatory"}});
    EXPECT_FALSE(guest().arrive(home_ / "other", *state));
    EXPECT_NE(other_->complained().find("--nfs-export"), std::string::npos);
}

}  // namespace
}  // namespace outrigger::testing
