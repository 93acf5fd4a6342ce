// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/inode_table.h"

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

InodeKey key(uint64_t number) {
    return {.mount = 1, .device = 2, .number = number};
}

class InodeTableTest : public ::testing::Test {
  protected:
    InodeTableTest() { table_.set_root(UniqueFd(), key(1), S_IFDIR); }

    uint64_t look_up(uint64_t number) { return add(key(number)).id(); }

    InodeRef add(const InodeKey& key) {
        UniqueFd none;
        return table_.look_up_or_add(key, none, S_IFREG);
    }

    InodeTable table_;
};

TEST_F(InodeTableTest, RootHasTheNumberOfTheProtocol) {
    EXPECT_TRUE(table_.find(InodeTable::kRootId));
}

TEST_F(InodeTableTest, HardLinksAreOneNode) {
    EXPECT_EQ(look_up(7), look_up(7));
}

TEST_F(InodeTableTest, TheSameNumberOnAnotherMountIsAnotherNode) {
    const uint64_t one = look_up(7);
    const InodeRef other = add({.mount = 9, .device = 2, .number = 7});
    EXPECT_NE(other.id(), one);
}

TEST_F(InodeTableTest, ForgetsWithTheLastLookup) {
    const uint64_t id = look_up(7);
    (void)look_up(7);
    table_.forget(id, 1);
    EXPECT_TRUE(table_.find(id));
    table_.forget(id, 1);
    EXPECT_FALSE(table_.find(id));
    EXPECT_EQ(table_.size(), 1U);
}

TEST_F(InodeTableTest, ForgetsNoMoreThanThereIs) {
    const uint64_t id = look_up(7);
    table_.forget(id, UINT64_MAX);
    EXPECT_FALSE(table_.find(id));
    const uint64_t next = look_up(7);
    EXPECT_NE(next, id);
    EXPECT_TRUE(table_.find(next));
}

/// Each is remembered once, is known again, loses its name, and is gone.
TEST_F(InodeTableTest, RememberedOnesThatAreGoneFillNoList) {
    table_.set_remembers(true);
    // On tmpfs, which has handles everywhere.
    const std::string path = "/dev/shm/remembered-" + std::to_string(::getpid());
    size_t longest = 0;
    for (uint64_t number = 2; number < 5000; ++number) {
        UniqueFd fd(::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
        auto handle = FileHandle::of(fd.get());
        ASSERT_TRUE(handle) << path;
        const InodeRef inode = table_.look_up_or_add(key(number), fd, S_IFREG, *std::move(handle));
        const uint64_t id = inode.id();
        table_.forget(id, 1);
        ASSERT_TRUE(table_.find(id));
        ASSERT_EQ(look_up(number), id);
        ASSERT_EQ(::unlink(path.c_str()), 0);
        table_.forget(id, 1);
        ASSERT_FALSE(table_.find(id));
        longest = std::max(longest, table_.listed_as_remembered());
    }
    EXPECT_EQ(table_.size(), 1U);
    EXPECT_LT(longest, 2000U);
}

TEST_F(InodeTableTest, TellsWhatWasForgottenLastFirst) {
    table_.set_remembers(true);
    const std::string path = "/dev/shm/forgotten-" + std::to_string(::getpid());
    const auto handle = [&] {
        const UniqueFd fd(::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
        return FileHandle::of(fd.get()).value();
    };
    const auto add_with_handle = [&](uint64_t number) {
        UniqueFd fd(::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
        return table_.look_up_or_add(key(number), fd, S_IFREG, handle()).id();
    };
    std::vector<uint64_t> ids;
    for (uint64_t number = 2; number < 6; ++number) {
        ids.push_back(add_with_handle(number));
    }
    // All but the second.
    for (const size_t which : {size_t{3}, size_t{0}, size_t{2}}) {
        table_.forget(ids[which], 1);
    }
    EXPECT_EQ(table_.forgotten(10), (std::vector{ids[2], ids[0], ids[3]}));
    EXPECT_EQ(table_.forgotten(2), (std::vector{ids[2], ids[0]}));
    // What comes from elsewhere, in that order, was forgotten before.
    for (const uint64_t id : {uint64_t{50}, uint64_t{40}}) {
        ASSERT_TRUE(table_.restore(id, key(id), UniqueFd(), S_IFREG, 0, handle()));
    }
    table_.finish_restoring(0);
    EXPECT_EQ(table_.forgotten(10), (std::vector<uint64_t>{ids[2], ids[0], ids[3], 50, 40}));
    EXPECT_TRUE(table_.forget_oldest());
    EXPECT_FALSE(table_.find(40));
    EXPECT_TRUE(table_.find(50));
    ASSERT_EQ(::unlink(path.c_str()), 0);
}

TEST_F(InodeTableTest, NeverForgetsTheRoot) {
    table_.forget(InodeTable::kRootId, UINT64_MAX);
    EXPECT_TRUE(table_.find(InodeTable::kRootId));
}

TEST_F(InodeTableTest, ForgettingWhatIsNotThereDoesNothing) {
    table_.forget(0, 1);
    table_.forget(12345, 1);
    table_.forget(UINT64_MAX, 1);
    EXPECT_EQ(table_.size(), 1U);
}

TEST_F(InodeTableTest, FindsEachOfMany) {
    for (uint64_t number = 2; number < 20'000; ++number) {
        (void)look_up(number);
    }
    EXPECT_EQ(table_.size(), 19'999U);
    for (uint64_t number = 2; number < 20'000; ++number) {
        ASSERT_TRUE(table_.look_up(key(number))) << number;
    }
}

TEST_F(InodeTableTest, ClearLeavesTheRoot) {
    for (uint64_t number = 2; number < 100; ++number) {
        (void)look_up(number);
    }
    table_.clear();
    EXPECT_EQ(table_.size(), 1U);
    EXPECT_TRUE(table_.find(InodeTable::kRootId));
}

TEST_F(InodeTableTest, ForgetThatRacesALookupLosesNone) {
    const auto work = [&] {
        for (int i = 0; i < 20'000; ++i) {
            const uint64_t id = look_up(7);
            EXPECT_TRUE(table_.find(id));
            table_.forget(id, 1);
        }
    };
    std::thread one(work);
    std::thread two(work);
    one.join();
    two.join();
    EXPECT_EQ(table_.size(), 1U);
}

}  // namespace
}  // namespace outrigger::fs
