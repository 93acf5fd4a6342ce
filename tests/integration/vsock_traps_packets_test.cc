// SPDX-License-Identifier: Apache-2.0
// Traps that others fell into, 1 to 11: packets, credit, resets. Those of the host's side are in
// vsock_traps_host_test.cc.
#include <array>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/shared_memory.h"

#include "devices/vsock/vsock_state.h"
#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {
namespace {

class VsockTrapTest : public VsockTest {
  protected:
    /// The packet is answered by RST, and the device goes on.
    void expect_reset(const virtio_vsock_hdr& header, std::string_view payload = {}) {
        ASSERT_TRUE(guest().send(header, payload));
        const auto answer = guest().receive_event();
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer->op(), VIRTIO_VSOCK_OP_RST);
        EXPECT_EQ(answer->header.src_port, header.dst_port);
        EXPECT_EQ(answer->header.dst_port, header.src_port);
    }
};

TEST_P(VsockTrapTest, Trap01HeaderAndPayloadInDescriptorsOfAnyShape) {
    serve();
    const HostSocket host = open_from_guest();
    const std::vector<std::vector<uint32_t>> shapes{
        {}, {44}, {44, 100}, {1, 43, 1}, {43}, {45}, {10, 10, 10, 10, 10, 10}};
    for (const auto& shape : shapes) {
        const std::string text =
            "payload in " + std::to_string(shape.size() + 1) + " pieces" + std::string(200, '.');
        virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
        header.len = static_cast<uint32_t>(text.size());
        ASSERT_TRUE(guest().send(header, text, shape));
        EXPECT_EQ(host.receive(text.size()), text);
    }
}

TEST_P(VsockTrapTest, Trap01PacketWithoutWholeHeaderGoesBack) {
    serve();
    EXPECT_TRUE(guest().send_raw("too short"));
    EXPECT_TRUE(guest().send_raw(std::string(43, '\1')));
    EXPECT_EQ(counters().malformed.value(PacketFault::kTooShort), 2U);
    expect_clean();
}

TEST_P(VsockTrapTest, Trap02PacketOverTwoRegionsOfMemory) {
    serve();
    const HostSocket host = open_from_guest();
    // Two regions that touch in the guest and not here.
    const GuestAddr first{0x4000'0000};
    const GuestAddr second{0x4001'0000};
    for (const GuestAddr address : {first, second}) {
        const auto region =
            guest().memory().add_region({.guest_address = address, .size = 0x10000});
        ASSERT_TRUE(region);
        ASSERT_TRUE(driver::went_well(guest().frontend().add_mem_reg(guest().memory(), *region)));
    }
    virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
    header.len = 6;
    std::string bytes(sizeof header, '\0');
    std::memcpy(bytes.data(), &header, sizeof header);
    bytes += "abcdef";
    // The border lies in the header, then in the payload.
    for (const uint64_t before : {20U, 47U}) {
        const GuestAddr at = driver::offset_by(second, 0 - before);
        guest().memory().write(at, std::as_bytes(std::span(bytes).first(before)));
        guest().memory().write(second, std::as_bytes(std::span(bytes).subspan(before)));
        const driver::Segment segment{.address = at, .length = static_cast<uint32_t>(bytes.size())};
        ASSERT_TRUE(
            guest().queue(1).transact(std::span(&segment, 1), driver::after(testing::kPatience)));
        EXPECT_EQ(host.receive(6), "abcdef");
    }
}

TEST_P(VsockTrapTest, Trap03LengthBeyondTheBuffersIsReset) {
    serve();
    const HostSocket host = open_from_guest();
    virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
    header.len = 5;
    expect_reset(header, "four");
    EXPECT_TRUE(host.ends());
    EXPECT_EQ(ended(EndReason::kMalformed), 1U);
    expect_clean();
}

TEST_P(VsockTrapTest, Trap03LengthAbove64KibIsReset) {
    serve();
    const HostSocket host = open_from_guest();
    virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
    header.len = 64 * 1024 + 1;
    expect_reset(header, std::string(header.len, 'x'));
    expect_clean();
}

TEST_P(VsockTrapTest, Trap03Length64KibIsTaken) {
    serve();
    const HostSocket host = open_from_guest();
    const std::string text(64 * 1024, 'x');
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, text));
    EXPECT_EQ(host.receive(text.size()), text);
}

TEST_P(VsockTrapTest, Trap03LengthOfOtherOperationsIsReset) {
    serve();
    const HostSocket host = open_from_guest();
    virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_CREDIT_UPDATE, kGuestPort, kHostPort);
    header.len = 1;
    expect_reset(header, "x");
    EXPECT_EQ(counters().malformed.value(PacketFault::kPayloadOfControl), 1U);
    expect_clean();
}

