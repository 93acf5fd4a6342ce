// SPDX-License-Identifier: Apache-2.0
// What an operator sees of a socket device.
#include "devices/vsock/vsock_control.h"

#include <string>
#include <vector>

#include <outrigger_control.pb.h>

#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {
namespace {

namespace v1 = control::v1;

class VsockControlTest : public VsockTest {
  protected:
    [[nodiscard]] v1::SocketDevice look() const {
        v1::Device out;
        device_->control()->describe(out);
        return out.socket_device();
    }

    [[nodiscard]] bool becomes(const std::function<bool(const v1::SocketDevice&)>& what) const {
        return eventually([&] { return what(look()); });
    }
};

TEST_P(VsockControlTest, ShowsAConnectionWithItsBytesAndCredit) {
    serve({.credit = 10'000});
    const HostSocket host = open_from_guest();
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "12345"));
    EXPECT_EQ(host.receive(5), "12345");
    host.send("123");
    EXPECT_TRUE(guest().receive());
    ASSERT_TRUE(becomes([](const v1::SocketDevice& socket) {
        return socket.shown_size() == 1 && socket.shown(0).bytes_to_guest() == 3 &&
               socket.shown(0).bytes_from_guest() == 5;
    })) << look().DebugString();
    const v1::SocketDevice socket = look();
    EXPECT_EQ(socket.guest_cid(), 7U);
    EXPECT_EQ(socket.connections(), 1U);
    EXPECT_EQ(socket.connections_max(), 1023U);
    EXPECT_EQ(socket.opened_by_guest(), 1U);
    const v1::SocketConnection& connection = socket.shown(0);
    EXPECT_EQ(connection.peer_cid(), 2U);
    EXPECT_EQ(connection.peer_port(), kHostPort);
    EXPECT_EQ(connection.guest_port(), kGuestPort);
    EXPECT_EQ(connection.state(), v1::SocketConnection::OPEN);
    EXPECT_FALSE(connection.seqpacket());
    EXPECT_FALSE(connection.forwarded());
    EXPECT_EQ(connection.backlog_bytes(), 0U);
    EXPECT_EQ(connection.guest_credit(), 256U * 1024);
    EXPECT_EQ(connection.peer_credit(), 10'000U - 3);
}

TEST_P(VsockControlTest, ShowsWhatWaitsAndWhoHasEnded) {
    serve();
    const HostSocket host = open_from_guest();
    const std::string piece(60'000, 'x');
    // Nobody reads: the socket's buffer fills, and then the backlog.
    for (int i = 0; i < 100 && (look().shown_size() == 0 || look().shown(0).backlog_bytes() == 0);
         ++i) {
        ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, piece));
    }
    EXPECT_GT(look().shown(0).backlog_bytes(), 0U);
    EXPECT_LT(look().shown(0).guest_credit(), 1024U * 1024);
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_SHUTDOWN,
                                kGuestPort,
                                kHostPort,
                                VIRTIO_VSOCK_TYPE_STREAM,
                                VIRTIO_VSOCK_SHUTDOWN_SEND));
    EXPECT_TRUE(becomes([](const auto& socket) { return socket.shown(0).guest_ended(); }));
    EXPECT_FALSE(look().shown(0).peer_ended());
}

TEST_P(VsockControlTest, ShowsProgramsThatHaveNotSaidTheirPort) {
    serve();
    const HostSocket host = HostSocket::connect_to(base(), SOCK_STREAM);
    EXPECT_TRUE(becomes([](const auto& socket) {
        return socket.shown_size() == 1 &&
               socket.shown(0).state() == v1::SocketConnection::GREETING;
    }));
    host.send("CONNECT 5\n");
    EXPECT_TRUE(becomes([](const auto& socket) {
        return socket.shown_size() == 1 &&
               socket.shown(0).state() == v1::SocketConnection::ASKING_GUEST;
    }));
}

TEST_P(VsockControlTest, CountsWhyConnectionsEnded) {
    serve();
    for (int i = 0; i < 2; ++i) {
        ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
        ASSERT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    }
    ASSERT_TRUE(becomes([](const auto& socket) { return socket.connections() == 0; }));
    const v1::SocketDevice socket = look();
    ASSERT_EQ(socket.ended_size(), 1);
    EXPECT_EQ(socket.ended(0).reason(), "no-listener");
    EXPECT_EQ(socket.ended(0).count(), 2U);
}

TEST_P(VsockControlTest, CountsMalformedPackets) {
    serve();
    virtio_vsock_hdr header = guest().header(99, kGuestPort, kHostPort);
    ASSERT_TRUE(guest().send(header));
    ASSERT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    // There is nobody to answer.
    const driver::Segment part{.address = guest().memory().allocate(64, 16).value(),
                               .length = sizeof header - 1};
    ASSERT_TRUE(guest().queue(1).transact(std::span(&part, 1), driver::after(testing::kPatience)));
    const v1::SocketDevice socket = look();
    ASSERT_EQ(socket.malformed_size(), 2);
    EXPECT_EQ(socket.malformed(0).fault(), "too-short");
    EXPECT_EQ(socket.malformed(0).count(), 1U);
    EXPECT_EQ(socket.malformed(1).fault(), "operation");
    EXPECT_EQ(socket.malformed(1).count(), 1U);
}

TEST_P(VsockControlTest, ShowsAHundredAndCountsTheRest) {
    serve();
    const HostSocket listener = HostSocket::listen_at(path_of(kHostPort), SOCK_STREAM, 200);
    std::vector<HostSocket> accepted;
    for (uint32_t i = 0; i < VsockControl::kShownMax + 5; ++i) {
        ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, 1000 + i, kHostPort));
        ASSERT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
        accepted.push_back(listener.accept());
    }
    const v1::SocketDevice socket = look();
    EXPECT_EQ(socket.connections(), VsockControl::kShownMax + 5);
    EXPECT_EQ(static_cast<size_t>(socket.shown_size()), VsockControl::kShownMax);
}

TEST_P(VsockControlTest, TakesNoCommands) {
    serve();
    v1::Request request;
    request.mutable_pause();
    bool refused = false;
    device_->control()->handle(request, {}, [&](const control::CommandResult& result) {
        refused = !result && result.error().refusal == control::Refusal::kUnknown;
    });
    EXPECT_TRUE(refused);
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockControlTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::vsock
