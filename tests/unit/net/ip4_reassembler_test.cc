// SPDX-License-Identifier: Apache-2.0
#include "devices/net/ip4_reassembler.h"

#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/net_frames.h"

namespace outrigger::net {
namespace {

using testing::fragment_of;
using testing::FrameOptions;
using testing::make_frame;
using testing::make_payload;

class Ip4ReassemblerTest : public ::testing::Test {
  protected:
    /// A datagram whose packet, behind the header, has 8 bytes more than `bytes`.
    static std::string datagram(size_t bytes, FrameOptions options = {}) {
        options.udp = true;
        return make_frame(make_payload(bytes), options);
    }

    Ip4Reassembler::Taken add(const std::string& frame) {
        const auto bytes = std::as_bytes(std::span(frame));
        EXPECT_TRUE(Ip4Reassembler::is_fragment(bytes));
        return reassembler_.add(bytes, now_);
    }

    /// The packet, if it is right.
    static std::optional<testing::ReadFrame> read(const Ip4Reassembler::Taken& taken) {
        // SAFETY: bytes are bytes.
        const auto* const text = reinterpret_cast<const char*>(taken.whole.data());
        return taken.whole.empty() ? std::nullopt
                                   : testing::read_frame(std::string(text, taken.whole.size()));
    }

    bool waits(const std::string& frame) {
        const auto taken = add(frame);
        return taken.whole.empty() && !taken.refused;
    }

    bool refused(const std::string& frame) { return add(frame).refused; }

