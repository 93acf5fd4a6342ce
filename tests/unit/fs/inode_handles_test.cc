// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/inode_handles.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>

#include <gtest/gtest.h>

#include "devices/fs/credentials.h"
#include "tests/fs/numbered.h"

namespace outrigger::fs {
namespace {

using testing::numbered;

constexpr size_t kOpenMax = 8;

class InodeHandlesTest : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = "/var/tmp/fs-handles-XXXXXX";
        directory_ = ::mkdtemp(name.data());
        settings_.shared_dir = directory_;
        auto share = Share::open(settings_);
        ASSERT_TRUE(share.has_value());
        share_.emplace(*std::move(share));
        const auto policy = InodeHandles::check(HandlePolicy::kPrefer, *share_);
        ASSERT_TRUE(policy.has_value());
        if (*policy != HandlePolicy::kPrefer) {
            GTEST_SKIP() << "no handles here, or not root";
        }
        handles_.emplace(*policy, *share_, inodes_, [] { return kOpenMax; });
        UniqueFd root = share_->duplicate_root();
        const auto status = stat_fd(root.get(), STATX_BASIC_STATS | STATX_MNT_ID);
        inodes_.set_root(std::move(root), key_of(*status), S_IFDIR);
    }

    void TearDown() override { std::filesystem::remove_all(directory_); }

    std::string write(const std::string& name) {
        std::ofstream(directory_ / name) << name;
        return name;
    }

