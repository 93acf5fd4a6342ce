// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/fs_state.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <span>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/stat.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/little_endian.h"

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

FsState example() {
    return {.initialized = true,
            .agreed = 0x1'0000'0003,
            .node_generation = 4,
            .file_generation = 2,
            .nodes = {{.id = 2, .lookups = 3, .type = S_IFDIR, .path = "d"},
                      {.id = 3, .lookups = 1, .type = S_IFREG, .path = "d/\xff name"}},
            .files = {{.handle = 1, .node = 3, .flags = O_RDWR}},
            .removed = {{.id = 9, .lookups = 2, .type = S_IFREG, .handle = {std::byte{1}}}},
            .locks = {{.node = 3,
                       .owner = 5,
                       .handle = 1,
                       .start = 10,
                       .end = 20,
                       .pid = 4,
                       .type = F_WRLCK}},
            .forgotten =
                SavedNodes({{.id = 5, .type = S_IFREG, .path = "d/old", .handle = {std::byte{1}}}},
                           SavedNodes::Kind::kForgotten)};
}

TEST(FsState, ComesBackAsItWas) {
    const auto read = read_fs_state(write_fs_state(example()));
    ASSERT_TRUE(read.has_value());
    EXPECT_EQ(*read, example());
}

TEST(FsState, IsAsLongAsItsSections) {
    size_t bytes = 0;
    for (const StateSection& section : write_fs_state(example())) {
        bytes += section.bytes.size();
    }
    EXPECT_EQ(section_bytes(example()), bytes);
}

TEST(FsState, WhatWasForgottenIsOfNoConcernToWhoDoesNotKnowIt) {
    for (const StateSection& section : write_fs_state(example())) {
        EXPECT_EQ(section.critical, section.id != kForgottenSection.id);
    }
}

TEST(FsState, RefusesAForgottenFileWhoseHandleIsCutOff) {
    auto sections = write_fs_state(example());
    ASSERT_EQ(sections.back().id, kForgottenSection.id);
    sections.back().bytes.pop_back();
    EXPECT_FALSE(read_fs_state(sections));
}

TEST(FsState, RefusesAMissingSection) {
    auto sections = write_fs_state(example());
    std::erase_if(sections, [](const StateSection& each) { return each.id == kFilesSection.id; });
    EXPECT_FALSE(read_fs_state(sections));
}

TEST(FsState, RefusesNodesThatEndEarly) {
    auto sections = write_fs_state(example());
    sections[1].bytes.pop_back();
    EXPECT_FALSE(read_fs_state(sections));
}

/// With another node in the place of one of them.
FsState with_node(FsState state, size_t place, const std::function<void(SavedNode&)>& change) {
    std::vector<SavedNode> nodes = state.nodes.all();
    change(nodes.at(place));
    state.nodes = {};
    for (const SavedNode& node : nodes) {
        state.nodes.add(node);
    }
    return state;
}

void expect_path_refused(const std::string& path) {
    const FsState state = with_node(example(), 0, [&](SavedNode& node) { node.path = path; });
    EXPECT_FALSE(read_fs_state(write_fs_state(state))) << path;
}

TEST(FsState, RefusesPathsThatLeadOut) {
    expect_path_refused("..");
    expect_path_refused("../x");
    expect_path_refused("a/../../x");
    expect_path_refused("/etc");
    expect_path_refused("a//b");
    expect_path_refused("a/");
    expect_path_refused(".");
    expect_path_refused("");
}

TEST(FsState, RefusesATypeThatIsNone) {
    const FsState state = with_node(example(), 0, [](SavedNode& node) { node.type = 0; });
    EXPECT_FALSE(read_fs_state(write_fs_state(state)));
}

TEST(FsState, RefusesFlagsThatMakeFiles) {
    FsState state = example();
    state.files[0].flags = O_RDWR | O_CREAT;
    EXPECT_FALSE(read_fs_state(write_fs_state(state)));
}

TEST(FsState, TakesWhatBuildsWithoutLocksAndRemovedFilesWrote) {
    FsState state = example();
    state.removed.clear();
    state.locks.clear();
    state.forgotten = SavedNodes(SavedNodes::Kind::kForgotten);
    const auto sections = write_fs_state(state);
    EXPECT_EQ(sections.size(), 3U);
    EXPECT_EQ(read_fs_state(sections).value(), state);
}

TEST(FsState, RefusesARemovedFileWhoseHandleIsCutOff) {
    auto sections = write_fs_state(example());
    sections[3].bytes.pop_back();
    EXPECT_FALSE(read_fs_state(sections));
}

