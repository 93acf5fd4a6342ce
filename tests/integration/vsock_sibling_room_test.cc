// SPDX-License-Identifier: Apache-2.0
// Room between guests of one program: what one may send is what the other has taken out of its
// buffer. VIRTIO 1.3, 5.10.6.3.
#include <algorithm>
#include <optional>
#include <string>

#include "tests/integration/vsock_siblings.h"

namespace outrigger::vsock {
namespace {

constexpr uint32_t kPieceBytes = 16 * 1024;
constexpr uint32_t kBufferBytes = 64 * 1024;

class VsockSiblingRoomTest : public VsockSiblingTest {
  protected:
    /// The caller has a small buffer of its own, and sends no more than that before it hears
    /// anything.
    void open_small(uint16_t type = VIRTIO_VSOCK_TYPE_STREAM, uint32_t other_credit = 256 * 1024) {
        serve_both(kGroupA, kGroupA, {.credit = other_credit});
        guest().credit = kBufferBytes;
        open(type);
    }

    void send_data(uint32_t bytes,
                   uint16_t type = VIRTIO_VSOCK_TYPE_STREAM,
                   uint32_t flags_of_last = 0) {
        while (bytes > 0) {
            virtio_vsock_hdr header = to_other(VIRTIO_VSOCK_OP_RW, type);
            header.len = std::min(bytes, kPieceBytes);
            bytes -= header.len;
            header.flags = bytes == 0 ? flags_of_last : 0;
            ASSERT_TRUE(guest().send(header, std::string(header.len, 'x')));
        }
    }

    /// They are in the other guest's buffer, and nobody there has taken them.
    void expect_delivered(uint32_t bytes) {
        uint32_t got = 0;
        while (got < bytes) {
            const auto packet = other().receive_event();
            ASSERT_TRUE(packet);
            got += packet->header.len;
        }
        EXPECT_EQ(got, bytes);
    }

    /// Programs of the other guest have taken `bytes` of all that it got.
    void take(uint32_t bytes, uint16_t type = VIRTIO_VSOCK_TYPE_STREAM) {
        other().forwarded = bytes;
        ASSERT_TRUE(other().send(to_caller(VIRTIO_VSOCK_OP_CREDIT_UPDATE, type)));
    }

    /// What the caller is told with the next byte that comes to it from the other guest.
    std::optional<uint32_t> told_beside_a_byte(uint16_t type = VIRTIO_VSOCK_TYPE_STREAM) {
        virtio_vsock_hdr header = to_caller(VIRTIO_VSOCK_OP_RW, type);
        header.len = 1;
        header.flags = type == VIRTIO_VSOCK_TYPE_STREAM ? 0 : VIRTIO_VSOCK_SEQ_EOM;
        EXPECT_TRUE(other().send(header, "x"));
        while (const auto packet = guest().receive()) {
            if (packet->op() == VIRTIO_VSOCK_OP_RW) {
                return packet->header.fwd_cnt;
            }
        }
        return std::nullopt;
    }

    /// The next word of room alone that the caller gets.
    std::optional<uint32_t> told() {
        const auto packet = guest().receive();
        if (!packet || packet->op() != VIRTIO_VSOCK_OP_CREDIT_UPDATE) {
            return std::nullopt;
        }
        return packet->header.fwd_cnt;
    }