    /// As LOOKUP does.
    uint64_t look_up(const std::string& name) {
        UniqueFd fd(::openat(share_->root_fd(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
        EXPECT_TRUE(fd.valid()) << name;
        const auto status = stat_fd(fd.get(), STATX_BASIC_STATS | STATX_MNT_ID);
        const InodeKey key = key_of(*status);
        if (const InodeRef known = inodes_.look_up(key)) {
            return known.id();
        }
        auto handle = handles_->make(fd, key, status->stx_mode & uint32_t{S_IFMT});
        EXPECT_TRUE(handle.has_value());
        const InodeRef inode = inodes_.look_up_or_add(
            key, fd, status->stx_mode & uint32_t{S_IFMT}, *std::move(handle));
        if (!fd.valid()) {
            handles_->note_open(inode);
        }
        return inode.id();
    }

    /// The host's number of the file with this node id; 0 where there is none.
    uint64_t number_of(uint64_t id) {
        const InodeRef inode = inodes_.find(id);
        if (!inode || !handles_->open(inode)) {
            return 0;
        }
        const auto status = stat_fd(inode->fd.get(), STATX_BASIC_STATS);
        return status ? status->stx_ino : 0;
    }

    [[nodiscard]] size_t open_inodes() {
        size_t count = 0;
        inodes_.for_each([&](InodeRef& inode) {
            if (!inode->handle.is_empty() && inode->fd.is_open()) {
                ++count;
            }
        });
        return count;
    }

    std::filesystem::path directory_;
    FsSettings settings_;
    std::optional<Share> share_;
    InodeTable inodes_;
    std::optional<InodeHandles> handles_;
};

TEST_F(InodeHandlesTest, ManyAreKnownAndFewAreOpen) {
    std::vector<uint64_t> ids;
    for (int i = 0; i < 100; ++i) {
        ids.push_back(look_up(write(numbered("f", i))));
    }
    EXPECT_LE(open_inodes(), kOpenMax);
    EXPECT_EQ(inodes_.held_count(), 1U);
    for (size_t i = 0; i < ids.size(); ++i) {
        const auto expected =
            stat_name(share_->root_fd(), (numbered("f", i)).c_str(), STATX_BASIC_STATS);
        EXPECT_EQ(number_of(ids[i]), expected->stx_ino);
        EXPECT_LE(open_inodes(), kOpenMax);
    }
}

TEST_F(InodeHandlesTest, TheSameFileHasTheSameNodeAlsoWhenItWasClosed) {
    const uint64_t id = look_up(write("f"));
    for (int i = 0; i < 50; ++i) {
        (void)look_up(write(numbered("other", i)));
    }
    EXPECT_FALSE(inodes_.find(id)->fd.is_open());
    EXPECT_EQ(look_up("f"), id);
    std::filesystem::rename(directory_ / "f", directory_ / "g");
    EXPECT_EQ(look_up("g"), id);
}

TEST_F(InodeHandlesTest, AFileThatIsGoneIsStale) {
    const uint64_t id = look_up(write("f"));
    for (int i = 0; i < 50; ++i) {
        (void)look_up(write(numbered("other", i)));
    }
    std::filesystem::remove(directory_ / "f");
    const InodeRef inode = inodes_.find(id);
    ASSERT_TRUE(inode);
    const auto opened = handles_->open(inode);
    ASSERT_FALSE(opened.has_value());
    EXPECT_EQ(opened.error(), ESTALE);
}

TEST_F(InodeHandlesTest, ANumberThatComesAgainIsAnotherFile) {
    // Nobody holds the first file any more, so the host may give its number to the second.
    const uint64_t first = look_up(write("f"));
    for (int i = 0; i < 50; ++i) {
        (void)look_up(write(numbered("other", i)));
    }
    const InodeKey key = inodes_.find(first)->key;
    std::filesystem::remove(directory_ / "f");
    UniqueFd fd(::openat(share_->root_fd(), "other0", O_PATH | O_CLOEXEC));
    auto handle = FileHandle::of(fd.get());
    ASSERT_TRUE(handle.has_value());
    const uint64_t second = inodes_.look_up_or_add(key, fd, S_IFREG, *std::move(handle)).id();
    EXPECT_NE(second, first);
    EXPECT_TRUE(inodes_.find(first));
    // Each is forgotten for itself.
    inodes_.forget(first, 1);
    EXPECT_FALSE(inodes_.find(first));
    EXPECT_EQ(inodes_.look_up(key).id(), second);
    inodes_.forget(second, 2);
    EXPECT_FALSE(inodes_.find(second));
}

TEST_F(InodeHandlesTest, ALinkThatIsLookedUpFirstHasAHandle) {
    std::filesystem::create_symlink("nowhere", directory_ / "link");
    const uint64_t id = look_up("link");
    EXPECT_FALSE(inodes_.find(id)->handle.is_empty());
}

TEST_F(InodeHandlesTest, WhatIsInUseStaysOpen) {
    const uint64_t id = look_up(write("f"));
    const InodeRef user = inodes_.find(id);
    const int fd = user->fd.get();
    ASSERT_GE(fd, 0);
    for (int i = 0; i < 100; ++i) {
        (void)look_up(write(numbered("other", i)));
    }
    EXPECT_EQ(user->fd.get(), fd);
    EXPECT_TRUE(stat_fd(fd, STATX_BASIC_STATS).has_value());
}

TEST_F(InodeHandlesTest, ForgettingThemAllLeavesNothing) {
    std::vector<uint64_t> ids;
    for (int i = 0; i < 100; ++i) {
        ids.push_back(look_up(write(numbered("f", i))));
    }
    for (const uint64_t id : ids) {
        inodes_.forget(id, 1);
    }
    EXPECT_EQ(inodes_.size(), 1U);
    EXPECT_EQ(inodes_.held_count(), 1U);
    EXPECT_EQ(open_inodes(), 0U);
}

TEST_F(InodeHandlesTest, ThreadsThatOpenAndCloseFindTheirFiles) {
    std::vector<uint64_t> ids;
    std::vector<uint64_t> numbers;
    for (int i = 0; i < 40; ++i) {
        ids.push_back(look_up(write(numbered("f", i))));
        numbers.push_back(number_of(ids.back()));
    }
    std::atomic<int> wrong = 0;
    const auto work = [&](size_t begin) {
        for (size_t i = begin; i < begin + 4000; ++i) {
            wrong += number_of(ids[i % ids.size()]) == numbers[i % ids.size()] ? 0 : 1;
        }
    };
    std::thread one(work, 0);
    std::thread two(work, 17);
    work(31);
    one.join();
    two.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_LE(open_inodes(), kOpenMax + 3);
}

TEST_F(InodeHandlesTest, APassingErrorDoesNotTakeHandlesFromAMount) {
    write("f");
    // Whoever starts when no descriptor is left has not seen the share's own mount yet.
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
    const UniqueFd next(::dup(share_->root_fd()));
    const rlimit none{.rlim_cur = static_cast<rlim_t>(next.get()) + 1, .rlim_max = limit.rlim_max};
    UniqueFd fd(::openat(share_->root_fd(), "f", O_PATH | O_NOFOLLOW | O_CLOEXEC));
    ASSERT_TRUE(fd.valid());
    const auto status = stat_fd(fd.get(), STATX_BASIC_STATS | STATX_MNT_ID);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
    InodeHandles handles(HandlePolicy::kMandatory, *share_, inodes_, [] { return kOpenMax; });
    const auto refused = handles.make(fd, key_of(*status), S_IFREG);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
    EXPECT_FALSE(refused.has_value());
    EXPECT_TRUE(handles.make(fd, key_of(*status), S_IFREG).has_value());
}

TEST(InodeHandlesCheck, RefusesWhereFilesCannotBeOpenedByThem) {
    FsSettings settings;
    settings.shared_dir = "/var/tmp";
    auto share = Share::open(settings);
    ASSERT_TRUE(share.has_value());
    // Capabilities are of a thread.
    std::thread([&] {
        OwnCapabilities::read(::geteuid()).set_effective(0);
        EXPECT_FALSE(InodeHandles::check(HandlePolicy::kMandatory, *share));
        EXPECT_EQ(*InodeHandles::check(HandlePolicy::kPrefer, *share), HandlePolicy::kNever);
        EXPECT_EQ(*InodeHandles::check(HandlePolicy::kNever, *share), HandlePolicy::kNever);
    }).join();
}

}  // namespace
}  // namespace outrigger::fs
