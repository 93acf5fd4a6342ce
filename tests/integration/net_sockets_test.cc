// SPDX-License-Identifier: Apache-2.0
// Peers at Unix sockets: see net_traps.h.
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "vhost-user-backend/io/asio_loop.h"

#include "devices/net/datagram_port.h"
#include "devices/net/stream_port.h"
#include "tests/integration/net_traps.h"
#include "tests/support/unix_peer.h"

namespace outrigger::net {
namespace {

using testing::UnixPeer;

class NetSocketTest : public ::testing::TestWithParam<bool> {
  protected:
    NetSocketTest() {
        std::string name = ::testing::TempDir() + "net-XXXXXX";
        EXPECT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        options_.retry = std::chrono::milliseconds(20);
    }

    ~NetSocketTest() override {
        guest_.reset();
        host_.reset();
        device_.reset();
        std::filesystem::remove_all(folder_);
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

    template <class Kind>
    void serve(PeerOptions options) {
        auto port = Kind::create(std::move(options)).value();
        device_ = std::make_unique<NetDevice>(NetOptions{.mtu = 65535}, std::move(port));
        host_ = std::make_unique<testing::SessionHost>(*device_, testing::SessionHostOptions{});
        guest_ = std::make_unique<NetGuest>(
            host_->connect(), NetGuestOptions{.packed = GetParam(), .receive_bytes = 4096});
        ASSERT_TRUE(guest_->is_up());
    }

    /// We connect to a peer that listens.
    UnixPeer serve_stream() {
        UnixPeer listener = UnixPeer::listen_at(path("peer"), SOCK_STREAM);
        options_.peer_path = path("peer");
        serve<StreamPort>(std::move(options_));
        UnixPeer peer = listener.accept();
        EXPECT_TRUE(peer.valid());
        listener_ = std::make_unique<UnixPeer>(std::move(listener));
        return peer;
    }

    /// A frame of the guest that reaches the peer says that nothing is stuck.
    void expect_stream_traffic(const UnixPeer& peer, const std::string& text = "ping") {
        EXPECT_TRUE(guest().send(make_frame(text)));
        EXPECT_EQ(peer.receive_frame(), make_frame(text));
        peer.send_frame(make_frame("pong"));
        expect_received(make_frame("pong"));
    }

    void expect_received(const std::string& frame) {
        const auto received = guest().receive();
        ASSERT_TRUE(received);
        EXPECT_EQ(received->bytes, frame);
    }

    /// One frame at a time, until the socket takes a part of one, which the guest has back. How
    /// many were sent.
    size_t send_until_one_is_torn(const UnixPeer& peer, const std::string& frame) {
        for (size_t sent = 1; sent < 5000; ++sent) {
            if (!guest().send(frame)) {
                break;
            }
            if (peer.bytes_waiting() < sent * (4 + frame.size())) {
                EXPECT_GT(peer.bytes_waiting(), (sent - 1) * (4 + frame.size()));
                return sent;
            }
        }
        ADD_FAILURE() << "no frame was torn";
        return 0;
    }

    NetGuest& guest() { return *guest_; }

    [[nodiscard]] const PortCounters& counters() const { return device_->port().counters(); }

    std::filesystem::path folder_;
    PeerOptions options_;
    std::unique_ptr<UnixPeer> listener_;
    std::unique_ptr<NetDevice> device_;
    std::unique_ptr<testing::SessionHost> host_;
    std::unique_ptr<NetGuest> guest_;
};

TEST_P(NetSocketTest, StreamCarriesFramesBehindTheirLengths) {
    const UnixPeer peer = serve_stream();
    ASSERT_TRUE(guest().send(make_frame("text")));
    const std::string expected = make_frame("text");
    const std::string bytes = peer.receive(4 + expected.size());
    EXPECT_EQ(bytes.substr(0, 4),
              (std::string{'\0', '\0', '\0', static_cast<char>(expected.size())}));
    EXPECT_EQ(bytes.substr(4), expected);
    peer.send_frame(make_frame("answer"));
    expect_received(make_frame("answer"));
}

TEST_P(NetSocketTest, StreamPeerMayConnect) {
    options_.listener = listen_at(path("ours"), {.type = SOCK_STREAM}).value();
    serve<StreamPort>(std::move(options_));
    const UnixPeer peer = UnixPeer::connect_to(path("ours"), SOCK_STREAM);
    EXPECT_TRUE(eventually([&] { return counters().peers.value() == 1; }));
    expect_stream_traffic(peer);
}

TEST_P(NetSocketTest, StreamGetsWholePacketsWithChecksums) {
    const UnixPeer peer = serve_stream();
    const std::string payload = make_payload(40'000);
    const FrameOptions options{.partial_checksum = true};
    ASSERT_TRUE(guest().send(make_frame(payload, options), header_of(options, 1400)));
    std::string all;
    while (all.size() < payload.size()) {
        const auto read = read_frame(peer.receive_frame());
        ASSERT_TRUE(read);
        all += read->payload;
    }
    EXPECT_EQ(all, payload);
}

TEST_P(NetSocketTest, ManyFramesTakeFewSystemCalls) {
    const UnixPeer peer = serve_stream();
    std::string all;
    for (size_t i = 0; i < 40; ++i) {
        const std::string frame = make_frame(make_payload(100 + i));
        all += testing::behind_length(frame);
    }
    expect_stream_traffic(peer);
    const uint64_t before = counters().system_calls.value();
    peer.send(all);
    for (size_t i = 0; i < 40; ++i) {
        expect_received(make_frame(make_payload(100 + i)));
    }
    // The socket may give them in some parts, and says when there is no more.
    EXPECT_LT(counters().system_calls.value() - before, 20U);
}

TEST_P(NetSocketTest, Trap20LengthsAndFramesInPieces) {
    const UnixPeer peer = serve_stream();
    const std::string frame = make_frame("in pieces");
    for (const char c : testing::behind_length(frame)) {
        peer.send(std::string(1, c));
        std::this_thread::yield();
    }
    expect_received(frame);
    const std::string two = testing::behind_length(frame) + testing::behind_length(make_frame("2"));
    for (const size_t cut : {1U, 3U, 4U, 5U, 30U, 70U}) {
        peer.send(two.substr(0, cut));
        give_others_a_moment();
        peer.send(two.substr(cut));
        expect_received(frame);
        expect_received(make_frame("2"));
    }
}

TEST_P(NetSocketTest, Trap20RuntsAndGiantsAreSkipped) {
    const UnixPeer peer = serve_stream();
    peer.send_frame("");
    peer.send_frame(std::string(13, 'x'));
    peer.send_frame(std::string(kFrameBytesMax + 1, 'x'));
    peer.send_frame(make_frame("good"));
    expect_received(make_frame("good"));
    EXPECT_EQ(counters().dropped.value(DropReason::kRunt), 2U);
    EXPECT_EQ(counters().dropped.value(DropReason::kGiant), 1U);
}

TEST_P(NetSocketTest, Trap20NoiseBeforeAFrameOnlyDelaysIt) {
    const UnixPeer peer = serve_stream();
    std::string noise;
    for (int i = 0; i < 2000; ++i) {
        noise += testing::behind_length("");
    }
    peer.send(noise + testing::behind_length(make_frame("behind")));
    expect_received(make_frame("behind"));
    EXPECT_EQ(counters().dropped.value(DropReason::kRunt), 2000U);
}

TEST_P(NetSocketTest, Trap20LengthThatNoFrameHasEndsTheConnection) {
    {
        const UnixPeer peer = serve_stream();
        peer.send_frame(make_frame("good"));
        peer.send("\xff\xff\xff\xff");
        expect_received(make_frame("good"));
        EXPECT_TRUE(peer.ends());
    }
    const UnixPeer next = listener_->accept();
    ASSERT_TRUE(next.valid());
    EXPECT_TRUE(eventually([&] { return counters().peers.value() == 2; }));
    expect_stream_traffic(next);
}

class Nobody final : public PortEvents {
    void on_frames() override {}

    void on_room() override {}
};

// It lies behind a frame for which the guest has no room yet, and its peer has gone.
TEST_P(NetSocketTest, Trap20LengthThatNoFrameHasIsNotTheNextPeers) {
    const UnixPeer listener = UnixPeer::listen_at(path("peer"), SOCK_STREAM);
    options_.peer_path = path("peer");
    const auto loop = create_asio_loop().value();
    const auto port = StreamPort::create(std::move(options_)).value();
    Nobody events;
    port->attach(*loop, events);
    {
        const UnixPeer peer = listener.accept();
        peer.send(testing::behind_length(make_frame("good")) +
                  testing::behind_length(std::string(kStreamFrameBytesMax + 1, 'x')));
        ASSERT_TRUE(port->next_frame());
    }
    std::string bytes = make_frame("out");
    const iovec piece{.iov_base = bytes.data(), .iov_len = bytes.size()};
    const Frame frame{.pieces = std::span(&piece, 1), .bytes = bytes.size()};
    EXPECT_EQ(port->send(std::span(&frame, 1)), 1U);
    EXPECT_EQ(port->counters().peers_lost.value(), 1U);
    EXPECT_TRUE(eventually([&] {
        (void)loop->run_once(EventLoop::Clock::now());
        return port->counters().peers.value() == 2;
    }));
    const UnixPeer next = listener.accept();
    EXPECT_TRUE(port->next_frame());
    port->drop_frame();
    EXPECT_FALSE(port->next_frame());
    EXPECT_EQ(port->counters().peers_lost.value(), 1U);
    EXPECT_EQ(port->send(std::span(&frame, 1)), 1U);
    EXPECT_EQ(next.receive_frame(), bytes);
    port->detach();
}

TEST_P(NetSocketTest, Trap20PeerThatReadsNothingHoldsUpNothingElse) {
    const UnixPeer peer = serve_stream();
    const std::string large = make_frame(make_payload(60'000));
    // More than its socket takes.
    size_t posted = 0;
    size_t back = 0;
    while (counters().send_waits.value() == 0) {
        if (guest().transmit_queue().free_descriptors() > 0 && guest().post_frame(large)) {
            ++posted;
        }
        back += guest().take_posted();
        ASSERT_LT(posted, 5000U);
    }
    // The other way works.
    peer.send_frame(make_frame("in"));
    expect_received(make_frame("in"));
    // Nothing is lost, and nothing is torn.
    for (size_t i = 0; i < posted; ++i) {
        ASSERT_EQ(peer.receive_frame(), large) << i;
    }
    EXPECT_TRUE(guest().await_posted(posted - back));
    EXPECT_EQ(counters().frames_sent.value(), posted);
    expect_stream_traffic(peer);
}

// Its last frame was no whole one for the socket, and the guest has nothing to say until it is
// answered.
TEST_P(NetSocketTest, Trap20EndOfTheLastFrameNeedsNoOtherFrame) {
    const UnixPeer peer = serve_stream();
    const std::string large = make_frame(make_payload(60'000));
    const size_t sent = send_until_one_is_torn(peer, large);
    for (size_t i = 0; i < sent; ++i) {
        ASSERT_EQ(peer.receive_frame(), large) << i;
    }
    EXPECT_EQ(counters().frames_sent.value(), sent);
    expect_stream_traffic(peer);
}

TEST_P(NetSocketTest, Trap20EndOfTheLastFrameFollowsWhenTheGuestRunsAgain) {
    const UnixPeer peer = serve_stream();
    const std::string large = make_frame(make_payload(60'000));
    const size_t sent = send_until_one_is_torn(peer, large);
    ASSERT_TRUE(guest().frontend().get_vring_base(0));
    ASSERT_TRUE(guest().frontend().get_vring_base(1));
    for (size_t i = 0; i + 1 < sent; ++i) {
        ASSERT_EQ(peer.receive_frame(), large) << i;
    }
    ASSERT_EQ(guest().receive_queue().start(guest().frontend(), guest().memory()),
              driver::Answer::kAccepted);
    EXPECT_EQ(peer.receive_frame(), large);
}

TEST_P(NetSocketTest, Trap20EndOfTheLastFrameIsForThePeerThatHasItsBeginning) {
    auto peer = std::make_unique<UnixPeer>(serve_stream());
    (void)send_until_one_is_torn(*peer, make_frame(make_payload(60'000)));
    peer.reset();
    const UnixPeer next = listener_->accept();
    ASSERT_TRUE(next.valid());
    EXPECT_TRUE(eventually([&] { return counters().peers.value() == 2; }));
    expect_stream_traffic(next);
}

TEST_P(NetSocketTest, Trap20PeerThatStallsInTheMiddleOfAFrame) {
    const UnixPeer peer = serve_stream();
    const std::string frame = testing::behind_length(make_frame("late"));
    peer.send(frame.substr(0, 20));
    ASSERT_TRUE(guest().send(make_frame("out")));
    EXPECT_EQ(peer.receive_frame(), make_frame("out"));
    EXPECT_FALSE(guest().receive_now());
    peer.send(frame.substr(20));
    expect_received(make_frame("late"));
}

TEST_P(NetSocketTest, Trap20PeerThatLeavesIsConnectedToAgain) {
    {
        const UnixPeer peer = serve_stream();
        expect_stream_traffic(peer);
        // The first half of a frame goes with it.
        peer.send(testing::behind_length(make_frame("never")).substr(0, 30));
    }
    const UnixPeer next = listener_->accept();
    ASSERT_TRUE(next.valid());
    EXPECT_TRUE(eventually([&] { return counters().peers.value() == 2; }));
    EXPECT_EQ(counters().peers_lost.value(), 1U);
    expect_stream_traffic(next, "again");
}

TEST_P(NetSocketTest, Trap20FramesWithoutAPeerAreDropped) {
    options_.peer_path = path("nobody");
    serve<StreamPort>(std::move(options_));
    ASSERT_TRUE(guest().send(make_frame("lost")));
    EXPECT_EQ(counters().dropped.value(DropReason::kNoPeer), 1U);
    const UnixPeer listener = UnixPeer::listen_at(path("nobody"), SOCK_STREAM);
    const UnixPeer peer = listener.accept();
    ASSERT_TRUE(peer.valid());
    EXPECT_TRUE(eventually([&] { return counters().peers.value() == 1; }));
    expect_stream_traffic(peer);
}

TEST_P(NetSocketTest, Trap20PeerThatLeavesWhileFramesWaitLetsThemGo) {
    auto peer = std::make_unique<UnixPeer>(serve_stream());
    const std::string large = make_frame(make_payload(60'000));
    size_t posted = 0;
    size_t back = 0;
    while (counters().send_waits.value() == 0) {
        posted += guest().post_frame(large) ? size_t{1} : 0;
        back += guest().take_posted();
        ASSERT_LT(posted, 5000U);
    }
    peer.reset();
    EXPECT_TRUE(guest().await_posted(posted - back));
}

TEST_P(NetSocketTest, Trap20PeerKeepsItsFramesWhileTheGuestIsReset) {
    const UnixPeer peer = serve_stream();
    expect_stream_traffic(peer);
    ASSERT_TRUE(guest().frontend().get_vring_base(0));
    ASSERT_TRUE(guest().frontend().get_vring_base(1));
    peer.send_frame(make_frame("meanwhile"));
    ASSERT_EQ(guest().receive_queue().start(guest().frontend(), guest().memory()),
              driver::Answer::kAccepted);
    expect_received(make_frame("meanwhile"));
    EXPECT_EQ(counters().peers.value(), 1U);
}

TEST_P(NetSocketTest, DatagramsCarryFrames) {
    const UnixPeer peer = UnixPeer::bind_at(path("peer"));
    options_.peer_path = path("peer");
    options_.listener = listen_at(path("ours"), {.type = SOCK_DGRAM}).value();
    serve<DatagramPort>(std::move(options_));
    ASSERT_TRUE(guest().send(make_frame("out")));
    EXPECT_EQ(peer.receive_datagram(), make_frame("out"));
    ASSERT_TRUE(peer.connect(path("ours")));
    for (size_t i = 0; i < 40; ++i) {
        peer.send(make_frame(make_payload(60 + i)));
    }
    for (size_t i = 0; i < 40; ++i) {
        expect_received(make_frame(make_payload(60 + i)));
    }
}

TEST_P(NetSocketTest, DatagramPeerIsWhoeverSendsFirst) {
    options_.listener = listen_at(path("ours"), {.type = SOCK_DGRAM}).value();
    serve<DatagramPort>(std::move(options_));
    ASSERT_TRUE(guest().send(make_frame("lost")));
    EXPECT_EQ(counters().dropped.value(DropReason::kNoPeer), 1U);
    const UnixPeer peer = UnixPeer::bind_at(path("peer"));
    ASSERT_TRUE(peer.connect(path("ours")));
    peer.send("VFKT");
    peer.send(make_frame("in"));
    expect_received(make_frame("in"));
    EXPECT_EQ(counters().dropped.value(DropReason::kRunt), 1U);
    ASSERT_TRUE(guest().send(make_frame("out")));
    EXPECT_EQ(peer.receive_datagram(), make_frame("out"));
}

// The kernel counts a NUL behind it that does not fit the address.
TEST_P(NetSocketTest, Trap20DatagramPeerWithTheLongestNameIsAnswered) {
    options_.listener = listen_at(path("ours"), {.type = SOCK_DGRAM}).value();
    serve<DatagramPort>(std::move(options_));
    const std::string begin = path("");
    ASSERT_LT(begin.size(), sizeof(sockaddr_un::sun_path));
    const UnixPeer peer =
        UnixPeer::bind_at(begin + std::string(sizeof(sockaddr_un::sun_path) - begin.size(), 'p'));
    ASSERT_TRUE(peer.connect(path("ours")));
    for (size_t i = 0; i < 20; ++i) {
        peer.send(make_frame(make_payload(60 + i)));
        expect_received(make_frame(make_payload(60 + i)));
    }
    EXPECT_EQ(counters().peers.value(), 1U);
    ASSERT_TRUE(guest().send(make_frame("out")));
    EXPECT_EQ(peer.receive_datagram(), make_frame("out"));
}

// The kernel refuses others only from when there is a peer.
TEST_P(NetSocketTest, Trap20DatagramsOfOthersThatCameBeforeThePeerWasKnownAreDropped) {
    options_.listener = listen_at(path("ours"), {.type = SOCK_DGRAM}).value();
    const UnixPeer first = UnixPeer::bind_at(path("first"));
    const UnixPeer second = UnixPeer::bind_at(path("second"));
    ASSERT_TRUE(first.connect(path("ours")));
    ASSERT_TRUE(second.connect(path("ours")));
    first.send(make_frame("one"));
    second.send(make_frame("stranger"));
    first.send(make_frame("two"));
    serve<DatagramPort>(std::move(options_));
    expect_received(make_frame("one"));
    expect_received(make_frame("two"));
    EXPECT_EQ(counters().dropped.value(DropReason::kNoPeer), 1U);
    ASSERT_TRUE(guest().send(make_frame("out")));
    EXPECT_EQ(first.receive_datagram(), make_frame("out"));
}

TEST_P(NetSocketTest, DatagramPeerWithoutOurNameCanAnswer) {
    const UnixPeer peer = UnixPeer::bind_at(path("peer"));
    options_.peer_path = path("peer");
    options_.vfkit = true;
    serve<DatagramPort>(std::move(options_));
    std::string from;
    EXPECT_EQ(peer.receive_datagram(&from), "VFKT");
    EXPECT_FALSE(from.empty());
    peer.send_to(from, make_frame("in"));
    expect_received(make_frame("in"));
}

TEST_P(NetSocketTest, Trap20DatagramsOfAnyLength) {
    const UnixPeer peer = UnixPeer::bind_at(path("peer"));
    options_.peer_path = path("peer");
    options_.listener = listen_at(path("ours"), {.type = SOCK_DGRAM}).value();
    serve<DatagramPort>(std::move(options_));
    ASSERT_TRUE(peer.connect(path("ours")));
    peer.send("");
    peer.send(std::string(13, 'x'));
    peer.send(std::string(kFrameBytesMax + 500, 'x'));
    peer.send(make_frame(make_payload(50'000)));
    expect_received(make_frame(make_payload(50'000)));
    EXPECT_EQ(counters().dropped.value(DropReason::kRunt), 2U);
    EXPECT_EQ(counters().dropped.value(DropReason::kGiant), 1U);
}

TEST_P(NetSocketTest, Trap20DatagramsWaitForAPeerThatReadsNothing) {
    const UnixPeer peer = UnixPeer::bind_at(path("peer"));
    options_.peer_path = path("peer");
    serve<DatagramPort>(std::move(options_));
    size_t posted = 0;
    while (counters().send_waits.value() == 0) {
        posted += guest().post_frame(make_frame(make_payload(60 + posted % 100))) ? size_t{1} : 0;
        (void)guest().take_posted();
        ASSERT_LT(posted, 100'000U);
    }
    for (size_t i = 0; i < posted; ++i) {
        ASSERT_EQ(peer.receive_datagram(), make_frame(make_payload(60 + i % 100))) << i;
    }
}

TEST_P(NetSocketTest, Trap20DatagramPeerComesAgain) {
    options_.peer_path = path("peer");
    {
        const UnixPeer peer = UnixPeer::bind_at(path("peer"));
        serve<DatagramPort>(std::move(options_));
        ASSERT_TRUE(guest().send(make_frame("first")));
        EXPECT_EQ(peer.receive_datagram(), make_frame("first"));
    }
    std::filesystem::remove(path("peer"));
    ASSERT_TRUE(guest().send(make_frame("lost")));
    const UnixPeer peer = UnixPeer::bind_at(path("peer"));
    EXPECT_TRUE(eventually([&] { return counters().peers.value() == 2; }));
    ASSERT_TRUE(guest().send(make_frame("second")));
    EXPECT_EQ(peer.receive_datagram(), make_frame("second"));
}

INSTANTIATE_TEST_SUITE_P(Rings, NetSocketTest, ::testing::Bool(), [](const auto& row) {
    return row.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::net