    Ip4Reassembler reassembler_;
    Ip4Reassembler::Clock::time_point now_{};
};

TEST_F(Ip4ReassemblerTest, WholePacketsAreNoFragments) {
    for (const std::string& frame : {datagram(100),
                                     make_frame("text"),
                                     make_frame("text", {.ip6 = true}),
                                     std::string(14, 'x')}) {
        EXPECT_FALSE(Ip4Reassembler::is_fragment(std::as_bytes(std::span(frame))));
    }
}

TEST_F(Ip4ReassemblerTest, PartsComeInAnyOrder) {
    const std::string frame = datagram(4000);
    const std::vector<std::pair<size_t, size_t>> parts{{0, 1480}, {1480, 2960}, {2960, 4008}};
    for (const std::vector<size_t>& order : std::vector<std::vector<size_t>>{
             {0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}) {
        EXPECT_TRUE(waits(fragment_of(frame, parts[order[0]].first, parts[order[0]].second)));
        EXPECT_TRUE(waits(fragment_of(frame, parts[order[1]].first, parts[order[1]].second)));
        const auto whole =
            read(add(fragment_of(frame, parts[order[2]].first, parts[order[2]].second)));
        ASSERT_TRUE(whole);
        EXPECT_EQ(whole->payload, make_payload(4000));
    }
}

TEST_F(Ip4ReassemblerTest, TheFirstPartsOptionsStay) {
    const std::string frame = datagram(1000, {.ip_option_bytes = 8});
    EXPECT_TRUE(waits(fragment_of(frame, 504, 1008)));
    const auto taken = add(fragment_of(frame, 0, 504));
    const auto whole = read(taken);
    ASSERT_TRUE(whole);
    EXPECT_EQ(whole->payload, make_payload(1000));
    EXPECT_EQ(taken.whole.size(), frame.size());
}

TEST_F(Ip4ReassemblerTest, LongestPacketThatThereIs) {
    const std::string frame = datagram(65507);
    for (size_t at = 0; at + 1480 < 65515; at += 1480) {
        EXPECT_TRUE(waits(fragment_of(frame, at, at + 1480)));
    }
    const auto whole = read(add(fragment_of(frame, 65120, 65515)));
    ASSERT_TRUE(whole);
    EXPECT_EQ(whole->payload, make_payload(65507));
}

TEST_F(Ip4ReassemblerTest, PacketsThatMixStayApart) {
    const std::string a = datagram(1000);
    const std::string b = datagram(1200, {.identity = 78});
    EXPECT_TRUE(waits(fragment_of(a, 0, 800)));
    EXPECT_TRUE(waits(fragment_of(b, 0, 800)));
    const auto first = read(add(fragment_of(a, 800, 1008)));
    ASSERT_TRUE(first);
    EXPECT_EQ(first->payload, make_payload(1000));
    const auto second = read(add(fragment_of(b, 800, 1208)));
    ASSERT_TRUE(second);
    EXPECT_EQ(second->payload, make_payload(1200));
}

TEST_F(Ip4ReassemblerTest, PartThatComesTwiceChangesNothing) {
    const std::string frame = datagram(1000);
    EXPECT_TRUE(waits(fragment_of(frame, 0, 800)));
    EXPECT_TRUE(waits(fragment_of(frame, 0, 800)));
    EXPECT_TRUE(waits(fragment_of(frame, 160, 320)));
    EXPECT_TRUE(read(add(fragment_of(frame, 800, 1008))));
}

TEST_F(Ip4ReassemblerTest, PartsThatOverlapEndTheirPacket) {
    const std::string frame = datagram(1000);
    EXPECT_TRUE(waits(fragment_of(frame, 0, 800)));
    EXPECT_TRUE(refused(fragment_of(frame, 792, 904)));
    EXPECT_TRUE(waits(fragment_of(frame, 800, 1008)));
}

TEST_F(Ip4ReassemblerTest, WhatLiesBehindTheEndEndsItsPacket) {
    const std::string frame = datagram(1000);
    const std::string longer = datagram(2000);
    EXPECT_TRUE(waits(fragment_of(frame, 800, 1008)));
    EXPECT_TRUE(refused(fragment_of(longer, 1600, 1608)));
    EXPECT_TRUE(waits(fragment_of(longer, 1600, 1608)));
    EXPECT_TRUE(refused(fragment_of(frame, 800, 1008)));
    // Two ends.
    EXPECT_TRUE(waits(fragment_of(longer, 1600, 2008)));
    EXPECT_TRUE(refused(fragment_of(frame, 800, 1008)));
}

TEST_F(Ip4ReassemblerTest, HeadersThatAreWrongAreRefused) {
    const std::string frame = datagram(1000);
    const std::string good = fragment_of(frame, 0, 800);
    for (const size_t at : {14U, 16U, 18U, 24U}) {
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ 0x01);  // the checksum is that of another header
        EXPECT_TRUE(refused(bad)) << at;
    }
    EXPECT_TRUE(refused(good.substr(0, good.size() - 1)));
    EXPECT_TRUE(refused(fragment_of(frame, 0, 801)));  // more are to come, but at what place?
    EXPECT_TRUE(refused(fragment_of(frame, 0, 0)));    // nothing
    std::string last = fragment_of(datagram(65507), 65512, 65515);
    EXPECT_TRUE(waits(last));
    // Beyond what a length can say.
    EXPECT_TRUE(refused(fragment_of(datagram(65515), 65512, 65523)));
}

TEST_F(Ip4ReassemblerTest, WhatDoesNotComeInTimeIsForgotten) {
    const std::string frame = datagram(1000);
    EXPECT_TRUE(waits(fragment_of(frame, 0, 800)));
    now_ += Ip4Reassembler::kLifetime + std::chrono::seconds(1);
    EXPECT_TRUE(waits(fragment_of(frame, 800, 1008)));
    EXPECT_TRUE(read(add(fragment_of(frame, 0, 800))));
}

TEST_F(Ip4ReassemblerTest, TheOldestGivesWayToOneTooMany) {
    for (uint16_t i = 0; i <= Ip4Reassembler::kPacketsMax; ++i) {
        EXPECT_TRUE(waits(fragment_of(datagram(1000, {.identity = i}), 0, 800)));
    }
    EXPECT_TRUE(read(add(fragment_of(datagram(1000, {.identity = 1}), 800, 1008))));
    EXPECT_TRUE(waits(fragment_of(datagram(1000, {.identity = 0}), 800, 1008)));
}

}  // namespace
}  // namespace outrigger::net