TEST(FsState, RefusesALockThatEndsBeforeItBegins) {
    FsState state = example();
    state.locks[0].end = 9;
    EXPECT_FALSE(read_fs_state(write_fs_state(state)));
}

TEST(FsState, RefusesALockOfNoType) {
    FsState state = example();
    state.locks[0].type = F_UNLCK;
    EXPECT_FALSE(read_fs_state(write_fs_state(state)));
}

TEST(FsState, TakesNodesOfTheFirstVersion) {
    auto sections = write_fs_state(example());
    sections[1].version = 1;
    sections[1].bytes.clear();
    const auto append = [&](const auto& value) {
        const auto bytes = std::as_bytes(std::span(&value, 1));
        sections[1].bytes.insert(sections[1].bytes.end(), bytes.begin(), bytes.end());
    };
    for (const SavedNode& node : example().nodes.all()) {
        append(Le64(node.id));
        append(Le64(node.lookups));
        append(Le32(node.type));
        append(Le32(static_cast<uint32_t>(node.path.size())));
        for (const char letter : node.path) {
            append(letter);
        }
    }
    EXPECT_EQ(read_fs_state(sections).value(), example());
    sections[1].bytes.pop_back();
    EXPECT_FALSE(read_fs_state(sections));
}

/// A directory that is shared, with d/f in it.
class FsMoveTest : public ::testing::Test {
  protected:
    FsMoveTest() {
        std::string name = (std::filesystem::temp_directory_path() / "fs-state-XXXXXX").string();
        directory_ = ::mkdtemp(name.data());
        std::filesystem::create_directory(directory_ / "d");
        std::ofstream(directory_ / "d/f") << "contents";
        settings_.shared_dir = directory_.string();
        settings_.descriptors_max = 100;
    }

    ~FsMoveTest() override { std::filesystem::remove_all(directory_); }

    FsServer make_server() {
        auto share = Share::open(settings_);
        EXPECT_TRUE(share.has_value());
        return FsServer(settings_, *std::move(share));
    }

    FsState state() {
        return {.initialized = true,
                .agreed = FUSE_BIG_WRITES | FUSE_SETXATTR_EXT,
                .node_generation = 0,
                .file_generation = 0,
                .nodes = {{.id = 2, .lookups = 3, .type = S_IFDIR, .path = "d"},
                          {.id = 7, .lookups = 1, .type = S_IFREG, .path = "d/f"}},
                .files = {{.handle = 1, .node = 2, .flags = O_DIRECTORY},
                          {.handle = 4, .node = 7, .flags = O_RDWR}}};
    }

    std::filesystem::path directory_;
    FsSettings settings_;
};

TEST_F(FsMoveTest, WhatWasLoadedIsSavedAgain) {
    FsServer server = make_server();
    ASSERT_TRUE(server.load(state()).has_value());
    const auto saved = server.save();
    ASSERT_TRUE(saved.has_value()) << saved.error().message;
    EXPECT_EQ(saved->nodes, state().nodes);
    EXPECT_EQ(saved->files, state().files);
    EXPECT_EQ(saved->agreed, state().agreed);
    EXPECT_TRUE(server.form().long_setxattr);
}

/// Of requests that are answered at once.
class NoQueue : public Call::Queue {
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

TEST_F(FsMoveTest, AGuestThatKnowsAsMuchAsItMayStillOpensIt) {
    settings_.inodes_max = 3;  // the root's, and those of the state
    std::ofstream(directory_ / "new");
    FsServer server = make_server();
    ASSERT_TRUE(server.load(state()).has_value());
    NoQueue queue;
    ReplyWriter nowhere;
    const auto serve = [&](uint32_t opcode, uint64_t node, Bytes body) {
        Call call{.header = {.opcode = opcode,
                             .node = node,
                             .body_bytes = static_cast<uint32_t>(body.size())},
                  .body = body,
                  .reply = nowhere,
                  .queue = queue};
        return server.serve(call);
    };
    const auto bytes_of = [](const auto& object) { return std::as_bytes(std::span(&object, 1)); };
    std::thread thread([&] {  // which is not the same afterwards
        ASSERT_TRUE(server.adopt_thread());
        EXPECT_EQ(serve(FUSE_LOOKUP, FUSE_ROOT_ID, std::as_bytes(std::span("new"))),
                  failed(ENFILE));
        const fuse_open_in how{.flags = O_RDONLY, .open_flags = 0};
        // There is no room for an answer.
        EXPECT_NE(serve(FUSE_OPEN, 7, bytes_of(how)), failed(ENFILE));
        EXPECT_NE(serve(FUSE_OPENDIR, 2, bytes_of(how)), failed(ENFILE));
    });
    thread.join();
}

/// That does what was deferred, and counts it.
class CountingQueue final : public NoQueue {
  public:
    void defer(Call& call, Call::Work work) override {
        ++deferred;
        verdict = work(call.reply);
    }

