// SPDX-License-Identifier: Apache-2.0
// Limits and allowed senders of outrigger-net that outriggerctl changes, in the sandbox.
#include <optional>
#include <string>
#include <vector>

#include <sys/socket.h>

#include "tests/integration/net_daemon_test.h"
#include "tests/support/unix_peer.h"

namespace outrigger::testing {
namespace {

class NetPolicyTest : public NetDaemonTest {
  protected:
    void SetUp() override {
        serve({"--keeper=fork",
               "--backend=stream",
               "--peer=" + path("peer"),
               "--reconnect-ms=20",
               "--limit-send-frames=1000000",
               "--control-socket=" + path("control")});
        peer_.emplace(listener_.accept());
        ASSERT_TRUE(peer_->valid());
    }

    [[nodiscard]] static std::string stranger(const std::string& text) {
        std::string frame = make_frame(text);
        frame[11] = '\x07';
        return frame;
    }

    void expect_shown(const std::string& text) {
        const std::string shown = ask({"show"});
        EXPECT_NE(shown.find(text), std::string::npos) << shown;
    }

    void expect_strangers_stay_out() {
        ASSERT_TRUE(guest_->send(stranger("another station")));
        ASSERT_TRUE(guest_->send(make_frame("out")));
        EXPECT_EQ(peer_->receive_frame(), make_frame("out"));
    }

    UnixPeer listener_ = UnixPeer::listen_at(path("peer"), SOCK_STREAM);
    std::optional<UnixPeer> peer_;
};

TEST_F(NetPolicyTest, SendersAreThoseThatWereNamedLast) {
    expect_shown("allowed stations   any\n");
    ASSERT_TRUE(guest_->send(stranger("who?")));
    EXPECT_EQ(peer_->receive_frame(), stranger("who?"));
    EXPECT_EQ(ask({"allow", "--mac=52:54:00:00:00:01", "--ip=10.0.0.0/31"}), "");
    expect_shown("allowed stations   52:54:00:00:00:01\n");
    expect_shown("allowed addresses  10.0.0.0/31\n");
    expect_strangers_stay_out();
    // The other list stays.
    EXPECT_EQ(ask({"allow", "--any-mac"}), "");
    expect_shown("allowed addresses  10.0.0.0/31\n");
    ASSERT_TRUE(guest_->send(stranger("here")));
    EXPECT_EQ(peer_->receive_frame(), stranger("here"));
    expect_good_end();
}

TEST_F(NetPolicyTest, AnotherProcessHoldsToWhatWasSaid) {
    EXPECT_EQ(ask({"allow", "--mac=52:54:00:00:00:01"}), "");
    EXPECT_EQ(ask({"limit", "--receive-bytes=1G"}), "");
    expect_strangers_stay_out();
    for (int round = 0; round < 2; ++round) {
        kill_worker();
        peer_.emplace(listener_.accept());
        ASSERT_TRUE(peer_->valid());
        expect_strangers_stay_out();
        expect_shown("limits             send-frames=1000000 receive-bytes=1073741824\n");
    }
    EXPECT_EQ(ask({"limit", "--receive-bytes=0", "--send-frames=0"}), "");
    expect_shown("limits             none\n");
    peer_->send_frame(make_frame("in"));
    expect_received(make_frame("in"));
}

TEST_F(NetPolicyTest, WrongWishesChangeNothing) {
    EXPECT_NE(ask({"allow", "--mac=01:00:5e:00:00:01"}, 1).find("no address of a station"),
              std::string::npos);
    EXPECT_NE(ask({"allow", "--ip=10.0.0.1/8"}, 1).find("no address or prefix"), std::string::npos);
    EXPECT_NE(ask({"limit", "--send-frames=2000000000000"}, 1).find("at most 2^40"),
              std::string::npos);
    EXPECT_NE(ask({"limit", "--bytes=1"}, 1).find("no such command"), std::string::npos);
    std::vector<std::string> many = {"allow"};
    many.insert(many.end(), 257, "--ip=10.0.0.1");
    EXPECT_NE(ask(many, 1).find("at most 256"), std::string::npos);
    expect_shown("limits             send-frames=1000000\n");
    expect_shown("allowed stations   any\n");
    expect_shown("allowed addresses  any\n");
    expect_good_end();
}

}  // namespace
}  // namespace outrigger::testing