TEST_P(VsockTrapTest, Trap03BytesBehindThePayloadAreIgnored) {
    serve();
    const HostSocket host = open_from_guest();
    virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
    header.len = 4;
    ASSERT_TRUE(guest().send(header, "four and more"));
    EXPECT_EQ(host.receive(4), "four");
    expect_echo(host);
}

TEST_P(VsockTrapTest, Trap03UnknownTypeAndOperationAreReset) {
    serve();
    virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_REQUEST, 1, 2);
    header.type = 3;
    expect_reset(header);
    header.type = 0;
    expect_reset(header);
    header = guest().header(8, 1, 2);
    expect_reset(header);
    header.op = 0;
    expect_reset(header);
    EXPECT_EQ(counters().malformed.value(PacketFault::kType), 2U);
    EXPECT_EQ(counters().malformed.value(PacketFault::kOperation), 2U);
}

TEST_P(VsockTrapTest, Trap03SeqpacketThatWasNotNegotiatedIsReset) {
    serve({.device_features = 0});
    virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_REQUEST, 1, 2);
    header.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
    expect_reset(header);
    expect_clean();
}

TEST_P(VsockTrapTest, Trap04GuestThatShrinksItsBufferGetsNothing) {
    serve({.credit = 1000});
    const HostSocket host = open_from_guest();
    host.send(std::string(600, 'a'));
    EXPECT_EQ(guest().receive_bytes(600).size(), 600U);
    // 600 bytes are in it, as far as the device knows, and now it has room for 100.
    guest().forwarded = 0;
    guest().credit = 100;
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_CREDIT_UPDATE, kGuestPort, kHostPort));
    host.send("b");
    const auto packet = guest().receive();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_CREDIT_REQUEST);
    testing::give_others_a_moment();
    EXPECT_FALSE(guest().receive_now());
    guest().credit = 601;
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_CREDIT_UPDATE, kGuestPort, kHostPort));
    EXPECT_EQ(guest().receive_bytes(1), "b");
}

TEST_P(VsockTrapTest, Trap04GuestThatTookMoreThanItGotGetsNothing) {
    serve({.credit = 1000});
    const HostSocket host = open_from_guest();
    guest().forwarded = 500;
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_CREDIT_UPDATE, kGuestPort, kHostPort));
    host.send("b");
    const auto packet = guest().receive();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_CREDIT_REQUEST);
}

TEST_P(VsockTrapTest, Trap04NoMoreThanTheCreditIsSent) {
    serve({.receive_buffers = 16, .credit = 5000});
    const HostSocket host = open_from_guest();
    host.send(std::string(9000, 'x'));
    size_t got = 0;
    while (const auto packet = guest().receive()) {
        got += packet->header.len;
        if (packet->op() == VIRTIO_VSOCK_OP_CREDIT_REQUEST) {
            break;
        }
    }
    EXPECT_EQ(got, 5000U);
}

TEST_P(VsockTrapTest, Trap05ForwardedBytesAreThoseThatTheHostHasTaken) {
    serve();
    const HostSocket slow = open_from_guest();
    const HostSocket other = open_from_guest(VIRTIO_VSOCK_TYPE_STREAM, 5, 6);
    // The other connection's bytes count for it alone.
    ASSERT_TRUE(guest().send_data(5, 6, std::string(1000, 'o')));
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "five."));
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_CREDIT_REQUEST, kGuestPort, kHostPort));
    const auto packet = guest().receive();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    EXPECT_EQ(packet->header.fwd_cnt, 5U);
}

TEST_P(VsockTrapTest, Trap05GuestThatSendsMoreThanItsCreditIsReset) {
    serve();
    const HostSocket host = open_from_guest();
    // Nobody reads. What the kernel takes is forwarded, so this needs a while.
    const std::string piece(60'000, 'x');
    uint16_t op = 0;
    for (int i = 0; i < 1000 && op != VIRTIO_VSOCK_OP_RST; ++i) {
        ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, piece));
        while (const auto packet = guest().receive_now()) {
            op = packet->op();
        }
    }
    EXPECT_EQ(op, VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kCreditExceeded), 1U);
    // What was sent behind that belongs to no connection, and was answered, too.
    testing::give_others_a_moment();
    while (guest().receive_now()) {
    }
    expect_clean();
}

