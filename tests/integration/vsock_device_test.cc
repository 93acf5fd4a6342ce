// SPDX-License-Identifier: Apache-2.0
// What programs of both sides see of the socket device: connections, bytes, messages, ends.
#include <array>
#include <cerrno>
#include <string>
#include <thread>

#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {
namespace {

TEST_P(VsockTest, GuestReachesAProgramOfTheHost) {
    serve();
    expect_echo(open_from_guest());
    EXPECT_EQ(counters().opened_by_guest.value(), 1U);
}

TEST_P(VsockTest, HostReachesAProgramOfTheGuest) {
    serve();
    const FromHost opened = open_from_host();
    EXPECT_GE(opened.host_port, 1U << 30);
    expect_echo(opened.socket, kGuestPort, opened.host_port);
    EXPECT_EQ(counters().opened_by_host.value(), 1U);
}

TEST_P(VsockTest, TwoQueuesAreEnough) {
    serve({.queue_count = 2});
    expect_echo(open_from_guest());
}

TEST_P(VsockTest, ManyBytesToTheHostArriveInOrder) {
    serve();
    const HostSocket host = open_from_guest();
    const std::string text = pattern(3'000'000);
    // Less than the window before each look at the host's end.
    for (size_t at = 0; at < text.size(); at += 60'000) {
        const auto piece = text.substr(at, 60'000);
        ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, piece));
        ASSERT_EQ(host.receive(piece.size()), piece);
    }
    // The guest is told of its room before it has none.
    bool told = false;
    while (const auto packet = guest().receive_now()) {
        told = told || packet->op() == VIRTIO_VSOCK_OP_CREDIT_UPDATE;
    }
    EXPECT_TRUE(told);
}

TEST_P(VsockTest, ManyBytesToTheGuestArriveInOrder) {
    serve();
    const HostSocket host = open_from_guest();
    const std::string text = pattern(3'000'000);
    for (size_t at = 0; at < text.size(); at += 100'000) {
        const auto piece = text.substr(at, 100'000);
        host.send(piece);
        ASSERT_EQ(guest().receive_bytes(piece.size()), piece);
    }
}

TEST_P(VsockTest, SlowHostKeepsBytesInOrderUpToTheWindowAndDrains) {
    serve();
    const HostSocket host = open_from_guest();
    const std::string text = send_until_kept(options_.window_bytes - 2 * kBytesAtOnce);
    const std::string other = "others are not held up";
    const HostSocket second = open_from_guest(VIRTIO_VSOCK_TYPE_STREAM, 5, 6);
    ASSERT_TRUE(guest().send_data(5, 6, other));
    EXPECT_EQ(second.receive(other.size()), other);
    EXPECT_EQ(host.receive(text.size()), text);
    // Nothing is left with the device, so the guest has all the room again.
    ASSERT_TRUE(eventually([&] { return told_forwarded() == text.size(); }));
    expect_echo(host);
}

TEST_P(VsockTest, EndOfTheGuestReachesTheHostAndTheOtherDirectionGoesOn) {
    serve();
    const HostSocket host = open_from_guest();
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "last words"));
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_SHUTDOWN,
                                kGuestPort,
                                kHostPort,
                                VIRTIO_VSOCK_TYPE_STREAM,
                                VIRTIO_VSOCK_SHUTDOWN_SEND));
    EXPECT_EQ(host.receive(10), "last words");
    EXPECT_TRUE(host.ends());
    host.send("an answer");
    EXPECT_EQ(guest().receive_bytes(9), "an answer");
}

TEST_P(VsockTest, EndOfTheHostReachesTheGuestAndTheOtherDirectionGoesOn) {
    serve();
    const HostSocket host = open_from_guest();
    host.send("last words");
    host.shut_down(SHUT_WR);
    EXPECT_EQ(guest().receive_bytes(10), "last words");
    const auto packet = guest().receive_event();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_SHUTDOWN);
    EXPECT_EQ(packet->header.flags, static_cast<uint32_t>(VIRTIO_VSOCK_SHUTDOWN_SEND));
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "an answer"));
    EXPECT_EQ(host.receive(9), "an answer");
}

