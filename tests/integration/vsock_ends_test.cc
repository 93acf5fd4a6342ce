// SPDX-License-Identifier: Apache-2.0
// What was under way when an end of a connection closed: it arrives, or is missed with a reason.
#include <chrono>
#include <string>
#include <thread>

#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {
namespace {

class VsockEndTest : public VsockTest {
  protected:
    /// The device looks at nothing of the host's before start_receiving().
    void stop_receiving() { ASSERT_TRUE(guest().queue(0).stop(guest().frontend())); }

    void start_receiving() { start_again(0, guest().queue(0).start_base()); }

    /// The guest sends more than a socket holds, and leaves; the host's end.
    HostSocket leave_behind() {
        options_.window_bytes = kLeftBehind;
        options_.window_bytes_max = kLeftBehind;
        options_.linger_timeout = std::chrono::milliseconds(1000);
        serve();
        HostSocket host = open_from_guest();
        const std::string piece(64 * 1024, 'x');
        for (size_t sent = 0; sent < kLeftBehind; sent += piece.size()) {
            EXPECT_TRUE(guest().send_data(kGuestPort, kHostPort, piece));
        }
        constexpr uint32_t kBoth = VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV;
        EXPECT_TRUE(guest().send_op(
            VIRTIO_VSOCK_OP_SHUTDOWN, kGuestPort, kHostPort, VIRTIO_VSOCK_TYPE_STREAM, kBoth));
        EXPECT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, kGuestPort, kHostPort));
        return host;
    }

    static constexpr uint32_t kLeftBehind = 4 * 1024 * 1024;

    [[nodiscard]] bool send_message(std::string_view text) {
        return guest().send_data(
            kGuestPort, kHostPort, text, VIRTIO_VSOCK_TYPE_SEQPACKET, VIRTIO_VSOCK_SEQ_EOM);
    }
};

TEST_P(VsockEndTest, MessagesOfAHostThatClosesWithoutReadingAllComeBeforeTheReset) {
    serve();
    HostSocket host = open_from_guest(VIRTIO_VSOCK_TYPE_SEQPACKET);
    ASSERT_TRUE(send_message("read"));
    ASSERT_EQ(host.receive(4), "read");
    ASSERT_TRUE(send_message("never read"));
    stop_receiving();
    host.send("answer");
    host.send("another");
    host.close();
    start_receiving();
    for (const char* text : {"answer", "another"}) {
        const auto packet = guest().receive_event();
        ASSERT_TRUE(packet);
        ASSERT_EQ(packet->op(), VIRTIO_VSOCK_OP_RW);
        EXPECT_EQ(packet->payload, text);
    }
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kHostReset), 1U);
    expect_clean();
}

TEST_P(VsockEndTest, HostThatClosesWithoutReadingAllAndSentNothingIsAReset) {
    serve();
    HostSocket host = open_from_guest(VIRTIO_VSOCK_TYPE_SEQPACKET);
    ASSERT_TRUE(send_message("never read"));
    host.close();
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kHostReset), 1U);
    expect_clean();
}

TEST_P(VsockEndTest, WhatTheGuestLeftBehindWaitsForAProgramThatReadsSlowly) {
    const HostSocket host = leave_behind();
    // So little at a time that its socket becomes writable but for a few times.
    constexpr size_t kAtATime = 8 * 1024;
    const auto slow_until = std::chrono::steady_clock::now() + 3 * options_.linger_timeout;
    size_t got = 0;
    while (std::chrono::steady_clock::now() < slow_until) {
        got += host.receive(kAtATime).size();
        std::this_thread::sleep_for(options_.linger_timeout / 20);
    }
    got += host.receive(kLeftBehind - got).size();
    EXPECT_EQ(got, kLeftBehind);
    EXPECT_TRUE(host.ends());
    EXPECT_EQ(ended(EndReason::kHostSlow), 0U);
}

TEST_P(VsockEndTest, WhatTheGuestLeftBehindIsLostWithAReasonWhereNobodyReads) {
    const HostSocket host = leave_behind();
    EXPECT_TRUE(eventually([&] { return ended(EndReason::kHostSlow) == 1; }));
    const std::string got = host.receive(kLeftBehind);
    EXPECT_GT(got.size(), 0U);
    EXPECT_LT(got.size(), kLeftBehind);
    expect_clean();
}

TEST_P(VsockEndTest, WhatTheGuestLeftBehindIsLostWithAReasonWhereTheProgramEnds) {
    HostSocket host = leave_behind();
    EXPECT_EQ(host.receive(10).size(), 10U);
    host.close();
    EXPECT_TRUE(eventually([&] { return ended(EndReason::kHostReset) == 1; }));
    expect_clean();
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockEndTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::vsock
