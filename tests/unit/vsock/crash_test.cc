// SPDX-License-Identifier: Apache-2.0
// A process that is killed before its stores to what outlives it, one after the other: the next one
// goes on, and the guest and the host see everything once.
#include <cstdlib>
#include <functional>
#include <string>

#include "tests/support/access_trap.h"
#include "tests/unit/vsock/crash_world.h"

namespace outrigger::vsock {
namespace {

constexpr uint32_t kGuestPort = 11;
constexpr uint32_t kHostPort = 22;
/// More than there are stores in any test.
constexpr size_t kStoresMax = 20'000;

std::string text_of(size_t bytes, char first = 'a') {
    std::string text(bytes, '\0');
    for (size_t i = 0; i < bytes; ++i) {
        text[i] = static_cast<char>(static_cast<size_t>(first) + (i * 7 + i / 251) % 26);
    }
    return text;
}

/// A connection that the guest has opened; the host's end.
UniqueFd open_from_guest(CrashWorld& world) {
    const UniqueFd listener = world.listen_host(kHostPort);
    world.send(world.header(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
    EXPECT_FALSE(world.serve());
    const auto packets = world.take_packets();
    EXPECT_EQ(packets.size(), 1U);
    EXPECT_TRUE(!packets.empty() && packets[0].header.op == VIRTIO_VSOCK_OP_RESPONSE);
    return CrashWorld::accept_last(listener);
}

/// Each direction works, and nothing is left of before.
void expect_echo(CrashWorld& world, const UniqueFd& host) {
    virtio_vsock_hdr header = world.header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
    header.flags = VIRTIO_VSOCK_SEQ_EOM;
    world.send(header, "ping");
    CrashWorld::write_host(host, "pong");
    EXPECT_FALSE(world.serve());
    EXPECT_EQ(CrashWorld::read_host(host), "ping");
    const auto packets = world.take_packets();
    ASSERT_EQ(packets.size(), 1U);
    EXPECT_EQ(packets[0].payload, "pong");
    EXPECT_TRUE(world.has_sent_all());
}

std::string payload_of(const std::vector<CrashPacket>& packets) {
    std::string all;
    for (const CrashPacket& packet : packets) {
        EXPECT_EQ(packet.header.op, VIRTIO_VSOCK_OP_RW);
        all += packet.payload;
    }
    return all;
}

/// Between two kills; with OUTRIGGER_EVERY_STORE none is left out.
size_t stores_between_kills() {
    constexpr size_t kSomeStores = 7;
    return std::getenv("OUTRIGGER_EVERY_STORE") == nullptr ? kSomeStores : 1;
}

/// `play` serves once with the number that it is given; true when that was killed.
void at_each_store(const std::function<bool(size_t kill_at)>& play) {
    if (!testing::kHasAccessTrap) {
        GTEST_SKIP() << "stores cannot be trapped here (another system, processor, or sanitizer)";
    }
    for (size_t kill_at = 0; kill_at < kStoresMax; kill_at += stores_between_kills()) {
        SCOPED_TRACE("killed before store " + std::to_string(kill_at));
        const bool was_killed = play(kill_at);
        if (::testing::Test::HasFailure()) {
            return;
        }
        if (!was_killed) {
            EXPECT_GT(kill_at, 20U) << "it must have stored more";
            return;
        }
    }
    ADD_FAILURE() << "there is no end of stores";
}

/// The rest of what a killed process had begun.
void serve_rest(CrashWorld& world, bool was_killed) {
    if (was_killed) {
        EXPECT_FALSE(world.serve());
    }
}

TEST(VsockCrash, BytesOfTheGuestArriveOnce) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        const UniqueFd host = open_from_guest(world);
        const auto header = world.header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
        world.send(header, text_of(100));
        world.send(header, text_of(5000, 'b'));
        world.send(world.header(VIRTIO_VSOCK_OP_CREDIT_REQUEST, kGuestPort, kHostPort));
        world.send(header, text_of(300, 'c'));
        const bool was_killed = world.serve(kill_at);
        serve_rest(world, was_killed);
        EXPECT_EQ(CrashWorld::read_host(host),
                  text_of(100) + text_of(5000, 'b') + text_of(300, 'c'));
        EXPECT_TRUE(world.take_packets().empty());
        EXPECT_EQ(world.device_forwarded, 5400U);
        expect_echo(world, host);
        return was_killed;
    });
}

/// The host's program does not read for a while: some of the bytes are in its socket, and others
/// wait for it.
TEST(VsockCrash, BytesForASlowProgramArriveOnce) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        const UniqueFd host = open_from_guest(world);
        world.narrow_sockets();
        std::string sent;
        const auto header = world.header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
        std::string got;
        bool was_killed = false;
        for (char first = 'a'; first < 'a' + 8; ++first) {
            sent += text_of(60'000, first);
            world.send(header, text_of(60'000, first));
            if (first % 2 == 0) {
                EXPECT_FALSE(world.serve());
            }
        }
        was_killed = world.serve(kill_at);
        for (int turn = 0; turn < 8; ++turn) {
            got += CrashWorld::read_host(host);
            EXPECT_FALSE(world.serve());
        }
        got += CrashWorld::read_host(host);
        EXPECT_TRUE(got == sent) << got.size() << " of " << sent.size();
        EXPECT_TRUE(world.take_packets().empty());
        expect_echo(world, host);
        return was_killed;
    });
}

TEST(VsockCrash, BytesOfTheHostArriveOnce) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        const UniqueFd host = open_from_guest(world);
        CrashWorld::write_host(host, text_of(9000));
        const bool was_killed = world.serve(kill_at);
        serve_rest(world, was_killed);
        EXPECT_EQ(payload_of(world.take_packets()), text_of(9000));
        expect_echo(world, host);
        return was_killed;
    });
}