TEST_P(VsockTest, HostThatClosesEndsBothDirectionsBehindItsBytes) {
    serve();
    HostSocket host = open_from_guest();
    host.send("bye");
    host.close();
    EXPECT_EQ(guest().receive_bytes(3), "bye");
    const auto packet = guest().receive_event();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_SHUTDOWN);
    // It may come in two packets, of which the last names both.
    const auto last = packet->header.flags == 3 ? packet : guest().receive_event();
    ASSERT_TRUE(last);
    EXPECT_EQ(last->header.flags, 3U);
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, kGuestPort, kHostPort));
    expect_clean();
}

TEST_P(VsockTest, GuestThatClosesIsToldWhenAllHasArrived) {
    serve();
    const HostSocket host = open_from_guest();
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "bye"));
    ASSERT_TRUE(guest().send_op(
        VIRTIO_VSOCK_OP_SHUTDOWN, kGuestPort, kHostPort, VIRTIO_VSOCK_TYPE_STREAM, 3));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(host.receive(3), "bye");
    EXPECT_TRUE(host.ends());
    expect_clean();
}

TEST_P(VsockTest, HostThatReadsNoMoreIsToldToTheGuestAndMayGoOnSending) {
    serve();
    const HostSocket host = open_from_guest();
    host.shut_down(SHUT_RD);
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "to nobody"));
    const auto packet = guest().receive_event();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_SHUTDOWN);
    EXPECT_EQ(packet->header.flags, static_cast<uint32_t>(VIRTIO_VSOCK_SHUTDOWN_RCV));
    host.send("more");
    EXPECT_EQ(guest().receive_bytes(4), "more");
    // What the guest had sent meanwhile counts as taken, so that it does not wait for room.
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_CREDIT_REQUEST, kGuestPort, kHostPort));
    const auto credit = guest().receive();
    ASSERT_TRUE(credit);
    EXPECT_EQ(credit->header.fwd_cnt, 9U);
}

TEST_P(VsockTest, GuestThatReadsNoMoreIsToldToTheHostAndMayGoOnSending) {
    serve();
    const HostSocket host = open_from_guest();
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_SHUTDOWN,
                                kGuestPort,
                                kHostPort,
                                VIRTIO_VSOCK_TYPE_STREAM,
                                VIRTIO_VSOCK_SHUTDOWN_RCV));
    EXPECT_TRUE(eventually([&] { return ::send(host.fd(), "x", 1, MSG_NOSIGNAL) < 0; }));
    EXPECT_EQ(errno, EPIPE);
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "more"));
    EXPECT_EQ(host.receive(4), "more");
}

TEST_P(VsockTest, BytesOfAGuestThatDoesNotWaitForTheEndReachASlowHost) {
    serve();
    const HostSocket host = open_from_guest();
    const std::string all = send_until_kept();
    ASSERT_TRUE(guest().send_op(
        VIRTIO_VSOCK_OP_SHUTDOWN, kGuestPort, kHostPort, VIRTIO_VSOCK_TYPE_STREAM, 3));
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, kGuestPort, kHostPort));
    EXPECT_EQ(host.receive(all.size()), all);
    EXPECT_TRUE(host.ends());
    // The guest was not told a second time.
    testing::give_others_a_moment();
    EXPECT_FALSE(guest().receive_now());
    expect_clean();
}

