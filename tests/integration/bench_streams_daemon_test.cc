// SPDX-License-Identifier: Apache-2.0
// outrigger-bench as a process, against our sockets, shares, consoles and networks.
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <signal.h>

#include <gtest/gtest.h>

#include "tests/integration/bench_test.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

class StreamBenchTest : public BenchTest {
  protected:
    ChildProcess& start_vsock(const std::string& name) {
        return start(program("OUTRIGGER_VSOCK_PROGRAM"),
                     {"--socket-path=" + path(name),
                      "--guest-cid=3",
                      "--uds-path=" + path(name + ".host"),
                      "--keeper=none",
                      "--sandbox=none",
                      "--log-level=warning"});
    }

    ChildProcess& start_fs(const std::string& name, std::vector<std::string> more = {}) {
        fs::create_directory(share(name));
        more.insert(more.begin(),
                    {"--socket-path=" + path(name),
                     "--shared-dir=" + share(name),
                     "--keeper=none",
                     "--sandbox=none",
                     "--log-level=warning"});
        return start(program("OUTRIGGER_FS_PROGRAM"), more);
    }

    ChildProcess& start_console(const std::string& name, std::vector<std::string> ports) {
        ports.insert(ports.begin(),
                     {"--socket-path=" + path(name), "--sandbox=none", "--log-level=warning"});
        return start(program("OUTRIGGER_CONSOLE_PROGRAM"), ports);
    }

    ChildProcess& start_net(const std::string& name, const std::string& backend) {
        std::vector<std::string> arguments = {"--socket-path=" + path(name),
                                              "--backend=" + backend,
                                              "--keeper=none",
                                              "--sandbox=none",
                                              "--log-level=warning"};
        if (backend == "stream") {
            arguments.push_back("--listen=" + path(name + ".host"));
        }
        return start(program("OUTRIGGER_NET_PROGRAM"), arguments);
    }

    /// A port of a console with a Unix socket.
    [[nodiscard]] std::string port(const std::string& name, const std::string& console) const {
        return "--port=name=" + name + ",backend=unix,path=" + path(name) + ",console=" + console;
    }

    [[nodiscard]] std::string share(const std::string& name) const { return path(name + ".share"); }

    /// What is left in a share.
    [[nodiscard]] bool is_empty(const std::string& name) const { return fs::is_empty(share(name)); }

    [[nodiscard]] std::string a_host(const std::string& name) const {
        return "--a-host=" + path(name);
    }
};

/// Ring format, way of completion, one more option.
using Kind = std::array<const char*, 3>;

class StreamBenchKinds : public StreamBenchTest, public ::testing::WithParamInterface<Kind> {
  protected:
    Outcome bench_of_kind(std::vector<std::string> arguments) {
        for (const char* const option : GetParam()) {
            if (*option != '\0') {
                arguments.emplace_back(option);
            }
        }
        return bench(std::move(arguments));
    }

    /// Bytes were compared, and were as they must be.
    static void expect_verified(const Outcome& outcome) {
        EXPECT_EQ(outcome.status, 0) << outcome.complained;
        EXPECT_TRUE(outcome.prints("\"failed\": 0"));
        EXPECT_TRUE(outcome.prints("\"verified\": "));
        EXPECT_FALSE(outcome.prints("\"verified\": 0\n"));
        EXPECT_FALSE(outcome.prints("\"requests\": 0,"));
    }
};

INSTANTIATE_TEST_SUITE_P(
    All,
    StreamBenchKinds,
    ::testing::Values(Kind{"--ring=split", "--completion=spin", ""},
                      Kind{"--ring=split", "--completion=eventfd", "--no-event-idx"},
                      Kind{"--ring=packed", "--completion=eventfd", "--indirect"}));

// --- Sockets ----------------------------------------------------------------------------------

TEST_P(StreamBenchKinds, SocketsBringToTheHostWhatWasSent) {
    start_vsock("a");

    expect_verified(bench_of_kind({"vsock",
                                   a(),
                                   a_host("a.host"),
                                   "--rw=to-host",
                                   "--bs=100001",
                                   "--connections=3",
                                   "--verify",
                                   "--json"}));
}