TEST(VsockCrash, MessagesOfTheGuestArriveOnceAndWhole) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        world.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
        const UniqueFd host = open_from_guest(world);
        auto part = world.header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
        auto last = part;
        last.flags = VIRTIO_VSOCK_SEQ_EOM;
        world.send(part, text_of(200));
        world.send(last, text_of(10, 'b'));
        world.send(last);
        world.send(last, "third");
        const bool was_killed = world.serve(kill_at);
        serve_rest(world, was_killed);
        EXPECT_EQ(
            CrashWorld::read_messages(host),
            std::string("[").append(text_of(200)).append(text_of(10, 'b')).append("][][third]"));
        expect_echo(world, host);
        return was_killed;
    });
}

TEST(VsockCrash, MessagesOfTheHostArriveOnceAndWhole) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        world.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
        const UniqueFd host = open_from_guest(world);
        CrashWorld::write_host(host, text_of(9000));
        CrashWorld::write_host(host, "");
        CrashWorld::write_host(host, "third");
        const bool was_killed = world.serve(kill_at);
        serve_rest(world, was_killed);
        std::string got;
        for (const CrashPacket& packet : world.take_packets()) {
            EXPECT_EQ(packet.header.op, VIRTIO_VSOCK_OP_RW);
            got += packet.payload;
            got += (packet.header.flags & VIRTIO_VSOCK_SEQ_EOM) != 0 ? "|" : "";
        }
        EXPECT_EQ(got, text_of(9000) + "||third|");
        expect_echo(world, host);
        return was_killed;
    });
}

/// One call takes 256 KiB; what comes behind is admitted when that is committed, and not before.
TEST(VsockCrash, NoBytesOfTheGuestTakeRoomTwice) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        const UniqueFd host = open_from_guest(world);
        const auto header = world.header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
        world.narrow_sockets();
        constexpr int kPackets = 7;
        for (int i = 0; i < kPackets; ++i) {
            world.send(header, text_of(60'000));
        }
        const bool was_killed = world.serve(kill_at);
        size_t got = 0;
        for (int turn = 0; turn < kPackets; ++turn) {
            got += CrashWorld::read_host(host).size();
            EXPECT_FALSE(world.serve());
        }
        EXPECT_EQ(got, 60'000U * kPackets);
        // All that it may send, as far as it was told.
        auto sent = static_cast<uint32_t>(got);
        for (int turn = 0; turn < 3; ++turn) {
            uint32_t room = CrashWorld::kWindowBytes - (sent - world.device_forwarded);
            sent += room;
            while (room > 0) {
                const uint32_t bytes = std::min(room, 60'000U);
                world.send(header, text_of(bytes));
                room -= bytes;
            }
            EXPECT_FALSE(world.serve());
        }
        EXPECT_TRUE(world.take_packets().empty());
        return was_killed;
    });
}

/// A connection that another guest has accepted; that one's end.
UniqueFd open_to_other(CrashWorld& world) {
    world.peer_cid = CrashWorld::kOtherCid;
    world.send(world.header(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
    EXPECT_FALSE(world.serve());
    SiblingCall call = world.take_call();
    world.other_link = call.link;
    CrashWorld::write_host(call.socket, "+");
    EXPECT_FALSE(world.serve());
    const auto packets = world.take_packets();
    EXPECT_EQ(packets.size(), 1U);
    EXPECT_TRUE(!packets.empty() && packets[0].header.op == VIRTIO_VSOCK_OP_RESPONSE);
    return std::move(call.socket);
}

TEST(VsockCrash, RoomOfBytesForAnotherGuestIsWhatThatHasTaken) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        const UniqueFd other = open_to_other(world);
        const auto header = world.header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
        const auto question = world.header(VIRTIO_VSOCK_OP_CREDIT_REQUEST, kGuestPort, kHostPort);
        world.send(header, text_of(5000));
        world.send(question);
        world.send(header, text_of(300, 'b'));
        world.other_has_taken = 4000;
        const bool was_killed = world.serve(kill_at);
        serve_rest(world, was_killed);
        EXPECT_EQ(CrashWorld::read_host(other), text_of(5000) + text_of(300, 'b'));
        world.send(question);
        EXPECT_FALSE(world.serve());
        EXPECT_EQ(world.device_forwarded, 4000U);
        world.other_has_taken = 5300;
        world.send(question);
        EXPECT_FALSE(world.serve());
        EXPECT_EQ(world.device_forwarded, 5300U);
        EXPECT_TRUE(world.take_packets().empty());
        return was_killed;
    });
}

