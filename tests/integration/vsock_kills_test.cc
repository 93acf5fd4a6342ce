// SPDX-License-Identifier: Apache-2.0
// outrigger-vsock under its keeper, killed again and again while streams and messages whose bytes
// are all known go both ways over several connections: none is lost, no byte is lost, doubled or
// wrong, and neither the front end nor the programs of the host notice.
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <poll.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include "tests/integration/vsock_kept.h"
#include "tests/support/vsock_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kKills = 60;
constexpr size_t kTransmitBuffers = 24;
constexpr uint32_t kTransmitBytes = 12 * 1024;
constexpr uint32_t kMessageBytesMax = 20'000;
/// What the host's side has not sent may be so much more than what the guest has got.
constexpr uint32_t kPayloadMax = kTransmitBytes - sizeof(virtio_vsock_hdr);

/// Byte `at` of what one side of one connection sends.
char byte_of(uint32_t seed, uint64_t at) {
    uint64_t mixed = (at + 1) * 0x9e37'79b9'7f4a'7c15 + seed * 0x2545'f491'4f6c'dd1d;
    mixed ^= mixed >> 29;
    return static_cast<char>(mixed * 0xbf58'476d'1ce4'e5b9 >> 56);
}

std::string bytes_of(uint32_t seed, uint64_t at, size_t count) {
    std::string bytes(count, '\0');
    for (size_t i = 0; i < count; ++i) {
        bytes[i] = byte_of(seed, at + i);
    }
    return bytes;
}

/// Bytes of message `number`, which may be none.
uint32_t message_bytes(uint32_t seed, uint64_t number) {
    const auto high = static_cast<uint8_t>(byte_of(seed ^ 77, 2 * number));
    const auto low = static_cast<uint8_t>(byte_of(seed ^ 77, 2 * number + 1));
    return high < 24 ? 0 : (high * 256U + low) % kMessageBytesMax;
}

/// One direction of one connection, as its receiver sees it.
class Expected {
  public:
    explicit Expected(uint32_t seed) : seed_(seed) {}

    /// The next bytes of a stream.
    [[nodiscard]] bool take(std::string_view bytes) {
        const bool right = bytes == bytes_of(seed_, at_, bytes.size());
        at_ += bytes.size();
        return right;
    }

    /// The next message.
    [[nodiscard]] bool take_message(std::string_view bytes) {
        const bool right = bytes.size() == message_bytes(seed_, messages_);
        ++messages_;
        return take(bytes) && right;
    }

    [[nodiscard]] uint64_t at() const { return at_; }

    [[nodiscard]] uint64_t messages() const { return messages_; }

  private:
    uint32_t seed_;
    uint64_t at_ = 0;
    uint64_t messages_ = 0;
};

struct Link {
    uint16_t type = VIRTIO_VSOCK_TYPE_STREAM;
    uint32_t guest_port = 0;
    uint32_t host_port = 0;
    uint32_t to_host_seed = 0;
    uint32_t to_guest_seed = 0;
    HostSocket host{UniqueFd()};

    // The guest's side, of the test's thread.
    uint32_t peer_buffer = 0;
    uint32_t peer_forwarded = 0;
    uint32_t sent = 0;
    uint32_t forwarded = 0;
    uint32_t told = 0;
    bool asked = false;
    uint64_t sent_at = 0;
    uint64_t messages_sent = 0;
    uint32_t message_left = 0;
    bool in_message = false;
    Expected from_host{0};
    std::string part{};

    // The host's side, of its thread.
    Expected from_guest{0};
    uint64_t host_at = 0;
    uint64_t host_messages = 0;
    // What that thread has come to.
    std::atomic<uint64_t> host_sent = 0;
    std::atomic<uint64_t> host_got = 0;

    [[nodiscard]] bool is_stream() const { return type == VIRTIO_VSOCK_TYPE_STREAM; }

    [[nodiscard]] uint32_t credit() const {
        const uint32_t used = sent - peer_forwarded;
        return peer_buffer > used ? peer_buffer - used : 0;
    }
};

class VsockKills : public VsockKeptTest {
  protected:
    ~VsockKills() override {
        stop_host();
        guest_.reset();
    }

    void start() {
        ASSERT_NO_FATAL_FAILURE(start_daemon(
            {"--socket-path=" + path("s"), "--guest-cid=7", "--uds-path=" + path("v")}));
        ASSERT_TRUE(daemon().wait_complained("listening"));
        guest_ = std::make_unique<VsockGuest>(
            driver::Frontend::connect(path("s"), driver::after(kPatience)).value(),
            VsockGuestOptions{.packed = GetParam(), .receive_buffers = 64});
        ASSERT_TRUE(guest_->is_up());
        for (size_t i = 0; i < kTransmitBuffers; ++i) {
            buffers_.push_back(guest_->memory().allocate(kTransmitBytes, 16).value());
            free_.push_back(i);
        }
    }

    Link& add_link(uint16_t type) {
        Link& link = *links_.emplace_back(std::make_unique<Link>());
        const auto number = static_cast<uint32_t>(links_.size());
        link.type = type;
        link.to_host_seed = 2 * number;
        link.to_guest_seed = 2 * number + 1;
        link.from_host = Expected(link.to_guest_seed);
        link.from_guest = Expected(link.to_host_seed);
        return link;
    }

    void open_from_guest(uint16_t type) {
        Link& link = add_link(type);
        link.guest_port = 100 + static_cast<uint32_t>(links_.size());
        link.host_port = 5000 + static_cast<uint32_t>(links_.size());
        const HostSocket listener =
            HostSocket::listen_at(path("v_" + std::to_string(link.host_port)), kind_of(type));
        ASSERT_TRUE(
            guest_->send_op(VIRTIO_VSOCK_OP_REQUEST, link.guest_port, link.host_port, type));
        const auto response = guest_->receive_event();
        ASSERT_TRUE(response && response->op() == VIRTIO_VSOCK_OP_RESPONSE);
        note_credit(link, response->header);
        link.host = listener.accept();
        ASSERT_TRUE(link.host.valid());
    }

    void open_from_host(uint16_t type) {
        Link& link = add_link(type);
        link.guest_port = 100 + static_cast<uint32_t>(links_.size());
        link.host = HostSocket::connect_to(
            path(type == VIRTIO_VSOCK_TYPE_STREAM ? "v" : "v_seqpacket"), kind_of(type));
        link.host.send("CONNECT " + std::to_string(link.guest_port) + "\n");
        const auto request = guest_->receive_event();
        ASSERT_TRUE(request && request->op() == VIRTIO_VSOCK_OP_REQUEST);
        link.host_port = request->header.src_port;
        note_credit(link, request->header);
        ASSERT_TRUE(
            guest_->send_op(VIRTIO_VSOCK_OP_RESPONSE, link.guest_port, link.host_port, type));
        const std::string line = "OK " + std::to_string(link.host_port) + "\n";
        ASSERT_EQ(link.host.receive(line.size()), line);
    }

    static int kind_of(uint16_t type) {
        return type == VIRTIO_VSOCK_TYPE_STREAM ? SOCK_STREAM : SOCK_SEQPACKET;
    }

    static void note_credit(Link& link, const virtio_vsock_hdr& header) {
        link.peer_buffer = header.buf_alloc;
        link.peer_forwarded = header.fwd_cnt;
    }

    // --- The guest ------------------------------------------------------------------------------

    void put_packet(Link& link, uint16_t op, std::string_view payload = {}, uint32_t flags = 0) {
        virtio_vsock_hdr header = guest_->header(op, link.guest_port, link.host_port);
        header.type = link.type;
        header.fwd_cnt = link.forwarded;
        header.flags = flags;
        header.len = static_cast<uint32_t>(payload.size());
        link.told = link.forwarded;
        std::string bytes(sizeof header, '\0');
        std::memcpy(bytes.data(), &header, sizeof header);
        bytes += payload;
        const size_t buffer = free_.front();
        free_.pop_front();
        guest_->memory().write(buffers_[buffer], std::as_bytes(std::span(bytes)));
        const driver::Segment segment{.address = buffers_[buffer],
                                      .length = static_cast<uint32_t>(bytes.size())};
        ASSERT_TRUE(guest_->queue(1).try_add(std::span(&segment, 1), buffer));
    }

    void put_data(Link& link) {
        uint32_t room = std::min(kPayloadMax, link.credit());
        if (!link.is_stream() && !link.in_message) {
            link.message_left = message_bytes(link.to_host_seed, link.messages_sent);
            link.in_message = true;
        }
        if (room == 0 && (link.is_stream() || link.message_left > 0)) {
            return;
        }
        uint32_t count =
            std::min(room, random_(generator_) % 4 == 0 ? room : 1 + random_(generator_) % 3000);
        uint32_t flags = 0;
        if (!link.is_stream()) {
            count = std::min(count, link.message_left);
            link.message_left -= count;
            if (link.message_left == 0) {
                flags = VIRTIO_VSOCK_SEQ_EOM;
                link.in_message = false;
                ++link.messages_sent;
            }
        }
        put_packet(
            link, VIRTIO_VSOCK_OP_RW, bytes_of(link.to_host_seed, link.sent_at, count), flags);
        link.sent += count;
        link.sent_at += count;
    }

    void take_packet(const VsockPacket& packet) {
        const auto found = std::ranges::find_if(links_, [&](const auto& link) {
            return link->guest_port == packet.header.dst_port &&
                   link->host_port == packet.header.src_port && link->type == packet.header.type;
        });
        ASSERT_NE(found, links_.end()) << "op " << packet.op();
        Link& link = **found;
        note_credit(link, packet.header);
        switch (packet.op()) {
            case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
                return;
            case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
                link.asked = true;
                return;
            case VIRTIO_VSOCK_OP_RW:
                break;
            default:
                FAIL() << "op " << packet.op() << " on port " << link.guest_port;
        }
        link.forwarded += packet.header.len;
        if (link.is_stream()) {
            ASSERT_TRUE(link.from_host.take(packet.payload))
                << "port " << link.guest_port << " at " << link.from_host.at();
            return;
        }
        link.part += packet.payload;
        if ((packet.header.flags & VIRTIO_VSOCK_SEQ_EOM) != 0) {
            ASSERT_TRUE(link.from_host.take_message(link.part))
                << "port " << link.guest_port << " message " << link.from_host.messages();
            link.part.clear();
        }
    }

    /// A turn of the guest; true when anything happened.
    bool work(bool sends) {
        bool happened = false;
        while (const auto packet = guest_->receive_now()) {
            take_packet(*packet);
            happened = true;
            if (HasFatalFailure()) {
                return false;
            }
        }
        while (const auto used = guest_->queue(1).poll_used()) {
            free_.push_back(used->token);
            happened = true;
        }
        for (const auto& link : links_) {
            const bool tells = link->asked || link->forwarded - link->told > guest_->credit / 2;
            if (tells && !free_.empty()) {
                link->asked = false;
                put_packet(*link, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
            }
        }
        if (sends) {
            // Some of them several times in a row: these go to the socket together.
            Link& link = *links_[random_(generator_) % links_.size()];
            for (uint32_t i = 1 + random_(generator_) % 6; i > 0 && free_.size() > 2; --i) {
                put_data(link);
            }
        }
        for (const auto& link : links_) {
            // A message that was begun is ended.
            while (!sends && link->in_message && !free_.empty() &&
                   (link->credit() > 0 || link->message_left == 0)) {
                put_data(*link);
            }
        }
        (void)guest_->queue(1).publish_and_kick();
        if (!happened) {
            (void)guest_->queue(0).wait_used(driver::after(std::chrono::milliseconds(2)));
        }
        return happened;
    }

    // --- The host
    // ---------------------------------------------------------------------------------

    void start_host() {
        host_ = std::thread([this] { run_host(); });
    }

    void stop_host() {
        if (host_.joinable()) {
            host_ends_ = true;
            host_.join();
        }
    }

    void run_host() {
        std::minstd_rand random(4);
        while (!host_ends_) {
            bool happened = false;
            for (const auto& link : links_) {
                happened = read_host(*link) || happened;
                if (!host_is_done_) {
                    happened = write_host(*link, random) || happened;
                }
            }
            if (!happened) {
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
        }
    }

    bool read_host(Link& link) {
        std::array<char, kMessageBytesMax> bytes{};
        const ssize_t count = ::recv(link.host.fd(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        if (count < 0 && errno == EAGAIN) {
            return false;
        }
        const auto got =
            std::string_view(bytes.data(), static_cast<size_t>(std::max<ssize_t>(count, 0)));
        const bool right = link.is_stream() ? count > 0 && link.from_guest.take(got)
                                            : count >= 0 && link.from_guest.take_message(got);
        if (!right && !host_is_wrong_.exchange(true)) {
            ADD_FAILURE() << "the host's program of port " << link.host_port << " got " << count
                          << " bytes that are not it, at " << link.from_guest.at();
            host_ends_ = true;
        }
        link.host_got = link.from_guest.at();
        return true;
    }

    static bool write_host(Link& link, std::minstd_rand& random) {
        const auto size = static_cast<uint32_t>(random());
        const std::string bytes =
            link.is_stream()
                ? bytes_of(
                      link.to_guest_seed, link.host_at, size % 8 == 0 ? 60'000 : 1 + size % 5000)
                : bytes_of(link.to_guest_seed,
                           link.host_at,
                           message_bytes(link.to_guest_seed, link.host_messages));
        const ssize_t count =
            ::send(link.host.fd(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count < 0) {
            return false;
        }
        link.host_at += static_cast<uint64_t>(count);
        ++link.host_messages;
        link.host_sent = link.host_at;
        return true;
    }

    [[nodiscard]] bool all_arrived() const {
        return std::ranges::all_of(links_, [](const auto& link) {
            return link->host_got == link->sent_at && link->from_host.at() == link->host_sent &&
                   link->part.empty() && !link->in_message;
        });
    }

    std::unique_ptr<VsockGuest> guest_;
    std::vector<std::unique_ptr<Link>> links_;
    std::vector<GuestAddr> buffers_;
    std::deque<size_t> free_;
    std::minstd_rand generator_{3};
    std::uniform_int_distribution<uint32_t> random_;
    std::thread host_;
    std::atomic<bool> host_ends_ = false;
    std::atomic<bool> host_is_done_ = false;
    std::atomic<bool> host_is_wrong_ = false;
};

INSTANTIATE_TEST_SUITE_P(Rings, VsockKills, ::testing::Bool(), [](const auto& parameter) {
    return parameter.param ? "Packed" : "Split";
});

TEST_P(VsockKills, NoConnectionIsLostAndNoByteIsWrong) {
    ASSERT_NO_FATAL_FAILURE(start());
    for (int i = 0; i < 3; ++i) {
        ASSERT_NO_FATAL_FAILURE(open_from_guest(VIRTIO_VSOCK_TYPE_STREAM));
        ASSERT_NO_FATAL_FAILURE(open_from_host(VIRTIO_VSOCK_TYPE_STREAM));
    }
    ASSERT_NO_FATAL_FAILURE(open_from_guest(VIRTIO_VSOCK_TYPE_SEQPACKET));
    ASSERT_NO_FATAL_FAILURE(open_from_host(VIRTIO_VSOCK_TYPE_SEQPACKET));
    start_host();

    int kills = 0;
    Clock::time_point kill_at = Clock::now();
    bool has_moved = true;
    const auto limit = Clock::now() + 8 * kPatience;
    while (kills < kKills && Clock::now() < limit && !host_is_wrong_) {
        has_moved = work(true) || has_moved;
        ASSERT_FALSE(HasFatalFailure());
        if (has_moved && Clock::now() >= kill_at && kill_another()) {
            ++kills;
            has_moved = false;
            kill_at = Clock::now() + std::chrono::milliseconds(random_(generator_) % 50);
        }
    }
    EXPECT_EQ(kills, kKills) << daemon().complained();

    host_is_done_ = true;
    const auto patience = Clock::now() + kPatience;
    while (!all_arrived() && Clock::now() < patience && !host_is_wrong_) {
        (void)work(false);
        ASSERT_FALSE(HasFatalFailure());
    }
    uint64_t to_host = 0;
    uint64_t to_guest = 0;
    for (const auto& link : links_) {
        EXPECT_EQ(link->host_got, link->sent_at) << "port " << link->guest_port;
        EXPECT_EQ(link->from_host.at(), link->host_sent) << "port " << link->guest_port;
        EXPECT_GT(link->host_got, 0U);
        EXPECT_GT(link->host_sent, 0U);
        to_host += link->host_got;
        to_guest += link->host_sent;
    }
    std::printf("%d kills, %.1f MiB to the host, %.1f MiB to the guest\n",
                kills,
                static_cast<double>(to_host) / (1 << 20),
                static_cast<double>(to_guest) / (1 << 20));
    stop_host();
    // Each can be closed as ever.
    for (const auto& link : links_) {
        link->host.shut_down(SHUT_WR);
        const auto told = guest_->receive_event();
        ASSERT_TRUE(told);
        EXPECT_EQ(told->op(), VIRTIO_VSOCK_OP_SHUTDOWN);
    }
    if (HasFailure()) {
        std::printf("%s\n", daemon().complained().c_str());
    }
}

}  // namespace
}  // namespace outrigger::testing
