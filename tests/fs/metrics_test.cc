// SPDX-License-Identifier: Apache-2.0
// What an operator is told of a share is what its guest did.
#include <array>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "tests/fs/fs_test.h"
#include "tests/support/metrics_samples.h"

namespace outrigger::testing {
namespace {

constexpr fuse_file_lock kWholeFile = {.start = 0, .end = INT64_MAX, .type = F_WRLCK, .pid = 1};

class FsMetrics : public FsTest {
  protected:
    void begin(std::vector<std::string> more = {}, bool keeper = false) {
        more.insert(more.end(),
                    {"--name=share",
                     "--control-socket=" + (home_ / "control"),
                     "--metrics=unix:" + (home_ / "metrics")});
        serve({.arguments = std::move(more), .keeper = keeper});
    }

    /// Of outrigger_fs_..., with these labels behind that of the device; empty: it is not told.
    [[nodiscard]] std::string metric(const std::string& name, const std::string& labels = "") {
        const auto values = read_metrics(home_ / "metrics");
        const auto found = values.find("outrigger_fs_" + name + "{device=\"share\"" + labels + "}");
        return found != values.end() ? found->second : "";
    }

    [[nodiscard]] std::string requests(const std::string& operation) {
        return metric("requests_total", ",operation=\"" + operation + "\"");
    }

    [[nodiscard]] std::string failures(const std::string& error) {
        return metric("failures_total", ",error=\"" + error + "\"");
    }

    [[nodiscard]] std::string refusals(const std::string& reason) {
        return metric("refusals_total", ",reason=\"" + reason + "\"");
    }

    [[nodiscard]] std::string bytes(const std::string& operation) {
        return metric("bytes_total", ",operation=\"" + operation + "\"");
    }

