// SPDX-License-Identifier: Apache-2.0
// What a guest has forgotten and may ask for by number (--nfs-export) moves with it as far as time
// allows, by a clock that the tests turn.
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/stat.h>

#include <gtest/gtest.h>

#include "devices/fs/fs_server.h"
#include "tests/fs/numbered.h"

namespace outrigger::fs {
namespace {

using testing::numbered;

constexpr uint64_t kAgreed = FUSE_BIG_WRITES | FUSE_EXPORT_SUPPORT;
constexpr uint64_t kFirstId = 7;

/// FORGET has no answer and nothing to wait for.
class NoQueue final : public Call::Queue {
  public:
    virtual ~NoQueue() = default;

    void defer(Call& /*call*/, Call::Work /*work*/) override { ADD_FAILURE(); }

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
};

class ForgottenNodes : public ::testing::Test {
  protected:
    ForgottenNodes() {
        std::string name = "/var/tmp/fs-forgotten-XXXXXX";
        directory_ = ::mkdtemp(name.data());
        settings_.shared_dir = directory_.string();
        settings_.descriptors_max = 100;
        settings_.nfs_export = true;
        settings_.handles = HandlePolicy::kMandatory;
    }

    ~ForgottenNodes() override { std::filesystem::remove_all(directory_); }

    void SetUp() override {
        const auto share = Share::open(settings_);
        ASSERT_TRUE(share);
        if (!InodeHandles::check(HandlePolicy::kMandatory, *share)) {
            GTEST_SKIP() << "no handles here, or not root";
        }
    }

    FsServer make_server() {
        auto share = Share::open(settings_);
        EXPECT_TRUE(share.has_value());
        return FsServer(settings_, *std::move(share));
    }

    void write(const std::string& name) const { std::ofstream(directory_ / name) << name; }

    /// Files of these names, each looked up once: kFirstId and those behind.
    FsState known(const std::vector<std::string>& names) const {
        FsState state{.initialized = true, .agreed = kAgreed};
        for (size_t i = 0; i < names.size(); ++i) {
            state.nodes.add({.id = kFirstId + i, .lookups = 1, .type = S_IFREG, .path = names[i]});
        }
        return state;
    }

    std::vector<std::string> write_many(size_t count) const {
        std::vector<std::string> names;
        for (size_t i = 0; i < count; ++i) {
            write(names.emplace_back(numbered("f", i)));
        }
        return names;
    }

    static void forget(FsServer& server, uint64_t node) {
        const fuse_forget_in in{.nlookup = 1};
        NoQueue queue;
        ReplyWriter nowhere;
        Call call{.header = {.opcode = FUSE_FORGET, .node = node, .body_bytes = sizeof in},
                  .body = std::as_bytes(std::span(&in, 1)),
                  .reply = nowhere,
                  .queue = queue};
        EXPECT_EQ(server.serve(call), Verdict::kSilent);
    }

    /// It knew these files and has forgotten them, the last one last.
    void begin(FsServer& server, const std::vector<std::string>& names) {
        ASSERT_TRUE(server.load(known(names)));
        for (size_t i = 0; i < names.size(); ++i) {
            forget(server, kFirstId + i);
        }
    }

    /// Stands still for that many looks at it, then it is two seconds later.
    TimeLimit::Now clock_of(size_t looks) {
        return [this, looks] {
            return TimeLimit::Clock::time_point() + std::chrono::seconds(looks_++ < looks ? 0 : 2);
        };
    }

    static std::vector<uint64_t> ids_of(const SavedNodes& nodes) {
        std::vector<uint64_t> ids;
        nodes.for_each([&](const SavedNode& node) {
            ids.push_back(node.id);
            return true;
        });
        return ids;
    }