/// The guest has gone, and the other one is slow: each process of the device sends some of what is
/// left.
TEST(VsockCrash, MessagesForAnotherGuestStayWholeWhenTheirSenderHasGone) {
    CrashWorld world;
    world.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
    const UniqueFd other = open_to_other(world);
    world.narrow_sockets();
    auto header = world.header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort);
    header.flags = VIRTIO_VSOCK_SEQ_EOM;
    std::string expected;
    for (char first = 'a'; first < 'a' + 8; ++first) {
        world.send(header, text_of(60'000, first));
        expected += std::string("[") + '\0' + text_of(60'000, first) + "]";
    }
    auto close = world.header(VIRTIO_VSOCK_OP_SHUTDOWN, kGuestPort, kHostPort);
    close.flags = VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV;
    world.send(close);
    world.send(world.header(VIRTIO_VSOCK_OP_RST, kGuestPort, kHostPort));
    std::string got;
    for (int turn = 0; turn < 8 && got.size() < expected.size(); ++turn) {
        EXPECT_FALSE(world.serve());
        if (turn == 0) {
            EXPECT_TRUE(world.has_sent_all());
        }
        got += CrashWorld::read_messages(other, expected.size() - got.size());
    }
    EXPECT_TRUE(got == expected) << got.size() << " of " << expected.size();
}

TEST(VsockCrash, TwoRecordsOfOneNameLeaveTheListenersOpen) {
    CrashWorld world;
    EXPECT_FALSE(world.serve());
    ConnectionRecord record{};
    record.peer_cid = kHostCid;
    record.peer_port = kHostPort;
    record.guest_port = kGuestPort;
    record.type = VIRTIO_VSOCK_TYPE_STREAM;
    record.phase = 1;
    record.flags = kRecordHasKey;
    record.generation = 1;
    world.forge([&](Ledger& ledger) {
        ledger.commit(0, record);
        ledger.commit(1, record);
    });
    const UniqueFd host = world.connect_host();
    CrashWorld::write_host(host, "CONNECT 11\n");
    EXPECT_FALSE(world.serve());
    const auto packets = world.take_packets();
    EXPECT_TRUE(std::ranges::any_of(packets, [](const CrashPacket& packet) {
        return packet.header.op == VIRTIO_VSOCK_OP_REQUEST;
    }));
}

TEST(VsockCrash, CallOfTheGuestIsAnsweredOnce) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        const UniqueFd listener = world.listen_host(kHostPort);
        world.send(world.header(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
        const bool was_killed = world.serve(kill_at);
        serve_rest(world, was_killed);
        const auto packets = world.take_packets();
        EXPECT_EQ(packets.size(), 1U);
        EXPECT_TRUE(!packets.empty() && packets[0].header.op == VIRTIO_VSOCK_OP_RESPONSE);
        expect_echo(world, CrashWorld::accept_last(listener));
        return was_killed;
    });
}

TEST(VsockCrash, CallOfTheGuestIsRefusedOnce) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        world.send(world.header(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
        world.send(world.header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort + 1), "stray");
        const bool was_killed = world.serve(kill_at);
        serve_rest(world, was_killed);
        const auto packets = world.take_packets();
        EXPECT_EQ(packets.size(), 2U);
        for (const CrashPacket& packet : packets) {
            EXPECT_EQ(packet.header.op, VIRTIO_VSOCK_OP_RST);
        }
        EXPECT_TRUE(world.has_sent_all());
        return was_killed;
    });
}

