// SPDX-License-Identifier: Apache-2.0
/// Traps 4 to 8 and 20: listings, lookups, forgetting, and which node is which file.
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <set>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fs/directory_listing.h"
#include "tests/fs/fs_traps.h"

namespace outrigger::testing {
namespace {

constexpr int kManyFiles = 500;

class FsTrapDirectories : public FsTraps {
  protected:
    ~FsTrapDirectories() override {
        for (const std::string& path : mounts_) {
            ::umount2(path.c_str(), MNT_DETACH);
        }
    }

    void make_many() const {
        std::filesystem::create_directory(in_share("many"));
        for (int i = 0; i < kManyFiles; ++i) {
            write_in_share(numbered("many/file-", i), "");
        }
    }

    uint64_t open_directory(uint64_t node) {
        const FuseAnswer answer = call(ask::opendir(node));
        EXPECT_EQ(answer.error(), 0);
        return answer.as<fuse_open_out>().fh;
    }

    /// False where this user may not mount.
    bool mount_in_share(const std::string& type, const std::string& name) {
        std::filesystem::create_directory(in_share(name));
        if (::mount("none", in_share(name).c_str(), type.c_str(), 0, nullptr) != 0) {
            return false;
        }
        mounts_.push_back(in_share(name));
        return true;
    }