TEST_P(VsockTest, MessagesKeepTheirBoundsInBothDirections) {
    serve();
    constexpr uint16_t kType = VIRTIO_VSOCK_TYPE_SEQPACKET;
    const HostSocket host = open_from_guest(kType);
    const std::string large = pattern(100'000);
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "one", kType, VIRTIO_VSOCK_SEQ_EOM));
    // One message in two packets.
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, large.substr(0, 60'000), kType));
    ASSERT_TRUE(guest().send_data(
        kGuestPort, kHostPort, large.substr(60'000), kType, VIRTIO_VSOCK_SEQ_EOM));
    EXPECT_EQ(host.receive(200'000), "one");
    EXPECT_EQ(host.receive(200'000), large);
    host.send("two");
    host.send(large);
    auto packet = guest().receive_event();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->payload, "two");
    EXPECT_EQ(packet->header.flags, static_cast<uint32_t>(VIRTIO_VSOCK_SEQ_EOM));
    std::string all;
    do {
        packet = guest().receive_event();
        ASSERT_TRUE(packet);
        all += packet->payload;
        EXPECT_EQ(packet->header.flags != 0, all.size() == large.size());
    } while (all.size() < large.size());
    EXPECT_EQ(all, large);
}

TEST_P(VsockTest, MessagesOfAllSizesReachASlowHost) {
    serve();
    constexpr uint16_t kType = VIRTIO_VSOCK_TYPE_SEQPACKET;
    const HostSocket host = open_from_guest(kType);
    const std::string text = pattern(60'000);
    constexpr size_t kMessages = 600;
    const auto size_of = [](size_t i) { return (i * i * 977) % 60'000; };
    std::thread reader([&] {
        for (size_t i = 0; i < kMessages; ++i) {
            std::string message(70'000, '\0');
            const ssize_t count = ::recv(host.fd(), message.data(), message.size(), 0);
            message.resize(count < 0 ? 0 : static_cast<size_t>(count));
            EXPECT_EQ(message, text.substr(0, size_of(i))) << i;
        }
    });
    uint32_t sent = 0;
    uint32_t forwarded = 0;
    uint32_t window = static_cast<uint32_t>(options_.window_bytes);
    for (size_t i = 0; i < kMessages; ++i) {
        const auto size = static_cast<uint32_t>(size_of(i));
        while (sent - forwarded + size > window) {
            const auto packet = guest().receive();
            ASSERT_TRUE(packet) << i;
            forwarded = packet->header.fwd_cnt;
            window = packet->header.buf_alloc;
        }
        ASSERT_TRUE(guest().send_data(
            kGuestPort, kHostPort, text.substr(0, size), kType, VIRTIO_VSOCK_SEQ_EOM));
        sent += size;
    }
    reader.join();
}

TEST_P(VsockTest, MessageOfMoreThanHalfTheWindowIsNotHeldUpByRoomThatTheGuestDoesNotKnow) {
    options_.window_bytes = 200'000;
    options_.window_bytes_max = 200'000;
    serve();
    constexpr uint16_t kType = VIRTIO_VSOCK_TYPE_SEQPACKET;
    const HostSocket host = open_from_guest(kType);
    const std::string text = pattern(60'000);
    // Below half of the window, so there is no news of it.
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, text, kType, VIRTIO_VSOCK_SEQ_EOM));
    EXPECT_EQ(host.receive(70'000), text);
    testing::give_others_a_moment();
    EXPECT_FALSE(guest().receive_now());
    // The guest knows of room for 140 000 bytes; the rest has to wait for more.
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, text, kType));
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, text, kType));
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, text.substr(0, 20'000), kType));
    const auto packet = guest().receive();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    EXPECT_EQ(packet->header.fwd_cnt, 60'000U);
    ASSERT_TRUE(
        guest().send_data(kGuestPort, kHostPort, text.substr(20'000), kType, VIRTIO_VSOCK_SEQ_EOM));
    EXPECT_EQ(host.receive(200'000), text + text + text);
}

TEST_P(VsockTest, MessageBehindASlowHostIsNotHeldUpByRoomThatTheGuestDoesNotKnow) {
    options_.window_bytes = 8'000'000;
    options_.window_bytes_max = 8'000'000;
    serve();
    constexpr uint16_t kType = VIRTIO_VSOCK_TYPE_SEQPACKET;
    const HostSocket host = open_from_guest(kType);
    // Until they stay with the device: nobody reads.
    const std::string text = pattern(50'000);
    size_t messages = 0;
    for (uint32_t told = 0; messages * text.size() - told < 100'000; ++messages) {
        ASSERT_LT(messages, 150U);
        ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, text, kType, VIRTIO_VSOCK_SEQ_EOM));
        ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_CREDIT_REQUEST, kGuestPort, kHostPort, kType));
        const auto packet = guest().receive();
        ASSERT_TRUE(packet);
        told = packet->header.fwd_cnt;
    }
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "the first part of ", kType));
    for (size_t i = 0; i < messages; ++i) {
        EXPECT_EQ(host.receive(100'000), text);
    }
    uint32_t told = 0;
    while (told < messages * text.size()) {
        const auto packet = guest().receive();
        ASSERT_TRUE(packet);
        told = packet->header.fwd_cnt;
    }
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "two", kType, VIRTIO_VSOCK_SEQ_EOM));
    EXPECT_EQ(host.receive(100), "the first part of two");
}

TEST_P(VsockTest, EmptyMessageOfTheHostIsNotItsEnd) {
    serve();
    constexpr uint16_t kType = VIRTIO_VSOCK_TYPE_SEQPACKET;
    const HostSocket host = open_from_guest(kType);
    host.send("");
    auto packet = guest().receive_event();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_RW);
    EXPECT_EQ(packet->header.len, 0U);
    host.shut_down(SHUT_WR);
    packet = guest().receive_event();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_SHUTDOWN);
}

TEST_P(VsockTest, HostReachesASeqpacketProgramOfTheGuest) {
    serve();
    const HostSocket host = HostSocket::connect_to(seqpacket_path(base()), SOCK_SEQPACKET);
    host.send("CONNECT 1111\n");
    const auto request = guest().receive_event();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->header.type, VIRTIO_VSOCK_TYPE_SEQPACKET);
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RESPONSE,
                                kGuestPort,
                                request->header.src_port,
                                VIRTIO_VSOCK_TYPE_SEQPACKET));
    EXPECT_EQ(host.receive(100), make_ok_line(request->header.src_port));
    host.send("a message");
    const auto packet = guest().receive_event();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->payload, "a message");
}

TEST_P(VsockTest, ProgramThatConnectsBeforeTheGuestIsUpIsServedWhenItIs) {
    serve_device();
    const HostSocket early = HostSocket::connect_to(base(), SOCK_STREAM);
    early.send("CONNECT 1111\n");
    start_guest();
    const auto request = guest().receive_event();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->op(), VIRTIO_VSOCK_OP_REQUEST);
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RESPONSE, kGuestPort, request->header.src_port));
    EXPECT_TRUE(early.receive(3).starts_with("OK "));
}