    size_t deferred = 0;
    Verdict verdict = Verdict::kAnswered;
};

// A walk through the directory, for which other requests of the worker would wait.
TEST_F(FsMoveTest, AnOffsetThatNoKernelTakesIsLookedForElsewhere) {
    FsServer server = make_server();
    ASSERT_TRUE(server.load(state()).has_value());
    CountingQueue queue;
    ReplyWriter nowhere;
    const auto list_from = [&](uint64_t offset) {
        fuse_read_in in{};
        in.fh = 1;
        in.offset = offset;
        const auto body = std::as_bytes(std::span(&in, 1));
        Call call{.header = {.opcode = FUSE_READDIR,
                             .node = 2,
                             .body_bytes = static_cast<uint32_t>(body.size())},
                  .body = body,
                  .reply = nowhere,
                  .queue = queue};
        return server.serve(call);
    };
    std::thread thread([&] {  // which is not the same afterwards
        EXPECT_EQ(list_from(0), failed(EINVAL)) << "no room for any name";
        EXPECT_EQ(queue.deferred, 0U);
        EXPECT_EQ(list_from(uint64_t{INT64_MAX} + 1), Verdict::kLater);
        EXPECT_EQ(queue.deferred, 1U);
        EXPECT_EQ(queue.verdict, failed(EINVAL)) << "no entry has it";
        EXPECT_EQ(list_from(0), failed(EINVAL));
        EXPECT_EQ(queue.deferred, 1U);
    });
    thread.join();
}

TEST_F(FsMoveTest, AFileThatTheHostMovedIsSavedUnderItsNewName) {
    FsServer server = make_server();
    ASSERT_TRUE(server.load(state()).has_value());
    std::filesystem::rename(directory_ / "d/f", directory_ / "g");
    const auto saved = server.save();
    ASSERT_TRUE(saved.has_value());
    EXPECT_EQ(saved->nodes.all()[1].path, "g");
}

TEST_F(FsMoveTest, AnOpenFileThatWasRemovedRefusesToMove) {
    FsServer server = make_server();
    ASSERT_TRUE(server.load(state()).has_value());
    std::filesystem::remove(directory_ / "d/f");
    EXPECT_FALSE(server.save());
}

TEST_F(FsMoveTest, AFileThatTookTheNameOfARemovedOneIsNotMistakenForIt) {
    FsServer server = make_server();
    FsState one = state();
    one.files.clear();
    ASSERT_TRUE(server.load(one).has_value());
    std::filesystem::remove(directory_ / "d/f");
    std::ofstream(directory_ / "d/f (deleted)") << "another";
    const auto saved = server.save();
    ASSERT_TRUE(saved.has_value());
    EXPECT_EQ(saved->nodes.size(), 1U);
}

TEST_F(FsMoveTest, WhatNobodyCouldHaveAgreedOnIsRefused) {
    FsServer server = make_server();
    for (const uint64_t agreed :
         {uint64_t{FUSE_POSIX_ACL}, uint64_t{FUSE_SECURITY_CTX}, uint64_t{1} << 62}) {
        FsState wrong = state();
        wrong.agreed |= agreed;
        EXPECT_FALSE(server.load(wrong)) << agreed;
    }
    EXPECT_TRUE(server.load(state()));
}

TEST_F(FsMoveTest, AMissingFileRefusesAllOfIt) {
    FsServer server = make_server();
    const FsState one = with_node(state(), 1, [](SavedNode& node) { node.path = "d/none"; });
    EXPECT_FALSE(server.load(one));
    EXPECT_EQ(server.inodes().size(), 1U);
    EXPECT_EQ(server.files().size(), 0U);
}

TEST_F(FsMoveTest, ARefusedStateLeavesEverySlotFreeOnce) {
    FsServer server = make_server();
    ASSERT_TRUE(server.load(state()).has_value());
    const FsState one = with_node(state(), 1, [](SavedNode& node) { node.path = "d/none"; });
    EXPECT_FALSE(server.load(one));
    EXPECT_FALSE(server.load(one));
    ASSERT_TRUE(server.load(state()).has_value());
    EXPECT_EQ(server.inodes().size(), 3U);
    EXPECT_EQ(server.files().size(), 2U);
}

TEST_F(FsMoveTest, AFileOfAnotherTypeRefusesAllOfIt) {
    FsServer server = make_server();
    const FsState one = with_node(state(), 1, [](SavedNode& node) { node.type = S_IFIFO; });
    EXPECT_FALSE(server.load(one));
    EXPECT_EQ(server.inodes().size(), 1U);
}

TEST_F(FsMoveTest, ASymbolicLinkOnTheWayIsNotFollowed) {
    std::filesystem::create_symlink("d", directory_ / "l");
    FsServer server = make_server();
    const FsState one = with_node(state(), 1, [](SavedNode& node) { node.path = "l/f"; });
    EXPECT_FALSE(server.load(one));
}

TEST_F(FsMoveTest, AnIdOfTheRootIsRefused) {
    FsServer server = make_server();
    const FsState one = with_node(state(), 0, [](SavedNode& node) { node.id = 1; });
    EXPECT_FALSE(server.load(one));
}

TEST_F(FsMoveTest, ASlotBeyondTheLimitIsRefused) {
    FsServer server = make_server();
    const FsState one = with_node(state(), 0, [](SavedNode& node) { node.id = 100; });
    EXPECT_FALSE(server.load(one));
}

TEST_F(FsMoveTest, TwoNodesOfOneFileAreRefused) {
    FsServer server = make_server();
    const FsState one = with_node(state(), 0, [](SavedNode& node) {
        node = {.id = 3, .lookups = 1, .type = S_IFREG, .path = "d/f"};
    });
    EXPECT_FALSE(server.load(one));
}

TEST_F(FsMoveTest, AnOpenFileWithoutItsNodeIsRefused) {
    FsServer server = make_server();
    FsState one = state();
    one.files[1].node = 9;
    EXPECT_FALSE(server.load(one));
}

TEST_F(FsMoveTest, ALockOfAFileThatIsNotOpenIsRefused) {
    settings_.posix_locks = true;
    FsServer server = make_server();
    FsState one = state();
    one.locks = {{.node = 7, .owner = 1, .handle = 9, .end = 5, .type = F_RDLCK}};
    EXPECT_FALSE(server.load(one));
    one.locks[0].handle = 4;
    EXPECT_TRUE(server.load(one));
}

TEST_F(FsMoveTest, AHandleOfAFileThatHasANameIsRefused) {
    // It may lie anywhere on the file system: whoever made the state up would get out by it.
    auto share = Share::open(settings_);
    const auto policy = InodeHandles::check(HandlePolicy::kPrefer, *share);
    if (*policy == HandlePolicy::kNever) {
        GTEST_SKIP() << "no handles here, or not root";
    }
    settings_.handles = *policy;
    const UniqueFd secret(::open("/etc/passwd", O_PATH | O_CLOEXEC));
    const UniqueFd inside(::open((directory_ / "d/f").c_str(), O_PATH | O_CLOEXEC));
    FsServer server = make_server();
    for (const int fd : {secret.get(), inside.get()}) {
        const auto handle = FileHandle::of(fd);
        ASSERT_TRUE(handle.has_value());
        FsState one = state();
        one.removed = {{.id = 9,
                        .lookups = 1,
                        .type = S_IFREG,
                        .handle = {handle->all().begin(), handle->all().end()}}};
        EXPECT_FALSE(server.load(one));
    }
}

TEST_F(FsMoveTest, AHandleThatIsNoneIsRefused) {
    FsServer server = make_server();
    FsState one = state();
    one.removed = {{.id = 9, .lookups = 1, .type = S_IFREG, .handle = {std::byte{1}}}};
    EXPECT_FALSE(server.load(one));
}

TEST_F(FsMoveTest, MoreFilesThanAGuestMayKnowAreRefused) {
    settings_.inodes_max = 64;
    settings_.descriptors_max = 100'000;
    FsServer server = make_server();
    FsState one = state();
    for (uint64_t id = 8; id < 64 + 1024 + 8; ++id) {
        one.nodes.add({.id = id, .lookups = 1, .type = S_IFREG, .path = "d/f"});
    }
    const auto loaded = server.load(one);
    ASSERT_FALSE(loaded);
    EXPECT_NE(loaded.error().message.find("--inodes-max"), std::string::npos);
}

TEST_F(FsMoveTest, ALoadTakesThePlaceOfWhatWasThere) {
    FsServer server = make_server();
    ASSERT_TRUE(server.load(state()).has_value());
    FsState other = state();
    other.nodes = {state().nodes.all().front()};
    other.files.clear();
    ASSERT_TRUE(server.load(other).has_value());
    EXPECT_EQ(server.inodes().size(), 2U);
    EXPECT_EQ(server.files().size(), 0U);
}

}  // namespace
}  // namespace outrigger::fs
