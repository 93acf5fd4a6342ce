// SPDX-License-Identifier: Apache-2.0
// What a share writes down for the next process, and what that makes of it, honest or not.
#include "devices/fs/fs_keeper.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

/// What outlives the processes, each of which is an FsKeeper and what stands on it.
class Store final : public DeviceKeeper {
  public:
    Result<UniqueFd> keep(std::string_view /*name*/, size_t bytes) override {
        if (!memory_.valid()) {
            memory_ = UniqueFd(::memfd_create("kept", MFD_CLOEXEC));
            EXPECT_EQ(::ftruncate(memory_.get(), static_cast<off_t>(bytes)), 0);
        }
        return copy(memory_.get());
    }

    [[nodiscard]] bool goes_on() const override { return false; }

    [[nodiscard]] bool can_hand_back() const override { return false; }

    UniqueFd take(std::string_view name) override {
        const auto found = open_.find(name);
        return found == open_.end() ? UniqueFd() : copy(found->second.get());
    }

    bool keep_open(std::string_view name, int fd) override {
        return open_.emplace(std::string(name), copy(fd)).second;
    }

    void forget(std::string_view name) override { open_.erase(std::string(name)); }

    void replace(std::string_view name, int fd) { open_[std::string(name)] = copy(fd); }

    [[nodiscard]] size_t open_count() const { return open_.size(); }

    [[nodiscard]] int memory() const { return memory_.get(); }

  private:
    static UniqueFd copy(int fd) { return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

    UniqueFd memory_;
    std::map<std::string, UniqueFd, std::less<>> open_;
};

class FsKeeperTest : public ::testing::Test {
  protected:
    FsKeeperTest() {
        std::string name = ::testing::TempDir() + "fs-keeper-XXXXXX";
        directory_ = ::mkdtemp(name.data());
        begin();
    }

    ~FsKeeperTest() override { std::filesystem::remove_all(directory_); }

    void begin() {
        auto keeper = FsKeeper::open(store_);
        ASSERT_TRUE(keeper.has_value());
        keeper_ = *std::move(keeper);
    }

    /// Inodes as they are found.
    std::vector<KeptInode> inodes() {
        std::vector<KeptInode> found;
        keeper_->for_each_inode([&](const KeptInode& kept) { found.push_back(kept); });
        return found;
    }

    UniqueFd pin(const std::string& name) {
        std::ofstream(directory_ / name) << name;
        return UniqueFd(::open((directory_ / name).c_str(), O_PATH | O_CLOEXEC));
    }

    /// Descriptors of this process that lead to the file.
    [[nodiscard]] size_t opened(const std::string& name) const {
        size_t count = 0;
        for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
            std::error_code gone;
            count += std::filesystem::read_symlink(entry, gone) == directory_ / name ? 1U : 0U;
        }
        return count;
    }

    static InodeKey key(int fd) { return key_of(*stat_fd(fd, STATX_BASIC_STATS | STATX_MNT_ID)); }

    Store store_;
    std::filesystem::path directory_;
    std::unique_ptr<FsKeeper> keeper_;
};

TEST_F(FsKeeperTest, AnInodeIsFoundAsItWasLeft) {
    const std::array<std::byte, 12> handle{std::byte{4}};
    keeper_->add_inode({.id = uint64_t{3} << 32 | 9,
                        .mount = 1,
                        .device = 2,
                        .number = 3,
                        .lookups = 4,
                        .counted_by = 5,
                        .type = S_IFREG,
                        .handle = handle},
                       -1);
    keeper_->note_lookups(uint64_t{3} << 32 | 9, 6);
    keeper_->note_counted_by(uint64_t{3} << 32 | 9, 7);
    begin();
    size_t count = 0;
    keeper_->for_each_inode([&](const KeptInode& kept) {
        ++count;
        EXPECT_EQ(kept.id, uint64_t{3} << 32 | 9);
        EXPECT_EQ(kept.number, 3U);
        EXPECT_EQ(kept.lookups, 6U);
        EXPECT_EQ(kept.counted_by, 7U);
        EXPECT_TRUE(std::ranges::equal(kept.handle, handle));
    });
    EXPECT_EQ(count, 1U);
    EXPECT_EQ(keeper_->inode_generation(), 3U);
    EXPECT_EQ(store_.open_count(), 0U);
}

TEST_F(FsKeeperTest, WhatWasRemovedLeavesItsGenerationAndNothingElse) {
    const UniqueFd fd = pin("f");
    const uint64_t id = uint64_t{8} << 32 | 2;
    keeper_->add_inode({.id = id, .lookups = 1, .type = S_IFREG}, fd.get());
    EXPECT_EQ(store_.open_count(), 1U);
    keeper_->remove_inode(id, true);
    EXPECT_EQ(store_.open_count(), 0U);
    begin();
    EXPECT_TRUE(inodes().empty());
    EXPECT_EQ(keeper_->inode_generation(), 8U);
}

TEST_F(FsKeeperTest, NumbersOfRequestsAreOfOneProcess) {
    const uint64_t first = keeper_->begin_requests();
    begin();
    const uint64_t second = keeper_->begin_requests();
    EXPECT_NE(first, 0U);
    EXPECT_GE(second - first, uint64_t{1} << 48);
}

TEST_F(FsKeeperTest, MemoryOfAnotherLayoutIsRefused) {
    const uint64_t other = 7;
    ASSERT_EQ(::pwrite(store_.memory(), &other, sizeof other, 0), 8);
    EXPECT_FALSE(FsKeeper::open(store_).has_value());
}

