// SPDX-License-Identifier: Apache-2.0
// Files without a name, whose last descriptor frees their blocks: who closes it.
#include "devices/fs/slow_close.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

constexpr off_t kSlowBytes = 1 << 20;

/// Keeps what is deferred, for a thread that may wait.
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

    [[nodiscard]] size_t read_more(std::span<std::byte> out) override {
        const size_t bytes = std::min(out.size(), rest.size());
        std::ranges::copy(rest.first(bytes), out.begin());
        rest = rest.subspan(bytes);
        return bytes;
    }

    [[nodiscard]] EarlierRun earlier_run() override { return {}; }

    void note_intent(std::span<const std::byte> /*intent*/) override {}

    std::vector<Call::Work> later;
    std::span<const std::byte> rest{};
};

class SlowCloseTest : public ::testing::Test {
  protected:
    SlowCloseTest() {
        std::string name = (std::filesystem::temp_directory_path() / "slow-close-XXXXXX").string();
        directory_ = ::mkdtemp(name.data());
        settings_.shared_dir = directory_.string();
        settings_.descriptors_max = 100;
    }

    ~SlowCloseTest() override { std::filesystem::remove_all(directory_); }

    /// Of that many bytes on the disk.
    UniqueFd make(const std::string& name, off_t bytes) {
        UniqueFd fd(
            ::open((directory_ / name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR));
        EXPECT_TRUE(fd.valid());
        const std::string content(static_cast<size_t>(bytes), 'x');
        EXPECT_EQ(::write(fd.get(), content.data(), content.size()), bytes);
        return fd;
    }

    UniqueFd make_nameless(off_t bytes) {
        UniqueFd fd = make("nameless", bytes);
        std::filesystem::remove(directory_ / "nameless");
        return fd;
    }

    FsServer make_server() {
        auto share = Share::open(settings_);
        EXPECT_TRUE(share.has_value());
        return FsServer(settings_, *std::move(share));
    }

    /// The guest has looked the node 7 up twice.
    static FsState state_of(const std::string& name) {
        return {.initialized = true,
                .agreed = FUSE_BIG_WRITES,
                .node_generation = 0,
                .file_generation = 0,
                .nodes = {{.id = 7, .lookups = 2, .type = S_IFREG, .path = name}}};
    }

    Verdict serve(FsServer& server, uint32_t opcode, uint64_t node, Bytes body) {
        Call call{.header = {.opcode = opcode,
                             .node = node,
                             .body_bytes = static_cast<uint32_t>(body.size())},
                  .body = body,
                  .reply = nowhere_,
                  .queue = queue_};
        return server.serve(call);
    }

    template <class T>
    static Bytes bytes_of(const T& object) {
        return std::as_bytes(std::span(&object, 1));
    }

    std::filesystem::path directory_;
    FsSettings settings_;
    LaterQueue queue_;
    ReplyWriter nowhere_;
    std::atomic<size_t> held_{0};
};

TEST_F(SlowCloseTest, KeepsALargeFileWithoutAName) {
    UniqueFd fd = make_nameless(kSlowBytes);
    SlowClose slow(held_);
    slow.take(fd.get());
    EXPECT_FALSE(slow.is_empty());
    EXPECT_EQ(held_, 1U);
    slow.close();
    EXPECT_TRUE(slow.is_empty());
    EXPECT_EQ(held_, 0U);
}

TEST_F(SlowCloseTest, LeavesASmallOne) {
    const UniqueFd fd = make_nameless(4096);
    SlowClose slow(held_);
    slow.take(fd.get());
    EXPECT_TRUE(slow.is_empty());
}

TEST_F(SlowCloseTest, LeavesOneThatHasAName) {
    const UniqueFd fd = make("named", kSlowBytes);
    SlowClose slow(held_);
    slow.take(fd.get());
    EXPECT_TRUE(slow.is_empty());
}

TEST_F(SlowCloseTest, LeavesWhatIsNotOpen) {
    SlowClose slow(held_);
    slow.take(-1);
    EXPECT_TRUE(slow.is_empty());
    EXPECT_EQ(held_, 0U);
}

TEST_F(SlowCloseTest, KeepsNoMoreThanItMay) {
    const UniqueFd fd = make_nameless(kSlowBytes);
    held_ = SlowClose::kHeldMax - 1;
    {
        SlowClose slow(held_);
        slow.take(fd.get());
        slow.take(fd.get());
        EXPECT_EQ(held_, SlowClose::kHeldMax);
        const SlowClose moved(std::move(slow));
        EXPECT_FALSE(moved.is_empty());
    }
    EXPECT_EQ(held_, SlowClose::kHeldMax - 1);
}

TEST_F(SlowCloseTest, TheLastForgetOfALargeFileWithoutANameIsDeferred) {
    (void)make("f", kSlowBytes);
    FsServer server = make_server();
    ASSERT_TRUE(server.load(state_of("f")).has_value());
    std::filesystem::remove(directory_ / "f");
    const fuse_forget_in one{.nlookup = 1};
    EXPECT_EQ(serve(server, FUSE_FORGET, 7, bytes_of(one)), Verdict::kSilent);
    EXPECT_EQ(serve(server, FUSE_FORGET, 7, bytes_of(one)), Verdict::kLater);
    EXPECT_EQ(server.inodes().size(), 1U) << "the root";
    ASSERT_EQ(queue_.later.size(), 1U);
    EXPECT_EQ(queue_.later[0](nowhere_), Verdict::kSilent);
    queue_.later.clear();  // before the server, as queues end
}

TEST_F(SlowCloseTest, TheLastForgetOfAFileThatHasItsNameIsNot) {
    (void)make("f", kSlowBytes);
    FsServer server = make_server();
    ASSERT_TRUE(server.load(state_of("f")).has_value());
    const fuse_forget_in both{.nlookup = 2};
    EXPECT_EQ(serve(server, FUSE_FORGET, 7, bytes_of(both)), Verdict::kSilent);
    EXPECT_EQ(server.inodes().size(), 1U);
}

TEST_F(SlowCloseTest, OneOfManyThatAreForgottenIsEnough) {
    (void)make("f", kSlowBytes);
    FsServer server = make_server();
    ASSERT_TRUE(server.load(state_of("f")).has_value());
    std::filesystem::remove(directory_ / "f");
    const std::array<fuse_forget_one, 3> nodes = {
        {{.nodeid = 9, .nlookup = 1}, {.nodeid = 7, .nlookup = 2}, {.nodeid = 7, .nlookup = 1}}};
    queue_.rest = std::as_bytes(std::span(nodes));
    const fuse_batch_forget_in in{.count = 3, .dummy = 0};
    EXPECT_EQ(serve(server, FUSE_BATCH_FORGET, 0, bytes_of(in)), Verdict::kLater);
    ASSERT_EQ(queue_.later.size(), 1U);
    EXPECT_EQ(queue_.later[0](nowhere_), Verdict::kSilent);
    queue_.later.clear();  // before the server, as queues end
    EXPECT_EQ(server.inodes().size(), 1U);
}

}  // namespace
}  // namespace outrigger::fs
