// SPDX-License-Identifier: Apache-2.0
// Taps: a pair of sockets that keep messages apart stands for the kernel's end, so that the test
// can give it any frame behind any header. The kernel itself is in net_daemon_test.cc.
#include <chrono>
#include <cstring>
#include <memory>
#include <string>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net/tap_port.h"
#include "tests/integration/net_traps.h"

namespace outrigger::net {
namespace {

virtio_net_hdr_v1 header_with(uint8_t flags, uint8_t gso_type = 0, uint16_t csum_start = 0) {
    virtio_net_hdr_v1 header{};
    header.flags = flags;
    header.gso_type = gso_type;
    header.csum_start = csum_start;
    return header;
}

constexpr uint64_t kNoOffloads =
    ~(uint64_t{1} << VIRTIO_NET_F_GUEST_CSUM | uint64_t{1} << VIRTIO_NET_F_GUEST_TSO4 |
      uint64_t{1} << VIRTIO_NET_F_GUEST_TSO6);

class NetTapTest : public ::testing::TestWithParam<bool> {
  protected:
    ~NetTapTest() override {
        guest_.reset();
        host_.reset();
        device_.reset();
    }

    void serve(const NetGuestOptions& guest = {}, bool has_header = true, bool cuts = true) {
        int ends[2] = {-1, -1};
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
        kernel_ = UniqueFd(ends[0]);
        const int bytes = 1 << 20;
        ASSERT_EQ(::setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes), 0);
        ASSERT_EQ(::setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes), 0);
        Tap tap{.fd = UniqueFd(ends[1]),
                .name = "played",
                .has_header = has_header,
                .cuts_datagrams = cuts};
        device_ = std::make_unique<NetDevice>(NetOptions{.mtu = 65535},
                                              TapPort::create(std::move(tap)).value());
        host_ = std::make_unique<testing::SessionHost>(*device_, testing::SessionHostOptions{});
        NetGuestOptions options = guest;
        options.packed = GetParam();
        options.receive_bytes = 4096;
        guest_ = std::make_unique<NetGuest>(host_->connect(), options);
        ASSERT_TRUE(guest_->is_up());
    }

    void give_raw(const std::string& bytes) const {
        EXPECT_EQ(::send(kernel_.get(), bytes.data(), bytes.size(), MSG_EOR),
                  static_cast<ssize_t>(bytes.size()));
    }

    void give(const std::string& frame, const virtio_net_hdr_v1& header = {}) const {
        std::string bytes(sizeof header, '\0');
        std::memcpy(bytes.data(), &header, sizeof header);
        give_raw(bytes + frame);
    }

