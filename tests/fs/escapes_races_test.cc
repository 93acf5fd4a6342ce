// SPDX-License-Identifier: Apache-2.0
/// Escapes 29 to 50: devices and rights, and what somebody on the host changes at that very moment.
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/fs/directory_listing.h"
#include "tests/fs/escapes.h"

namespace outrigger::testing {
namespace {

constexpr uint64_t kRoot = FUSE_ROOT_ID;
constexpr int kRounds = 400;

/// Does something on the host again and again, until it is gone.
class Host final {
  public:
    explicit Host(std::function<void()> change)
        : thread_([this, change = std::move(change)] {
              while (!stop_) {
                  change();
              }
          }) {}

    Host(const Host&) = delete;
    Host& operator=(const Host&) = delete;

    ~Host() {
        stop_ = true;
        thread_.join();
    }

  private:
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

void exchange(const std::string& a, const std::string& b) {
    (void)::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
}

class FsHostEscapes : public FsEscapes {};

class FsHostRaces : public FsEscapes {
  protected:
    /// Where `name` stands in turn: what it is, and a link to the outside.
    Host swap_with_link(const std::string& name, const std::string& target) {
        std::filesystem::create_symlink(target, in_share("swap"));
        return Host([a = in_share(name), b = in_share("swap")] { exchange(a, b); });
    }

    void try_to_open(uint64_t node) {
        const FuseAnswer opened = attempt(ask::open(node, O_RDWR));
        if (opened.error() == 0) {
            const uint64_t fh = opened.as<fuse_open_out>().fh;
            (void)attempt(ask::read(node, fh, 0, 4096));
            EXPECT_EQ(attempt(ask::release(node, fh)).error(), 0);
        }
    }

