// SPDX-License-Identifier: Apache-2.0
// Ends of connections that somebody did not wait for, or that nobody would: in time, to both sides,
// and with a reason.
#include <array>
#include <chrono>
#include <string>
#include <thread>

#include "tests/integration/vsock_siblings.h"

namespace outrigger::vsock {
namespace {

constexpr auto kSoon = std::chrono::milliseconds(20);
constexpr uint32_t kBoth = VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV;

class VsockDeadlineTest : public VsockSiblingTest {
  protected:
    /// A program of the host has called the guest, which has not answered; the host's port.
    uint32_t call_guest(const HostSocket& host) {
        host.send("CONNECT " + std::to_string(kGuestPort) + "\n");
        const auto request = guest().receive_event();
        EXPECT_TRUE(request && request->op() == VIRTIO_VSOCK_OP_REQUEST);
        return request ? request->header.src_port : 0;
    }

    /// SHUTDOWN of both directions, in one packet or two, of which the last names both.
    void expect_both_shut() {
        uint32_t flags = 0;
        while (flags != kBoth) {
            const auto packet = guest().receive_event();
            ASSERT_TRUE(packet);
            ASSERT_EQ(packet->op(), VIRTIO_VSOCK_OP_SHUTDOWN);
            flags = packet->header.flags;
        }
    }

    [[nodiscard]] uint64_t ended_there(EndReason reason) const {
        return other_device_->counters().ended.value(reason);
    }
};

/// VIRTIO 1.3, 5.10.6.6.1: a driver may wait for RST; what it sent must not be lost by that.
TEST_P(VsockDeadlineTest, Trap11ResetComesInTimeWhereTheHostReadsNothing) {
    options_.guest_close_timeout = kSoon;
    serve();
    const HostSocket host = open_from_guest();
    const std::string all = send_until_kept();
    ASSERT_TRUE(guest().send_op(
        VIRTIO_VSOCK_OP_SHUTDOWN, kGuestPort, kHostPort, VIRTIO_VSOCK_TYPE_STREAM, kBoth));
    const auto reset = guest().receive_event();
    ASSERT_TRUE(reset);
    EXPECT_EQ(reset->op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(reset->header.src_port, kHostPort);
    EXPECT_EQ(reset->header.dst_port, kGuestPort);
    // The pair is free, and the host's program still gets all that was sent by the old connection.
    const HostSocket next = open_from_guest();
    EXPECT_EQ(host.receive(all.size()), all);
    EXPECT_TRUE(host.ends());
    guest().forwarded = 0;
    expect_echo(next);
}

TEST_P(VsockDeadlineTest, GuestThatDoesNotAnswerTheEndOfTheHostIsReset) {
    options_.host_close_timeout = kSoon;
    serve();
    HostSocket host = open_from_guest();
    host.close();
    expect_both_shut();
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    expect_clean();
}

TEST_P(VsockDeadlineTest, GuestThatDoesNotAnswerTheEndsOfBothHalvesIsReset) {
    options_.host_close_timeout = kSoon;
    serve();
    const HostSocket host = open_from_guest();
    host.shut_down(SHUT_RD);
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "to nobody"));
    const auto packet = guest().receive_event();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->header.flags, static_cast<uint32_t>(VIRTIO_VSOCK_SHUTDOWN_RCV));
    // One half alone may stay closed for as long as the programs like.
    std::this_thread::sleep_for(2 * kSoon);
    EXPECT_FALSE(guest().receive_now());
    host.shut_down(SHUT_WR);
    expect_both_shut();
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    expect_clean();
}

TEST_P(VsockDeadlineTest, GuestThatDoesNotAnswerACallIsResetAndTheProgramSeesTheEnd) {
    options_.guest_answer_timeout = kSoon;
    serve();
    const HostSocket host = HostSocket::connect_to(base(), SOCK_STREAM);
    const uint32_t host_port = call_guest(host);
    EXPECT_TRUE(host.ends());
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kGuestSilent), 1U);
    // Too late.
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RESPONSE, kGuestPort, host_port));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kNoConnection), 1U);
    expect_clean();
}

TEST_P(VsockDeadlineTest, GuestThatDoesNotAnswerAnotherGuestIsResetAndSoIsTheOther) {
    options_.guest_answer_timeout = kSoon;
    serve_both(kGroupA, kGroupA);
    ASSERT_TRUE(guest().send(to_other(VIRTIO_VSOCK_OP_REQUEST)));
    EXPECT_EQ(other().receive_op(), VIRTIO_VSOCK_OP_REQUEST);
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kGuestSilent), 1U);
    // The called guest hears that nobody waits for its answer any more.
    EXPECT_EQ(other().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended_there(EndReason::kHostLeft), 1U);
}