TEST_P(VsockTrapTest, Trap05GuestThatUsesNoMoreThanItsOwnBufferIsToldInTime) {
    // Linux caps what it sends by its own buffer, below the window that it is given.
    serve({.credit = 20'000});
    const HostSocket host = open_from_guest();
    for (uint32_t forwarded = 10'000; forwarded <= 1'000'000; forwarded += 10'000) {
        ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, std::string(10'000, 'x')));
        EXPECT_EQ(host.receive(10'000).size(), 10'000U);
        const auto packet = guest().receive();
        ASSERT_TRUE(packet);
        EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_CREDIT_UPDATE);
        EXPECT_EQ(packet->header.fwd_cnt, forwarded);
    }
}

TEST_P(VsockTrapTest, Trap06CreditThatComesWithDataIsSeen) {
    serve({.credit = 100});
    const HostSocket host = open_from_guest();
    host.send(std::string(150, 'x'));
    size_t got = 0;
    while (got < 100) {
        const auto packet = guest().receive();
        ASSERT_TRUE(packet);
        got += packet->header.len;
    }
    guest().forwarded = 100;
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "data"));
    EXPECT_EQ(host.receive(4), "data");
    EXPECT_EQ(guest().receive_bytes(50).size(), 50U);
}

TEST_P(VsockTrapTest, Trap07ResponseLeavesBeforeDataThatWinsTheRace) {
    serve({.receive_buffers = 0});
    const HostSocket listener = HostSocket::listen_at(path_of(kHostPort), SOCK_STREAM);
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
    const HostSocket host = listener.accept();
    host.send("early");
    testing::give_others_a_moment();
    // Only now the guest has buffers.
    std::vector<GuestAddr> buffers;
    for (uint64_t i = 0; i < 4; ++i) {
        const driver::Segment segment{.address = guest().memory().allocate(4096, 16).value(),
                                      .length = 4096,
                                      .device_writable = true};
        buffers.push_back(segment.address);
        ASSERT_TRUE(guest().queue(0).try_add(std::span(&segment, 1), i));
    }
    (void)guest().queue(0).publish_and_kick();
    for (const uint16_t op : {VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_RW}) {
        ASSERT_EQ(guest().queue(0).wait_used(driver::after(testing::kPatience)),
                  driver::WaitResult::kUsed);
        const auto used = guest().queue(0).poll_used();
        ASSERT_TRUE(used);
        virtio_vsock_hdr header{};
        guest().memory().read(buffers[used->token], std::as_writable_bytes(std::span(&header, 1)));
        EXPECT_EQ(header.op, op);
    }
}

TEST_P(VsockTrapTest, Trap08NothingToReadTakesNoBuffer) {
    serve();
    const HostSocket host = open_from_guest();
    const uint64_t packets = counters().packets_to_guest.value();
    host.send("x");
    EXPECT_EQ(guest().receive_bytes(1), "x");
    testing::give_others_a_moment();
    EXPECT_EQ(counters().packets_to_guest.value(), packets + 1);
}

TEST_P(VsockTrapTest, Trap09ResetIsNeverAnsweredByReset) {
    serve();
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, 1, 2));
    virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_RST, 1, 2);
    header.type = 9;
    ASSERT_TRUE(guest().send(header));
    header = guest().header(VIRTIO_VSOCK_OP_RST, 1, 2);
    header.dst_cid = 99;
    ASSERT_TRUE(guest().send(header));
    testing::give_others_a_moment();
    EXPECT_FALSE(guest().receive_now());
    // The same pair is used again at once.
    expect_echo(open_from_guest(VIRTIO_VSOCK_TYPE_STREAM, 1, 2), 1, 2);
}

TEST_P(VsockTrapTest, Trap09PacketsOfNoConnectionAreReset) {
    serve();
    for (const uint16_t op : {VIRTIO_VSOCK_OP_RESPONSE,
                              VIRTIO_VSOCK_OP_RW,
                              VIRTIO_VSOCK_OP_SHUTDOWN,
                              VIRTIO_VSOCK_OP_CREDIT_UPDATE,
                              VIRTIO_VSOCK_OP_CREDIT_REQUEST}) {
        expect_reset(guest().header(op, 1, 2));
    }
    EXPECT_EQ(ended(EndReason::kNoConnection), 5U);
}

TEST_P(VsockTrapTest, Trap09RequestOnAnOpenPairIsReset) {
    serve();
    const HostSocket host = open_from_guest();
    expect_reset(guest().header(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
    EXPECT_TRUE(host.ends());
    EXPECT_EQ(ended(EndReason::kProtocol), 1U);
    expect_clean();
}

TEST_P(VsockTrapTest, Trap10HostPortsAreNotUsedAgainSoon) {
    serve();
    const FromHost first = open_from_host();
    const FromHost second = open_from_host();
    EXPECT_NE(first.host_port, second.host_port);
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, kGuestPort, first.host_port));
    const FromHost third = open_from_host();
    EXPECT_NE(third.host_port, first.host_port);
    EXPECT_NE(third.host_port, second.host_port);
    expect_echo(second.socket, kGuestPort, second.host_port);
}