    /// What outriggerctl prints.
    [[nodiscard]] std::string told(const std::vector<std::string>& words) {
        std::vector<std::string> arguments = {"--socket=" + (home_ / "control")};
        arguments.insert(arguments.end(), words.begin(), words.end());
        ChildProcess asked(std::getenv("OUTRIGGER_CTL_PROGRAM"), {.arguments = arguments});
        EXPECT_TRUE(asked.wait().has_value());
        return asked.printed() + asked.complained();
    }
};

TEST_F(FsMetrics, CountRequestsAndBytes) {
    write_in_share("there", "0123456789");
    begin();
    EXPECT_EQ(requests("INIT"), "1");
    EXPECT_EQ(requests("LOOKUP"), "") << "there was none";
    EXPECT_EQ(metric("nodes"), "1") << "the root";
    ASSERT_NE(node_of("there"), 0U);
    const OpenFile file = create("f", std::string(5000, 'x'));
    ASSERT_EQ(error_of(ask::write(file.node, file.fh, 5000, std::string(96, 'y'))), 0);
    ASSERT_EQ(call(ask::read(file.node, file.fh, 0, 4096)).body().size(), 4096U);
    ASSERT_EQ(call(ask::read(file.node, file.fh, 4096, 4096)).body().size(), 1000U);
    fuse_copy_file_range_in copy{};
    copy.fh_in = file.fh;
    copy.nodeid_out = file.node;
    copy.fh_out = file.fh;
    copy.off_out = 8192;
    copy.len = 100;
    ASSERT_EQ(error_of(ask::copy_file_range(copy, file.node)), 0);
    ASSERT_EQ(error_of(ask::fsync(file.node, file.fh)), 0);
    EXPECT_EQ(requests("LOOKUP"), "1");
    EXPECT_EQ(requests("CREATE"), "1");
    EXPECT_EQ(requests("WRITE"), "2");
    EXPECT_EQ(requests("READ"), "2");
    EXPECT_EQ(requests("COPY_FILE_RANGE"), "1");
    EXPECT_EQ(bytes("read"), "5096");
    EXPECT_EQ(bytes("write"), "5096");
    EXPECT_EQ(bytes("copy"), "100");
    // The copy and FSYNC, at least: reads may have to wait for the disk.
    EXPECT_GE(std::stoul(metric("deferred_total", ",to=\"pool\"")), 2U);
    EXPECT_EQ(metric("nodes"), "3");
    EXPECT_EQ(metric("remembered_nodes"), "0");
    EXPECT_EQ(metric("open_files"), "1");
    EXPECT_EQ(metric("mappings"), "0");
    EXPECT_EQ(failures("ENOENT"), "");
    const uint64_t held = std::stoul(metric("descriptors"));
    EXPECT_GE(std::stoul(metric("descriptors_max")), held);
    ASSERT_EQ(error_of(ask::release(file.node, file.fh)), 0);
    EXPECT_EQ(metric("open_files"), "0");
    EXPECT_EQ(std::stoul(metric("descriptors")), held - 1);
}

/// A message cannot have it, and the devices beside it are to be shown all the same.
TEST_F(FsMetrics, ATagThatIsNoTextIsShownAsFarAsItIsOne) {
    begin({"--tag=a\xff"});
    const std::string shown = told({"show"});
    EXPECT_NE(shown.find("tag                a?\n"), std::string::npos) << shown;
}

TEST_F(FsMetrics, CountFailuresByTheirErrors) {
    begin();
    EXPECT_EQ(error_of(ask::lookup(FUSE_ROOT_ID, "none")), ENOENT);
    EXPECT_EQ(error_of(ask::lookup(FUSE_ROOT_ID, "none")), ENOENT);
    const OpenFile file = create("f");
    EXPECT_EQ(error_of(ask::rmdir(FUSE_ROOT_ID, "f")), ENOTDIR);
    FuseRequest unknown = ask::getattr(FUSE_ROOT_ID);
    for (const uint32_t opcode : {7U, 99U, UINT32_MAX}) {
        unknown.opcode = opcode;
        EXPECT_EQ(error_of(unknown), ENOSYS);
    }
    // Of a job that another thread does.
    EXPECT_EQ(error_of(ask::fallocate(file.node, file.fh, 0, 0)), EINVAL);
    EXPECT_EQ(failures("ENOENT"), "2");
    EXPECT_EQ(failures("ENOTDIR"), "1");
    EXPECT_EQ(failures("ENOSYS"), "3");
    EXPECT_EQ(failures("EINVAL"), "1");
    EXPECT_EQ(requests("unknown"), "3");
    EXPECT_EQ(refusals("malformed"), "") << "a length of 0 is the host's to refuse";
    const std::string shown = told({"show"});
    EXPECT_NE(shown.find("failed             ENOENT 2, ENOTDIR 1, EINVAL 1, ENOSYS 3\n"),
              std::string::npos)
        << shown;
    EXPECT_NE(shown.find("refused            none\n"), std::string::npos) << shown;
    EXPECT_NE(shown.find("open files         1\n"), std::string::npos) << shown;
    const std::string json = told({"show", "--json"});
    EXPECT_NE(json.find("\"operation\": \"LOOKUP\""), std::string::npos) << json;
    EXPECT_NE(told({"limit", "--bytes=1"}).find("no such command"), std::string::npos);
}

TEST_F(FsMetrics, CountWhatIsRefusedByWhy) {
    begin();
    const OpenFile file = create("f", "content");
    EXPECT_EQ(error_of(ask::getattr(file.node + 1)), ESTALE);
    EXPECT_EQ(error_of(ask::getattr(UINT64_MAX)), ESTALE);
    EXPECT_EQ(error_of(ask::read(file.node, file.fh + 1, 0, 7)), EBADF);
    EXPECT_EQ(error_of(ask::release(file.node, UINT64_MAX)), EBADF);
    EXPECT_EQ(error_of(ask::release(FUSE_ROOT_ID, file.fh)), EBADF) << "another node's";
    FuseRequest cut = ask::lookup(FUSE_ROOT_ID, "f");
    cut.arguments.pop_back();  // its NUL
    EXPECT_EQ(error_of(cut), EINVAL);
    FuseRequest lies = ask::getattr(FUSE_ROOT_ID);
    lies.len = 4096;
    EXPECT_EQ(error_of(lies), EINVAL);
    FuseRequest short_write = ask::write(file.node, file.fh, 0, "0123456789");
    short_write.arguments.resize(short_write.arguments.size() - 4);
    EXPECT_EQ(error_of(short_write), EINVAL);
    FuseRequest escape = ask::lookup(FUSE_ROOT_ID, "../secret");
    EXPECT_EQ(error_of(escape), EINVAL);
    EXPECT_EQ(error_of(ask::lookup(FUSE_ROOT_ID, std::string(300, 'n'))), ENAMETOOLONG);
    FuseRequest long_read = ask::read(file.node, file.fh, 0, 4096);
    long_read.room = 4095;
    EXPECT_EQ(error_of(long_read), EINVAL);
    // Which have no answer.
    for (const uint32_t opcode : {FUSE_FORGET, FUSE_BATCH_FORGET, FUSE_INTERRUPT}) {
        EXPECT_TRUE(call({.opcode = opcode, .arguments = Bytes(3), .answered = false}).used);
    }
    FuseRequest deaf = ask::getattr(FUSE_ROOT_ID);
    deaf.answered = false;
    EXPECT_EQ(call(deaf).length, 0U);
    EXPECT_EQ(refusals("unknown-node"), "2");
    EXPECT_EQ(refusals("unknown-handle"), "3");
    EXPECT_EQ(refusals("malformed"), "8");
    EXPECT_EQ(refusals("unanswerable"), "1");
    EXPECT_EQ(failures("ESTALE"), "2");
    EXPECT_EQ(failures("EBADF"), "3");
    EXPECT_EQ(failures("EINVAL"), "5");
    EXPECT_EQ(failures("ENAMETOOLONG"), "1");
    EXPECT_EQ(bytes("write"), "7");
    expect_alive();
}

TEST_F(FsMetrics, CountWhatALimitRefuses) {
    begin({"--inodes-max=64"});
    constexpr int kRoom = 63;  // beside the root
    for (int i = 0; i <= kRoom; ++i) {
        write_in_share(numbered("f", i), "");
    }
    for (int i = 0; i < kRoom; ++i) {
        ASSERT_NE(node_of(numbered("f", i)), 0U) << i;
    }
    EXPECT_EQ(failures("ENFILE"), "");
    EXPECT_EQ(error_of(ask::lookup(FUSE_ROOT_ID, numbered("f", kRoom))), ENFILE);
    EXPECT_EQ(failures("ENFILE"), "1");
    EXPECT_EQ(refusals("node-limit"), "1");
    EXPECT_EQ(refusals("descriptor-limit"), "");
    EXPECT_EQ(metric("nodes"), "64");
}

TEST_F(FsMetrics, AnotherProcessTellsWhatItTookUpAgain) {
    begin({"--posix-lock"}, true);
    const OpenFile file = create("f", "content");
    ASSERT_EQ(error_of(ask::lock(FUSE_SETLK, file.node, file.fh, 1, kWholeFile)), 0);
    const auto waits = guest().submit(ask::lock(FUSE_SETLKW, file.node, file.fh, 2, kWholeFile));
    ASSERT_TRUE(waits);
    ASSERT_TRUE(eventually([&] { return metric("lock_waits_total") == "1"; }));
    EXPECT_EQ(metric("taken_up_again_total"), "0");
    kill();
    ASSERT_TRUE(eventually([&] { return metric("lock_waits_total") == "1"; }));
    EXPECT_EQ(metric("taken_up_again_total"), "1");
    EXPECT_EQ(requests("SETLKW"), "1");
    EXPECT_EQ(requests("CREATE"), "") << "of another process";
    EXPECT_EQ(metric("open_files"), "1");
    fuse_file_lock none = kWholeFile;
    none.type = F_UNLCK;
    ASSERT_EQ(error_of(ask::lock(FUSE_SETLK, file.node, file.fh, 1, none)), 0);
    EXPECT_EQ(guest().wait(*waits).error(), 0);
}

TEST_F(FsMetrics, TheSumIsThatOfAllQueues) {
    serve({.arguments = {"--name=share",
                         "--request-queues=3",
                         "--metrics=unix:" + (home_ / "metrics")},
           .guest = {.request_queues = 3}});
    for (size_t queue = 0; queue < 3; ++queue) {
        for (size_t i = 0; i <= queue; ++i) {
            ASSERT_EQ(guest().call(ask::getattr(FUSE_ROOT_ID), FuseGuest::kFirst + queue).error(),
                      0);
        }
    }
    EXPECT_EQ(requests("GETATTR"), "6");
}

}  // namespace
}  // namespace outrigger::testing
