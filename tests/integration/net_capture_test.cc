// SPDX-License-Identifier: Apache-2.0
// A capture of what passes at a port of outrigger-net, asked for by outriggerctl, in the sandbox.
#include <array>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/integration/net_daemon_test.h"

namespace outrigger::testing {
namespace {

class NetCaptureTest : public NetDaemonTest {
  protected:
    void SetUp() override { serve({"--backend=loop", "--control-socket=" + path("control")}); }

    [[nodiscard]] std::string file(const std::string& name) const {
        std::ifstream in(path(name), std::ios::binary);
        return {std::istreambuf_iterator<char>(in), {}};
    }

    void pass(const std::string& frame) {
        ASSERT_TRUE(guest_->send(frame));
        expect_received(frame);
    }

    static size_t count(const std::string& text, const std::string& part) {
        size_t found = 0;
        for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
            ++found;
        }
        return found;
    }
};

TEST_F(NetCaptureTest, FileOfTheOperatorHasWhatPassesMeanwhile) {
    pass(make_frame("before"));
    EXPECT_EQ(ask({"capture", path("f.pcapng"), "--frame-bytes=1000"}), "");

    struct stat status {};

    ASSERT_EQ(::stat(path("f.pcapng").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600U);
    pass(make_frame("meanwhile"));
    EXPECT_NE(ask({"show"}).find("running: frames 2, dropped 0"), std::string::npos);
    EXPECT_EQ(ask({"capture-stop"}), "2 frames were captured, and 0 dropped from the capture\n");
    pass(make_frame("behind"));
    // To the host and back.
    const std::string captured = file("f.pcapng");
    EXPECT_EQ(count(captured, make_frame("meanwhile")), 2U);
    EXPECT_EQ(count(captured, "before"), 0U);
    EXPECT_EQ(count(captured, "behind"), 0U);
    EXPECT_NE(ask({"show"}).find("stopped: frames 2"), std::string::npos);
    expect_good_end();
}

TEST_F(NetCaptureTest, RefusalLeavesNoFile) {
    EXPECT_EQ(ask({"capture", path("f")}), "");
    EXPECT_NE(ask({"capture", path("g")}, 1).find("a capture is running"), std::string::npos);
    EXPECT_FALSE(std::filesystem::exists(path("g")));
    // One that is there stays as it is.
    EXPECT_NE(ask({"capture", path("f")}, 1).find("cannot make"), std::string::npos);
    ChildProcess lost(
        std::getenv("OUTRIGGER_CTL_PROGRAM"),
        {.arguments = {"--socket=" + path("nobody"), "capture", path("h")}, .descriptors = {}});
    EXPECT_EQ(lost.wait(), Ended{.status = 1}) << lost.complained();
    EXPECT_EQ(::access(path("h").c_str(), F_OK), -1);
    EXPECT_TRUE(std::filesystem::exists(path("f")));
    (void)ask({"capture-stop"});
    EXPECT_NE(ask({"capture-stop"}, 1).find("no capture is running"), std::string::npos);
    // Standard output is no pipe here.
    expect_good_end();
}

/// Who does not read does not keep the program, which has a second to end.
TEST_F(NetCaptureTest, APipeThatNobodyReadsDoesNotKeepTheProgram) {
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
    const UniqueFd reader(pipe[0]);
    UniqueFd writer(pipe[1]);
    {
        ChildProcess asked(std::getenv("OUTRIGGER_CTL_PROGRAM"),
                           {.arguments = {"--socket=" + path("control"), "capture", "-"},
                            .descriptors = {{writer.get(), 1}}});
        ASSERT_EQ(asked.wait(), Ended{.status = 0}) << asked.complained();
    }
    writer.reset();
    const std::string frame = make_frame(std::string(1400, 'x'));
    for (int i = 0; i < 50; ++i) {
        pass(frame);  // twice in the capture: more than a pipe has room for
    }
    expect_good_end();
    EXPECT_EQ(daemon_->complained().find("leaving without it"), std::string::npos);
}

TEST_F(NetCaptureTest, ExpressionOfLibpcapDecides) {
    const char* has_pcap = std::getenv("OUTRIGGER_HAS_PCAP");
    ASSERT_NE(has_pcap, nullptr);
    if (has_pcap == std::string("no")) {
        EXPECT_NE(ask({"capture", path("f"), "--filter=udp"}, 2).find("libpcap"),
                  std::string::npos);
        return;
    }
    EXPECT_NE(ask({"capture", path("f"), "--filter=tcp prt"}, 2).find("syntax error"),
              std::string::npos);
    EXPECT_FALSE(std::filesystem::exists(path("f")));
    EXPECT_EQ(ask({"capture", path("f"), "--filter=udp dst port 7"}), "");
    pass(make_frame("of TCP", {.destination_port = 7}));
    pass(make_frame("of UDP", {.udp = true, .destination_port = 7}));
    pass(make_frame("of IPv6", {.ip6 = true, .udp = true, .destination_port = 7}));
    pass(make_frame("elsewhere", {.udp = true, .destination_port = 8}));
    EXPECT_EQ(ask({"capture-stop"}), "4 frames were captured, and 0 dropped from the capture\n");
    const std::string captured = file("f");
    EXPECT_EQ(count(captured, "of UDP"), 2U);
    EXPECT_EQ(count(captured, "of IPv6"), 2U);
    expect_good_end();
}

}  // namespace
}  // namespace outrigger::testing