    std::filesystem::path directory_;
    FsSettings settings_;
    size_t looks_ = 0;
};

TEST_F(ForgottenNodes, AllMoveWhereThereIsTime) {
    FsServer from = make_server();
    begin(from, write_many(5));
    const auto state = from.save();
    ASSERT_TRUE(state) << state.error().message;
    EXPECT_EQ(ids_of(state->forgotten), (std::vector<uint64_t>{11, 10, 9, 8, 7}));
    FsServer to = make_server();
    ASSERT_TRUE(to.load(*state));
    EXPECT_EQ(to.inodes().size(), 6U) << "and the root";
}

TEST_F(ForgottenNodes, ThoseThatWereForgottenLastAreSavedWhileThereIsTime) {
    FsServer from = make_server();
    begin(from, write_many(5));
    from.tell_time_by(clock_of(1 + 3));
    const auto state = from.save();
    ASSERT_TRUE(state) << state.error().message;
    EXPECT_EQ(ids_of(state->forgotten), (std::vector<uint64_t>{11, 10, 9}));
}

TEST_F(ForgottenNodes, ThoseThatWereForgottenLastAreFoundWhileThereIsTime) {
    FsServer from = make_server();
    begin(from, write_many(5));
    const auto state = from.save();
    ASSERT_TRUE(state);
    FsServer to = make_server();
    to.tell_time_by(clock_of(1 + 2));
    ASSERT_TRUE(to.load(*state));
    to.tell_time_by(&TimeLimit::Clock::now);
    const auto found = to.save();
    ASSERT_TRUE(found);
    EXPECT_EQ(ids_of(found->forgotten), (std::vector<uint64_t>{11, 10}));
}

TEST_F(ForgottenNodes, NoTimeIsSpentOnThemWhereTheGuestCannotAsk) {
    FsServer from = make_server();
    begin(from, write_many(2));
    auto state = from.save();
    ASSERT_TRUE(state);
    state->agreed &= ~uint64_t{FUSE_EXPORT_SUPPORT};
    FsServer to = make_server();
    to.tell_time_by(clock_of(100));
    ASSERT_TRUE(to.load(*state));
    EXPECT_EQ(to.inodes().size(), 1U);
    EXPECT_EQ(looks_, 0U);
}

/// A file whose name is not the one that the kernel tells first, of those that it has.
class ForgottenNames : public ForgottenNodes {
  protected:
    /// The file's other name is "sub/left".
    void remove_name(const std::string& name) {
        removed_ = UniqueFd(::open((directory_ / name).c_str(), O_RDONLY | O_CLOEXEC));
        ASSERT_TRUE(removed_.valid());
        std::filesystem::remove(directory_ / name);
    }

    void write_with_two_names(const std::string& name) {
        std::filesystem::create_directory(directory_ / "sub");
        write("sub/left");
        std::filesystem::create_hard_link(directory_ / "sub/left", directory_ / name);
    }

    UniqueFd removed_;  // keeps the kernel from forgetting the name
};

TEST_F(ForgottenNames, AreLookedForWhereThereIsTime) {
    write_with_two_names("f");
    FsServer from = make_server();
    begin(from, {"f"});
    remove_name("f");
    const auto state = from.save();
    ASSERT_TRUE(state);
    ASSERT_EQ(state->forgotten.size(), 1U);
    EXPECT_EQ(state->forgotten.all().front().path, "sub/left");
}

TEST_F(ForgottenNames, AreLookedForInNoMoreDirectoriesThanThereIsTimeFor) {
    write_with_two_names("f");
    FsServer from = make_server();
    begin(from, {"f"});
    remove_name("f");
    // The beginning, the node, and the root.
    from.tell_time_by(clock_of(3));
    const auto state = from.save();
    ASSERT_TRUE(state);
    EXPECT_EQ(state->forgotten.size(), 0U);
}

TEST_F(ForgottenNames, ThoseThatTheGuestNeedsTakeAsLongAsTheyTake) {
    write_with_two_names("f");
    FsServer from = make_server();
    ASSERT_TRUE(from.load(known({"f"})));
    remove_name("f");
    from.tell_time_by(clock_of(0));
    const auto state = from.save();
    ASSERT_TRUE(state);
    ASSERT_EQ(state->nodes.size(), 1U);
    EXPECT_EQ(state->nodes.all().front().path, "sub/left");
}

/// What was forgotten may be left out; a file that is open is not.
TEST_F(ForgottenNodes, AFileThatIsOpenIsNoneOfThem) {
    write("f");
    FsState state = known({"f"});
    state.files = {{.handle = 4, .node = kFirstId, .flags = O_RDWR}};
    FsServer from = make_server();
    ASSERT_TRUE(from.load(state));
    EXPECT_TRUE(from.save());
    forget(from, kFirstId);
    EXPECT_FALSE(from.save());
}

}  // namespace
}  // namespace outrigger::fs
