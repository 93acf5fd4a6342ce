// SPDX-License-Identifier: Apache-2.0
// The user network of outrigger-net, as a process that is killed.
#include <cstring>
#include <string>

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "tests/integration/net_daemon_test.h"

namespace outrigger::testing {
namespace {

constexpr uint8_t kSyn = 0x02;
constexpr uint8_t kAck = 0x10;
constexpr uint8_t kReset = 0x04;

const std::string kGuest("\x0a\0\x02\x0f", 4);
const std::string kRouter("\x0a\0\x02\x02", 4);

class NetUserDaemonTest : public NetDaemonTest {
  protected:
    NetUserDaemonTest() : server_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        port_ = bind_to_loopback(server_.get());
        EXPECT_EQ(::listen(server_.get(), 4), 0);
    }

    /// The port that it got.
    [[nodiscard]] static uint16_t bind_to_loopback(int fd) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t bytes = sizeof address;
        // SAFETY: the sockets API takes every address family by this one pointer type.
        auto* const generic = reinterpret_cast<sockaddr*>(&address);
        EXPECT_EQ(::bind(fd, generic, bytes), 0);
        EXPECT_EQ(::getsockname(fd, generic, &bytes), 0);
        return ntohs(address.sin_port);
    }

    [[nodiscard]] FrameOptions to_server(uint8_t flags, uint32_t sequence, uint32_t ack) const {
        FrameOptions options{.destination_port = port_, .sequence = sequence, .acknowledged = ack};
        options.source = kGuest;
        options.destination = kRouter;
        options.to_mac = std::string("\x52\x55\x0a\0\x02\x02", 6);
        options.tcp_flags = flags;
        return options;
    }

    /// The next segment of TCP, or datagram. Questions for our address are answered on the way.
    std::optional<ReadFrame> receive_segment(uint8_t protocol = IPPROTO_TCP) {
        while (const auto frame = guest_->receive()) {
            const std::string& bytes = frame->bytes;
            if (bytes.size() >= 42 && bytes.substr(12, 2) == "\x08\x06") {
                const std::string mac("\x52\x54\0\0\0\x01", 6);
                std::string reply = bytes.substr(6, 6) + mac + std::string("\x08\x06", 2);
                reply += std::string("\0\x01\x08\0\x06\x04\0\x02", 8) + mac + bytes.substr(38, 4) +
                         bytes.substr(6, 6) + bytes.substr(28, 4);
                EXPECT_TRUE(guest_->send(reply));
            } else if (bytes.substr(12, 2) == std::string("\x08\0", 2) &&
                       bytes[23] == static_cast<char>(protocol)) {
                return read_frame(bytes);
            }
        }
        return std::nullopt;
    }

    /// The next one that is not the question again, which comes each second and later each two.
    std::optional<ReadFrame> receive_answer() {
        std::optional<ReadFrame> segment = receive_segment();
        while (segment && segment->tcp_flags == kAck) {
            segment = receive_segment();
        }
        return segment;
    }

    /// Both ends know of it; the server has sent nothing. What its next sequence number is.
    uint32_t open_connection() {
        EXPECT_TRUE(guest_->send(make_frame("", to_server(kSyn, 999, 0))));
        const auto answer = receive_segment();
        EXPECT_TRUE(answer && answer->tcp_flags == (kSyn | kAck)) << daemon_->complained();
        const uint32_t next = answer ? answer->sequence + 1 : 0;
        EXPECT_TRUE(guest_->send(make_frame("", to_server(kAck, 1000, next))));
        pollfd entry{.fd = server_.get(), .events = POLLIN, .revents = 0};
        EXPECT_EQ(::poll(&entry, 1, 20'000), 1);
        return next;
    }

    UniqueFd server_;
    uint16_t port_ = 0;
};

TEST_F(NetUserDaemonTest, WhoWaitsIsToldThatItsConnectionEndedWithTheProcess) {
    serve({"--keeper=fork", "--backend=user", "--host-loopback=on"});
    for (int round = 0; round < 3; ++round) {
        const uint32_t next = open_connection();
        kill_worker();
        // We are asked, and answer as RFC 9293, 3.10.7.4 says.
        const auto question = receive_segment();
        ASSERT_TRUE(question) << daemon_->complained();
        EXPECT_EQ(question->source, kRouter);
        EXPECT_EQ(question->source_port, port_);
        EXPECT_EQ(question->destination_port, 4000);
        EXPECT_EQ(question->tcp_flags, kAck);
        ASSERT_TRUE(guest_->send(make_frame("", to_server(kAck, 1000, next))));
        const auto reset = receive_answer();
        ASSERT_TRUE(reset) << daemon_->complained();
        EXPECT_NE(reset->tcp_flags & kReset, 0);
        EXPECT_EQ(reset->sequence, next);
    }
    // What is lost on the way is asked again.
    const uint32_t next = open_connection();
    kill_worker();
    EXPECT_TRUE(receive_segment());
    const auto again = receive_segment();
    ASSERT_TRUE(again);
    EXPECT_EQ(again->tcp_flags, kAck);
    ASSERT_TRUE(guest_->send(make_frame("", to_server(kAck, 1000, next))));
    const auto reset = receive_answer();
    ASSERT_TRUE(reset);
    EXPECT_NE(reset->tcp_flags & kReset, 0);
    // The last one was reset, so nobody is asked about it.
    kill_worker();
    (void)open_connection();
}

// The library's clock stood at 0, or where it was when it had to do last; so a socket that it made
// for a guest's datagram had outlived its four minutes as soon as it looked.
TEST_F(NetUserDaemonTest, AnswersComeToTheFirstDatagramOfAProcess) {
    serve({"--keeper=fork", "--backend=user", "--host-loopback=on"});
    const UniqueFd host(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    FrameOptions to_host{.udp = true, .destination_port = bind_to_loopback(host.get())};
    to_host.source = kGuest;
    to_host.destination = kRouter;
    to_host.to_mac = std::string("\x52\x55\x0a\0\x02\x02", 6);
    for (int round = 0; round < 2; ++round) {
        ASSERT_TRUE(guest_->send(make_frame("question", to_host)));
        pollfd entry{.fd = host.get(), .events = POLLIN, .revents = 0};
        ASSERT_EQ(::poll(&entry, 1, 20'000), 1);
        char question[16];
        sockaddr_in from{};
        socklen_t bytes = sizeof from;
        // SAFETY: as above.
        auto* const generic = reinterpret_cast<sockaddr*>(&from);
        ASSERT_EQ(::recvfrom(host.get(), question, sizeof question, 0, generic, &bytes), 8);
        ASSERT_EQ(::sendto(host.get(), "answer", 6, 0, generic, bytes), 6);
        const auto answer = receive_segment(IPPROTO_UDP);
        ASSERT_TRUE(answer) << "round " << round << daemon_->complained();
        EXPECT_EQ(answer->payload, "answer");
        kill_worker();
    }
}

}  // namespace
}  // namespace outrigger::testing
