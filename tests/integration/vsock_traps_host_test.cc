// SPDX-License-Identifier: Apache-2.0
// Traps that others fell into, 12 to 26: the host's programs, resources, resets of the device.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {
namespace {

class VsockHostTrapTest : public VsockTest {};

TEST_P(VsockHostTrapTest, Trap12RefusedConnectionIsResetAtOnceWithItsReason) {
    serve();
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kNoListener), 1U);
    // A file that nobody listens at any more.
    HostSocket::listen_at(path_of(kHostPort), SOCK_STREAM).close();
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kNoListener), 2U);
    EXPECT_EQ(counters().connections_gone.value(), 2U);
}

TEST_P(VsockHostTrapTest, Trap12SocketOfTheWrongTypeIsReset) {
    serve();
    const HostSocket listener = HostSocket::listen_at(path_of(kHostPort), SOCK_SEQPACKET);
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kHostRefused), 1U);
}

TEST_P(VsockHostTrapTest, Trap12FullBacklogHoldsUpNobodyElse) {
    serve();
    const HostSocket busy = HostSocket::listen_at(path_of(9), SOCK_STREAM, 0);
    for (uint32_t port = 1; port <= 4; ++port) {
        ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, port, 9));
    }
    // The first has its place in the backlog; the others wait, and this one does not.
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
    const HostSocket other = open_from_guest();
    expect_echo(other);
    EXPECT_EQ(ended(EndReason::kHostBusy), 0U);
    // A place that becomes free is taken.
    const HostSocket first = busy.accept();
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
    // In the end the guest is told that there was none.
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_TRUE(eventually([&] { return ended(EndReason::kHostBusy) > 0; }));
}

TEST_P(VsockHostTrapTest, Trap13TransmissionGoesOnWhileNothingIsReceived) {
    serve();
    const HostSocket host = open_from_guest();
    guest().hold_buffers();
    host.send(std::string(130'000, 'x'));  // more than its buffers have room for
    ASSERT_TRUE(eventually([&] {
        (void)guest().receive_now();
        return guest().queue(0).in_flight() == 0;
    }));
    for (int i = 0; i < 10; ++i) {
        ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "on"));
        EXPECT_EQ(host.receive(2), "on");
    }
}

