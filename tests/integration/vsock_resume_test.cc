// SPDX-License-Identifier: Apache-2.0
// A guest that goes on where it was: behind a migration, whose other end had its connections, and
// behind a pause.
#include <array>
#include <chrono>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "devices/vsock/vsock_state.h"
#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {
namespace {

constexpr uint32_t kOldPort = 33;
constexpr uint32_t kOldHostPort = 44;
/// Longer than packets of new connections wait where the event queue does not start.
constexpr auto kLongerThanTheGrace = std::chrono::milliseconds(250);

class VsockResumeTest : public VsockTest {
  protected:
    /// The device has the state of another one, whose guest had a connection.
    void serve_loaded(VsockGuestOptions options) {
        serve_loaded(options, {{.peer_port = kOldHostPort, .guest_port = kOldPort}});
    }

    void serve_loaded(VsockGuestOptions options, const std::vector<ConnectionKey>& connections) {
        device_ = make_device(options_);
        ASSERT_TRUE(device_->load_state(state_with(connections)));
        host_ = std::make_unique<testing::SessionHost>(*device_, testing::SessionHostOptions{});
        start_guest(options);
    }

    [[nodiscard]] static std::vector<StateSection> state_with(
        const std::vector<ConnectionKey>& connections) {
        return write_vsock_state(
            {.guest_cid = 7, .next_port = 0x4000'0000, .connections = connections});
    }

    /// So many, from port 0 of the guest on.
    [[nodiscard]] static std::vector<ConnectionKey> connections_of(uint32_t count) {
        std::vector<ConnectionKey> connections;
        for (uint32_t port = 0; port < count; ++port) {
            connections.push_back({.peer_port = kOldHostPort, .guest_port = port});
        }
        return connections;
    }

    /// Packets of the old connection and of a new call of the host; the ports that were called.
    struct News {
        bool old_was_reset = false;
        bool new_was_asked = false;
    };

    News take_news() {
        News news;
        while (!news.old_was_reset || !news.new_was_asked) {
            const auto packet = guest().receive_event();
            if (!packet) {
                break;
            }
            news.old_was_reset |=
                packet->op() == VIRTIO_VSOCK_OP_RST && packet->header.dst_port == kOldPort;
            news.new_was_asked |= packet->op() == VIRTIO_VSOCK_OP_REQUEST;
        }
        return news;
    }
};

TEST_P(VsockResumeTest, TransportResetComesBeforeAnythingNewWhereTheFrontEndPassesTheEventQueue) {
    options_.event_timeout = std::chrono::hours(1);
    serve_loaded({.queue_count = 3});
    const HostSocket host = HostSocket::connect_to(base(), SOCK_STREAM);
    host.send("CONNECT 5\n");
    const auto reset = guest().receive_event();
    ASSERT_TRUE(reset);
    EXPECT_EQ(reset->op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(reset->header.dst_port, kOldPort);
    // The driver has no buffer for the event yet, so it hears nothing new, however long that takes.
    std::this_thread::sleep_for(kLongerThanTheGrace);
    EXPECT_FALSE(guest().receive_now());
    EXPECT_EQ(counters().transport_resets.value(), 0U);

    const driver::Segment event{.address = guest().memory().allocate(64, 16).value(),
                                .length = sizeof(virtio_vsock_event),
                                .device_writable = true};
    const auto told =
        guest().queue(2).transact(std::span(&event, 1), driver::after(testing::kPatience));
    ASSERT_TRUE(told);
    EXPECT_EQ(told->length, sizeof(virtio_vsock_event));
    std::array<std::byte, sizeof(virtio_vsock_event)> bytes{};
    guest().memory().read(event.address, bytes);
    EXPECT_EQ(bytes, (std::array<std::byte, sizeof(virtio_vsock_event)>{}));  // TRANSPORT_RESET
    EXPECT_EQ(counters().transport_resets.value(), 1U);
    // The driver may look at its packets before it has ended all connections.
    std::this_thread::sleep_for(kLongerThanTheGrace);
    EXPECT_FALSE(guest().receive_now());
    // Once: the next buffer, which says that it has, stays with the device.
    ASSERT_TRUE(guest().queue(2).try_add(std::span(&event, 1), 0));
    (void)guest().queue(2).publish_and_kick();
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_REQUEST);
    EXPECT_EQ(counters().transport_resets.value(), 1U);
}

TEST_P(VsockResumeTest, DriverWithoutEventBuffersHearsOfNewConnectionsAllTheSame) {
    serve_loaded({.queue_count = 3});
    const HostSocket host = HostSocket::connect_to(base(), SOCK_STREAM);
    host.send("CONNECT 5\n");
    const News news = take_news();
    EXPECT_TRUE(news.old_was_reset);
    EXPECT_TRUE(news.new_was_asked);
    EXPECT_EQ(counters().transport_resets.value(), 0U);
}

TEST_P(VsockResumeTest, EachConnectionIsResetWhereTheFrontEndKeepsTheEventQueue) {
    serve_loaded({.queue_count = 2});
    const HostSocket host = HostSocket::connect_to(base(), SOCK_STREAM);
    host.send("CONNECT 5\n");
    const News news = take_news();
    EXPECT_TRUE(news.old_was_reset);
    EXPECT_TRUE(news.new_was_asked);
    EXPECT_EQ(counters().transport_resets.value(), 0U);
}

TEST_P(VsockResumeTest, ConnectionsBeyondTheLimitHereAreResetToo) {
    options_.connections_max = 2;
    constexpr uint32_t kThere = 40;
    serve_loaded({.queue_count = 2}, connections_of(kThere));
    std::set<uint32_t> told;
    while (told.size() < kThere) {
        const auto packet = guest().receive_event();
        ASSERT_TRUE(packet) << told.size();
        EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_RST);
        EXPECT_EQ(packet->header.src_port, kOldHostPort);
        told.insert(packet->header.dst_port);
    }
    EXPECT_EQ(*told.rbegin(), kThere - 1);
    expect_clean();
}

TEST_P(VsockResumeTest, StateWithMoreThanTheGuestCanBeToldIsRefused) {
    options_.connections_max = 2;
    constexpr uint32_t kTold = 2 + 4096;
    device_ = make_device(options_);
    EXPECT_TRUE(device_->load_state(state_with(connections_of(kTold))));
    EXPECT_FALSE(device_->load_state(state_with(connections_of(kTold + 1))));
}

TEST_P(VsockResumeTest, NothingIsResetWhereNothingWasLoaded) {
    serve({.queue_count = 3});
    const driver::Segment event{.address = guest().memory().allocate(64, 16).value(),
                                .length = sizeof(virtio_vsock_event),
                                .device_writable = true};
    ASSERT_TRUE(guest().queue(2).try_add(std::span(&event, 1), 0));
    (void)guest().queue(2).publish_and_kick();
    expect_echo(open_from_guest());
    EXPECT_FALSE(guest().queue(2).poll_used());
    EXPECT_EQ(counters().transport_resets.value(), 0U);
}

/// The event queue stands at its beginning as long as there was no event.
TEST_P(VsockResumeTest, PauseAfterWhichTheEventQueueStartsFirstEndsNothing) {
    serve();
    const HostSocket host = open_from_guest();
    for (const uint16_t i : std::array<uint16_t, 3>{0, 1, 2}) {
        ASSERT_TRUE(guest().queue(i).stop(guest().frontend()));
    }
    for (const uint16_t i : std::array<uint16_t, 3>{2, 0, 1}) {
        start_again(i, guest().queue(i).start_base());
    }
    EXPECT_FALSE(host.has_news());
    expect_echo(host);
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockResumeTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

/// Positions of a packed ring come round soon, those of a split one behind 65 536 buffers.
class VsockPackedResumeTest : public VsockResumeTest {};

TEST_P(VsockPackedResumeTest, RingThatStandsAtItsBeginningAgainIsNoNewDrivers) {
    serve();
    const HostSocket host = open_from_guest();
    const uint32_t fresh = 0x8000'8000;
    for (int i = 0; guest().queue(0).start_base() != fresh; ++i) {
        ASSERT_LT(i, 10'000);
        ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_CREDIT_REQUEST, kGuestPort, kHostPort));
        ASSERT_TRUE(guest().receive());
    }
    for (uint16_t i = 0; i < 3; ++i) {
        ASSERT_TRUE(guest().queue(i).stop(guest().frontend()));
    }
    for (uint16_t i = 0; i < 3; ++i) {
        start_again(i, guest().queue(i).start_base());
    }
    EXPECT_FALSE(host.has_news());
    expect_echo(host);
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockPackedResumeTest, ::testing::Values(true), [](const auto&) {
    return "Packed";
});

}  // namespace
}  // namespace outrigger::vsock