TEST(VsockCrash, CallOfTheHostIsPassedOnOnce) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        EXPECT_FALSE(world.serve());
        const UniqueFd host = world.connect_host();
        CrashWorld::write_host(host, "CONNECT 11\nbehind");
        EXPECT_FALSE(world.serve());
        auto packets = world.take_packets();
        EXPECT_EQ(packets.size(), 1U);
        if (packets.empty()) {
            return false;
        }
        EXPECT_EQ(packets[0].header.op, VIRTIO_VSOCK_OP_REQUEST);
        const uint32_t port = packets[0].header.src_port;
        world.send(world.header(VIRTIO_VSOCK_OP_RESPONSE, kGuestPort, port));
        const bool was_killed = world.serve(kill_at);
        serve_rest(world, was_killed);
        EXPECT_EQ(payload_of(world.take_packets()), "behind");
        EXPECT_EQ(CrashWorld::read_host(host), make_ok_line(port));
        return was_killed;
    });
}

TEST(VsockCrash, LineOfTheHostIsTakenOnce) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        EXPECT_FALSE(world.serve());
        const UniqueFd host = world.connect_host();
        // Let in, and nothing said.
        CrashWorld::write_host(host, "CONN");
        EXPECT_FALSE(world.serve());
        CrashWorld::write_host(host, "ECT 11\nbehind");
        const bool was_killed = world.serve(kill_at);
        serve_rest(world, was_killed);
        const auto packets = world.take_packets();
        EXPECT_EQ(packets.size(), 1U);
        if (!packets.empty()) {
            EXPECT_EQ(packets[0].header.op, VIRTIO_VSOCK_OP_REQUEST);
            const uint32_t port = packets[0].header.src_port;
            world.send(world.header(VIRTIO_VSOCK_OP_RESPONSE, kGuestPort, port));
            EXPECT_FALSE(world.serve());
            EXPECT_EQ(payload_of(world.take_packets()), "behind");
        }
        return was_killed;
    });
}

TEST(VsockCrash, GuestThatClosesIsToldOnceBehindItsBytes) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        const UniqueFd host = open_from_guest(world);
        world.send(world.header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort), text_of(700));
        auto close = world.header(VIRTIO_VSOCK_OP_SHUTDOWN, kGuestPort, kHostPort);
        close.flags = VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV;
        world.send(close);
        const bool was_killed = world.serve(kill_at);
        serve_rest(world, was_killed);
        EXPECT_EQ(CrashWorld::read_host(host), text_of(700));
        EXPECT_TRUE(CrashWorld::has_ended(host));
        const auto packets = world.take_packets();
        EXPECT_EQ(packets.size(), 1U);
        EXPECT_TRUE(!packets.empty() && packets[0].header.op == VIRTIO_VSOCK_OP_RST);
        return was_killed;
    });
}

TEST(VsockCrash, EachHalfIsClosedOnce) {
    at_each_store([](size_t kill_at) {
        CrashWorld world;
        const UniqueFd host = open_from_guest(world);
        CrashWorld::write_host(host, text_of(600));
        EXPECT_EQ(::shutdown(host.get(), SHUT_WR), 0);
        const bool was_killed = world.serve(kill_at);
        serve_rest(world, was_killed);
        auto packets = world.take_packets();
        EXPECT_EQ(packets.size(), 2U);
        if (packets.size() == 2) {
            EXPECT_EQ(packets[0].payload, text_of(600));
            EXPECT_EQ(packets[1].header.op, VIRTIO_VSOCK_OP_SHUTDOWN);
            EXPECT_EQ(packets[1].header.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
        }
        world.send(world.header(VIRTIO_VSOCK_OP_RW, kGuestPort, kHostPort), "still");
        EXPECT_FALSE(world.serve());
        EXPECT_EQ(CrashWorld::read_host(host), "still");
        return was_killed;
    });
}

}  // namespace
}  // namespace outrigger::vsock