    std::vector<std::string> mounts_;
};

// --- 4 -----------------------------------------------------------------------------------------

TEST_F(FsTrapDirectories, FsTrap04EverySizeListsEverything) {
    make_many();
    serve();
    const uint64_t node = node_of("many");
    for (const bool plus : {false, true}) {
        for (const uint32_t size : {200U, 333U, 4096U, 65536U}) {
            const uint64_t fh = open_directory(node);
            const auto names = list_directory(guest(), node, fh, plus, size).sorted_names();
            EXPECT_EQ(names.size(), kManyFiles + 2U) << size;
            EXPECT_EQ(std::set(names.begin(), names.end()).size(), names.size()) << size;
            EXPECT_EQ(error_of(ask::releasedir(node, fh)), 0);
        }
    }
}

TEST_F(FsTrapDirectories, FsTrap04OffsetsLeadBack) {
    make_many();
    serve();
    const uint64_t node = node_of("many");
    const uint64_t fh = open_directory(node);
    const Listing all = list_directory(guest(), node, fh, false, 4096);
    ASSERT_GT(all.entries.size(), 300U);
    for (const size_t i : {size_t{250}, size_t{0}, size_t{300}, size_t{100}, size_t{101}}) {
        const auto next =
            entries_of(call(ask::readdir(node, fh, all.entries[i].offset, 4096)), false);
        ASSERT_FALSE(next.empty());
        EXPECT_EQ(next.front().name, all.entries[i + 1].name);
    }
}

TEST_F(FsTrapDirectories, FsTrap04OffsetsThatAreNone) {
    make_many();
    serve();
    const uint64_t node = node_of("many");
    const uint64_t fh = open_directory(node);
    for (const uint64_t offset :
         {uint64_t{0x7fff'ffff'ffff'ffff}, uint64_t{1} << 63, ~uint64_t{0}, uint64_t{12345}}) {
        EXPECT_TRUE(call(ask::readdir(node, fh, offset, 4096)).used);
        EXPECT_TRUE(call(ask::readdirplus(node, fh, offset, 4096)).used);
    }
    EXPECT_EQ(list_directory(guest(), node, fh, false, 4096).entries.size(), kManyFiles + 2U);
}

TEST_F(FsTrapDirectories, FsTrap04TwoReadersOfOneHandle) {
    make_many();
    serve();
    const uint64_t node = node_of("many");
    const uint64_t fh = open_directory(node);
    // In turn: each goes on where its own offset says.
    std::array<uint64_t, 2> offsets{};
    std::array<std::vector<std::string>, 2> names;
    for (bool more = true; more;) {
        more = false;
        for (size_t reader = 0; reader < 2; ++reader) {
            const auto size = reader == 0 ? 500U : 1700U;
            for (const auto& entry :
                 entries_of(call(ask::readdir(node, fh, offsets[reader], size)), false)) {
                offsets[reader] = entry.offset;
                names[reader].push_back(entry.name);
                more = true;
            }
        }
    }
    for (auto& of_reader : names) {
        std::ranges::sort(of_reader);
        EXPECT_EQ(of_reader.size(), kManyFiles + 2U);
        EXPECT_EQ(std::ranges::adjacent_find(of_reader), of_reader.end());
    }
}

TEST_F(FsTrapDirectories, FsTrap04RemovedWhileListed) {
    make_many();
    serve();
    const uint64_t node = node_of("many");
    const uint64_t fh = open_directory(node);
    int removed = 0;
    uint64_t offset = 0;
    for (bool more = true; more;) {
        more = false;
        for (const auto& entry : entries_of(call(ask::readdir(node, fh, offset, 1000)), false)) {
            more = true;
            offset = entry.offset;
            removed +=
                entry.name.starts_with("file") && error_of(ask::unlink(node, entry.name)) == 0;
        }
    }
    EXPECT_EQ(removed, kManyFiles);
    EXPECT_EQ(error_of(ask::rmdir(FUSE_ROOT_ID, "many")), 0);
}

TEST_F(FsTrapDirectories, FsTrap04RoomForNoEntry) {
    make_many();
    serve();
    const uint64_t node = node_of("many");
    const uint64_t fh = open_directory(node);
    for (const uint32_t size : {0U, 1U, 23U, 24U, 31U}) {
        const FuseAnswer answer = call(ask::readdir(node, fh, 0, size));
        EXPECT_TRUE(answer.used) << size;
        EXPECT_LE(answer.length, sizeof(fuse_out_header) + size);
    }
    EXPECT_EQ(list_directory(guest(), node, fh, false, 4096).entries.size(), kManyFiles + 2U);
}

// --- 5 -----------------------------------------------------------------------------------------

TEST_F(FsTrapDirectories, FsTrap05OneStrangeEntryDoesNotEndTheListing) {
    for (int i = 0; i < 30; ++i) {
        write_in_share(numbered("file-", i), "");
    }
    if (!mount_in_share("proc", "mounted")) {
        GTEST_SKIP() << "this user may not mount";
    }
    serve();
    const uint64_t fh = open_directory(FUSE_ROOT_ID);
    const Listing listing = list_directory(guest(), FUSE_ROOT_ID, fh, true, 4096);
    EXPECT_EQ(listing.error, 0);
    EXPECT_EQ(listing.entries.size(), 33U);
    EXPECT_NE(listing.find("mounted"), nullptr);
}

TEST_F(FsTrapDirectories, FilesOfMemoryAreRead) {
    // Their file system refuses every read that must not wait, and none of the others does.
    if (!mount_in_share("tmpfs", "memory")) {
        GTEST_SKIP() << "this user may not mount";
    }
    std::string text;
    for (int i = 0; text.size() < 10'000; ++i) {
        text += numbered("line ", i) + "\n";
    }
    write_in_share("memory/file", text);
    serve();
    const uint64_t node = node_of("file", node_of("memory"));
    const OpenFile file = {.node = node,
                           .fh = call(ask::open(node, O_RDONLY)).as<fuse_open_out>().fh};
    for (int turn = 0; turn < 2; ++turn) {
        EXPECT_EQ(call(ask::read(node, file.fh, 0, 16'384)).text(), text);
        EXPECT_EQ(call(ask::read(node, file.fh, 5000, 1000)).text(), text.substr(5000, 1000));
        EXPECT_EQ(call(ask::read(node, file.fh, 9990, 4096)).text(), text.substr(9990));
        EXPECT_EQ(call(ask::read(node, file.fh, text.size(), 4096)).text(), "");
    }
    EXPECT_EQ(error_of(ask::release(node, file.fh)), 0);
}

TEST_F(FsTrapDirectories, FsTrap05WhatDidNotFitIsNotLookedUp) {
    make_many();
    serve();
    const uint64_t node = node_of("many");
    const uint64_t fh = open_directory(node);
    const Listing listing = list_directory(guest(), node, fh, true, 700);
    ASSERT_EQ(listing.entries.size(), kManyFiles + 2U);
    for (const ListedEntry& entry : listing.entries) {
        if (entry.entry.nodeid != 0) {
            (void)guest().call(ask::forget(entry.entry.nodeid, 1), FuseGuest::kHighPriority);
        }
    }
    // All that was looked up was counted once and is forgotten.
    size_t alive = 0;
    for (const ListedEntry& entry : listing.entries) {
        alive += entry.entry.nodeid != 0 && error_of(ask::getattr(entry.entry.nodeid)) == 0;
    }
    EXPECT_EQ(alive, 0U);
}

TEST_F(FsTrapDirectories, FsTrap05EntriesAreWhatTheySay) {
    write_in_share("f", "12345");
    std::filesystem::create_directory(in_share("d"));
    std::filesystem::create_symlink("f", in_share("s"));
    serve();
    const uint64_t fh = open_directory(FUSE_ROOT_ID);
    const Listing listing = list_directory(guest(), FUSE_ROOT_ID, fh, true, 4096);
    const ListedEntry* const f = listing.find("f");
    ASSERT_NE(f, nullptr);
    EXPECT_EQ(f->entry.attr.size, 5U);
    EXPECT_EQ(f->entry.nodeid, node_of("f"));
    EXPECT_EQ(f->inode, f->entry.attr.ino);
    EXPECT_EQ(f->type, static_cast<uint32_t>(S_IFREG >> 12));
    ASSERT_NE(listing.find("s"), nullptr);
    EXPECT_TRUE(S_ISLNK(listing.find("s")->entry.attr.mode));
    ASSERT_NE(listing.find("d"), nullptr);
    EXPECT_TRUE(S_ISDIR(listing.find("d")->entry.attr.mode));
}

// --- 6 -----------------------------------------------------------------------------------------

TEST_F(FsTrapDirectories, FsTrap06DotsNameNoNodes) {
    std::filesystem::create_directory(in_share("d"));
    serve();
    for (const uint64_t node : {uint64_t{FUSE_ROOT_ID}, node_of("d")}) {
        const Listing listing = list_directory(guest(), node, open_directory(node), true, 4096);
        for (const std::string_view name : {".", ".."}) {
            const ListedEntry* const entry = listing.find(name);
            ASSERT_NE(entry, nullptr);
            EXPECT_EQ(entry->entry.nodeid, 0U) << name;
        }
    }
}

TEST_F(FsTrapDirectories, FsTrap06ParentOfTheRootDoesNotShow) {
    serve();

    struct stat parent {};

    ASSERT_EQ(::stat(home_.path().c_str(), &parent), 0);
    for (const bool plus : {false, true}) {
        const Listing listing =
            list_directory(guest(), FUSE_ROOT_ID, open_directory(FUSE_ROOT_ID), plus, 4096);
        for (const ListedEntry& entry : listing.entries) {
            EXPECT_NE(entry.inode, parent.st_ino) << entry.name;
        }
    }
}

// --- 7 -----------------------------------------------------------------------------------------

TEST_F(FsTrapDirectories, FsTrap07ForgetMoreThanThereIs) {
    serve();
    const OpenFile file = create("f", "still open");
    for (const uint64_t count : {uint64_t{2}, uint64_t{1} << 32, ~uint64_t{0}}) {
        EXPECT_TRUE(guest().call(ask::forget(file.node, count), FuseGuest::kHighPriority).used);
    }
    expect_alive();
    const uint64_t again = node_of("f");
    ASSERT_NE(again, 0U);
    EXPECT_EQ(error_of(ask::getattr(again)), 0);
}

TEST_F(FsTrapDirectories, FsTrap07ForgetTheRoot) {
    serve();
    for (const uint64_t count : {uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}}) {
        EXPECT_TRUE(guest().call(ask::forget(FUSE_ROOT_ID, count), FuseGuest::kHighPriority).used);
    }
    const std::array nodes = {fuse_forget_one{.nodeid = FUSE_ROOT_ID, .nlookup = ~uint64_t{0}}};
    EXPECT_TRUE(guest().call(ask::batch_forget(nodes), FuseGuest::kHighPriority).used);
    expect_alive();
}

TEST_F(FsTrapDirectories, FsTrap07ForgetWhatIsNotThere) {
    serve();
    for (const uint64_t node : {uint64_t{0}, uint64_t{999'999}, uint64_t{1} << 40, ~uint64_t{0}}) {
        EXPECT_TRUE(guest().call(ask::forget(node, 1), FuseGuest::kHighPriority).used);
    }
    std::vector<fuse_forget_one> nodes(2000);
    for (size_t i = 0; i < nodes.size(); ++i) {
        nodes[i] = {.nodeid = i * 77, .nlookup = i};
    }
    EXPECT_TRUE(guest().call(ask::batch_forget(nodes), FuseGuest::kHighPriority).used);
    expect_alive();
}

TEST_F(FsTrapDirectories, FsTrap07CountsAreKept) {
    write_in_share("f", "x");
    serve();
    const uint64_t node = node_of("f");
    EXPECT_EQ(node_of("f"), node);
    EXPECT_EQ(node_of("f"), node);
    EXPECT_TRUE(guest().call(ask::forget(node, 2), FuseGuest::kHighPriority).used);
    EXPECT_EQ(error_of(ask::getattr(node)), 0);
    EXPECT_TRUE(guest().call(ask::forget(node, 1), FuseGuest::kHighPriority).used);
    EXPECT_NE(error_of(ask::getattr(node)), 0);
}

TEST_F(FsTrapDirectories, FsTrap07ForgetRacesLookup) {
    write_in_share("f", "x");
    serve();
    uint64_t node = node_of("f");
    // On a busy machine each answer waits for a turn of the daemon's threads: there fewer do.
    constexpr int kRoundsMin = 300;
    const driver::Deadline enough = driver::after(std::chrono::seconds(5));
    for (int i = 0; i < 3000 && (i < kRoundsMin || driver::Clock::now() < enough); ++i) {
        const auto lookup = guest().submit(ask::lookup(FUSE_ROOT_ID, "f"));
        const auto forget = guest().submit(ask::forget(node, 1), FuseGuest::kHighPriority);
        ASSERT_TRUE(lookup && forget);
        const FuseAnswer answer = guest().wait(*lookup);
        ASSERT_TRUE(guest().wait(*forget, FuseGuest::kHighPriority).used);
        ASSERT_EQ(answer.error(), 0);
        node = answer.as<fuse_entry_out>().nodeid;
        // It was counted by this LOOKUP, whichever came first.
        ASSERT_EQ(error_of(ask::getattr(node)), 0) << i;
    }
}

TEST_F(FsTrapDirectories, FsTrap07NodesThatComeAgainAreNew) {
    serve();
    std::set<std::pair<uint64_t, uint64_t>> seen;
    for (int i = 0; i < 200; ++i) {
        const std::string name = numbered("f", i);
        const FuseAnswer answer = call(ask::mknod(FUSE_ROOT_ID, name, S_IFREG | 0644));
        ASSERT_EQ(answer.error(), 0);
        const auto entry = answer.as<fuse_entry_out>();
        EXPECT_TRUE(seen.emplace(entry.nodeid, entry.generation).second) << i;
        ASSERT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, name)), 0);
        EXPECT_TRUE(guest().call(ask::forget(entry.nodeid, 1), FuseGuest::kHighPriority).used);
    }
}

// --- 8 -----------------------------------------------------------------------------------------

TEST_F(FsTrapDirectories, FsTrap08LinksAreOneNode) {
    write_in_share("a", "x");
    std::filesystem::create_hard_link(in_share("a"), in_share("b"));
    serve();
    const uint64_t node = node_of("a");
    EXPECT_EQ(node_of("b"), node);
    const FuseAnswer linked = call(ask::link(node, FUSE_ROOT_ID, "c"));
    EXPECT_EQ(linked.as<fuse_entry_out>().nodeid, node);
    EXPECT_EQ(linked.as<fuse_entry_out>().attr.nlink, 3U);
}

TEST_F(FsTrapDirectories, FsTrap08InodeNumbersThatComeAgain) {
    serve();
    for (int i = 0; i < 100; ++i) {
        write_in_share("f", "old");
        const uint64_t old_node = node_of("f");
        ASSERT_NE(old_node, 0U);
        std::filesystem::remove(in_share("f"));
        write_in_share("f", "new one");
        const FuseAnswer found = call(ask::lookup(FUSE_ROOT_ID, "f"));
        ASSERT_EQ(found.error(), 0);
        EXPECT_EQ(found.as<fuse_entry_out>().attr.size, 7U);
        EXPECT_NE(found.as<fuse_entry_out>().nodeid, old_node);
        // The old node is the old file, without a name, or nothing.
        const FuseAnswer old = call(ask::getattr(old_node));
        if (old.error() == 0) {
            EXPECT_EQ(old.as<fuse_attr_out>().attr.size, 3U);
            EXPECT_EQ(old.as<fuse_attr_out>().attr.nlink, 0U);
        }
        std::filesystem::remove(in_share("f"));
    }
}

// --- 20 ----------------------------------------------------------------------------------------

TEST_F(FsTrapDirectories, FsTrap20SubmountsOfOneKind) {
    if (!mount_in_share("tmpfs", "one") || !mount_in_share("tmpfs", "two")) {
        GTEST_SKIP() << "this user may not mount";
    }
    write_in_share("one/f", "first");
    write_in_share("two/f", "second one");
    serve();
    const FuseAnswer one = call(ask::lookup(FUSE_ROOT_ID, "one"));
    const FuseAnswer two = call(ask::lookup(FUSE_ROOT_ID, "two"));
    ASSERT_EQ(one.error(), 0);
    ASSERT_EQ(two.error(), 0);
    EXPECT_NE(one.as<fuse_entry_out>().nodeid, two.as<fuse_entry_out>().nodeid);
    if ((guest().init_flags() & FUSE_SUBMOUNTS) != 0) {
        EXPECT_NE(one.as<fuse_entry_out>().attr.flags & FUSE_ATTR_SUBMOUNT, 0U);
    }
    const FuseAnswer first = call(ask::lookup(one.as<fuse_entry_out>().nodeid, "f"));
    const FuseAnswer second = call(ask::lookup(two.as<fuse_entry_out>().nodeid, "f"));
    EXPECT_NE(first.as<fuse_entry_out>().nodeid, second.as<fuse_entry_out>().nodeid);
    EXPECT_EQ(first.as<fuse_entry_out>().attr.size, 5U);
    EXPECT_EQ(second.as<fuse_entry_out>().attr.size, 10U);
    EXPECT_EQ(error_of(ask::syncfs(FUSE_ROOT_ID)), 0);
    EXPECT_EQ(error_of(ask::syncfs(one.as<fuse_entry_out>().nodeid)), 0);
}

}  // namespace
}  // namespace outrigger::testing
