// SPDX-License-Identifier: Apache-2.0
// A port on queues of the kernel's own, without a guest: whose turn it is, and what becomes of a
// frame that waits for a queue which goes.
#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "devices/net/tap_port.h"
#include "tests/integration/net_tap_daemon.h"
#include "tests/support/session_host.h"

namespace outrigger::testing {
namespace {

constexpr uint16_t kPairs = 2;

class ToldOf final : public net::PortEvents {
  public:
    void on_frames() override { ++frames; }

    void on_room() override { ++room; }

    int frames = 0;
    int room = 0;
};

class NetTapPortTest : public NetTapDaemonTest {
  protected:
    ~NetTapPortTest() override {
        if (port_ != nullptr) {
            port_->detach();
        }
    }

    void open_port() {
        net::Tap tap = net::open_tap(kTap, kPairs).value();
        ASSERT_EQ(tap.others.size() + 1, kPairs);
        second_ = tap.others.front().get();
        port_ = net::TapPort::create(std::move(tap)).value();
        configure();
        loop_ = create_event_loop(loop_under_test()).value();
        port_->attach(*loop_, told_);
    }

    static uint16_t port_of(uint16_t pair) { return static_cast<uint16_t>(kGuestPort + pair); }

    /// On that pair. True: it was taken.
    [[nodiscard]] bool send(uint16_t pair, const std::string& text) {
        FrameOptions options{
            .udp = true, .source_port = port_of(pair), .destination_port = kHostPort};
        options.source = std::string("\x0a\x09\0\x02", 4);
        options.destination = std::string("\x0a\x09\0\x01", 4);
        options.to_mac = host_mac_;
        std::string bytes = make_frame(text, options);
        const iovec piece{.iov_base = bytes.data(), .iov_len = bytes.size()};
        const net::Frame frame{
            .pieces = std::span(&piece, 1), .bytes = bytes.size(), .from_pair = pair};
        return port_->send(std::span(&frame, 1)) == 1;
    }

    [[nodiscard]] std::string receive_at_host() const {
        pollfd entry{.fd = host_.get(), .events = POLLIN, .revents = 0};
        EXPECT_EQ(::poll(&entry, 1, 20'000), 1);
        std::array<char, 256> bytes{};
        const ssize_t count = ::recv(host_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        return {bytes.data(), count > 0 ? static_cast<size_t>(count) : 0};
    }

    /// What came next, and on which queue.
    std::optional<std::pair<uint16_t, std::string>> take() {
        const auto frame = port_->next_frame();
        if (!frame) {
            return std::nullopt;
        }
        std::string bytes(frame->bytes, '\0');
        EXPECT_EQ(net::copy_front(*frame, std::as_writable_bytes(std::span(bytes))), bytes.size());
        const uint16_t pair = frame->to_pair;
        port_->drop_frame();
        return std::pair(pair, std::move(bytes));
    }

    int second_ = -1;  // of the port's queues
    std::unique_ptr<EventLoop> loop_;
    ToldOf told_;
    std::unique_ptr<net::TapPort> port_;
};

TEST_F(NetTapPortTest, QueuesThatAreFullTakeTurns) {
    constexpr size_t kFrames = 100;
    constexpr size_t kFramesInTurn = 16;
    open_port();
    const auto text_of = [](uint16_t pair, size_t number) {
        return "to pair " + std::to_string(pair) + ": " + std::to_string(number);
    };
    // A flow comes where it was sent last.
    for (uint16_t pair = 0; pair < kPairs; ++pair) {
        ASSERT_TRUE(send(pair, "from the guest"));
        ASSERT_EQ(receive_at_host(), "from the guest");
    }
    for (size_t i = 0; i < kFrames; ++i) {
        for (uint16_t pair = 0; pair < kPairs; ++pair) {
            send_from_host(text_of(pair, i), port_of(pair));
        }
    }
    std::array<size_t, kPairs> taken{};
    uint16_t turn = net::kNoPair;
    size_t frames_in_turn = 0;
    size_t turns = 0;
    while (taken[0] < kFrames && taken[1] < kFrames) {
        const auto frame = take();
        ASSERT_TRUE(frame) << taken[0] << " and " << taken[1];
        const auto& [pair, bytes] = *frame;
        ASSERT_LT(pair, kPairs);
        turns += pair != turn ? 1U : 0U;
        frames_in_turn = pair == turn ? frames_in_turn + 1 : 1;
        turn = pair;
        EXPECT_LE(frames_in_turn, kFramesInTurn);
        // The kernel has more to say on a new link.
        taken[pair] += is_datagram({.bytes = bytes}, text_of(pair, taken[pair])) ? 1U : 0U;
    }
    EXPECT_GE(turns, 2 * kFrames / kFramesInTurn);
    // The rest of the other's, in its order, too.
    while (const auto frame = take()) {
        const auto& [pair, bytes] = *frame;
        taken[pair] += is_datagram({.bytes = bytes}, text_of(pair, taken[pair])) ? 1U : 0U;
    }
    EXPECT_EQ(taken, (std::array<size_t, kPairs>{kFrames, kFrames}));
}

TEST_F(NetTapPortTest, FrameThatWaitsForAQueueThatIsGivenUpGoesOnTheFirst) {
    open_port();
    // Stands for the queue while it has no room, which a tap's has for moments only.
    const UniqueFd queue(::fcntl(second_, F_DUPFD_CLOEXEC, 0));
    int ends[2] = {-1, -1};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    const UniqueFd nobody(ends[0]);
    ASSERT_EQ(::dup3(ends[1], second_, O_CLOEXEC), second_);
    ::close(ends[1]);
    for (int i = 0; i < 100'000 && send(1, "waits"); ++i) {
    }
    ASSERT_EQ(port_->counters().send_waits.value(), 1U);
    ASSERT_EQ(::dup3(queue.get(), second_, O_CLOEXEC), second_);
    (void)loop_->run_once(EventLoop::Clock::now() + std::chrono::milliseconds(10));
    EXPECT_EQ(told_.room, 0);
    port_->use_pair(1, false);
    ASSERT_FALSE(net::is_tap_queue_used(second_));
    for (int turn = 0; turn < 5 && told_.room == 0; ++turn) {
        (void)loop_->run_once(EventLoop::Clock::now() + std::chrono::seconds(1));
    }
    EXPECT_EQ(told_.room, 1);
    EXPECT_TRUE(send(1, "waits"));
    EXPECT_EQ(receive_at_host(), "waits");
    // And back, when the pair is used again.
    port_->use_pair(1, true);
    ASSERT_TRUE(net::is_tap_queue_used(second_));
    EXPECT_TRUE(send(1, "on its own"));
    EXPECT_EQ(receive_at_host(), "on its own");
    EXPECT_EQ(port_->counters().dropped.total(), 0U);
}

}  // namespace
}  // namespace outrigger::testing
