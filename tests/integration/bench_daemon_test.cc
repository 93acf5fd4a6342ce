// SPDX-License-Identifier: Apache-2.0
// outrigger-bench as a process, against real back ends: ours and qemu-storage-daemon.
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/integration/bench_test.h"
#include "tests/support/temporary_image.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kImageBytes = uint64_t{16} << 20;
constexpr std::string_view kQemuStorageDaemon = "/usr/bin/qemu-storage-daemon";

class DiskBenchTest : public BenchTest {
  protected:
    ChildProcess& start_blk(const std::string& socket, const std::string& image) {
        return start(program("OUTRIGGER_BLK_PROGRAM"),
                     {"--socket-path=" + path(socket),
                      image,
                      "--num-queues=4",
                      "--sandbox=none",
                      "--log-level=warning"});
    }

    void start_rng(const std::string& socket) {
        start(program("OUTRIGGER_RNG_PROGRAM"),
              {"--socket-path=" + path(socket), "--sandbox=none", "--log-level=warning"});
    }

    void start_qemu(const std::string& socket, const std::string& image) {
        start(std::string(kQemuStorageDaemon),
              {"--blockdev",
               "driver=file,node-name=f,filename=" + image,
               "--blockdev",
               "driver=raw,node-name=r,file=f",
               "--export",
               "type=vhost-user-blk,id=e,node-name=r,writable=on,num-queues=4,addr.type=unix,"
               "addr.path=" +
                   path(socket)});
    }
};

/// Ring format, way of completion, indirect tables.
using Kind = std::array<const char*, 3>;

class BenchKinds : public DiskBenchTest, public ::testing::WithParamInterface<Kind> {
  protected:
    std::vector<std::string> of_kind(std::vector<std::string> arguments) {
        for (const char* const option : GetParam()) {
            if (*option != '\0') {
                arguments.emplace_back(option);
            }
        }
        return arguments;
    }
};

TEST_P(BenchKinds, FileHoldsWhatWasWritten) {
    const TemporaryImage image(kImageBytes);
    start_blk("a", "--blk-file=" + image.path());

    const Outcome outcome = bench(of_kind(
        {"blk", a(), "--rw=randrw", "--verify", "--queues=2", "--flush-every=10", "--json"}));

    EXPECT_EQ(outcome.status, 0) << outcome.complained;
    EXPECT_TRUE(outcome.prints("\"failed\": 0"));
    EXPECT_TRUE(outcome.prints("\"verified\": "));
}

TEST_P(BenchKinds, NullImagesTakeTurns) {
    start_blk("a", "--null-size=1G");
    start_blk("b", "--null-size=1G");

    const Outcome outcome = bench(of_kind({"blk", a(), b(), "--json"}));

    EXPECT_EQ(outcome.status, 0) << outcome.complained;
    for (const char* const member : {"\"ratio_median\": ",
                                     "\"own\": ",
                                     "\"a\": ",
                                     "\"b\": ",
                                     "\"p99_9\": ",
                                     "\"ratio_cpu\": "}) {
        EXPECT_TRUE(outcome.prints(member)) << member;
    }
    const bool packed = std::string_view(GetParam()[0]) == "--ring=packed";
    EXPECT_TRUE(outcome.prints(packed ? "\"ring\": \"packed\",\n    \"event_idx\""
                                      : "\"ring\": \"split\",\n    \"event_idx\""));
}

TEST_P(BenchKinds, EntropyComes) {
    start_rng("a");

    const Outcome outcome = bench(of_kind({"rng", a(), "--bs=64", "--depth=4"}));

    EXPECT_EQ(outcome.status, 0) << outcome.complained;
    EXPECT_TRUE(outcome.prints("A  best "));
}

INSTANTIATE_TEST_SUITE_P(
    All,
    BenchKinds,
    ::testing::Values(Kind{"--ring=split", "--completion=spin", ""},
                      Kind{"--ring=split", "--completion=eventfd", ""},
                      Kind{"--ring=split", "--completion=eventfd", "--no-event-idx"},
                      Kind{"--ring=split", "--completion=spin", "--indirect"},
                      Kind{"--ring=packed", "--completion=spin", ""},
                      Kind{"--ring=packed", "--completion=eventfd", "--indirect"}));

TEST_F(DiskBenchTest, EveryAccessWorks) {
    const TemporaryImage image(kImageBytes);
    start_blk("a", "--blk-file=" + image.path());
    for (const char* const access : {"read", "write", "randread", "randwrite", "randrw", "flush"}) {
        const Outcome outcome = bench({"blk", a(), "--rw", access, "--bs=8k", "--depth=3"});

        EXPECT_EQ(outcome.status, 0) << access << ": " << outcome.complained;
    }
}

