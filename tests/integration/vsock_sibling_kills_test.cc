// SPDX-License-Identifier: Apache-2.0
// outrigger-vsock under its keeper, killed again and again while two guests of it talk with one
// another and each half of a connection is closed: none is lost, and no byte is lost, doubled or
// wrong.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <sys/socket.h>

#include <gtest/gtest.h>

#include "tests/integration/vsock_kept.h"
#include "tests/support/vsock_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kKills = 24;
constexpr uint32_t kMessageBytesMax = 9000;

std::string bytes_of(uint32_t seed, uint64_t at, size_t count) {
    std::string bytes(count, '\0');
    for (size_t i = 0; i < count; ++i) {
        const uint64_t mixed = (at + i + seed * 7919U) * 0x9e37'79b9'7f4a'7c15;
        bytes[i] = static_cast<char>(mixed >> 56);
    }
    return bytes;
}

/// One guest's end of a connection with the other.
struct End {
    VsockGuest* guest = nullptr;
    uint64_t peer_cid = 0;
    uint32_t port = 0;
    uint32_t peer_port = 0;
    uint16_t type = VIRTIO_VSOCK_TYPE_STREAM;
    uint32_t seed = 0;  // of what it sends
    uint32_t peer_seed = 0;

    uint64_t sent = 0;
    bool has_ended = false;
    bool has_left = false;
    uint32_t peer_buffer = 0;
    uint32_t peer_forwarded = 0;

    uint64_t got = 0;
    uint64_t told = 0;
    bool peer_has_ended = false;
    std::vector<uint32_t> messages{};  // bytes of those that it has sent
    size_t messages_got = 0;
    std::string part{};

    [[nodiscard]] uint32_t room() const {
        const uint32_t used = static_cast<uint32_t>(sent) - peer_forwarded;
        return peer_buffer > used ? peer_buffer - used : 0;
    }

    void put(uint16_t op, uint32_t flags = 0, std::string_view payload = {}) {
        virtio_vsock_hdr header = guest->header(op, port, peer_port);
        header.dst_cid = peer_cid;
        header.type = type;
        header.flags = flags;
        header.fwd_cnt = static_cast<uint32_t>(got);
        header.len = static_cast<uint32_t>(payload.size());
        told = got;
        ASSERT_TRUE(guest->send(header, payload));
    }

    void put_data(uint32_t bytes) {
        const bool is_stream = type == VIRTIO_VSOCK_TYPE_STREAM;
        if (has_ended || bytes > room()) {
            return;
        }
        put(VIRTIO_VSOCK_OP_RW, is_stream ? 0 : VIRTIO_VSOCK_SEQ_EOM, bytes_of(seed, sent, bytes));
        sent += bytes;
        messages.push_back(bytes);
    }

    void end() {
        has_ended = true;
        put(VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_SEND);
    }

