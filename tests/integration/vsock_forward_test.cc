// SPDX-License-Identifier: Apache-2.0
// Streams that are forwarded to and from AF_VSOCK of the host. Most machines that run this have
// none: TCP takes its place, whose connect() does not wait either. tests/guest/forward has the real
// one (vsock_forward_host_test.cc).
#include <cerrno>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>

#include "devices/vsock/host_socket.h"
#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {
namespace {

constexpr uint32_t kForwardCid = 1;

sockaddr_in loopback(uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    return address;
}

const sockaddr* generic(const sockaddr_in& address) {
    // SAFETY: the sockets API takes every address family by this one pointer type.
    return reinterpret_cast<const sockaddr*>(&address);
}

UniqueFd listen_tcp(int backlog = 8) {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const sockaddr_in any = loopback(0);
    EXPECT_EQ(::bind(fd.get(), generic(any), sizeof any), 0);
    EXPECT_EQ(::listen(fd.get(), backlog), 0);
    return fd;
}

uint16_t port_of(const UniqueFd& fd) {
    sockaddr_in own{};
    socklen_t size = sizeof own;
    // SAFETY: as in generic(); getsockname() writes at most `size` bytes.
    EXPECT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&own), &size), 0);
    return ntohs(own.sin_port);
}

Dialled dial_tcp(uint16_t port) {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const sockaddr_in address = loopback(port);
    const bool is_connected = ::connect(fd.get(), generic(address), sizeof address) == 0;
    return begun(std::move(fd), is_connected, errno);
}

class VsockForwardTest : public VsockTest {
  protected:
    VsockForwardTest() {
        options_.uds_path.clear();
        options_.forward.cid = kForwardCid;
        options_.forward.listen_at = {kGuestPort};
        options_.forward.dial = [this](uint32_t cid, uint32_t port) {
            EXPECT_EQ(cid, kForwardCid);
            EXPECT_EQ(port, kHostPort);
            return dial_tcp(called_port_);
        };
        called_port_ = port_of(called_);
    }

    void serve_forwards() {
        HostListeners listeners;
        listeners.forwards.push_back(listen_tcp());
        forwarded_port_ = port_of(listeners.forwards[0]);
        device_ = std::make_unique<VsockDevice>(
            options_, VsockEngine::create(options_, std::move(listeners)).value());
        host_ = std::make_unique<testing::SessionHost>(*device_, testing::SessionHostOptions{});
    }

    void serve_all() {
        serve_forwards();
        start_guest();
    }

    HostSocket open_forwarded() {
        EXPECT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
        EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
        HostSocket accepted =
            HostSocket(UniqueFd(::fcntl(called_.get(), F_DUPFD_CLOEXEC, 0))).accept();
        EXPECT_TRUE(accepted.valid());
        return accepted;
    }

    [[nodiscard]] HostSocket call_guest() const {
        UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const sockaddr_in address = loopback(forwarded_port_);
        EXPECT_EQ(::connect(fd.get(), generic(address), sizeof address), 0);
        return HostSocket(std::move(fd));
    }

    UniqueFd called_ = listen_tcp();
    uint16_t called_port_ = 0;
    uint16_t forwarded_port_ = 0;
};

TEST_P(VsockForwardTest, GuestReachesAProgram) {
    serve_all();
    const HostSocket host = open_forwarded();
    expect_echo(host);
    EXPECT_EQ(counters().opened_by_guest.value(), 1U);
}

TEST_P(VsockForwardTest, BothHalvesAreClosedAlone) {
    serve_all();
    const HostSocket host = open_forwarded();
    host.send("last");
    host.shut_down(SHUT_WR);
    EXPECT_EQ(guest().receive_bytes(4), "last");
    const auto shutdown = guest().receive_event();
    ASSERT_TRUE(shutdown);
    EXPECT_EQ(shutdown->op(), VIRTIO_VSOCK_OP_SHUTDOWN);
    EXPECT_EQ(shutdown->header.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
    ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, "still"));
    EXPECT_EQ(host.receive(5), "still");
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_SHUTDOWN,
                                kGuestPort,
                                kHostPort,
                                VIRTIO_VSOCK_TYPE_STREAM,
                                VIRTIO_VSOCK_SHUTDOWN_SEND));
    EXPECT_TRUE(host.ends());
}

