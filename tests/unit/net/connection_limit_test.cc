// SPDX-License-Identifier: Apache-2.0
#include "devices/net/connection_limit.h"

#include <string>

#include <gtest/gtest.h>

#include "tests/support/net_frames.h"

namespace outrigger::net {
namespace {

class ConnectionLimitTest : public ::testing::Test {
  protected:
    /// A datagram of the guest, from a port of its own.
    [[nodiscard]] bool admits(uint16_t source_port) {
        const std::string frame =
            testing::make_frame("text", {.udp = true, .source_port = source_port});
        return limit_.admits(std::as_bytes(std::span(frame)));
    }

    ConnectionLimit limit_{1};
};

TEST_F(ConnectionLimitTest, SenderThatHasASocketMaySendOn) {
    EXPECT_TRUE(admits(4000));
    limit_.on_open(5);
    limit_.end_packet();
    EXPECT_TRUE(admits(4000));
    EXPECT_FALSE(admits(4001));
    limit_.on_close(5);
    EXPECT_TRUE(admits(4001));
}

// A connection that is accepted at a forwarded port, say.
TEST_F(ConnectionLimitTest, SocketThatIsOpenedAfterARefusalIsNotTheRefusedSenders) {
    EXPECT_TRUE(admits(4000));
    limit_.on_open(5);
    limit_.end_packet();
    EXPECT_FALSE(admits(4001));
    limit_.on_open(6);
    EXPECT_FALSE(admits(4001));
}

TEST_F(ConnectionLimitTest, SenderOfTwoSocketsKeepsTheOther) {
    EXPECT_TRUE(admits(4000));
    limit_.on_open(5);
    limit_.on_open(6);
    limit_.end_packet();
    limit_.on_close(5);
    EXPECT_TRUE(admits(4000));
    EXPECT_FALSE(admits(4001));
    limit_.on_close(6);
    EXPECT_TRUE(admits(4001));
}

TEST_F(ConnectionLimitTest, SocketMayBeClosedWithoutAWord) {
    EXPECT_TRUE(admits(4000));
    limit_.on_open(5);
    limit_.end_packet();
    limit_.on_open(5);
    EXPECT_FALSE(admits(4000));
    limit_.on_close(5);
    EXPECT_FALSE(limit_.is_full());
}

}  // namespace
}  // namespace outrigger::net
