// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/net_user.h"

namespace outrigger::net {

TEST_P(NetUserTest, DhcpGivesTheFirstAddress) {
    options_.search = {"example.org"};
    serve();
    // RFC 2131: a discovery.
    std::string body = std::string("\x01\x01\x06\0\x12\x34\x56\x78", 8) + std::string(20, '\0');
    body += kGuestMac + std::string(10 + 64 + 128, '\0');
    body += std::string("\x63\x82\x53\x63\x35\x01\x01\xff", 8);
    FrameOptions options{.udp = true, .source_port = 68, .destination_port = 67};
    options.source = std::string(4, '\0');
    options.destination = std::string(4, '\xff');
    options.to_mac = kBroadcast;
    ASSERT_TRUE(guest().send(make_frame(body, options)));
    // The checksum is whole: programs read this from a raw socket.
    const auto offer = receive();
    ASSERT_TRUE(offer);
    EXPECT_EQ(offer->source_port, 67);
    EXPECT_EQ(offer->payload.substr(16, 4), ip4("10.0.2.15"));
    const std::string tail = offer->payload.substr(240);
    EXPECT_NE(tail.find("\x03\x04" + ip4("10.0.2.2")), std::string::npos);
    EXPECT_NE(tail.find("\x06\x04" + ip4("10.0.2.3")), std::string::npos);
    EXPECT_NE(tail.find("example\x03org"), std::string::npos);
}

TEST_P(NetUserTest, DatagramsReachTheHostAndAnswersTheGuest) {
    serve();
    LoopbackSocket server(AF_INET, SOCK_DGRAM);
    ASSERT_TRUE(guest().send(make_frame("question", to(ip4("10.0.2.2"), server.port(), true))));
    EXPECT_EQ(server.receive(), "question");
    server.answer("answer");
    const auto answer = receive();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->payload, "answer");
    EXPECT_EQ(answer->source, ip4("10.0.2.2"));
    EXPECT_EQ(answer->destination_port, 4000);
}