TEST_P(VsockHostTrapTest, Trap13ResetsThatAreNotTakenStopTransmissionAndAreBounded) {
    serve({.receive_buffers = 4});
    guest().hold_buffers();
    const virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_RW, 1, 2);
    guest().memory().write(GuestAddr{0x10'0000}, std::as_bytes(std::span(&header, 1)));
    const driver::Segment segment{.address = GuestAddr{0x10'0000}, .length = sizeof header};
    uint32_t added = 0;
    uint32_t answered = 0;
    ASSERT_TRUE(eventually([&] {
        while (guest().queue(1).try_add(std::span(&segment, 1), added)) {
            ++added;
        }
        (void)guest().queue(1).publish_and_kick();
        while (guest().queue(1).poll_used()) {
            ++answered;
        }
        return counters().transmit_pauses.value() > 0;
    }));
    testing::give_others_a_moment();
    while (guest().queue(1).poll_used()) {
        ++answered;
    }
    EXPECT_EQ(answered, VsockEngine::kResetsMax + 4);
    // They come as buffers come, and transmission goes on.
    uint32_t resets = 0;
    while (resets < added) {
        if (!guest().receive_now()) {
            guest().post_buffers();
            guest().hold_buffers();
            ASSERT_EQ(guest().queue(0).wait_used(driver::after(testing::kPatience)),
                      driver::WaitResult::kUsed);
            continue;
        }
        ++resets;
    }
    EXPECT_TRUE(eventually([&] {
        while (guest().queue(1).poll_used()) {
            ++answered;
        }
        return answered == added;
    }));
}

TEST_P(VsockHostTrapTest, Trap14StreamThatTheGuestCannotTakeCostsNoProcessor) {
    serve({.credit = 10});
    const HostSocket host = open_from_guest();
    host.send(std::string(1000, 'x'));
    ASSERT_TRUE(guest().receive());
    expect_idle();
}

TEST_P(VsockHostTrapTest, Trap14HostThatReadsNothingCostsNoProcessor) {
    serve();
    const HostSocket host = open_from_guest();
    const std::string all = send_until_kept();
    expect_idle();
    // Nor is a socket that has room watched for that.
    EXPECT_EQ(host.receive(all.size()), all);
    ASSERT_TRUE(eventually([&] { return told_forwarded() == all.size(); }));
    expect_idle();
}

TEST_P(VsockHostTrapTest, Trap15OneReadFillsManyBuffersToTheirEnds) {
    constexpr size_t kBytes = 100'000;
    constexpr uint32_t kRoom = 4096 - sizeof(virtio_vsock_hdr);
    serve({.receive_buffers = 64, .receive_bytes = 4096});
    const HostSocket one = open_from_guest();
    const HostSocket other = open_from_guest(VIRTIO_VSOCK_TYPE_STREAM, 5, 6);
    // All is there when the first buffer is.
    ASSERT_TRUE(guest().queue(0).stop(guest().frontend()));
    one.send(std::string(kBytes, 'x'));
    other.send(std::string(kBytes, 'y'));
    start_again(0, guest().queue(0).start_base());
    // A turn is a read: whoever reads first fills all its buffers before the other has one.
    for (int turn = 0; turn < 2; ++turn) {
        uint32_t port = 0;
        for (size_t left = kBytes; left > 0;) {
            const auto packet = guest().receive_event();
            ASSERT_TRUE(packet);
            ASSERT_EQ(packet->header.len, std::min<size_t>(left, kRoom));
            ASSERT_TRUE(port == 0 || port == packet->header.dst_port) << left;
            port = packet->header.dst_port;
            left -= packet->header.len;
        }
    }
}

TEST_P(VsockHostTrapTest, Trap15ConnectionsTakeTurns) {
    constexpr size_t kMany = 150'000;
    serve({.receive_buffers = 2, .receive_bytes = 4096});
    const HostSocket one = open_from_guest();
    const HostSocket other = open_from_guest(VIRTIO_VSOCK_TYPE_STREAM, 5, 6);
    guest().hold_buffers();
    one.send(std::string(kMany, 'x'));
    size_t from_one = 0;
    ASSERT_TRUE(eventually([&] {
        const auto packet = guest().receive_now();
        from_one += packet ? packet->header.len : 0;
        return guest().queue(0).in_flight() == 0;
    }));
    // The first has bytes for all buffers to come for a long while.
    other.send("y");
    while (true) {
        const auto packet = guest().receive_now();
        if (!packet) {
            guest().post_buffers();
            guest().hold_buffers();
            ASSERT_EQ(guest().queue(0).wait_used(driver::after(testing::kPatience)),
                      driver::WaitResult::kUsed);
        } else if (packet->op() == VIRTIO_VSOCK_OP_RW && packet->header.dst_port == 5) {
            break;
        } else if (packet->op() == VIRTIO_VSOCK_OP_RW) {
            from_one += packet->header.len;
        }
    }
    EXPECT_LT(from_one, kMany / 2);
}

TEST_P(VsockHostTrapTest, Trap16BuffersOfAnySizeAreFilled) {
    for (const uint32_t bytes : {45U, 100U, 70'000U}) {
        serve({.receive_bytes = bytes});
        const HostSocket host = open_from_guest();
        host.send("some bytes");
        EXPECT_EQ(guest().receive_bytes(10), "some bytes");
        stop_serving();
    }
}

TEST_P(VsockHostTrapTest, Trap16BufferWithoutRoomForAHeaderBreaksTheRing) {
    serve({.receive_bytes = 43});
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, 1, 2));
    EXPECT_TRUE(guest().queue(0).wait_error(driver::after(testing::kPatience)));
    EXPECT_TRUE(
        eventually([&] { return host_->counters().rings_broken.value(RingError::kDevice) == 1; }));
}

TEST_P(VsockHostTrapTest, Trap17ForeignSourceAddressIsReset) {
    serve();
    const HostSocket host = open_from_guest();
    virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_RST, kGuestPort, kHostPort);
    header.src_cid = 8;
    ASSERT_TRUE(guest().send(header));
    header.op = VIRTIO_VSOCK_OP_REQUEST;
    ASSERT_TRUE(guest().send(header));
    const auto answer = guest().receive_event();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(counters().malformed.value(PacketFault::kSourceCid), 2U);
    expect_echo(host);  // another's packets do not touch it
}

TEST_P(VsockHostTrapTest, Trap17UnknownCidIsReset) {
    serve();
    for (const uint64_t cid : {uint64_t{0}, uint64_t{1}, uint64_t{8}, ~uint64_t{0}}) {
        virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_REQUEST, 1, 2);
        header.dst_cid = cid;
        ASSERT_TRUE(guest().send(header));
        const auto answer = guest().receive_event();
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer->op(), VIRTIO_VSOCK_OP_RST);
        EXPECT_EQ(answer->header.src_cid, cid);
    }
    EXPECT_EQ(ended(EndReason::kNoSuchCid), 4U);
}