TEST_P(StreamBenchKinds, SocketsBringToTheGuestWhatWasSent) {
    start_vsock("a");

    expect_verified(bench_of_kind({"vsock",
                                   a(),
                                   a_host("a.host"),
                                   "--rw=to-guest",
                                   "--bs=63",
                                   "--connections=3",
                                   "--verify",
                                   "--json"}));
}

TEST_P(StreamBenchKinds, SocketsBringBackWhatWasSent) {
    start_vsock("a");

    expect_verified(bench_of_kind({"vsock",
                                   a(),
                                   a_host("a.host"),
                                   "--rw=round-trip",
                                   "--bs=5000",
                                   "--connections=2",
                                   "--verify",
                                   "--json"}));
}

TEST_F(StreamBenchTest, TwoDaemonsOfSocketsTakeTurns) {
    start_vsock("a");
    start_vsock("b");

    const Outcome outcome = bench({"vsock",
                                   a(),
                                   b(),
                                   a_host("a.host"),
                                   "--b-host=" + path("b.host"),
                                   "--rw=round-trip",
                                   "--bs=1",
                                   "--json"});

    EXPECT_EQ(outcome.status, 0) << outcome.complained;
    for (const char* const member : {"\"ratio_median\": ", "\"p99_9\": ", "\"ratio_cpu\": "}) {
        EXPECT_TRUE(outcome.prints(member)) << member;
    }
}

TEST_F(StreamBenchTest, SocketsOfNobodyAreTold) {
    start_vsock("a");

    const Outcome outcome = bench({"vsock", a(), a_host("elsewhere")});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("connection 0 was ended")) << outcome.complained;
}

TEST_F(StreamBenchTest, NobodyAtTheHostsSideIsTold) {
    start_vsock("a");

    const Outcome outcome =
        bench({"vsock", a(), a_host("elsewhere"), "--rw=to-guest", "--timeout=200"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("cannot connect to " + path("elsewhere"))) << outcome.complained;
}

TEST_F(StreamBenchTest, SocketOfTheHostsProgramIsGoneAfterwards) {
    start_vsock("a");
    ASSERT_EQ(bench({"vsock", a(), a_host("a.host")}).status, 0);

    for (const auto& entry : fs::directory_iterator(fs::path(path("a")).parent_path())) {
        const std::string name = entry.path().filename();
        EXPECT_TRUE(!name.starts_with("a.host_") || name == "a.host_seqpacket") << name;
    }
}

TEST_F(StreamBenchTest, KilledDaemonOfSocketsIsTold) {
    ChildProcess& daemon = start_vsock("a");
    ChildProcess process(program("OUTRIGGER_BENCH_PROGRAM"),
                         {.arguments = {"vsock", "--round-ms=60000", a(), a_host("a.host")}});
    // It works by now, or is about to: both are right.
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
    daemon.send_signal(SIGKILL);

    const Outcome outcome = outcome_of(process);

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("A (" + path("a") + "): ")) << outcome.complained;
}

// --- Shares -----------------------------------------------------------------------------------

TEST_P(StreamBenchKinds, ShareHoldsWhatWasWritten) {
    start_fs("a");

    expect_verified(bench_of_kind(
        {"fs", a(), "--rw=randrw", "--size=1M", "--queues=2", "--depth=4", "--verify", "--json"}));
    EXPECT_TRUE(is_empty("a"));
}

TEST_P(StreamBenchKinds, ShareKnowsItsNames) {
    start_fs("a");

    expect_verified(
        bench_of_kind({"fs", a(), "--rw=stat", "--files=50", "--queues=2", "--verify", "--json"}));
    EXPECT_TRUE(is_empty("a"));
}

TEST_P(StreamBenchKinds, ShareListsItsNames) {
    start_fs("a");

    // An answer has room for some of them.
    expect_verified(bench_of_kind(
        {"fs", a(), "--rw=readdirplus", "--files=100", "--bs=4k", "--verify", "--json"}));
    EXPECT_TRUE(is_empty("a"));
}