    void forget(uint64_t node) {
        (void)guest().call(ask::forget(node, 1), FuseGuest::kHighPriority);
    }
};

TEST_P(FsHostEscapes, Escape29OpenOfADevice) {
    // CVE-2020-35517: the guest makes the node of a disk, and opens it on the host.
    const FuseAnswer made = attempt(ask::mknod(kRoot, "dev", S_IFCHR | 0666, (1U << 8) | 5));
    if (made.error() != 0) {
        return;
    }
    const uint64_t node = made.as<fuse_entry_out>().nodeid;
    for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_NONBLOCK}) {
        EXPECT_NE(attempt(ask::open(node, static_cast<uint32_t>(flags))).error(), 0);
        EXPECT_NE(attempt(ask::create(kRoot, "dev", static_cast<uint32_t>(flags))).error(), 0);
    }
}

TEST_P(FsHostEscapes, Escape30OpenOfABlockDevice) {
    if (attempt(ask::mknod(kRoot, "disk", S_IFBLK | 0666, 7U << 8)).error() != 0) {
        return;
    }
    const uint64_t node = node_of("disk");
    EXPECT_NE(attempt(ask::open(node, O_RDONLY)).error(), 0);
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    EXPECT_NE(attempt(ask::setattr(node, in)).error(), 0);
}

TEST_P(FsHostEscapes, Escape31ConnectToASocketOfTheHost) {
    // The share's own socket lies beside it: a link leads there, and nothing opens it.
    EXPECT_EQ(attempt(ask::symlink(kRoot, "socket", home_ / "socket")).error(), 0);
    const uint64_t node = node_of("socket");
    EXPECT_NE(attempt(ask::open(node, O_RDWR)).error(), 0);
}

TEST_P(FsHostEscapes, Escape32FileOfAnotherUser) {
    if (::getuid() != 0) {
        GTEST_SKIP() << "this needs root";
    }
    // Made by a user of the guest: it belongs to that user on the host, and to no other.
    ASSERT_EQ(::chmod(share().c_str(), 0777), 0);
    FuseRequest request = ask::create(kRoot, "mine", O_RDWR);
    request.uid = 41001;
    request.gid = 41002;
    ASSERT_EQ(attempt(request).error(), 0);

    struct stat status {};

    ASSERT_EQ(::stat(in_share("mine").c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 41001U);
    EXPECT_EQ(status.st_gid, 41002U);
    // The one who comes next is root again, and then another.
    ASSERT_EQ(attempt(ask::create(kRoot, "roots", O_RDWR)).error(), 0);
    ASSERT_EQ(::stat(in_share("roots").c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 0U);
}

TEST_P(FsHostEscapes, Escape33MakeWhereTheUserMayNot) {
    if (::getuid() != 0) {
        GTEST_SKIP() << "this needs root";
    }
    ASSERT_EQ(::chmod(in_share("sub").c_str(), 0700), 0);
    const uint64_t sub = node_of("sub");
    FuseRequest request = ask::create(sub, "made", O_RDWR);
    request.uid = request.gid = 41001;
    EXPECT_EQ(attempt(request).error(), EACCES);
    request = ask::mkdir(sub, "made");
    request.uid = request.gid = 41001;
    EXPECT_EQ(attempt(request).error(), EACCES);
    EXPECT_FALSE(home_.has("share/sub/made"));
}

TEST_P(FsHostEscapes, Escape34GroupsOfTheDaemon) {
    // CVE-2022-0358: groups of the daemon's must not help a user of the guest to a set-group bit.
    if (::getuid() != 0) {
        GTEST_SKIP() << "this needs root";
    }
    ASSERT_EQ(::chown(in_share("sub").c_str(), 0, 0), 0);
    ASSERT_EQ(::chmod(in_share("sub").c_str(), 02777), 0);
    FuseRequest request = ask::create(node_of("sub"), "made", O_RDWR, 02755);
    request.uid = request.gid = 41001;
    const FuseAnswer answer = attempt(request);
    ASSERT_EQ(answer.error(), 0);

    struct stat status {};

    ASSERT_EQ(::stat(in_share("sub/made").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & (S_ISGID | S_IXGRP), static_cast<mode_t>(S_IXGRP))
        << "a program that runs as group 0";
}

TEST_P(FsHostEscapes, Escape35FileThatTheHostRemoved) {
    const uint64_t node = node_of("plain");
    std::filesystem::remove(in_share("plain"));
    std::filesystem::create_symlink(home_ / "outside/target", in_share("plain"));
    attack_node(node);
}

TEST_P(FsHostEscapes, Escape36DirectoryThatTheHostMovedOut) {
    const uint64_t sub = node_of("sub");
    std::filesystem::rename(in_share("sub"), home_ / "moved");
    // Where it is now, its parent is outside.
    for (const std::string_view name : {"..", "../secret", "../outside/target"}) {
        const FuseAnswer answer = attempt(ask::lookup(sub, name));
        EXPECT_TRUE(answer.error() != 0 || answer.as<fuse_entry_out>().nodeid == kRoot) << name;
    }
    std::filesystem::rename(home_ / "moved", in_share("sub"));
}

TEST_P(FsHostRaces, Escape37LookupWhileAFileBecomesALink) {
    const Host host = swap_with_link("plain", home_ / "outside/target");
    for (int i = 0; i < kRounds; ++i) {
        const FuseAnswer found = attempt(ask::lookup(kRoot, "plain"));
        if (found.error() == 0) {
            const auto entry = found.as<fuse_entry_out>();
            EXPECT_NE(entry.attr.ino, before_.st_ino);
            try_to_open(entry.nodeid);
            forget(entry.nodeid);
        }
    }
}

TEST_P(FsHostRaces, Escape38CreateWhileAFileBecomesALink) {
    const Host host = swap_with_link("plain", home_ / "outside/target");
    for (int i = 0; i < kRounds; ++i) {
        const FuseAnswer made = attempt(ask::create(kRoot, "plain", O_RDWR | O_TRUNC));
        if (made.error() == 0) {
            const auto entry = made.as<fuse_entry_out>();
            const uint64_t fh = made.as<fuse_open_out>(sizeof entry).fh;
            (void)attempt(ask::write(entry.nodeid, fh, 0, "overwritten"));
            (void)attempt(ask::release(entry.nodeid, fh));
            forget(entry.nodeid);
        }
    }
}

TEST_P(FsHostRaces, Escape39CreateWhileALinkDangles) {
    const Host host = swap_with_link("plain", home_ / "outside/made");
    for (int i = 0; i < kRounds; ++i) {
        (void)attempt(ask::create(kRoot, "plain", O_RDWR | O_CREAT));
        (void)attempt(ask::create(kRoot, "swap", O_RDWR | O_CREAT));
    }
}

TEST_P(FsHostRaces, Escape40OpenWhileAFileBecomesALink) {
    const uint64_t node = node_of("plain");
    const Host host = swap_with_link("plain", home_ / "outside/target");
    for (int i = 0; i < kRounds; ++i) {
        try_to_open(node);
    }
}

TEST_P(FsHostRaces, Escape41LookupInADirectoryThatBecomesALink) {
    const uint64_t sub = node_of("sub");
    const Host host = swap_with_link("sub", home_ / "outside");
    for (int i = 0; i < kRounds; ++i) {
        EXPECT_NE(attempt(ask::lookup(sub, "target")).error(), 0);
    }
}

TEST_P(FsHostRaces, Escape42FreshLookupInADirectoryThatBecomesALink) {
    const Host host = swap_with_link("sub", home_ / "outside");
    for (int i = 0; i < kRounds; ++i) {
        const FuseAnswer found = attempt(ask::lookup(kRoot, "sub"));
        if (found.error() == 0) {
            const uint64_t node = found.as<fuse_entry_out>().nodeid;
            EXPECT_NE(attempt(ask::lookup(node, "target")).error(), 0);
            EXPECT_NE(attempt(ask::unlink(node, "target")).error(), 0);
            forget(node);
        }
    }
}

TEST_P(FsHostRaces, Escape43MakeInADirectoryThatBecomesALink) {
    const Host host = swap_with_link("sub", home_ / "outside");
    for (int i = 0; i < kRounds; ++i) {
        const uint64_t node = node_of("sub");
        if (node == 0) {
            continue;
        }
        (void)attempt(ask::mkdir(node, numbered("made", i)));
        (void)attempt(ask::create(node, numbered("f", i), O_RDWR));
        forget(node);
    }
}

TEST_P(FsHostRaces, Escape44RemoveInADirectoryThatBecomesALink) {
    const Host host = swap_with_link("sub", home_ / "outside");
    for (int i = 0; i < kRounds; ++i) {
        const uint64_t node = node_of("sub");
        if (node != 0) {
            EXPECT_NE(attempt(ask::unlink(node, "target")).error(), 0);
            EXPECT_NE(attempt(ask::rename(node, "target", kRoot, "stolen")).error(), 0);
            forget(node);
        }
    }
}

TEST_P(FsHostRaces, Escape45ListingOfADirectoryThatBecomesALink) {
    const Host host = swap_with_link("sub", home_ / "outside");
    for (int i = 0; i < kRounds; ++i) {
        const uint64_t node = node_of("sub");
        const FuseAnswer opened = attempt(ask::opendir(node == 0 ? kRoot : node));
        if (opened.error() == 0 && node != 0) {
            const uint64_t fh = opened.as<fuse_open_out>().fh;
            EXPECT_EQ(list_directory(guest(), node, fh, true, 4096).find("target"), nullptr);
            (void)attempt(ask::releasedir(node, fh));
        }
        forget(node);
    }
}

TEST_P(FsHostRaces, Escape46ListingWhoseEntriesBecomeLinks) {
    const Host host = swap_with_link("plain", home_ / "outside/target");
    for (int i = 0; i < kRounds; ++i) {
        const uint64_t fh = attempt(ask::opendir(kRoot)).as<fuse_open_out>().fh;
        const Listing listing = list_directory(guest(), kRoot, fh, true, 4096);
        for (const ListedEntry& entry : listing.entries) {
            EXPECT_NE(entry.entry.attr.ino, before_.st_ino) << entry.name;
            if (entry.entry.nodeid != 0) {
                forget(entry.entry.nodeid);
            }
        }
        (void)attempt(ask::releasedir(kRoot, fh));
    }
}

TEST_P(FsHostRaces, Escape47ParentWhileTheDirectoryMovesOut) {
    EXPECT_EQ(attempt(ask::mkdir(node_of("sub"), "deep")).error(), 0);
    const uint64_t deep = node_of("deep", node_of("sub"));
    const Host host([in = in_share("sub"), out = home_ / "moved"] {
        (void)std::rename(in.c_str(), out.c_str());
        (void)std::rename(out.c_str(), in.c_str());
    });
    for (int i = 0; i < kRounds; ++i) {
        for (const std::string_view name :
             {"..", "../..", "../../secret", "../../outside/target"}) {
            const FuseAnswer answer = attempt(ask::lookup(deep, name));
            EXPECT_NE(answer.as<fuse_entry_out>().attr.ino, before_.st_ino);
        }
        const uint64_t sub = node_of("sub");
        if (sub != 0) {
            EXPECT_NE(attempt(ask::lookup(sub, "secret")).error(), 0);
            forget(sub);
        }
    }
}

TEST_P(FsHostRaces, Escape48TruncationWhileAFileBecomesALink) {
    const Host host = swap_with_link("plain", home_ / "outside/target");
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE | FATTR_MODE;
    in.mode = 0600;
    for (int i = 0; i < kRounds; ++i) {
        const uint64_t node = node_of("plain");
        if (node != 0) {
            (void)attempt(ask::setattr(node, in));
            forget(node);
        }
    }
}

TEST_P(FsHostRaces, Escape49AttributesWhileAFileBecomesALink) {
    const Host host = swap_with_link("plain", home_ / "outside/target");
    const bool extended = (guest().init_flags() & FUSE_SETXATTR_EXT) != 0;
    for (int i = 0; i < kRounds; ++i) {
        const uint64_t node = node_of("plain");
        if (node != 0) {
            (void)attempt(ask::setxattr(node, "user.escaped", "value", extended));
            (void)attempt(ask::getxattr(node, "user.escaped", 100));
            forget(node);
        }
    }
    EXPECT_LT(::getxattr((home_ / "outside/target").c_str(), "user.escaped", nullptr, 0), 0);
}

TEST_P(FsHostRaces, Escape50RenameWhileTheTargetBecomesALink) {
    const Host host = swap_with_link("sub", home_ / "outside");
    for (int i = 0; i < kRounds; ++i) {
        const uint64_t node = node_of("sub");
        if (node != 0) {
            const std::string name = numbered("r", i);
            write_in_share(name, "moves");
            (void)attempt(ask::rename(kRoot, name, node, name));
            (void)attempt(ask::link(node_of(name), node, numbered("hard", i)));
            forget(node);
        }
    }
}

constexpr auto kName = [](const auto& mode) { return std::string(mode.param); };

INSTANTIATE_TEST_SUITE_P(Sandbox,
                         FsHostEscapes,
                         ::testing::Values("standard", "strict", "log", "none"),
                         kName);
INSTANTIATE_TEST_SUITE_P(Sandbox,
                         FsHostRaces,
                         ::testing::Values("standard", "strict", "log", "none"),
                         kName);

}  // namespace
}  // namespace outrigger::testing