    [[nodiscard]] std::string take_raw() const {
        pollfd entry{.fd = kernel_.get(), .events = POLLIN, .revents = 0};
        EXPECT_EQ(::poll(&entry, 1, 20'000), 1);
        std::string bytes(100'000, '\0');
        const ssize_t count = ::recv(kernel_.get(), bytes.data(), bytes.size(), 0);
        bytes.resize(count > 0 ? static_cast<size_t>(count) : 0);
        return bytes;
    }

    /// What the kernel would read: a header, and the frame behind it.
    [[nodiscard]] std::string take(virtio_net_hdr_v1& header) const {
        std::string bytes = take_raw();
        if (bytes.size() < sizeof header) {
            ADD_FAILURE() << "no header";
            return {};
        }
        std::memcpy(&header, bytes.data(), sizeof header);
        return bytes.substr(sizeof header);
    }

    void expect_traffic() {
        virtio_net_hdr_v1 header{};
        ASSERT_TRUE(guest().send(make_frame("ping")));
        EXPECT_EQ(take(header), make_frame("ping"));
        give(make_frame("pong"));
        const auto received = guest().receive();
        ASSERT_TRUE(received);
        EXPECT_EQ(received->bytes, make_frame("pong"));
    }

    NetGuest& guest() { return *guest_; }

    [[nodiscard]] const PortCounters& counters() const { return device_->port().counters(); }

    UniqueFd kernel_;
    std::unique_ptr<NetDevice> device_;
    std::unique_ptr<testing::SessionHost> host_;
    std::unique_ptr<NetGuest> guest_;
};

TEST_P(NetTapTest, FramesPassBothWays) {
    serve();
    expect_traffic();
}

TEST_P(NetTapTest, WhatTheGuestLeavesUnfinishedTheKernelGets) {
    serve();
    for (const bool udp : {false, true}) {
        const FrameOptions options{.udp = udp, .partial_checksum = true};
        const std::string frame = make_frame(make_payload(20'000), options);
        ASSERT_TRUE(guest().send(frame, header_of(options, 1400)));
        virtio_net_hdr_v1 header{};
        EXPECT_EQ(take(header), frame);
        const virtio_net_hdr_v1 expected = header_of(options, 1400);
        EXPECT_EQ(header.flags, expected.flags);
        EXPECT_EQ(header.gso_type, expected.gso_type);
        EXPECT_EQ(header.gso_size, 1400);
        EXPECT_EQ(header.csum_start, expected.csum_start);
        EXPECT_EQ(header.csum_offset, expected.csum_offset);
        EXPECT_EQ(header.hdr_len, udp ? 42 : 54);
    }
}

TEST_P(NetTapTest, DatagramsAreCutForAKernelThatCannot) {
    serve({}, true, false);
    const FrameOptions options{.udp = true, .partial_checksum = true};
    const std::string payload = make_payload(3000);
    ASSERT_TRUE(guest().send(make_frame(payload, options), header_of(options, 1000)));
    std::string got;
    for (int i = 0; i < 3; ++i) {
        virtio_net_hdr_v1 header{};
        const auto read = read_frame(take(header));
        ASSERT_TRUE(read);
        EXPECT_EQ(header.flags, 0);
        EXPECT_EQ(header.gso_type, 0);
        got += read->payload;
    }
    EXPECT_EQ(got, payload);
}

TEST_P(NetTapTest, WhatTheKernelLeavesUnfinishedTheGuestGets) {
    serve();
    const FrameOptions options{.ip6 = true, .partial_checksum = true};
    const std::string frame = make_frame(make_payload(30'000), options);
    give(frame, header_of(options, 1200));
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, frame);
    EXPECT_EQ(received->header.gso_type, VIRTIO_NET_HDR_GSO_TCPV6);
    EXPECT_EQ(received->header.gso_size, 1200);
    EXPECT_EQ(received->header.csum_start, header_of(options).csum_start);
    // The kernel has looked at this one.
    give(make_frame("checked"), header_with(VIRTIO_NET_HDR_F_DATA_VALID));
    const auto checked = guest().receive();
    ASSERT_TRUE(checked);
    EXPECT_EQ(checked->header.flags, VIRTIO_NET_HDR_F_DATA_VALID);
}

TEST_P(NetTapTest, GuestWithoutOffloadsGetsWholeFramesWhateverTheKernelGives) {
    serve({.features = kNoOffloads});
    const FrameOptions options{.partial_checksum = true};
    const std::string payload = make_payload(3000);
    give(make_frame(payload, options), header_of(options, 1000));
    std::string got;
    for (int i = 0; i < 3; ++i) {
        const auto received = guest().receive();
        ASSERT_TRUE(received);
        EXPECT_EQ(received->header.flags, 0);
        const auto read = read_frame(received->bytes);
        ASSERT_TRUE(read);
        got += read->payload;
    }
    EXPECT_EQ(got, payload);
}

TEST_P(NetTapTest, TapWithoutHeadersGetsWholeFrames) {
    serve({}, false);
    const FrameOptions options{.partial_checksum = true};
    const std::string payload = make_payload(2000);
    ASSERT_TRUE(guest().send(make_frame(payload, options), header_of(options, 1000)));
    std::string got;
    for (int i = 0; i < 2; ++i) {
        const auto read = read_frame(take_raw());
        ASSERT_TRUE(read);
        got += read->payload;
    }
    EXPECT_EQ(got, payload);
    give_raw(make_frame("in"));
    const auto received = guest().receive();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, make_frame("in"));
}

TEST_P(NetTapTest, Trap11FramesOfAKernelThatLiesAreDroppedAndCounted) {
    serve();
    give_raw(std::string(5, 'x'));
    give(std::string(13, 'x'));
    give(std::string(kFrameBytesMax + 1, 'x'));
    give(make_frame("range"), header_with(VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 9000));
    give(make_frame("type"), header_with(0, 99));
    expect_traffic();
    const auto& dropped = counters().dropped;
    EXPECT_EQ(dropped.value(DropReason::kNoHeader), 1U);
    EXPECT_EQ(dropped.value(DropReason::kRunt), 1U);
    EXPECT_EQ(dropped.value(DropReason::kGiant), 1U);
    EXPECT_EQ(dropped.value(DropReason::kChecksumRange), 1U);
    EXPECT_EQ(dropped.value(DropReason::kSegmentType), 1U);
}

TEST_P(NetTapTest, Trap13FramesWaitForAKernelThatTakesNone) {
    serve();
    size_t posted = 0;
    while (counters().send_waits.value() == 0 && posted < 5000) {
        posted += guest().post_frame(make_frame(make_payload(posted % 1400))) ? 1U : 0U;
        (void)guest().take_posted();
    }
    ASSERT_GT(counters().send_waits.value(), 0U);
    for (size_t i = 0; i < posted; ++i) {
        virtio_net_hdr_v1 header{};
        ASSERT_EQ(take(header), make_frame(make_payload(i % 1400))) << i;
    }
}

TEST_P(NetTapTest, Trap14TapThatGoesHarmsNoRing) {
    serve();
    expect_traffic();
    kernel_.reset();
    EXPECT_TRUE(eventually([&] { return counters().peers_lost.value() == 1; }));
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(guest().send(make_frame("lost")));
    }
    EXPECT_EQ(counters().dropped.value(DropReason::kNoPeer), 3U);
    give_others_a_moment();
    const uint64_t turns = host_->worker_counters(0).turns.value();
    give_others_a_moment();
    EXPECT_LE(host_->worker_counters(0).turns.value(), turns + 2);
}

/// What a port tells, of a tap that the test plays.
class ToldOf final : public PortEvents {
  public:
    void on_frames() override { ++frames; }

    void on_room() override { ++room; }

    int frames = 0;
    int room = 0;
};

TEST(TapPortAlone, TapThatGoesWhileFramesWaitForRoomSaysThatTheyNeedNot) {
    int ends[2] = {-1, -1};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    const UniqueFd kernel(ends[0]);
    const auto port =
        TapPort::create(Tap{.fd = UniqueFd(ends[1]), .name = "played", .has_header = true}).value();
    const std::unique_ptr<EventLoop> loop = create_event_loop(testing::loop_under_test()).value();
    ToldOf told;
    port->attach(*loop, told);
    std::string bytes = make_frame(make_payload(1400));
    const iovec piece{.iov_base = bytes.data(), .iov_len = bytes.size()};
    const Frame frame{.pieces = std::span(&piece, 1), .bytes = bytes.size()};
    while (port->send(std::span(&frame, 1)) == 1) {
    }
    ASSERT_EQ(::shutdown(kernel.get(), SHUT_WR), 0);
    // Before the loop looks: it is found out by somebody who wants to receive.
    EXPECT_FALSE(port->next_frame());
    EXPECT_EQ(port->counters().peers_lost.value(), 1U);
    EXPECT_EQ(told.room, 0);
    for (int turn = 0; turn < 5 && told.room == 0; ++turn) {
        (void)loop->run_once(EventLoop::Clock::now() + std::chrono::seconds(1));
    }
    EXPECT_EQ(told.room, 1);
    EXPECT_EQ(port->send(std::span(&frame, 1)), 1U);
    port->detach();
}

// Each round of the ring says it.
TEST(TapPortAlone, ChangeOfAQueueThatIsRefusedIsAskedForOnce) {
    int ends[4] = {-1, -1, -1, -1};
    for (int* pair : {ends, ends + 2}) {
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    }
    const UniqueFd kernel(ends[0]);
    const UniqueFd other(ends[2]);
    Tap tap{.fd = UniqueFd(ends[1]), .name = "played", .has_header = true};
    tap.others.emplace_back(ends[3]);  // no queue, so nothing can be changed
    const auto port = TapPort::create(std::move(tap)).value();
    const auto calls = [&] { return port->counters().system_calls.value(); };
    for (int round = 0; round < 10; ++round) {
        port->use_pair(1, true);
    }
    EXPECT_EQ(calls(), 1U);
    port->use_pair(1, false);
    port->use_pair(1, true);
    EXPECT_EQ(calls(), 2U);
}

// Each change takes a lock of the whole host's.
TEST(TapPortAlone, GuestThatFlipsItsPairsHasFewChangesMade) {
    int ends[4] = {-1, -1, -1, -1};
    for (int* pair : {ends, ends + 2}) {
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    }
    const UniqueFd kernel(ends[0]);
    const UniqueFd other(ends[2]);
    Tap tap{.fd = UniqueFd(ends[1]), .name = "played", .has_header = true};
    tap.others.emplace_back(ends[3]);
    const auto port = TapPort::create(std::move(tap)).value();
    constexpr int kFlips = 20'000;
    constexpr uint64_t kBurst = 2 * 2 + 1;
    const auto begin = EventLoop::Clock::now();
    for (int i = 0; i < kFlips; ++i) {
        port->use_pair(1, i % 2 != 0);
    }
    const auto took = EventLoop::Clock::now() - begin;
    EXPECT_GE(port->counters().system_calls.value(), kBurst - 1);
    EXPECT_LE(port->counters().system_calls.value(),
              kBurst + static_cast<uint64_t>(took / std::chrono::milliseconds(10)) + 1);
}

TEST(InterfaceName, IsWhatTheKernelTakes) {
    for (const char* name : {"tap0", "a", "vm-1.eth0", "fifteen-letters"}) {
        EXPECT_TRUE(is_interface_name(name)) << name;
    }
    for (const char* name :
         {"", ".", "..", "a/b", "a:b", "a b", "tap%d", "sixteen--letters", "a\n"}) {
        EXPECT_FALSE(is_interface_name(name)) << name;
    }
}

TEST(TakeTap, RefusesWhatIsNone) {
    int ends[2] = {-1, -1};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const UniqueFd other(ends[1]);
    EXPECT_FALSE(take_tap(UniqueFd(ends[0])));
    EXPECT_FALSE(take_tap(UniqueFd(::dup(STDIN_FILENO))));
}

INSTANTIATE_TEST_SUITE_P(Rings, NetTapTest, ::testing::Bool(), [](const auto& row) {
    return row.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::net