TEST_F(StreamBenchTest, EveryAccessOfAShareWorks) {
    start_fs("a");
    for (const std::vector<std::string>& access :
         {std::vector<std::string>{"read", "--bs=8k", "--size=1M"},
          {"write", "--bs=8k", "--size=1M"},
          {"randread", "--bs=8k", "--size=1M"},
          {"randwrite", "--bs=8k", "--size=1M"},
          {"randrw", "--bs=8k", "--size=1M"},
          {"getattr", "--files=20"},
          {"lookup", "--files=20"},
          {"stat", "--files=20"},
          {"create", "--files=20", "--bs=8k"},
          {"readdirplus", "--files=20", "--bs=8k"}}) {
        std::vector<std::string> arguments = {"fs", a(), "--depth=3", "--rw"};
        arguments.insert(arguments.end(), access.begin(), access.end());
        const Outcome outcome = bench(arguments);

        EXPECT_EQ(outcome.status, 0) << access.front() << ": " << outcome.complained;
        EXPECT_TRUE(is_empty("a")) << access.front();
    }
}

TEST_F(StreamBenchTest, MoreThanAShareTakesIsRefused) {
    start_fs("a");

    const Outcome outcome = bench({"fs", a(), "--bs=2M"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("--bs is above what the share takes")) << outcome.complained;
}

TEST_F(StreamBenchTest, RunThatDoesNotBeginLeavesNothingInAShare) {
    start_fs("a");

    const Outcome outcome = bench({"fs", a(), "--verify", "--size=4k", "--depth=2"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("--verify needs a block of --size")) << outcome.complained;
    EXPECT_TRUE(is_empty("a"));
}

TEST_F(StreamBenchTest, ReadOnlyShareIsTold) {
    start_fs("a", {"--readonly"});

    const Outcome outcome = bench({"fs", a()});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("MKDIR: Read-only file system")) << outcome.complained;
}

TEST_F(StreamBenchTest, ShareThatForgetsIsFoundOut) {
    constexpr uint64_t kBytes = 1 << 20;
    start_fs("a");
    ChildProcess process(
        program("OUTRIGGER_BENCH_PROGRAM"),
        {.arguments = {"fs", a(), "--rw=read", "--size=1M", "--verify", "--round-ms=60000"}});
    std::string file;
    ASSERT_TRUE(eventually([&] {
        for (const auto& entry : fs::directory_iterator(share("a"))) {
            file = entry.path().string() + "/data-0";
        }
        return !file.empty() && fs::exists(file) && fs::file_size(file) == kBytes;
    }));
    // Somebody throws away what it holds.
    std::ofstream(file, std::ios::binary | std::ios::in) << std::string(kBytes, '\0');

    const Outcome outcome = outcome_of(process);

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("holds nothing that was written to it")) << outcome.complained;
}

// --- Consoles ---------------------------------------------------------------------------------

TEST_P(StreamBenchKinds, PortBringsToTheHostWhatWasWritten) {
    start_console("a", {port("hvc0", "on"), port("plain", "off")});

    expect_verified(bench_of_kind({"console",
                                   a(),
                                   a_host("plain"),
                                   "--port=1",
                                   "--rw=to-host",
                                   "--bs=10001",
                                   "--verify",
                                   "--json"}));
}

TEST_P(StreamBenchKinds, PortBringsToTheGuestWhatWasWritten) {
    start_console("a", {port("hvc0", "on"), port("plain", "off")});

    expect_verified(bench_of_kind({"console",
                                   a(),
                                   a_host("plain"),
                                   "--port=1",
                                   "--rw=to-guest",
                                   "--bs=777",
                                   "--verify",
                                   "--json"}));
}

TEST_P(StreamBenchKinds, PortBringsBackWhatWasWritten) {
    start_console("a", {port("plain", "off"), "--multiport=off"});

    expect_verified(bench_of_kind(
        {"console", a(), a_host("plain"), "--rw=round-trip", "--bs=4097", "--verify", "--json"}));
}