TEST_F(DiskBenchTest, QemuStorageDaemonIsTheOtherSide) {
    if (!fs::exists(kQemuStorageDaemon)) {
        GTEST_SKIP() << "no qemu-storage-daemon";
    }
    const TemporaryImage ours(kImageBytes);
    const TemporaryImage theirs(kImageBytes);
    start_blk("a", "--blk-file=" + ours.path());
    start_qemu("b", theirs.path());

    const Outcome outcome = bench({"blk",
                                   a(),
                                   b(),
                                   "--rw=randrw",
                                   "--verify",
                                   "--write-cache=writeback",
                                   "--flush-every=20",
                                   "--queues=2",
                                   "--system-calls"});

    EXPECT_EQ(outcome.status, 0) << outcome.complained;
    EXPECT_TRUE(outcome.prints("ratio A/B"));
    EXPECT_TRUE(outcome.prints("system calls"));
}

TEST_F(DiskBenchTest, StartsAndEndsBackEndsItself) {
    const std::string blk = program("OUTRIGGER_BLK_PROGRAM") + " --sandbox=none --null-size=1G";

    const Outcome outcome = bench({"blk",
                                   a(),
                                   b(),
                                   "--a-command=" + blk + " --socket-path=" + path("a"),
                                   "--b-command=" + blk + " --socket-path=" + path("b"),
                                   "--a-cpu=0"});

    EXPECT_EQ(outcome.status, 0) << outcome.complained;
    // Ours remove their sockets when they are asked to end.
    EXPECT_FALSE(fs::exists(path("a")));
    EXPECT_FALSE(fs::exists(path("b")));
}

// --- Bad neighbours ---------------------------------------------------------------------------