TEST_P(NetUserTest, DatagramsPassInFragments) {
    serve();
    LoopbackSocket server(AF_INET, SOCK_DGRAM);
    for (const size_t bytes : {size_t{3000}, size_t{60'000}}) {
        const std::string payload = make_payload(bytes);
        const std::string frame = make_frame(payload, to(ip4("10.0.2.2"), server.port(), true));
        for (size_t at = 0; at < bytes + 8; at += 1480) {
            ASSERT_TRUE(guest().send(fragment_of(frame, at, std::min(at + 1480, bytes + 8))));
        }
        EXPECT_EQ(server.receive(), payload);
    }
}

// UFO: what becomes fragments for the library's sake is made whole again before it.
TEST_P(NetUserTest, DatagramsThatAreToBecomeFragmentsReachTheHost) {
    serve();
    LoopbackSocket server(AF_INET, SOCK_DGRAM);
    FrameOptions options = to(ip4("10.0.2.2"), server.port(), true);
    options.partial_checksum = true;
    for (const size_t bytes : {size_t{3000}, size_t{60'000}, size_t{100}}) {
        const std::string payload = make_payload(bytes);
        ASSERT_TRUE(guest().send(make_frame(payload, options), fragments_header_of(options, 1480)));
        EXPECT_EQ(server.receive(), payload);
    }
    // It was given fragments: of 1480 bytes, with the header of the datagram.
    EXPECT_EQ(counters().frames_sent.value(), 3U + 41 + 1);
    EXPECT_EQ(counters().dropped.total(), 0U);
}

TEST_P(NetUserTest, DatagramsPassOverIp6) {
    serve();
    LoopbackSocket server(AF_INET6, SOCK_DGRAM);
    ASSERT_TRUE(guest().send(make_frame("question", to(ip6("fec0::2"), server.port(), true))));
    EXPECT_EQ(server.receive(), "question");
    server.answer("answer");
    const auto answer = receive();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->payload, "answer");
}

TEST_P(NetUserTest, NameServerIsTheOneThatWasNamed) {
    LoopbackSocket server(AF_INET, SOCK_DGRAM);
    options_.dns4 = parse_endpoint("127.0.0.1", server.port());
    options_.host_loopback = false;  // it is ours, so the guest may
    serve();
    ASSERT_TRUE(guest().send(make_frame("name?", to(ip4("10.0.2.3"), 53, true))));
    EXPECT_EQ(server.receive(), "name?");
    server.answer("address");
    const auto answer = receive();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->payload, "address");
    EXPECT_EQ(answer->source, ip4("10.0.2.3"));
    EXPECT_EQ(answer->source_port, 53);
}

TEST_P(NetUserTest, HostsOwnServersAreOutOfReachUnlessAllowed) {
    LoopbackSocket server(AF_INET, SOCK_DGRAM);
    LoopbackSocket allowed(AF_INET, SOCK_DGRAM);
    options_.host_loopback = false;
    options_.dns4 = parse_endpoint("127.0.0.1", allowed.port());
    serve();
    for (const char* address : {"10.0.2.2", "127.0.0.1", "127.1.2.3", "0.0.0.0"}) {
        ASSERT_TRUE(guest().send(make_frame("knock", to(ip4(address), server.port(), true))));
    }
    for (const char* address : {"fec0::2", "::1", "::ffff:127.0.0.1", "::"}) {
        ASSERT_TRUE(guest().send(make_frame("knock", to(ip6(address), server.port(), true))));
    }
    // What comes behind them arrives, and nothing of them has.
    ASSERT_TRUE(guest().send(make_frame("name?", to(ip4("10.0.2.3"), 53, true))));
    EXPECT_EQ(allowed.receive(), "name?");
    pollfd entry{.fd = server.fd(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&entry, 1, 50), 0);
}

TEST_P(NetUserTest, ConnectionOfTheGuestCarriesBytesBothWays) {
    for (const bool six : {false, true}) {
        serve();
        const LoopbackSocket listener(six ? AF_INET6 : AF_INET, SOCK_STREAM);
        FrameOptions options = to(six ? ip6("fec0::2") : ip4("10.0.2.2"), listener.port(), false);
        options.tcp_flags = kSyn;
        ASSERT_TRUE(guest().send(make_frame("", options)));
        const auto accepted = receive();
        ASSERT_TRUE(accepted);
        ASSERT_EQ(accepted->tcp_flags, kSyn | kAck);
        ASSERT_EQ(accepted->acknowledged, options.sequence + 1);
        const UniqueFd server = listener.accept();
        options.tcp_flags = kAck | kPush;
        options.sequence += 1;
        options.acknowledged = accepted->sequence + 1;
        // Much more than a segment, as a driver gives it to a card that cuts.
        const std::string payload = make_payload(8000);
        options.partial_checksum = true;
        ASSERT_TRUE(guest().send(make_frame(payload, options), header_of(options, 1400)));
        EXPECT_EQ(receive_all(server.get(), payload.size()), payload);
        ASSERT_EQ(::send(server.get(), "answer", 6, 0), 6);
        std::string answer;
        while (answer.empty()) {
            const auto frame = receive();
            ASSERT_TRUE(frame);
            answer = frame->payload;
        }
        EXPECT_EQ(answer, "answer");
        guest_.reset();
        host_.reset();
        device_.reset();
    }
}

void NetUserTest::expect_download(bool six) {
    const LoopbackSocket listener(six ? AF_INET6 : AF_INET, SOCK_STREAM);
    FrameOptions options = to(six ? ip6("fec0::2") : ip4("10.0.2.2"), listener.port(), false);
    options.window = 65'535;
    options.tcp_flags = kSyn;
    ASSERT_TRUE(guest().send(make_frame("", options)));
    const auto accepted = receive();
    ASSERT_TRUE(accepted);
    const UniqueFd server = listener.accept();
    options.sequence += 1;
    options.tcp_flags = kAck;
    const std::string payload = make_payload(60'000);
    ASSERT_EQ(::send(server.get(), payload.data(), payload.size(), 0),
              static_cast<ssize_t>(payload.size()));
    std::string got;
    for (int turns = 0; turns < 1000 && got.size() < payload.size(); ++turns) {
        options.acknowledged = accepted->sequence + 1 + static_cast<uint32_t>(got.size());
        ASSERT_TRUE(guest().send(make_frame("", options)));
        const auto frame = receive();
        ASSERT_TRUE(frame) << got.size();
        if (frame->sequence == options.acknowledged) {
            got += frame->payload;
        }
    }
    EXPECT_EQ(got, payload);
}

TEST_P(NetUserTest, SegmentsThatWaitComeAsOneFrame) {
    serve();
    expect_download(false);
    EXPECT_GT(uncut_, 0U);
}

TEST_P(NetUserTest, SegmentsThatWaitComeAsOneFrameOverIp6) {
    serve();
    expect_download(true);
    EXPECT_GT(uncut_, 0U);
}

TEST_P(NetUserTest, SegmentsStayApartWhereTheyAreToldTo) {
    options_.merge = false;
    serve();
    expect_download(false);
    EXPECT_EQ(uncut_, 0U);
}

TEST_P(NetUserTest, GuestThatTakesNoLongFramesGetsSegments) {
    serve(64, ~(uint64_t{1} << VIRTIO_NET_F_GUEST_TSO4));
    expect_download(false);
    EXPECT_EQ(uncut_, 0U);
    EXPECT_EQ(device_->counters().finished_to_guest.value(), 0U);
}

/// Of one family: the host's client talks to the test's server in the guest.
void NetUserTest::expect_forwarded(const std::string& rule_end, const std::string& address) {
    const int family = address.size() == 16 ? AF_INET6 : AF_INET;
    const uint16_t port = LoopbackSocket(family, SOCK_STREAM).port();
    options_.forwards = {*parse_forward("tcp:" + std::to_string(port) + "-" + rule_end)};
    serve();
    const UniqueFd client(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_storage to_host = LoopbackSocket::loopback(family, port);
    ASSERT_EQ(
        ::connect(client.get(), LoopbackSocket::generic(to_host), LoopbackSocket::bytes_of(family)),
        0);
    const auto asked = receive();
    ASSERT_TRUE(asked);
    EXPECT_EQ(asked->tcp_flags, kSyn);
    EXPECT_EQ(asked->destination, address);
    EXPECT_EQ(asked->destination_port, 80);
    FrameOptions options = to(asked->source, asked->source_port, false);
    options.source = address;
    options.source_port = 80;
    options.sequence = 5000;
    options.acknowledged = asked->sequence + 1;
    options.tcp_flags = kSyn | kAck;
    ASSERT_TRUE(guest().send(make_frame("", options)));
    ASSERT_EQ(::send(client.get(), "hello", 5, 0), 5);
    std::string got;
    while (got.empty()) {
        const auto frame = receive();
        ASSERT_TRUE(frame);
        got = frame->payload;
    }
    EXPECT_EQ(got, "hello");
    options.sequence = 5001;
    options.acknowledged += 5;
    options.tcp_flags = kAck | kPush | kFin;
    ASSERT_TRUE(guest().send(make_frame("welcome", options)));
    EXPECT_EQ(receive_all(client.get(), 7), "welcome");
}

TEST_P(NetUserTest, ForwardedPortLeadsToTheGuest) {
    expect_forwarded("80", ip4("10.0.2.15"));
}

TEST_P(NetUserTest, ForwardedPortLeadsToTheGuestOverIp6) {
    expect_forwarded("[fec0::20]:80", ip6("fec0::20"));
}

TEST_P(NetUserTest, ForwardedDatagramPortLeadsToTheGuest) {
    const uint16_t port = LoopbackSocket(AF_INET, SOCK_DGRAM).port();
    options_.forwards = {*parse_forward("udp:" + std::to_string(port) + "-53")};
    serve();
    LoopbackSocket client(AF_INET, SOCK_DGRAM);
    ASSERT_TRUE(client.connect(AF_INET, port));
    ASSERT_EQ(::send(client.fd(), "question", 8, 0), 8);
    const auto question = receive();
    ASSERT_TRUE(question);
    EXPECT_EQ(question->payload, "question");
    FrameOptions options = to(question->source, question->source_port, true);
    options.source_port = 53;
    ASSERT_TRUE(guest().send(make_frame("answer", options)));
    EXPECT_EQ(client.receive(), "answer");
}

TEST_P(NetUserTest, PortThatIsTakenIsAnError) {
    const LoopbackSocket taken(AF_INET, SOCK_STREAM);
    options_.forwards = {*parse_forward("tcp:" + std::to_string(taken.port()) + "-80")};
    const auto port = UserPort::create(options_);
    ASSERT_FALSE(port);
    EXPECT_EQ(port.error().os_error, EADDRINUSE);
}

TEST_P(NetUserTest, HostIsReadAsFastAsTheGuestTakes) {
    serve();
    const LoopbackSocket listener(AF_INET, SOCK_STREAM);
    FrameOptions options = to(ip4("10.0.2.2"), listener.port(), false);
    options.tcp_flags = kSyn;
    ASSERT_TRUE(guest().send(make_frame("", options)));
    const auto accepted = receive();
    ASSERT_TRUE(accepted);
    const UniqueFd server = listener.accept();
    options.sequence += 1;
    options.tcp_flags = kAck;
    const std::string payload = make_payload(300'000);
    std::string got;
    size_t sent = 0;
    while (got.size() < payload.size()) {
        if (sent < payload.size()) {
            const ssize_t count =
                ::send(server.get(), payload.data() + sent, payload.size() - sent, MSG_DONTWAIT);
            sent += count > 0 ? static_cast<size_t>(count) : 0;
        }
        options.acknowledged = accepted->sequence + 1 + static_cast<uint32_t>(got.size());
        ASSERT_TRUE(guest().send(make_frame("", options)));
        const auto frame = receive();
        ASSERT_TRUE(frame) << got.size();
        if (frame->sequence == options.acknowledged) {
            got += frame->payload;
        }
    }
    EXPECT_EQ(got, payload);
}

TEST_P(NetUserTest, HostIsNotReadWhileTheGuestTakesNothing) {
    serve(1);
    LoopbackSocket server(AF_INET, SOCK_DGRAM);
    ASSERT_TRUE(guest().send(make_frame("open", to(ip4("10.0.2.2"), server.port(), true))));
    ASSERT_EQ(server.receive(), "open");
    guest().hold_buffers();
    // Who has 10.0.2.2? The library answers from within the call that sends.
    for (int i = 0; i < 2; ++i) {
        ASSERT_TRUE(guest().send("\xff\xff\xff\xff\xff\xff" + kGuestMac +
                                 std::string("\x08\x06\0\x01\x08\0\x06\x04\0\x01", 10) + kGuestMac +
                                 ip4("10.0.2.15") + std::string(6, '\0') + ip4("10.0.2.2")));
    }
    ASSERT_TRUE(guest().receive());
    give_others_a_moment();
    for (int i = 0; i < 20'000; ++i) {
        server.answer(std::string(1400, 'x'));
    }
    give_others_a_moment();
    EXPECT_EQ(counters().dropped.value(DropReason::kQueueFull), 0U);
}

TEST_P(NetUserTest, DatagramsOfMoreSendersThanThereMayBeAreDropped) {
    options_.sockets_max = 3;
    serve();
    LoopbackSocket server(AF_INET, SOCK_DGRAM);
    const auto send_from = [&](uint16_t port) {
        FrameOptions options = to(ip4("10.0.2.2"), server.port(), true);
        options.source_port = port;
        EXPECT_TRUE(guest().send(make_frame("from " + std::to_string(port), options)));
    };
    for (const uint16_t port : std::array<uint16_t, 3>{4000, 4001, 4002}) {
        send_from(port);
        EXPECT_EQ(server.receive(), "from " + std::to_string(port));
    }
    send_from(4003);
    EXPECT_EQ(counters().dropped.value(DropReason::kConnections), 1U);
    FrameOptions connect = to(ip4("10.0.2.2"), server.port(), false);
    connect.tcp_flags = kSyn;
    ASSERT_TRUE(guest().send(make_frame("", connect)));
    EXPECT_EQ(counters().dropped.value(DropReason::kConnections), 2U);
    // Those that are there go on, and nothing of the others has come.
    send_from(4000);
    EXPECT_EQ(server.receive(), "from 4000");
    EXPECT_EQ(counters().dropped.value(DropReason::kConnections), 2U);
}

TEST_P(NetUserTest, ConnectionThatEndsMakesRoomForAnother) {
    options_.sockets_max = 1;
    const uint16_t forwarded = LoopbackSocket(AF_INET, SOCK_STREAM).port();
    options_.forwards = {*parse_forward("tcp:" + std::to_string(forwarded) + "-80")};
    serve();
    const LoopbackSocket listener(AF_INET, SOCK_STREAM);
    FrameOptions options = to(ip4("10.0.2.2"), listener.port(), false);
    options.tcp_flags = kSyn;
    ASSERT_TRUE(guest().send(make_frame("", options)));
    const auto accepted = receive();
    ASSERT_TRUE(accepted);
    const UniqueFd server = listener.accept();
    FrameOptions second = options;
    second.source_port = 4001;
    ASSERT_TRUE(guest().send(make_frame("", second)));
    EXPECT_EQ(counters().dropped.value(DropReason::kConnections), 1U);
    // A program of the host that connects to the guest's port waits, too.
    const UniqueFd waiting(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_storage to_host = LoopbackSocket::loopback(AF_INET, forwarded);
    ASSERT_EQ(
        ::connect(
            waiting.get(), LoopbackSocket::generic(to_host), LoopbackSocket::bytes_of(AF_INET)),
        0);
    give_others_a_moment();
    EXPECT_FALSE(guest().receive_now());
    options.sequence += 1;
    options.acknowledged = accepted->sequence + 1;
    options.tcp_flags = kReset;
    ASSERT_TRUE(guest().send(make_frame("", options)));
    const auto asked = receive();
    ASSERT_TRUE(asked);
    EXPECT_EQ(asked->tcp_flags, kSyn);
    EXPECT_EQ(asked->destination_port, 80);
}

TEST_P(NetUserTest, NoiseHarmsNothing) {
    serve();
    uint32_t random = 7;
    for (int i = 0; i < 3000; ++i) {
        random = random * 1664525 + 1013904223;
        std::string frame = make_payload(14 + (random >> 20) % 1500, random);
        // Half of them get as far as the packet, or the headers behind it.
        switch (random >> 30) {
            case 0:
                frame.replace(0, 14, router_mac_ + kGuestMac + std::string("\x08\0", 2));
                break;
            case 1: {
                std::string good = make_frame(frame, to(ip4("10.0.2.2"), 9, (random & 64) != 0));
                good[14 + (random >> 8) % 40] = static_cast<char>(random >> 4);
                frame = good;
                break;
            }
            case 2:
                frame.replace(0, 14, router_mac_ + kGuestMac + "\x86\xdd");
                break;
            default:
                break;
        }
        ASSERT_TRUE(guest().send(frame)) << i;
        while (guest().receive_now()) {
        }
    }
    LoopbackSocket server(AF_INET, SOCK_DGRAM);
    ASSERT_TRUE(guest().send(make_frame("alive", to(ip4("10.0.2.2"), server.port(), true))));
    EXPECT_EQ(server.receive(), "alive");
}

TEST_P(NetUserTest, IdleNetworkTakesNoProcessor) {
    options_.ip6.reset();  // its router advertises now and then
    serve();
    give_others_a_moment();
    const uint64_t turns = host_->worker_counters(0).turns.value();
    give_others_a_moment();
    EXPECT_LE(host_->worker_counters(0).turns.value(), turns + 2);
}

INSTANTIATE_TEST_SUITE_P(Rings, NetUserTest, ::testing::Bool(), [](const auto& row) {
    return row.param ? "Packed" : "Split";
});

}  // namespace outrigger::net