TEST_P(VsockForwardTest, ManyBytesArriveInOrderBothWays) {
    serve_all();
    const HostSocket host = open_forwarded();
    std::string text(1'000'000, ' ');
    for (size_t i = 0; i < text.size(); ++i) {
        text[i] = static_cast<char>('a' + (i * 7 + i / 4001) % 26);
    }
    for (size_t at = 0; at < text.size(); at += 50'000) {
        ASSERT_TRUE(guest().send_data(kGuestPort, kHostPort, text.substr(at, 50'000)));
        ASSERT_EQ(host.receive(50'000), text.substr(at, 50'000));
        host.send(text.substr(at, 50'000));
        ASSERT_EQ(guest().receive_bytes(50'000), text.substr(at, 50'000));
    }
}

TEST_P(VsockForwardTest, NobodyListeningIsRefused) {
    serve_all();
    called_.reset();
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kNoListener), 1U);
}

TEST_P(VsockForwardTest, NobodyAnsweringIsRefusedInTimeAndHoldsUpNobody) {
    // The first connection that is not accepted fills this backlog, and what comes then is silence.
    const UniqueFd deaf = listen_tcp(0);
    const uint16_t deaf_port = port_of(deaf);
    std::vector<Dialled> filling;
    for (int i = 0; i < 4; ++i) {
        filling.push_back(dial_tcp(deaf_port));
    }
    options_.forward.dial = [&](uint32_t, uint32_t port) {
        return dial_tcp(port == kHostPort ? called_port_ : deaf_port);
    };
    serve_all();
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort + 1));
    const HostSocket host = open_forwarded();
    expect_echo(host);
    const auto refusal = guest().receive_event();
    ASSERT_TRUE(refusal);
    EXPECT_EQ(refusal->op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(refusal->header.src_port, kHostPort + 1);
    EXPECT_EQ(ended(EndReason::kHostBusy), 1U);
}

TEST_P(VsockForwardTest, GuestThatGivesUpEndsACallOnItsWay) {
    const UniqueFd deaf = listen_tcp(0);
    const uint16_t deaf_port = port_of(deaf);
    std::vector<Dialled> filling;
    for (int i = 0; i < 4; ++i) {
        filling.push_back(dial_tcp(deaf_port));
    }
    options_.forward.dial = [&](uint32_t, uint32_t) { return dial_tcp(deaf_port); };
    serve_all();
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, kGuestPort, kHostPort));
    EXPECT_TRUE(eventually([&] { return counters().connections_gone.value() == 1; }));
}

TEST_P(VsockForwardTest, MessagesHaveNowhereToGo) {
    serve_all();
    ASSERT_TRUE(guest().send_op(
        VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort, VIRTIO_VSOCK_TYPE_SEQPACKET));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kNoListener), 1U);
}

TEST_P(VsockForwardTest, ProgramReachesTheGuestWithoutALine) {
    serve_all();
    const HostSocket host = call_guest();
    host.send("early");
    const auto request = guest().receive_event();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->op(), VIRTIO_VSOCK_OP_REQUEST);
    EXPECT_EQ(request->header.dst_port, kGuestPort);
    EXPECT_EQ(request->header.src_cid, 2U);
    const uint32_t port = request->header.src_port;
    EXPECT_FALSE(host.has_news());
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RESPONSE, kGuestPort, port));
    EXPECT_EQ(guest().receive_bytes(5), "early");
    expect_echo(host, kGuestPort, port);
    EXPECT_EQ(counters().opened_by_host.value(), 1U);
}

TEST_P(VsockForwardTest, GuestThatRefusesEndsTheProgramsConnection) {
    serve_all();
    const HostSocket host = call_guest();
    const auto request = guest().receive_event();
    ASSERT_TRUE(request);
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, kGuestPort, request->header.src_port));
    EXPECT_TRUE(host.ends());
    EXPECT_EQ(ended(EndReason::kGuestRefused), 1U);
}

TEST_P(VsockForwardTest, ProgramsWaitForTheGuestsDriver) {
    serve_forwards();
    const HostSocket host = call_guest();
    start_guest();
    const auto request = guest().receive_event();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->op(), VIRTIO_VSOCK_OP_REQUEST);
    EXPECT_TRUE(host.valid());
}

TEST_P(VsockForwardTest, ProgramSeesTheEndWhereTheGuestHasNoStreams) {
    constexpr uint64_t kSeqpacketAlone = 0b110;  // and not what implies streams
    serve_forwards();
    start_guest({.device_features = kSeqpacketAlone});
    const HostSocket host = call_guest();
    EXPECT_TRUE(host.ends());
    EXPECT_EQ(ended(EndReason::kTypeNotNegotiated), 1U);
    EXPECT_FALSE(guest().receive_now());
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockForwardTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::vsock