TEST_P(VsockDeadlineTest, ProgramThatLeavesBeforeTheAnswerIsToldToTheGuest) {
    serve();
    HostSocket host = HostSocket::connect_to(base(), SOCK_STREAM);
    (void)call_guest(host);
    host.close();
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kHostLeft), 1U);
    expect_clean();
}

TEST_P(VsockDeadlineTest, ProgramThatLeftBeforeTheCallWasSeenIsToldToTheGuestThatAccepts) {
    serve_device();
    {
        const HostSocket host = HostSocket::connect_to(base(), SOCK_STREAM);
        host.send("CONNECT " + std::to_string(kGuestPort) + "\n");
    }
    start_guest();
    const auto request = guest().receive_event();
    ASSERT_TRUE(request);
    ASSERT_EQ(request->op(), VIRTIO_VSOCK_OP_REQUEST);
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RESPONSE, kGuestPort, request->header.src_port));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kHostLeft), 1U);
    expect_clean();
}

TEST_P(VsockDeadlineTest, ProgramThatLeavesInItsFirstLineIsNoticedAndTheGuestHearsNothing) {
    serve();
    {
        const HostSocket silent = HostSocket::connect_to(base(), SOCK_STREAM);
        const HostSocket half = HostSocket::connect_to(base(), SOCK_STREAM);
        half.send("CONN");
    }
    EXPECT_TRUE(eventually([&] { return ended(EndReason::kHostLeft) == 2; }));
    EXPECT_FALSE(guest().receive_now());
    expect_clean();
}

TEST_P(VsockDeadlineTest, GuestThatBreaksAConnectionOffIsTheReason) {
    serve();
    const HostSocket host = open_from_guest();
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, kGuestPort, kHostPort));
    EXPECT_TRUE(host.ends());
    EXPECT_EQ(ended(EndReason::kGuestReset), 1U);
    expect_clean();
}

TEST_P(VsockDeadlineTest, ResetThatAnswersTheEndOfTheHostIsNoReason) {
    serve();
    HostSocket host = open_from_guest();
    host.close();
    expect_both_shut();
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, kGuestPort, kHostPort));
    EXPECT_TRUE(eventually([&] { return counters().connections_gone.value() == 1; }));
    EXPECT_EQ(ended(EndReason::kGuestReset), 0U);
}

TEST_P(VsockDeadlineTest, ProgramOfATypeThatTheGuestHasNotSeesTheEnd) {
    constexpr uint64_t kSeqpacketAlone =
        1 << VIRTIO_VSOCK_F_SEQPACKET | 1 << 2;  // VIRTIO_VSOCK_F_NO_IMPLIED_STREAM
    serve({.device_features = 0});
    const HostSocket messages = HostSocket::connect_to(seqpacket_path(base()), SOCK_SEQPACKET);
    messages.send("CONNECT 1111\n");
    EXPECT_TRUE(messages.ends());
    EXPECT_EQ(ended(EndReason::kTypeNotNegotiated), 1U);
    guest_.reset();
    ASSERT_TRUE(host_->wait_closed());
    start_guest({.device_features = kSeqpacketAlone});
    const HostSocket bytes = HostSocket::connect_to(base(), SOCK_STREAM);
    bytes.send("CONNECT 1111\n");
    EXPECT_TRUE(bytes.ends());
    EXPECT_EQ(ended(EndReason::kTypeNotNegotiated), 2U);
    EXPECT_FALSE(guest().receive_now());
}

/// Each of its connections, and the peer need not answer.
TEST_P(VsockDeadlineTest, Trap17PeersOfAGuestThatLeavesAreShutAndReset) {
    options_.host_close_timeout = kSoon;
    serve_both(kGroupA, kGroupA);
    open(VIRTIO_VSOCK_TYPE_STREAM);
    open(VIRTIO_VSOCK_TYPE_SEQPACKET);
    other_guest_.reset();
    std::array<uint32_t, 3> flags{};
    std::array<int, 3> resets{};
    while (resets[VIRTIO_VSOCK_TYPE_STREAM] == 0 || resets[VIRTIO_VSOCK_TYPE_SEQPACKET] == 0) {
        const auto packet = guest().receive_event();
        ASSERT_TRUE(packet);
        EXPECT_EQ(packet->header.src_cid, kCalled);
        const uint16_t type = packet->header.type;
        if (packet->op() == VIRTIO_VSOCK_OP_SHUTDOWN) {
            flags.at(type) |= packet->header.flags;
        } else {
            EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_RST);
            EXPECT_EQ(flags.at(type), kBoth);
            ++resets.at(type);
        }
    }
    EXPECT_TRUE(eventually([&] { return counters().connections_gone.value() == 2; }));
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockDeadlineTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::vsock
