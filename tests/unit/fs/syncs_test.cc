// SPDX-License-Identifier: Apache-2.0
// What SYNCFS keeps open of a file system that is mounted below the share.
#include <array>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <linux/filter.h>
#include <linux/fuse.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <gtest/gtest.h>

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

/// Keeps what is deferred.
class LaterQueue final : public Call::Queue {
  public:
    void defer(Call& /*call*/, Call::Work work) override { later.push_back(std::move(work)); }

    void read(Call& /*call*/, const FileRead& /*read*/, Call::Work /*work*/) override {
        ADD_FAILURE();
    }

    void retry(Call& /*call*/, Call::Work /*attempt*/) override { ADD_FAILURE(); }

    [[nodiscard]] Answer wait(Call& /*call*/) override {
        ADD_FAILURE();
        return [](Verdict) {};
    }

    void on_fault(std::span<const iovec> /*buffers*/) override { ADD_FAILURE(); }

    [[nodiscard]] size_t read_more(std::span<std::byte> /*out*/) override { return 0; }

    [[nodiscard]] EarlierRun earlier_run() override { return {}; }

    void note_intent(std::span<const std::byte> /*intent*/) override {}

    std::vector<Call::Work> later;
};

/// As filters around services are; of this thread alone.
bool refuse_open_tree() {
    std::array<sock_filter, 4> program = {{
        {.code = BPF_LD | BPF_W | BPF_ABS, .jt = 0, .jf = 0, .k = offsetof(seccomp_data, nr)},
        {.code = BPF_JMP | BPF_JEQ | BPF_K, .jt = 0, .jf = 1, .k = SYS_open_tree},
        {.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = SECCOMP_RET_ERRNO | EPERM},
        {.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = SECCOMP_RET_ALLOW},
    }};
    const sock_fprog filter = {.len = program.size(), .filter = program.data()};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

class SyncsTest : public ::testing::Test {
  protected:
    static constexpr uint64_t kBelow = 7;

    SyncsTest() {
        std::string name = (std::filesystem::temp_directory_path() / "syncs-XXXXXX").string();
        directory_ = ::mkdtemp(name.data());
        std::filesystem::create_directory(directory_ / "below");
        settings_.shared_dir = directory_.string();
        settings_.descriptors_max = 100;
    }

    ~SyncsTest() override {
        if (is_mounted_) {
            ::umount2((directory_ / "below").c_str(), MNT_DETACH);
        }
        std::filesystem::remove_all(directory_);
    }

    void SetUp() override {
        is_mounted_ = ::mount("tmpfs", (directory_ / "below").c_str(), "tmpfs", 0, "size=1m") == 0;
        if (!is_mounted_) {
            GTEST_SKIP() << "this needs root";
        }
    }

    /// The guest knows what is mounted there.
    [[nodiscard]] static FsState state() {
        return {.initialized = true,
                .agreed = FUSE_BIG_WRITES,
                .nodes = {{.id = kBelow, .lookups = 1, .type = S_IFDIR, .path = "below"}}};
    }

    template <class T>
    Verdict serve(FsServer& server, uint32_t opcode, const T& args) {
        Call call{.header = {.opcode = opcode, .node = kBelow, .body_bytes = sizeof args},
                  .body = std::as_bytes(std::span(&args, 1)),
                  .reply = nowhere_,
                  .queue = queue_};
        return server.serve(call);
    }

    Verdict sync(FsServer& server) {
        EXPECT_EQ(serve(server, FUSE_SYNCFS, fuse_syncfs_in{}), Verdict::kLater);
        auto work = std::move(queue_.later.back());
        queue_.later.pop_back();
        return work(nowhere_);
    }

    std::filesystem::path directory_;
    FsSettings settings_;
    LaterQueue queue_;
    ReplyWriter nowhere_;
    bool is_mounted_ = false;
};

TEST_F(SyncsTest, AFileSystemOfOurOwnMountIsKeptOnceAndCounted) {
    auto share = Share::open(settings_);
    ASSERT_TRUE(share && share->is_own_mount());
    FsServer server(settings_, *std::move(share));
    ASSERT_TRUE(server.load(state()));
    const uint64_t before = server.held_count();
    EXPECT_EQ(sync(server), Verdict::kAnswered);
    EXPECT_EQ(server.held_count(), before + 1);
    EXPECT_EQ(sync(server), Verdict::kAnswered);
    EXPECT_EQ(server.held_count(), before + 1);
    server.reset();
    EXPECT_EQ(server.held_count(), before - 1) << "nor the node";
}

TEST_F(SyncsTest, NoneIsKeptForWhichThereIsNoDescriptor) {
    settings_.budget = std::make_shared<DescriptorBudget>(2);
    auto share = Share::open(settings_);
    ASSERT_TRUE(share);
    FsServer server(settings_, *std::move(share));
    ASSERT_TRUE(server.load(state()));
    ASSERT_EQ(server.held_count(), 2U);
    EXPECT_EQ(sync(server), Verdict::kAnswered);
    EXPECT_EQ(server.held_count(), 2U);
}

TEST_F(SyncsTest, TheHostUnmountsWhatTheGuestHasSyncedAndForgotten) {
    std::thread([this] {
        ASSERT_TRUE(refuse_open_tree());
        auto share = Share::open(settings_);
        ASSERT_TRUE(share);
        ASSERT_FALSE(share->is_own_mount());
        FsServer server(settings_, *std::move(share));
        ASSERT_TRUE(server.load(state()));
        EXPECT_EQ(sync(server), Verdict::kAnswered);
        EXPECT_EQ(serve(server, FUSE_FORGET, fuse_forget_in{.nlookup = 1}), Verdict::kSilent);
        is_mounted_ = ::umount2((directory_ / "below").c_str(), 0) != 0;
        EXPECT_FALSE(is_mounted_);
    }).join();
}

}  // namespace
}  // namespace outrigger::fs