TEST_P(VsockTest, ProgramThatTheGuestRefusesSeesTheEnd) {
    serve();
    const HostSocket host = HostSocket::connect_to(base(), SOCK_STREAM);
    host.send("CONNECT 9\n");
    const auto request = guest().receive_event();
    ASSERT_TRUE(request);
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, 9, request->header.src_port));
    EXPECT_TRUE(host.ends());
    EXPECT_EQ(ended(EndReason::kGuestRefused), 1U);
}

TEST_P(VsockTest, ConnectionsBeyondTheLimitAreRefused) {
    options_.connections_max = 2;
    serve();
    const HostSocket listener = HostSocket::listen_at(path_of(kHostPort), SOCK_STREAM);
    for (uint32_t port = 1; port <= 2; ++port) {
        ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, port, kHostPort));
        EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
    }
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, 3, kHostPort));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kTooManyConnections), 1U);
    // One that ends makes room.
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, 1, kHostPort));
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, 4, kHostPort));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
}

TEST_P(VsockTest, PausedMachineKeepsItsConnections) {
    serve();
    const HostSocket host = open_from_guest();
    for (uint16_t i = 0; i < 3; ++i) {
        ASSERT_TRUE(guest().queue(i).stop(guest().frontend()));
    }
    host.send("meanwhile");
    for (uint16_t i = 0; i < 3; ++i) {
        start_again(i, guest().queue(i).start_base());
    }
    EXPECT_EQ(guest().receive_bytes(9), "meanwhile");
    expect_echo(host);
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::vsock