TEST_P(VsockHostTrapTest, Trap19HostThatClosesAbruptlyResetsTheConnection) {
    serve();
    for (uint32_t round = 0; round < 100; ++round) {
        const uint32_t port = 100 + round;
        HostSocket host = open_from_guest(VIRTIO_VSOCK_TYPE_STREAM, port, port);
        ASSERT_TRUE(guest().send_data(port, port, "never read"));
        host.close();
        EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    }
    EXPECT_EQ(ended(EndReason::kHostReset), 100U);
    expect_clean();
}

TEST_P(VsockHostTrapTest, Trap20BytesBehindTheFirstLineAreKept) {
    serve();
    const FromHost opened = open_from_host("payload at once");
    EXPECT_EQ(guest().receive_bytes(15), "payload at once");
}

TEST_P(VsockHostTrapTest, Trap20FirstLineInPiecesIsUnderstood) {
    serve();
    const HostSocket host = HostSocket::connect_to(base(), SOCK_STREAM);
    for (const char c : std::string("connect 1111\n")) {
        host.send(std::string(1, c));
        testing::give_others_a_moment();
    }
    const auto request = guest().receive_event();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->op(), VIRTIO_VSOCK_OP_REQUEST);
    EXPECT_EQ(request->header.dst_port, 1111U);
}

TEST_P(VsockHostTrapTest, Trap20WrongFirstLineEndsTheConnection) {
    serve();
    const std::vector<std::string> lines{"GET / HTTP/1.1\n",
                                         "CONNECT\n",
                                         "CONNECT \n",
                                         "CONNECT x\n",
                                         "CONNECT 4294967296\n",
                                         "CONNECT -1\n",
                                         "CONNECT 1 2\n",
                                         "\n",
                                         std::string(40, 'C')};
    for (const std::string& line : lines) {
        const HostSocket host = HostSocket::connect_to(base(), SOCK_STREAM);
        host.send(line);
        char byte = 0;
        EXPECT_TRUE(eventually([&] { return host.has_news(); })) << line;
        EXPECT_LE(::recv(host.fd(), &byte, 1, 0), 0) << line;
    }
    EXPECT_EQ(ended(EndReason::kBadGreeting), lines.size());
}

TEST_P(VsockHostTrapTest, Trap20LineOfMessagesIsAMessageOfItsOwn) {
    serve();
    std::vector<HostSocket> hosts;
    for (const char* line : {"CONNECT 1111\n", "CONNECT 1111"}) {
        hosts.push_back(HostSocket::connect_to(seqpacket_path(base()), SOCK_SEQPACKET));
        hosts.back().send(line);
        EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_REQUEST);
    }
    EXPECT_EQ(ended(EndReason::kBadGreeting), 0U);
    // What would be lost is not dropped in silence.
    const std::vector<std::string> lines{
        "CONNECT 1111\nx", "CONNECT 1111\n\n", "CONNECT 1111" + std::string(40, ' ')};
    for (const std::string& line : lines) {
        const HostSocket host = HostSocket::connect_to(seqpacket_path(base()), SOCK_SEQPACKET);
        host.send(line);
        EXPECT_TRUE(host.ends()) << line;
    }
    EXPECT_EQ(ended(EndReason::kBadGreeting), lines.size());
}

TEST_P(VsockHostTrapTest, Trap20ProgramThatSaysNothingIsCut) {
    options_.greeting_timeout = std::chrono::milliseconds(20);
    serve();
    const HostSocket silent = HostSocket::connect_to(base(), SOCK_STREAM);
    const HostSocket half = HostSocket::connect_to(base(), SOCK_STREAM);
    half.send("CONN");
    EXPECT_TRUE(silent.ends());
    EXPECT_TRUE(half.ends());
    EXPECT_EQ(ended(EndReason::kNoGreeting), 2U);
}