TEST_F(DiskBenchTest, BackEndThatDoesNotStartIsTold) {
    const Outcome outcome = bench({"blk", a(), "--a-command=exit 3"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("did not stay")) << outcome.complained;
}

TEST_F(DiskBenchTest, NobodyAtTheSocketIsTold) {
    const Outcome outcome = bench({"blk", a(), "--timeout=200"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("A (" + path("a") + "): ")) << outcome.complained;
}

TEST_F(DiskBenchTest, SilentSocketIsGivenUp) {
    const UniqueFd listening(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    path("a").copy(address.sun_path, sizeof address.sun_path - 1);
    // SAFETY: sockaddr_un is what AF_UNIX calls a sockaddr.
    ASSERT_EQ(::bind(listening.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
    ASSERT_EQ(::listen(listening.get(), 1), 0);

    const Outcome outcome = bench({"blk", a(), "--timeout=200"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("GET_FEATURES went wrong")) << outcome.complained;
}

TEST_F(DiskBenchTest, DiskThatForgetsIsFoundOut) {
    start_blk("a", "--null-size=16M");

    const Outcome outcome = bench({"blk", a(), "--verify"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("holds nothing that was written to it")) << outcome.complained;
}

TEST_F(DiskBenchTest, FailedRequestsFailTheRun) {
    const TemporaryImage image(kImageBytes);
    // The daemon may write to the first 4 KiB of files only.
    const std::string command =
        "sh -c 'trap \"\" XFSZ; ulimit -f 8; exec " + program("OUTRIGGER_BLK_PROGRAM") +
        " --sandbox=none --socket-path=" + path("a") + " --blk-file=" + image.path() + "'";

    const Outcome outcome = bench({"blk", a(), "--rw=randwrite", "--a-command=" + command});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("an I/O error")) << outcome.complained;
    EXPECT_TRUE(outcome.prints("FAILED: "));
}

TEST_F(DiskBenchTest, ReadOnlyDiskIsNotWritten) {
    const TemporaryImage image(kImageBytes);
    start(program("OUTRIGGER_BLK_PROGRAM"),
          {"--socket-path=" + path("a"),
           "--blk-file=" + image.path(),
           "--read-only",
           "--sandbox=none"});

    const Outcome outcome = bench({"blk", a(), "--rw=randwrite"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("the disk is read-only")) << outcome.complained;
}

TEST_F(DiskBenchTest, AreaBeyondTheDiskIsRefused) {
    start_blk("a", "--null-size=16M");

    const Outcome outcome = bench({"blk", a(), "--size=17M"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("--size")) << outcome.complained;
}

TEST_F(DiskBenchTest, ProcessThatIsNotThereIsTold) {
    start_blk("a", "--null-size=16M");

    const Outcome outcome = bench({"blk", a(), "--a-pid=4194304"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("process 4194304")) << outcome.complained;
}

TEST_F(DiskBenchTest, MoreQueuesThanThereAreAreRefused) {
    start_blk("a", "--null-size=16M");

    const Outcome outcome = bench({"blk", a(), "--queues=5"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("it has only 4 queues")) << outcome.complained;
}

TEST_F(DiskBenchTest, WrongOptionIsAnErrorOfUsage) {
    const Outcome outcome = bench({"blk", a(), "--depth=none"});

    EXPECT_EQ(outcome.status, 2);
    EXPECT_TRUE(outcome.complains("--depth takes a number")) << outcome.complained;
}

/// Runs for as long as it takes until the test has ended the back end.
class LostBackEnd : public DiskBenchTest {
  protected:
    static std::unique_ptr<ChildProcess> bench_for_long(std::vector<std::string> arguments) {
        arguments.insert(arguments.begin() + 1, "--round-ms=60000");
        return std::make_unique<ChildProcess>(program("OUTRIGGER_BENCH_PROGRAM"),
                                              ChildProcess::Options{.arguments = arguments});
    }

    /// Whatever it is doing by then; that a lost back end is found in the middle of a load is a
    /// test of QueueLoad.
    static void let_it_run() { std::this_thread::sleep_for(std::chrono::milliseconds(400)); }
};

/// Nobody has the image locked. What a process that was killed had given to io_uring keeps its
/// files for a moment when the process itself is gone already.
bool lock_is_gone(const TemporaryImage& image) {
    struct stat status = {};
    EXPECT_EQ(::fstat(image.fd(), &status), 0);
    const std::string inode = ":" + std::to_string(status.st_ino) + " ";
    return eventually([&] {
        std::ifstream file("/proc/locks");
        const std::string locks((std::istreambuf_iterator<char>(file)), {});
        return locks.find(inode) == std::string::npos;
    });
}

TEST_F(LostBackEnd, ThatWasKilledIsTold) {
    ChildProcess& disk = start_blk("a", "--null-size=1G");
    const auto process = bench_for_long({"blk", a()});
    let_it_run();
    disk.send_signal(SIGKILL);

    const Outcome outcome = outcome_of(*process);

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("A (" + path("a") + "): ")) << outcome.complained;
}

TEST_F(LostBackEnd, ThatHangsIsGivenUp) {
    ChildProcess& disk = start_blk("a", "--null-size=1G");
    const auto process = bench_for_long({"blk", a(), "--timeout=500", "--completion=eventfd"});
    let_it_run();
    disk.send_signal(SIGSTOP);

    const Outcome outcome = outcome_of(*process);

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("A (" + path("a") + "): ")) << outcome.complained;
}

TEST_F(LostBackEnd, HasLeftWhatWasFlushed) {
    const TemporaryImage image(kImageBytes);
    const std::vector<std::string> run = {"blk",
                                          a(),
                                          "--rw=randrw",
                                          "--rwmixread=30",
                                          "--size=2M",
                                          "--verify",
                                          "--verify-state=" + path("state"),
                                          "--flush-every=16",
                                          "--queues=2"};
    ChildProcess& first = start_blk("a", "--blk-file=" + image.path());
    const auto process = bench_for_long(run);
    // It fills the area first. Whether the kill comes then or later, both must be right.
    ASSERT_TRUE(eventually([&] { return !image.holds(0, 4096, 0); }));
    give_others_a_moment();
    first.send_signal(SIGKILL);
    ASSERT_EQ(outcome_of(*process).status, 1);
    ASSERT_TRUE(fs::exists(path("state.0")));
    ASSERT_TRUE(fs::exists(path("state.1")));
    ASSERT_TRUE(first.wait());
    ASSERT_TRUE(lock_is_gone(image));

    const ChildProcess& second = start_blk("a", "--blk-file=" + image.path());
    const Outcome outcome = bench(run);

    EXPECT_EQ(outcome.status, 0) << outcome.complained << second.complained();
}

TEST_F(LostBackEnd, ThatLostWhatWasFlushedIsFoundOut) {
    const TemporaryImage image(kImageBytes);
    const std::vector<std::string> run = {"blk",
                                          a(),
                                          "--size=1M",
                                          "--rw=randwrite",
                                          "--flush-every=4",
                                          "--verify",
                                          "--verify-state=" + path("state")};
    start_blk("a", "--blk-file=" + image.path());
    ASSERT_EQ(bench(run).status, 0);
    // Somebody has thrown away what the disk held.
    image.fill(0, 1 << 20, 0);

    const Outcome outcome = bench(run);

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("holds nothing that was written to it")) << outcome.complained;
}

}  // namespace
}  // namespace outrigger::testing