    /// The other guest is asked what it has taken, and nothing else comes to it.
    [[nodiscard]] bool other_is_asked() {
        const auto packet = other().receive();
        return packet && packet->op() == VIRTIO_VSOCK_OP_CREDIT_REQUEST;
    }
};

TEST_P(VsockSiblingRoomTest, IsFreeWhenTheOtherGuestHasTakenTheBytes) {
    open_small();
    send_data(kBufferBytes);
    expect_delivered(kBufferBytes);
    EXPECT_EQ(told_beside_a_byte(), 0U);
    take(kBufferBytes);
    EXPECT_EQ(told(), kBufferBytes);
}

/// A program may want all of a message, or of many, sent before it reads any.
TEST_P(VsockSiblingRoomTest, IsAsMuchAsTheOtherGuestHas) {
    serve_both(kGroupA, kGroupA, {.credit = 300 * 1024});
    ASSERT_TRUE(guest().send(to_other(VIRTIO_VSOCK_OP_REQUEST)));
    ASSERT_EQ(other().receive_op(), VIRTIO_VSOCK_OP_REQUEST);
    ASSERT_TRUE(other().send(to_caller(VIRTIO_VSOCK_OP_RESPONSE)));
    const auto response = guest().receive_event();
    ASSERT_TRUE(response);
    EXPECT_EQ(response->header.buf_alloc, 300U * 1024);
    other().credit = 8 << 20;
    ASSERT_TRUE(other().send(to_caller(VIRTIO_VSOCK_OP_CREDIT_UPDATE)));
    const auto update = guest().receive();
    ASSERT_TRUE(update);
    EXPECT_EQ(update->header.buf_alloc, options_.window_bytes_max);
}

TEST_P(VsockSiblingRoomTest, IsNotToldForEveryByteThatIsTaken) {
    open_small();
    send_data(kBufferBytes);
    expect_delivered(kBufferBytes);
    take(kBufferBytes / 2 - 1);
    take(kBufferBytes / 2);
    EXPECT_EQ(told(), kBufferBytes / 2);
}

/// Linux before 6.8 says nothing while three quarters of its buffer are free.
TEST_P(VsockSiblingRoomTest, OfAGuestThatSaysNothingIsAskedFor) {
    open_small();
    send_data(kBufferBytes);
    expect_delivered(kBufferBytes);
    EXPECT_TRUE(other_is_asked());
    ASSERT_TRUE(other().send(to_caller(VIRTIO_VSOCK_OP_CREDIT_UPDATE)));
    EXPECT_TRUE(other_is_asked()) << "it had taken nothing";
    take(kBufferBytes);
    EXPECT_EQ(told(), kBufferBytes);
}

TEST_P(VsockSiblingRoomTest, NobodyIsAskedWhileTheCallerHasHalfOfIt) {
    open_small();
    send_data(kBufferBytes / 2 - 1);
    expect_delivered(kBufferBytes / 2 - 1);
    testing::give_others_a_moment();
    EXPECT_FALSE(other().receive_now());
}

TEST_P(VsockSiblingRoomTest, GuestThatIsFullIsAskedOnce) {
    open_small(VIRTIO_VSOCK_TYPE_STREAM, kBufferBytes);
    send_data(kBufferBytes);
    expect_delivered(kBufferBytes);
    EXPECT_TRUE(other_is_asked());
    testing::give_others_a_moment();
    EXPECT_FALSE(other().receive_now()) << "it says by itself when it has room";
    take(kBufferBytes);
    EXPECT_EQ(told(), kBufferBytes);
}

TEST_P(VsockSiblingRoomTest, IsNoMoreThanWasSentWhateverTheOtherGuestClaims) {
    open_small();
    send_data(kBufferBytes - 1000);
    expect_delivered(kBufferBytes - 1000);
    take(1 << 20);
    EXPECT_EQ(told(), kBufferBytes - 1000);
    take(0);
    EXPECT_EQ(told_beside_a_byte(), kBufferBytes - 1000);
}

TEST_P(VsockSiblingRoomTest, IsToldBitByBitToAGuestThatAsksForIt) {
    open_small();
    send_data(8000);
    expect_delivered(8000);
    ASSERT_TRUE(guest().send(to_other(VIRTIO_VSOCK_OP_CREDIT_REQUEST)));
    EXPECT_EQ(told(), 0U);
    take(500);
    EXPECT_EQ(told(), 500U);
    take(700);
    EXPECT_EQ(told(), 700U);
}

TEST_P(VsockSiblingRoomTest, OfMessagesIsFreeWhenTheOtherGuestHasTakenThem) {
    open_small(VIRTIO_VSOCK_TYPE_SEQPACKET);
    send_data(40'000, VIRTIO_VSOCK_TYPE_SEQPACKET, VIRTIO_VSOCK_SEQ_EOM);
    expect_delivered(40'000);
    EXPECT_EQ(told_beside_a_byte(VIRTIO_VSOCK_TYPE_SEQPACKET), 0U);
    take(40'000, VIRTIO_VSOCK_TYPE_SEQPACKET);
    EXPECT_EQ(told(), 40'000U);
}

/// What is longer is refused by the guest's own kernel (EMSGSIZE), and breaks nothing.
TEST_P(VsockSiblingRoomTest, MessageOfAllTheRoomArrivesWhole) {
    // More than the kernel lets the devices' sockets have.
    constexpr uint32_t kOthersRoom = 64'000'000;
    options_.window_bytes_max = kOthersRoom;
    serve_both(kGroupA, kGroupA, {.credit = kOthersRoom});
    constexpr uint16_t kType = VIRTIO_VSOCK_TYPE_SEQPACKET;
    ASSERT_TRUE(guest().send(to_other(VIRTIO_VSOCK_OP_REQUEST, kType)));
    ASSERT_EQ(other().receive_op(), VIRTIO_VSOCK_OP_REQUEST);
    ASSERT_TRUE(other().send(to_caller(VIRTIO_VSOCK_OP_RESPONSE, kType)));
    const auto response = guest().receive_event();
    ASSERT_TRUE(response);
    const uint32_t room = response->header.buf_alloc;
    ASSERT_GE(room, 256U * 1024);
    ASSERT_LT(room, kOthersRoom);
    send_data(room, kType, VIRTIO_VSOCK_SEQ_EOM);
    expect_delivered(room);
    EXPECT_EQ(ended(EndReason::kMessageTooLong), 0U);
}

/// A longer one would have to be taken apart, or lost.
TEST_P(VsockSiblingRoomTest, OfMessagesIsNoMoreThanTheOtherGuestHas) {
    constexpr uint16_t kType = VIRTIO_VSOCK_TYPE_SEQPACKET;
    serve_both(kGroupA, kGroupA, {.credit = kBufferBytes});
    guest().credit = kBufferBytes / 2;
    ASSERT_TRUE(guest().send(to_other(VIRTIO_VSOCK_OP_REQUEST, kType)));
    const auto request = other().receive_event();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->header.buf_alloc, kBufferBytes / 2);
    ASSERT_TRUE(other().send(to_caller(VIRTIO_VSOCK_OP_RESPONSE, kType)));
    const auto response = guest().receive_event();
    ASSERT_TRUE(response);
    ASSERT_EQ(response->op(), VIRTIO_VSOCK_OP_RESPONSE);
    EXPECT_EQ(response->header.buf_alloc, kBufferBytes);
    send_data(kBufferBytes, kType, VIRTIO_VSOCK_SEQ_EOM);
    expect_delivered(kBufferBytes);
    // It makes more room later.
    other().credit = 2 * kBufferBytes;
    take(kBufferBytes, kType);
    EXPECT_TRUE(eventually([&] {
        const auto packet = guest().receive_now();
        return packet && packet->header.buf_alloc == 2 * kBufferBytes;
    }));
}

/// The rest of a message may need all room that there is.
TEST_P(VsockSiblingRoomTest, IsToldBitByBitInTheMidstOfAMessage) {
    open_small(VIRTIO_VSOCK_TYPE_SEQPACKET);
    send_data(10'000, VIRTIO_VSOCK_TYPE_SEQPACKET, VIRTIO_VSOCK_SEQ_EOM);
    send_data(54'000, VIRTIO_VSOCK_TYPE_SEQPACKET);
    expect_delivered(10'000);
    take(10'000, VIRTIO_VSOCK_TYPE_SEQPACKET);
    EXPECT_EQ(told(), 10'000U);
}

TEST_P(VsockSiblingRoomTest, GuestWithoutItHearsThatTheOtherReceivesNoMore) {
    open_small();
    send_data(kBufferBytes);
    expect_delivered(kBufferBytes);
    virtio_vsock_hdr header = to_caller(VIRTIO_VSOCK_OP_SHUTDOWN);
    header.flags = VIRTIO_VSOCK_SHUTDOWN_RCV;
    ASSERT_TRUE(other().send(header));
    const auto end = guest().receive_event();
    ASSERT_TRUE(end);
    EXPECT_EQ(end->op(), VIRTIO_VSOCK_OP_SHUTDOWN);
    EXPECT_EQ(end->header.flags, static_cast<uint32_t>(VIRTIO_VSOCK_SHUTDOWN_RCV));
}

/// It takes none of what the other has sent, and so would not come to its end.
TEST_P(VsockSiblingRoomTest, GuestWithoutItHearsThatTheOtherIsGone) {
    serve_both(kGroupA, kGroupA);
    guest().credit = 4;
    open();
    send_data(kBufferBytes);
    expect_delivered(kBufferBytes);
    virtio_vsock_hdr header = to_caller(VIRTIO_VSOCK_OP_RW);
    header.len = 100;
    ASSERT_TRUE(other().send(header, std::string(100, 'x')));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RW);
    ASSERT_TRUE(other().send(to_caller(VIRTIO_VSOCK_OP_RST)));
    const auto end = guest().receive_event();
    ASSERT_TRUE(end);
    EXPECT_EQ(end->op(), VIRTIO_VSOCK_OP_SHUTDOWN);
    EXPECT_EQ(end->header.flags, static_cast<uint32_t>(VIRTIO_VSOCK_SHUTDOWN_RCV));
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockSiblingRoomTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::vsock