TEST_P(StreamBenchKinds, StalledViewerOfAConsoleHoldsNobodyUp) {
    start_console("a", {port("hvc0", "on")});
    start_console("b", {port("other", "on")});

    // Far more than what anything between the guest and the viewer has room for.
    const Outcome outcome = bench_of_kind({"console",
                                           a(),
                                           b(),
                                           a_host("hvc0"),
                                           "--port=0",
                                           "--rw=stalled",
                                           "--bs=64k",
                                           "--rate=1G",
                                           "--json"});

    EXPECT_EQ(outcome.status, 0) << outcome.complained;
    EXPECT_TRUE(outcome.prints("\"ratio_median\": "));
}

TEST_F(StreamBenchTest, StalledViewerOfAPlainPortHoldsTheGuestUp) {
    start_console("a", {port("hvc0", "on"), port("plain", "off")});

    const Outcome outcome = bench(
        {"console", a(), a_host("plain"), "--port=1", "--rw=stalled", "--bs=64k", "--timeout=300"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("nothing moves for 300 ms")) << outcome.complained;
}

TEST_F(StreamBenchTest, PortThatIsNotThereIsTold) {
    start_console("a", {port("hvc0", "on"), port("plain", "off")});

    const Outcome outcome = bench({"console", a(), a_host("hvc0"), "--port=30", "--timeout=200"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("it has only 6 queues, of 64")) << outcome.complained;
}

TEST_F(StreamBenchTest, ConsoleWithoutNumbersIsTold) {
    start_console("a", {port("hvc0", "on"), "--multiport=off"});

    const Outcome outcome = bench({"console", a(), a_host("hvc0"), "--port=0", "--timeout=200"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("it has only 2 queues, of 4")) << outcome.complained;
}

// --- Networks ---------------------------------------------------------------------------------

TEST_P(StreamBenchKinds, NetworkBringsToTheHostWhatWasSent) {
    start_net("a", "stream");

    expect_verified(bench_of_kind(
        {"net", a(), a_host("a.host"), "--rw=to-host", "--bs=1514", "--verify", "--json"}));
}

TEST_P(StreamBenchKinds, NetworkBringsToTheGuestWhatWasSent) {
    start_net("a", "stream");

    // Of several buffers each.
    expect_verified(bench_of_kind(
        {"net", a(), a_host("a.host"), "--rw=to-guest", "--bs=5001", "--verify", "--json"}));
}

TEST_P(StreamBenchKinds, NetworkBringsBackWhatWasSent) {
    start_net("a", "stream");

    expect_verified(bench_of_kind(
        {"net", a(), a_host("a.host"), "--rw=round-trip", "--bs=60", "--verify", "--json"}));
}

TEST_P(StreamBenchKinds, NetworkWithoutAHostSendsFramesBack) {
    start_net("a", "loop");

    expect_verified(bench_of_kind({"net", a(), "--rw=echo", "--bs=9000", "--verify", "--json"}));
}

TEST_P(StreamBenchKinds, NetworkThatThrowsFramesAwayTakesThem) {
    start_net("a", "null");
    start_net("b", "null");

    const Outcome outcome =
        bench_of_kind({"net", a(), b(), "--rw=stalled", "--bs=60", "--depth=64", "--json"});

    EXPECT_EQ(outcome.status, 0) << outcome.complained;
    EXPECT_TRUE(outcome.prints("\"ratio_median\": "));
    EXPECT_FALSE(outcome.prints("\"requests\": 0,"));
}

TEST_F(StreamBenchTest, NetworkThatThrowsFramesAwayEchoesNothing) {
    start_net("a", "null");

    const Outcome outcome = bench({"net", a(), "--rw=echo", "--timeout=300"});

    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.complains("nothing moves for 300 ms")) << outcome.complained;
}

TEST_F(StreamBenchTest, ShortestAndLongestFramesReachTheHost) {
    start_net("a", "stream");

    for (const char* const size : {"--bs=60", "--bs=65535"}) {
        const Outcome outcome = bench({"net", a(), a_host("a.host"), size, "--depth=128"});

        EXPECT_EQ(outcome.status, 0) << size << ": " << outcome.complained;
    }
}

}  // namespace
}  // namespace outrigger::testing