TEST_P(VsockTrapTest, Trap10HostPortsBeginAnywhere) {
    std::set<uint32_t> first;
    for (int i = 0; i < 3; ++i) {
        serve();
        first.insert(open_from_host().host_port);
        stop_serving();
    }
    // Two of 2^30 are the same once in a lifetime, three never.
    EXPECT_GT(first.size(), 1U);
}

TEST_P(VsockTrapTest, Trap10HostPortsGoOnInAnotherProcess) {
    const Ledger::Shape shape = VsockEngine::ledger_shape(options_);
    const UniqueFd memory = create_shared_memory("ledger", Ledger::bytes_for(shape)).value();
    const auto serve_kept = [&] {
        Keeping keeping;
        keeping.ledger = Ledger::open(memory.get(), shape).value();
        serve_device(std::move(keeping));
        start_guest();
    };
    serve_kept();
    const uint32_t before = open_from_host().host_port;
    stop_serving();
    serve_kept();
    EXPECT_EQ(open_from_host().host_port, before + 1);
}

TEST_P(VsockTrapTest, Trap10HostPortOfAnOpenConnectionIsNotGivenAway) {
    device_ = make_device(options_);
    constexpr uint32_t kNext = 0x4000'0005;
    ASSERT_TRUE(device_->load_state(
        write_vsock_state({.guest_cid = 7, .next_port = kNext, .connections = {}})));
    host_ = std::make_unique<testing::SessionHost>(*device_, testing::SessionHostOptions{});
    start_guest({.queue_count = 2});
    // The guest has called there by itself, and may not have one pair twice.
    const HostSocket called = open_from_guest(VIRTIO_VSOCK_TYPE_STREAM, kGuestPort, kNext);
    const FromHost other = open_from_host();
    EXPECT_EQ(other.host_port, kNext + 1);
    expect_echo(called, kGuestPort, kNext);
}

TEST_P(VsockTrapTest, Trap10HostPortIsFreedByItsOwnConnectionAlone) {
    serve();
    const FromHost opened = open_from_host();
    // Nothing but the pair of ports and the type names a connection.
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, kGuestPort + 1, opened.host_port));
    ASSERT_TRUE(guest().send_op(
        VIRTIO_VSOCK_OP_RST, kGuestPort, opened.host_port, VIRTIO_VSOCK_TYPE_SEQPACKET));
    EXPECT_FALSE(opened.socket.has_news());
    expect_echo(opened.socket, kGuestPort, opened.host_port);
}

TEST_P(VsockTrapTest, Trap11ShutdownFlagsAddUp) {
    serve();
    const HostSocket host = open_from_guest();
    for (const uint32_t flags : {VIRTIO_VSOCK_SHUTDOWN_SEND, VIRTIO_VSOCK_SHUTDOWN_SEND}) {
        ASSERT_TRUE(guest().send_op(
            VIRTIO_VSOCK_OP_SHUTDOWN, kGuestPort, kHostPort, VIRTIO_VSOCK_TYPE_STREAM, flags));
    }
    EXPECT_TRUE(host.ends());
    testing::give_others_a_moment();
    EXPECT_FALSE(guest().receive_now());
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_SHUTDOWN,
                                kGuestPort,
                                kHostPort,
                                VIRTIO_VSOCK_TYPE_STREAM,
                                VIRTIO_VSOCK_SHUTDOWN_RCV));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    expect_clean();
}

TEST_P(VsockTrapTest, Trap11ResetComesBehindTheDrainWhereTheHostIsSlow) {
    serve();
    const HostSocket host = open_from_guest();
    const std::string all = send_until_kept();
    ASSERT_TRUE(guest().send_op(
        VIRTIO_VSOCK_OP_SHUTDOWN, kGuestPort, kHostPort, VIRTIO_VSOCK_TYPE_STREAM, 3));
    testing::give_others_a_moment();
    EXPECT_FALSE(guest().receive_now());
    EXPECT_EQ(host.receive(all.size()), all);
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_TRUE(host.ends());
    expect_clean();
}

TEST_P(VsockTrapTest, Trap11BytesBehindTheEndAreReset) {
    serve();
    const HostSocket host = open_from_guest();
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_SHUTDOWN,
                                kGuestPort,
                                kHostPort,
                                VIRTIO_VSOCK_TYPE_STREAM,
                                VIRTIO_VSOCK_SHUTDOWN_SEND));
    virtio_vsock_hdr header = guest().header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
    header.len = 4;
    expect_reset(header, "more");
    expect_clean();
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockTrapTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::vsock