// As a process does whose guest has taken it over: random bytes that look alive.
TEST_F(FsKeeperTest, WhatAnybodyWroteThereIsBelievedInNothing) {
    FsSettings settings;
    settings.shared_dir = directory_;
    settings.posix_locks = true;
    std::mt19937_64 random(7);  // NOLINT(cert-msc51-cpp): the same each time
    for (int round = 0; round < 40; ++round) {
        const uint64_t layout = 0;
        ASSERT_EQ(::pwrite(store_.memory(), &layout, sizeof layout, 0), 8);
        begin();
        std::vector<uint64_t> words(8192);
        for (uint64_t& word : words) {
            word = random() >> (random() % 64);
        }
        // The front but for its layout, locks, the first files; and inodes, which come last.
        struct stat status = {};
        ASSERT_EQ(::fstat(store_.memory(), &status), 0);
        constexpr off_t kInodesBytes = off_t{FsKeeper::kSlotsMax} * 128;
        for (const off_t begin : {off_t{8}, status.st_size - kInodesBytes}) {
            for (off_t at = begin; at < begin + (off_t{4} << 20); at += off_t{8192 * 8}) {
                std::ranges::shuffle(words, random);
                ASSERT_GT(::pwrite(store_.memory(), words.data(), words.size() * 8, at), 0);
            }
        }
        // Where the tables end, of the front: all of them would be gigabytes.
        const std::array<uint64_t, 3> ends = {4096, 4096, 4096};
        ASSERT_EQ(::pwrite(store_.memory(), ends.data(), sizeof ends, 32), 24);
        keeper_->for_each_inode([&](const KeptInode& kept) {
            EXPECT_NE(static_cast<uint32_t>(kept.id), 0U);
            EXPECT_LE(kept.handle.size(), KeptInode::kHandleBytesMax);
        });
        auto share = Share::open(settings);
        ASSERT_TRUE(share.has_value());
        FsServer server(settings, *std::move(share));
        server.go_on(*keeper_);
        server.open_again();
        EXPECT_TRUE(server.inodes().size() >= 1);
        server.reset();
        EXPECT_EQ(server.inodes().size(), 1U);
        EXPECT_EQ(server.files().size(), 0U);
    }
}

TEST_F(FsKeeperTest, ADescriptorOfAnotherFileIsNotTakenForTheInode) {
    const UniqueFd fd = pin("f");
    const UniqueFd other = pin("g");
    const InodeKey known = key(fd.get());
    const uint64_t id = 2;
    keeper_->add_inode({.id = id,
                        .mount = known.mount,
                        .device = known.device,
                        .number = known.number,
                        .lookups = 1,
                        .type = S_IFREG},
                       fd.get());
    store_.replace("n2", other.get());
    begin();
    FsSettings settings;
    settings.shared_dir = directory_;
    auto share = Share::open(settings);
    ASSERT_TRUE(share.has_value());
    FsServer server(settings, *std::move(share));
    const size_t before = opened("g");
    server.go_on(*keeper_);
    // The node is there, and nobody reaches anything by it.
    EXPECT_EQ(server.inodes().size(), 2U);
    EXPECT_EQ(opened("g"), before);
}

TEST_F(FsKeeperTest, AnotherDirectoryIsNotTakenForTheShare) {
    const UniqueFd elsewhere(::open("/", O_PATH | O_CLOEXEC));
    FsSettings settings;
    settings.shared_dir = directory_;
    EXPECT_FALSE(
        Share::go_on(settings, UniqueFd(::fcntl(elsewhere.get(), F_DUPFD_CLOEXEC, 0))).has_value());
    EXPECT_TRUE(Share::go_on(settings, UniqueFd(::open(directory_.c_str(), O_PATH | O_CLOEXEC)))
                    .has_value());
}

TEST_F(FsKeeperTest, AProcessGoesOnWithWhatItsOptionsStandFor) {
    keeper_->note_session({.initialized = true, .agreed = FUSE_BIG_WRITES | FUSE_POSIX_LOCKS});
    FsSettings settings;
    settings.posix_locks = true;
    EXPECT_TRUE(check_kept(settings, *keeper_));
    settings.posix_locks = false;
    const auto refused = check_kept(settings, *keeper_);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find("--posix-lock"), std::string::npos);
}

TEST_F(FsKeeperTest, AWindowThatTheGuestAgreedToIsNotTakenAway) {
    keeper_->note_session({.initialized = true, .agreed = FUSE_MAP_ALIGNMENT | FUSE_HAS_INODE_DAX});
    FsSettings settings;
    const auto refused = check_kept(settings, *keeper_);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find("--dax-window"), std::string::npos);
    settings.dax_window_bytes = 2 << 20;
    EXPECT_TRUE(check_kept(settings, *keeper_));
}

TEST_F(FsKeeperTest, AGuestThatHasAgreedOnNothingGoesOnWithAnyOptions) {
    keeper_->note_session({.initialized = false, .agreed = UINT64_MAX});
    EXPECT_TRUE(check_kept({}, *keeper_));
}

TEST_F(FsKeeperTest, FilesThatAreKeptByHandleNeedHandles) {
    const std::array<std::byte, 4> handle{};
    keeper_->add_inode({.id = 2, .lookups = 1, .type = S_IFREG, .handle = handle}, -1);
    FsSettings settings;
    settings.handles = HandlePolicy::kPrefer;
    EXPECT_TRUE(check_kept(settings, *keeper_));
    settings.handles = HandlePolicy::kNever;
    EXPECT_FALSE(check_kept(settings, *keeper_));
}

}  // namespace
}  // namespace outrigger::fs