TEST_P(VsockHostTrapTest, Trap20SilentProgramsDoNotKeepTheGuestFromCalling) {
    serve();
    std::vector<HostSocket> silent;
    for (size_t i = 0; i < VsockEngine::kGreetingsMax + 8; ++i) {
        silent.push_back(HostSocket::connect_to(base(), SOCK_STREAM));
    }
    EXPECT_TRUE(
        eventually([&] { return counters().connections.value() == VsockEngine::kGreetingsMax; }));
    expect_echo(open_from_guest());
}

TEST_P(VsockHostTrapTest, Trap22HostBytesWaitWhileTheRingsAreStopped) {
    serve();
    const HostSocket host = open_from_guest();
    ASSERT_TRUE(guest().queue(0).stop(guest().frontend()));
    host.send("meanwhile");
    testing::give_others_a_moment();
    EXPECT_FALSE(guest().receive_now());
    start_again(0, guest().queue(0).start_base());
    EXPECT_EQ(guest().receive_bytes(9), "meanwhile");
}

TEST_P(VsockHostTrapTest, Trap23PacketsOfAStoppedRingAreFoundWithoutAKick) {
    serve();
    const HostSocket host = open_from_guest();
    ASSERT_TRUE(guest().queue(1).stop(guest().frontend()));
    const uint32_t base = guest().queue(1).start_base();
    virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
    header.len = 4;
    const GuestAddr at = guest().memory().allocate(64, 16).value();
    guest().memory().write(at, std::as_bytes(std::span(&header, 1)));
    guest().memory().write(driver::offset_by(at, sizeof header),
                           std::as_bytes(std::span("late").first<4>()));
    const driver::Segment segment{.address = at, .length = sizeof header + 4};
    ASSERT_TRUE(guest().queue(1).try_add(std::span(&segment, 1), 0));
    guest().queue(1).publish();
    start_again(1, base, false);
    EXPECT_EQ(host.receive(4), "late");
}

TEST_P(VsockHostTrapTest, Trap24MessageThatTheGuestHasNoRoomForIsReset) {
    serve({.credit = 1000});
    const HostSocket host = open_from_guest(VIRTIO_VSOCK_TYPE_SEQPACKET);
    host.send(std::string(1001, 'x'));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kMessageTooLong), 1U);
    expect_clean();
}

TEST_P(VsockHostTrapTest, Trap24MessageOfAllTheCreditFitsTheHostsSocket) {
    // More than the kernel lets the device's socket have.
    options_.window_bytes = 64'000'000;
    options_.window_bytes_max = 64'000'000;
    serve();
    const HostSocket listener = HostSocket::listen_at(path_of(kHostPort), SOCK_SEQPACKET);
    ASSERT_TRUE(guest().send_op(
        VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort, VIRTIO_VSOCK_TYPE_SEQPACKET));
    const auto response = guest().receive_event();
    ASSERT_TRUE(response);
    const HostSocket host = listener.accept();
    const size_t credit = response->header.buf_alloc;
    ASSERT_LT(credit, 64'000'000U);
    const std::string message(credit, 'x');
    constexpr size_t kPiece = 60'000;
    for (size_t sent = 0; sent < credit; sent += kPiece) {
        ASSERT_TRUE(guest().send_data(kGuestPort,
                                      kHostPort,
                                      message.substr(sent, kPiece),
                                      VIRTIO_VSOCK_TYPE_SEQPACKET,
                                      credit - sent <= kPiece ? VIRTIO_VSOCK_SEQ_EOM : 0));
    }
    EXPECT_EQ(host.receive(credit + 1).size(), credit);
    EXPECT_EQ(ended(EndReason::kMessageTooLong), 0U);
}

TEST_P(VsockHostTrapTest, Trap24EmptyMessagesThatNobodyReadsAreBounded) {
    serve();
    const HostSocket host = open_from_guest(VIRTIO_VSOCK_TYPE_SEQPACKET);
    uint16_t op = 0;
    for (size_t i = 0; i < 3 * HostBacklog::kEmptyMessagesMax && op == 0; ++i) {
        ASSERT_TRUE(guest().send_data(
            kGuestPort, kHostPort, {}, VIRTIO_VSOCK_TYPE_SEQPACKET, VIRTIO_VSOCK_SEQ_EOM));
        if (const auto packet = guest().receive_now()) {
            op = packet->op();
        }
    }
    EXPECT_EQ(op, VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kTooManyMessages), 1U);
}