    /// `other` sends what comes.
    void take(const VsockPacket& packet, const End& other) {
        peer_buffer = packet.header.buf_alloc;
        peer_forwarded = packet.header.fwd_cnt;
        switch (packet.op()) {
            case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
                return;
            case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
                put(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
                return;
            case VIRTIO_VSOCK_OP_SHUTDOWN:
                if ((packet.header.flags & VIRTIO_VSOCK_SHUTDOWN_SEND) == 0) {
                    ASSERT_TRUE(other.has_left);  // it receives no more
                    return;
                }
                ASSERT_TRUE(other.has_ended);
                ASSERT_EQ(got, other.sent) << "the end comes behind all bytes";
                peer_has_ended = true;
                return;
            case VIRTIO_VSOCK_OP_RW:
                break;
            case VIRTIO_VSOCK_OP_RST:
                ASSERT_TRUE(has_left) << "port " << port;
                return;
            default:
                FAIL() << "op " << packet.op() << " at port " << port;
        }
        ASSERT_TRUE(packet.payload == bytes_of(peer_seed, got, packet.payload.size()))
            << "port " << port << " at " << got;
        got += packet.payload.size();
        part += packet.payload;
        if ((packet.header.flags & VIRTIO_VSOCK_SEQ_EOM) != 0) {
            ASSERT_LT(messages_got, other.messages.size());
            ASSERT_EQ(part.size(), other.messages[messages_got]) << "message " << messages_got;
            ++messages_got;
            part.clear();
        }
        if (got - told > guest->credit / 4) {
            put(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
        }
    }
};

class VsockSiblingKills : public VsockKeptTest {
  protected:
    ~VsockSiblingKills() override {
        stop_killing();
        guests_ = {};
    }

    [[nodiscard]] std::string device(uint64_t cid) const {
        const std::string number = std::to_string(cid);
        return "socket-path=" + path("s" + number) + ",guest-cid=" + number +
               ",uds-path=" + path("v" + number) + ",group=g";
    }

    void start() {
        ASSERT_NO_FATAL_FAILURE(start_daemon({"--device=" + device(7), "--device=" + device(8)}));
        ASSERT_TRUE(daemon().wait_complained("s8: listening"));
        for (const uint64_t cid : {uint64_t{7}, uint64_t{8}}) {
            auto& guest = guests_[cid - 7];
            guest = std::make_unique<VsockGuest>(
                driver::Frontend::connect(path("s" + std::to_string(cid)), driver::after(kPatience))
                    .value(),
                VsockGuestOptions{.packed = GetParam(), .cid = cid});
            ASSERT_TRUE(guest->is_up());
        }
    }

    /// Between guests 7, which calls, and 8.
    struct Link {
        End caller{};
        End called{};
    };

    Link& open(uint16_t type, uint32_t port) {
        Link& link = *links_.emplace_back(std::make_unique<Link>());
        link.caller = {.guest = guests_[0].get(),
                       .peer_cid = 8,
                       .port = port,
                       .peer_port = port + 100,
                       .type = type,
                       .seed = 2 * port,
                       .peer_seed = 2 * port + 1};
        link.called = {.guest = guests_[1].get(),
                       .peer_cid = 7,
                       .port = port + 100,
                       .peer_port = port,
                       .type = type,
                       .seed = 2 * port + 1,
                       .peer_seed = 2 * port};
        link.caller.put(VIRTIO_VSOCK_OP_REQUEST);
        const auto request = link.called.guest->receive_event();
        EXPECT_TRUE(request && request->op() == VIRTIO_VSOCK_OP_REQUEST);
        link.called.put(VIRTIO_VSOCK_OP_RESPONSE);
        const auto response = link.caller.guest->receive_event();
        EXPECT_TRUE(response && response->op() == VIRTIO_VSOCK_OP_RESPONSE);
        if (request && response) {
            link.called.peer_buffer = request->header.buf_alloc;
            link.caller.peer_buffer = response->header.buf_alloc;
        }
        return link;
    }

    /// What has come to either guest. True: there was something.
    bool take_all() {
        bool happened = false;
        for (size_t i = 0; i < guests_.size(); ++i) {
            while (const auto packet = guests_[i]->receive_now()) {
                const auto found = std::ranges::find_if(links_, [&](const auto& link) {
                    return (i == 0 ? link->caller : link->called).port == packet->header.dst_port;
                });
                if (found == links_.end()) {
                    ADD_FAILURE() << "op " << packet->op() << " of no connection";
                    return false;
                }
                Link& link = **found;
                (i == 0 ? link.caller : link.called)
                    .take(*packet, i == 0 ? link.called : link.caller);
                if (HasFatalFailure()) {
                    return false;
                }
                happened = true;
            }
        }
        return happened;
    }

    void take_until(const std::function<bool()>& done) {
        const auto limit = Clock::now() + kPatience;
        while (!done() && Clock::now() < limit) {
            if (!take_all()) {
                ASSERT_FALSE(HasFatalFailure());
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
        }
        ASSERT_TRUE(done()) << daemon().complained();
    }

    /// Each process some time after something has passed through it.
    void start_killing(int kills) {
        killer_ = std::thread([this, kills] {
            uint32_t pause_ms = 7;
            while (kills_ < kills && !stops_killing_) {
                const uint64_t before = passed_;
                while (passed_ < before + 4 && !stops_killing_) {
                    std::this_thread::sleep_for(std::chrono::milliseconds(1));
                }
                pause_ms = pause_ms * 17 % 31;
                std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
                kills_ += kill_another() ? 1 : 0;
            }
        });
    }

    void stop_killing() {
        if (killer_.joinable()) {
            stops_killing_ = true;
            killer_.join();
        }
    }

    std::array<std::unique_ptr<VsockGuest>, 2> guests_;
    std::vector<std::unique_ptr<Link>> links_;
    std::thread killer_;
    std::atomic<bool> stops_killing_ = false;
    std::atomic<int> kills_ = 0;
    std::atomic<uint64_t> passed_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Rings, VsockSiblingKills, ::testing::Bool(), [](const auto& parameter) {
    return parameter.param ? "Packed" : "Split";
});

TEST_P(VsockSiblingKills, GuestsThatTalkDoNotNotice) {
    ASSERT_NO_FATAL_FAILURE(start());
    for (const uint32_t port : {11U, 12U}) {
        open(VIRTIO_VSOCK_TYPE_STREAM, port);
        open(VIRTIO_VSOCK_TYPE_SEQPACKET, port + 10);
    }
    start_killing(kKills);
    const auto limit = Clock::now() + 8 * kPatience;
    for (uint32_t turn = 1; kills_ < kKills && Clock::now() < limit; ++turn) {
        Link& link = *links_[turn % links_.size()];
        link.caller.put_data(1 + turn * 7919 % kMessageBytesMax);
        link.called.put_data(1 + turn * 104'729 % kMessageBytesMax);
        ASSERT_FALSE(HasFatalFailure()) << daemon().complained();
        (void)take_all();
        ASSERT_FALSE(HasFatalFailure()) << daemon().complained();
        ++passed_;
        if (kills_ >= kKills / 2) {
            // From here on one direction of the first two is closed.
            for (size_t i = 0; i < 2; ++i) {
                if (!links_[i]->caller.has_ended) {
                    links_[i]->caller.end();
                }
            }
        }
    }
    stop_killing();
    EXPECT_EQ(kills_, kKills);
    take_until([&] {
        return std::ranges::all_of(links_, [](const auto& link) {
            return link->caller.got == link->called.sent && link->called.got == link->caller.sent &&
                   link->called.peer_has_ended == link->caller.has_ended;
        });
    });
    for (const auto& link : links_) {
        EXPECT_GT(link->caller.sent, 0U);
        EXPECT_GT(link->called.sent, 0U);
    }
}

/// More messages than the socket between the devices has room for, and a reader that comes late.
TEST_P(VsockSiblingKills, MessagesOfAGuestThatHasGoneArriveWhole) {
    ASSERT_NO_FATAL_FAILURE(start());
    constexpr uint32_t kMessages = 4000;
    constexpr uint32_t kBytes = 60;
    guests_[1]->credit = 10 * kBytes;
    Link& link = open(VIRTIO_VSOCK_TYPE_SEQPACKET, 11);
    for (uint32_t i = 0; i < kMessages; ++i) {
        ASSERT_NO_FATAL_FAILURE(link.caller.put_data(kBytes));
    }
    ASSERT_EQ(link.caller.sent, kMessages * kBytes);
    link.caller.has_ended = true;
    link.caller.has_left = true;
    link.caller.put(VIRTIO_VSOCK_OP_SHUTDOWN,
                    VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
    link.caller.put(VIRTIO_VSOCK_OP_RST);
    ASSERT_NO_FATAL_FAILURE(kill_next());
    guests_[1]->credit = 256 * 1024;
    link.called.put(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    const uint64_t half = link.caller.sent / 2;
    ASSERT_NO_FATAL_FAILURE(take_until([&] { return link.called.got >= half; }));
    ASSERT_NO_FATAL_FAILURE(kill_next());
    while (link.called.got < link.caller.sent) {
        const auto packet = link.called.guest->receive_event();
        ASSERT_TRUE(packet) << link.called.got << "\n" << daemon().complained();
        ASSERT_NO_FATAL_FAILURE(link.called.take(*packet, link.caller));
    }
    EXPECT_EQ(link.called.messages_got, kMessages);
}

TEST_P(VsockSiblingKills, EachHalfOfAConnectionWithTheHostIsClosedOnce) {
    ASSERT_NO_FATAL_FAILURE(start());
    VsockGuest& guest = *guests_[0];
    const HostSocket listener = HostSocket::listen_at(path("v7_5"), SOCK_STREAM);
    const std::string answer = bytes_of(9, 0, 100'000);
    for (uint32_t port = 1000; port < 1006; ++port) {
        guest.forwarded = 0;
        ASSERT_TRUE(guest.send_op(VIRTIO_VSOCK_OP_REQUEST, port, 5));
        ASSERT_EQ(guest.receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
        const HostSocket host = listener.accept();
        ASSERT_TRUE(host.valid());
        ASSERT_TRUE(guest.send_data(port, 5, "request"));
        ASSERT_TRUE(guest.send_op(VIRTIO_VSOCK_OP_SHUTDOWN,
                                  port,
                                  5,
                                  VIRTIO_VSOCK_TYPE_STREAM,
                                  VIRTIO_VSOCK_SHUTDOWN_SEND));
        ASSERT_NO_FATAL_FAILURE(kill_next());
        EXPECT_EQ(host.receive(100), "request");
        host.send(answer);
        host.shut_down(SHUT_WR);
        ASSERT_NO_FATAL_FAILURE(kill_next());
        std::string got;
        std::optional<VsockPacket> packet;
        while ((packet = guest.receive_event()) && packet->op() == VIRTIO_VSOCK_OP_RW) {
            got += packet->payload;
        }
        EXPECT_TRUE(got == answer) << got.size();
        ASSERT_TRUE(packet);
        EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_SHUTDOWN);
        EXPECT_EQ(packet->header.dst_port, port);
        ASSERT_TRUE(guest.send_op(VIRTIO_VSOCK_OP_RST, port, 5));
    }
}

}  // namespace
}  // namespace outrigger::testing
