// SPDX-License-Identifier: Apache-2.0
#include "devices/net/guest_connections.h"

#include <span>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/support/net_frames.h"

namespace outrigger::net {
namespace {

using testing::FrameOptions;
using testing::make_frame;

constexpr uint8_t kFin = 0x11;
constexpr uint8_t kSyn = 0x02;
constexpr uint8_t kReset = 0x04;

/// Memory that outlives each of its users, as processes of a keeper have it.
class GuestConnectionsTest : public ::testing::Test {
  protected:
    static UniqueFd make_memory() {
        UniqueFd memory(::memfd_create("connections", MFD_CLOEXEC));
        EXPECT_EQ(::ftruncate(memory.get(), GuestConnections::kKeptBytes), 0);
        return memory;
    }

    [[nodiscard]] Mapping map() const {
        return Mapping::map_file(memory_.get(), 0, GuestConnections::kKeptBytes).value();
    }

    static std::span<const std::byte> bytes_of(const std::string& text) {
        return std::as_bytes(std::span(text));
    }

    void sent(const FrameOptions& options) { first_.note_sent(bytes_of(make_frame("", options))); }

    /// The same connection's other direction.
    void received(FrameOptions options) {
        std::swap(options.source_port, options.destination_port);
        options.source = options.ip6 ? std::string("\xfd") + std::string(14, '\0') + "\x02"
                                     : std::string("\x0a\0\0\x02", 4);
        options.destination = options.ip6 ? std::string("\xfd") + std::string(14, '\0') + "\x01"
                                          : std::string("\x0a\0\0\x01", 4);
        first_.note_received(bytes_of(make_frame("", options)));
    }

    /// What another process asks the guest.
    [[nodiscard]] std::vector<std::string> asked() const {
        std::vector<std::string> frames;
        const GuestConnections next(map());
        const size_t count = next.ask([&](std::span<const std::byte> frame) {
            // SAFETY: bytes are bytes.
            frames.emplace_back(reinterpret_cast<const char*>(frame.data()), frame.size());
        });
        EXPECT_EQ(count, frames.size());
        return frames;
    }

    UniqueFd memory_ = make_memory();
    GuestConnections first_{map()};
};

TEST_F(GuestConnectionsTest, NextProcessAsksWithASegmentOfTheOtherEnd) {
    sent({.tcp_flags = kSyn});
    const auto frames = asked();
    ASSERT_EQ(frames.size(), 1U);
    EXPECT_EQ(frames[0].substr(0, 6), make_frame("").substr(6, 6));
    EXPECT_EQ(frames[0].substr(6, 6), make_frame("").substr(0, 6));
    // Right lengths and checksums, too.
    const auto segment = testing::read_frame(frames[0]);
    ASSERT_TRUE(segment);
    EXPECT_EQ(segment->source, std::string("\x0a\0\0\x02", 4));
    EXPECT_EQ(segment->destination, std::string("\x0a\0\0\x01", 4));
    EXPECT_EQ(segment->source_port, 5000);
    EXPECT_EQ(segment->destination_port, 4000);
    EXPECT_EQ(segment->tcp_flags, 0x10);
    EXPECT_EQ(segment->payload, "");
}

TEST_F(GuestConnectionsTest, AsksOverIp6) {
    sent({.ip6 = true});
    const auto frames = asked();
    ASSERT_EQ(frames.size(), 1U);
    const auto segment = testing::read_frame(frames[0]);
    ASSERT_TRUE(segment);
    EXPECT_EQ(segment->source.back(), '\x02');
    EXPECT_EQ(segment->destination.back(), '\x01');
    EXPECT_EQ(segment->source_port, 5000);
}

TEST_F(GuestConnectionsTest, ConnectionIsNotedOnce) {
    sent({.tcp_flags = kSyn});
    sent({});
    received({});
    EXPECT_EQ(asked().size(), 1U);
}

TEST_F(GuestConnectionsTest, OneThatBothHaveEndedIsForgotten) {
    sent({});
    sent({.tcp_flags = kFin});
    EXPECT_EQ(asked().size(), 1U);  // it may still receive
    received({.tcp_flags = kFin});
    EXPECT_EQ(asked().size(), 0U);
}

TEST_F(GuestConnectionsTest, LastAcknowledgementOfOneThatHasEndedIsNone) {
    sent({});
    received({.tcp_flags = kFin});
    sent({.tcp_flags = kFin});
    received({});
    EXPECT_EQ(asked().size(), 0U);
}

TEST_F(GuestConnectionsTest, OneThatIsResetByEitherSideIsForgotten) {
    sent({.source_port = 1});
    received({.source_port = 1, .tcp_flags = kReset});
    sent({.source_port = 2});
    sent({.source_port = 2, .tcp_flags = kReset});
    EXPECT_EQ(asked().size(), 0U);
}

TEST_F(GuestConnectionsTest, ResetOfAnUnknownOneIsNone) {
    sent({.tcp_flags = kReset});
    received({});
    EXPECT_EQ(asked().size(), 0U);
}

TEST_F(GuestConnectionsTest, ItIsOnlyAskedForThoseOfAnotherProcess) {
    sent({.source_port = 1});
    EXPECT_EQ(first_.ask([](auto) {}), 0U);
    first_ = GuestConnections(map());
    sent({.source_port = 2});
    EXPECT_EQ(first_.ask([](auto) {}), 1U);
    EXPECT_EQ(first_.ask([](auto) {}), 1U);
    // Begun anew, or heard of.
    sent({.source_port = 1, .tcp_flags = kSyn});
    EXPECT_EQ(first_.ask([](auto) {}), 0U);
}

TEST_F(GuestConnectionsTest, DatagramsAreNone) {
    sent({.udp = true});
    EXPECT_EQ(asked().size(), 0U);
}

TEST_F(GuestConnectionsTest, FramesCutShortAreNone) {
    const std::string whole = make_frame("");
    for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
        first_.note_sent(bytes_of(whole).first(bytes));
        first_.note_received(bytes_of(whole).first(bytes));
    }
    EXPECT_EQ(asked().size(), 0U);
}

TEST_F(GuestConnectionsTest, OfTooManyTheNewestAreKnown) {
    const size_t many = 2 * GuestConnections::kConnectionsMax;
    for (size_t i = 0; i < many; ++i) {
        sent({.source_port = static_cast<uint16_t>(1 + i), .tcp_flags = kSyn});
    }
    const auto frames = asked();
    EXPECT_GT(frames.size(), GuestConnections::kConnectionsMax / 2);
    EXPECT_LE(frames.size(), GuestConnections::kConnectionsMax);
    bool has_last = false;
    for (const std::string& frame : frames) {
        has_last = has_last || testing::read_frame(frame)->destination_port == many;
    }
    EXPECT_TRUE(has_last);
}

TEST_F(GuestConnectionsTest, MemoryMaySayAnything) {
    const Mapping memory = map();
    for (size_t i = 0; i < memory.size(); ++i) {
        memory.data()[i] = static_cast<std::byte>(i * 2654435761U >> 13);
    }
    for (const std::string& frame : asked()) {
        EXPECT_TRUE(testing::read_frame(frame));
    }
    sent({});
    received({});
}

TEST(GuestConnectionsAlone, WithoutMemoryNothingIsNoted) {
    GuestConnections connections{Mapping()};
    const std::string frame = make_frame("");
    connections.note_sent(std::as_bytes(std::span(frame)));
    EXPECT_EQ(connections.ask([](auto) {}), 0U);
}

}  // namespace
}  // namespace outrigger::net