TEST_P(VsockHostTrapTest, Trap24SmallMessagesThatNobodyReadsYetAllArrive) {
    serve();
    const HostSocket host = open_from_guest(VIRTIO_VSOCK_TYPE_SEQPACKET);
    constexpr size_t kMessages = 2 * HostBacklog::kEmptyMessagesMax;
    for (size_t i = 0; i < kMessages; ++i) {
        ASSERT_TRUE(guest().send_data(
            kGuestPort, kHostPort, "m", VIRTIO_VSOCK_TYPE_SEQPACKET, VIRTIO_VSOCK_SEQ_EOM));
    }
    for (size_t i = 0; i < kMessages; ++i) {
        ASSERT_EQ(host.receive(2), "m") << i;
    }
}

TEST_P(VsockHostTrapTest, Trap24PartOfAMessageKeepsNoConnection) {
    serve();
    const HostSocket host = open_from_guest(VIRTIO_VSOCK_TYPE_SEQPACKET);
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "half", VIRTIO_VSOCK_TYPE_SEQPACKET));
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_SHUTDOWN,
                                kGuestPort,
                                kHostPort,
                                VIRTIO_VSOCK_TYPE_SEQPACKET,
                                VIRTIO_VSOCK_SHUTDOWN_SEND));
    EXPECT_TRUE(host.ends());
    ASSERT_TRUE(
        guest().send_op(VIRTIO_VSOCK_OP_RST, kGuestPort, kHostPort, VIRTIO_VSOCK_TYPE_SEQPACKET));
    EXPECT_EQ(counters().connections_gone.value(), 1U);
}

TEST_P(VsockHostTrapTest, Trap24DescriptorsThatComeWithAMessageAreNotTouched) {
    serve();
    const HostSocket host = open_from_guest(VIRTIO_VSOCK_TYPE_SEQPACKET);
    // Closing any descriptor of a file gives up all locks that the process has on it.
    const std::string path = folder_ / "locked";
    const UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    flock lock{.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0, .l_pid = 0};
    ASSERT_EQ(::fcntl(file.get(), F_SETLK, &lock), 0);
    host.send_descriptor("with a file", file.get());
    EXPECT_EQ(guest().receive_bytes(11), "with a file");
    const pid_t child = ::fork();
    if (child == 0) {
        ::_exit(::fcntl(file.get(), F_GETLK, &lock) == 0 && lock.l_type == F_WRLCK ? 0 : 1);
    }
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << "the lock is gone";
}

TEST_P(VsockHostTrapTest, Trap25ConfigurationIsTheCid) {
    serve();
    const auto config = guest().frontend().get_config(0, 8);
    ASSERT_TRUE(config);
    const std::vector<std::byte> expected{std::byte{7}, {}, {}, {}, {}, {}, {}, {}};
    EXPECT_EQ(*config, expected);
}

TEST_P(VsockHostTrapTest, Trap26RebootByStatusEndsConnectionsAndKeepsListeners) {
    serve();
    const HostSocket host = open_from_guest();
    ASSERT_TRUE(driver::went_well(guest().frontend().set_status(0)));
    EXPECT_TRUE(host.ends());
    guest_.reset();
    ASSERT_TRUE(host_->wait_closed());
    start_guest();
    const FromHost opened = open_from_host();
    expect_echo(opened.socket, kGuestPort, opened.host_port);
}

TEST_P(VsockHostTrapTest, Trap26RebootByStoppedRingsEndsConnections) {
    serve();
    const HostSocket host = open_from_guest();
    for (size_t i = 0; i < 3; ++i) {
        ASSERT_TRUE(guest().queue(i).stop(guest().frontend()));
    }
    testing::give_others_a_moment();
    EXPECT_FALSE(host.has_news());
    for (size_t i = 0; i < 3; ++i) {
        guest().queue(i).reset();
        start_again(i, guest().queue(i).start_base());
    }
    EXPECT_TRUE(host.ends());
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockHostTrapTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::vsock
