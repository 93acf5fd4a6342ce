// SPDX-License-Identifier: Apache-2.0
#include "devices/net/sender_guard.h"

#include <array>
#include <deque>
#include <functional>
#include <string>

#include <arpa/inet.h>

#include <gtest/gtest.h>

#include "devices/net/guarded_port.h"
#include "tests/support/net_frames.h"

namespace outrigger::net {
namespace {

using testing::FrameOptions;
using testing::make_frame;
using testing::transport_start_of;

const std::string kOwn("\x52\x54\0\0\0\x01", 6);  // where frames of the tests come from
const std::string kOther("\x52\x54\0\0\0\x09", 6);
const std::string kAll(6, '\xff');
constexpr StationAddress kOwnNumber = 0x5254'0000'0001;
constexpr size_t kSourceAt = 6;

std::string ip(const char* text) {
    std::string bytes(std::string_view(text).find(':') == std::string_view::npos ? 4 : 16, '\0');
    EXPECT_EQ(::inet_pton(bytes.size() == 4 ? AF_INET : AF_INET6, text, bytes.data()), 1);
    return bytes;
}

const std::string kLinkLocal = ip("fe80::5054:ff:fe00:1");
const std::string kNobody6(16, '\0');

std::string be16(size_t value) {
    return {static_cast<char>(value >> 8), static_cast<char>(value)};
}

std::string ethernet(const std::string& type, const std::string& packet) {
    return kAll + kOwn + type + packet;
}

std::string arp(const std::string& station, const std::string& address, char operation = 1) {
    return ethernet("\x08\x06",
                    std::string("\0\x01\x08\0\x06\x04\0", 7) + operation + station + address +
                        std::string(6, '\0') + ip("10.0.0.9"));
}

/// `before`: extension headers, of which the first is of the kind `next`.
std::string icmp6(const std::string& source,
                  const std::string& message,
                  char next = 58,
                  const std::string& before = "") {
    return ethernet("\x86\xdd",
                    std::string("\x60\0\0\0", 4) + be16(before.size() + message.size()) + next +
                        '\xff' + source + ip("ff02::1") + before + message);
}

/// Of neighbour discovery: a type, a target if it has one, and the option that names a station.
std::string discovery(char type, const std::string& target, const std::string& station) {
    const char option = type == '\x88' ? 2 : 1;
    return std::string{type} + std::string(7, '\0') + target +
           (station.empty() ? "" : std::string{option, 1} + station);
}

class SenderGuardTest : public ::testing::Test {
  protected:
    void allow(const std::vector<const char*>& addresses, bool station = true) {
        rules_ = {};
        if (station) {
            rules_.stations = {kOwnNumber};
        }
        for (const char* const text : addresses) {
            const auto range = parse_ip_range(text);
            ASSERT_TRUE(range) << text;
            rules_.addresses.push_back(*range);
        }
    }

    [[nodiscard]] bool passes(const std::string& frame) const {
        const auto bytes = std::as_bytes(std::span(frame));
        return SenderGuard(rules_).allows(
            bytes.first(std::min(bytes.size(), SenderGuard::kFrontBytes)), {});
    }

    [[nodiscard]] static std::string from(const std::string& station, std::string frame) {
        return frame.replace(kSourceAt, 6, station);
    }

    SenderRules rules_;
};

TEST_F(SenderGuardTest, StationIsTheOneThatIsAllowed) {
    allow({});
    EXPECT_TRUE(passes(make_frame("x")));
    EXPECT_TRUE(passes(make_frame("x", {.vlan_tags = 2})));
    EXPECT_FALSE(passes(from(kOther, make_frame("x"))));
    EXPECT_FALSE(passes(from(kAll, make_frame("x"))));
    EXPECT_FALSE(passes(make_frame("x").substr(0, 13)));
    EXPECT_TRUE(passes(ethernet("\x88\xcc", "of the link")));
}

TEST_F(SenderGuardTest, TagsHideNothing) {
    allow({});
    const std::string tag("\x81\0\0\x05", 4);
    std::string lie = arp(kOther, ip("192.0.2.1"));
    for (int tags = 0; tags < 4; ++tags) {
        EXPECT_FALSE(passes(lie)) << tags;
        lie.insert(12, tag);
    }
    EXPECT_TRUE(passes(make_frame("x", {.vlan_tags = 2})));
    EXPECT_FALSE(passes(make_frame("x", {.vlan_tags = 3})));
}

TEST_F(SenderGuardTest, ArpSpeaksOfItsSender) {
    allow({});
    EXPECT_TRUE(passes(arp(kOwn, ip("192.0.2.1"))));
    EXPECT_FALSE(passes(arp(kOther, ip("192.0.2.1"))));
    allow({"10.0.0.1"}, false);
    EXPECT_TRUE(passes(arp(kOwn, ip("10.0.0.1"))));
    EXPECT_TRUE(passes(arp(kOwn, ip("10.0.0.1"), 2)));
    EXPECT_TRUE(passes(arp(kOwn, ip("0.0.0.0"))));
    EXPECT_FALSE(passes(arp(kOwn, ip("10.0.0.2"))));
    EXPECT_FALSE(passes(arp(kOwn, ip("10.0.0.2"), 2)));
    EXPECT_FALSE(passes(arp(kOther, ip("10.0.0.1"), 2)));
    EXPECT_FALSE(passes(arp(kOwn, ip("10.0.0.1")).substr(0, 41)));
    std::string other_kind = arp(kOwn, ip("10.0.0.1"));
    other_kind[18] = 8;
    EXPECT_FALSE(passes(other_kind));
}

TEST_F(SenderGuardTest, AddressOfIp4IsOneThatIsAllowed) {
    allow({"10.0.0.0/30", "192.0.2.7"});
    FrameOptions options;
    EXPECT_TRUE(passes(make_frame("x", options)));
    options.vlan_tags = 2;
    EXPECT_TRUE(passes(make_frame("x", options)));
    options.source = ip("10.0.0.4");
    EXPECT_FALSE(passes(make_frame("x", options)));
    options.vlan_tags = 0;
    EXPECT_FALSE(passes(make_frame("x", options)));
    options.source = ip("192.0.2.7");
    EXPECT_TRUE(passes(make_frame("x", options)));
    EXPECT_FALSE(passes(make_frame("x", options).substr(0, 33)));
    EXPECT_FALSE(passes(make_frame("x", {.ip6 = true})));
    // IPv4 under another number, and three tags.
    std::string hidden = make_frame("x", options);
    hidden.replace(12, 2, "\x88\x47");
    EXPECT_FALSE(passes(hidden));
    options.vlan_tags = 3;
    EXPECT_FALSE(passes(make_frame("x", options)));
}

TEST_F(SenderGuardTest, GuestWithoutAnAddressMayAskForOne) {
    allow({"10.0.0.1"});
    FrameOptions options{.udp = true, .source_port = 68, .destination_port = 67};
    options.source = ip("0.0.0.0");
    options.destination = ip("255.255.255.255");
    EXPECT_TRUE(passes(make_frame("discover", options)));
    options.destination = ip("10.0.0.9");
    EXPECT_FALSE(passes(make_frame("discover", options)));
    options.destination = ip("255.255.255.255");
    options.destination_port = 68;
    EXPECT_FALSE(passes(make_frame("discover", options)));
    options.destination_port = 67;
    options.udp = false;
    EXPECT_FALSE(passes(make_frame("discover", options)));
}

TEST_F(SenderGuardTest, AddressOfIp6IsOneThatIsAllowed) {
    allow({"fd00::/64"});
    EXPECT_TRUE(passes(make_frame("x", {.ip6 = true})));
    EXPECT_TRUE(passes(make_frame("x", {.ip6 = true, .hop_by_hop = true})));
    FrameOptions options{.ip6 = true};
    options.source = ip("fd00:0:0:1::1");
    EXPECT_FALSE(passes(make_frame("x", options)));
    options.source = kLinkLocal;
    EXPECT_TRUE(passes(make_frame("x", options)));
    options.source = ip("fe80::5054:ff:fe00:2");
    EXPECT_FALSE(passes(make_frame("x", options)));
    options.source = kNobody6;
    EXPECT_FALSE(passes(make_frame("x", options)));
    EXPECT_FALSE(passes(make_frame("x", {.ip6 = true}).substr(0, 53)));
}

TEST_F(SenderGuardTest, NeighbourDiscoverySpeaksOfItsSender) {
    const std::string own = ip("fd00::1");
    const std::string other = ip("fd00::2");
    allow({"fd00::1"});
    EXPECT_TRUE(passes(icmp6(own, discovery('\x87', other, kOwn))));
    EXPECT_FALSE(passes(icmp6(own, discovery('\x87', other, kOther))));
    EXPECT_TRUE(passes(icmp6(own, discovery('\x88', own, kOwn))));
    EXPECT_TRUE(passes(icmp6(own, discovery('\x88', own, ""))));
    EXPECT_TRUE(passes(icmp6(kLinkLocal, discovery('\x88', kLinkLocal, kOwn))));
    EXPECT_FALSE(passes(icmp6(own, discovery('\x88', other, kOwn))));
    EXPECT_FALSE(passes(icmp6(own, discovery('\x88', own, kOther))));
    EXPECT_FALSE(passes(icmp6(other, discovery('\x88', own, kOwn))));
    // Is the address taken? Is there a router?
    EXPECT_TRUE(passes(icmp6(kNobody6, discovery('\x87', own, ""))));
    EXPECT_FALSE(passes(icmp6(kNobody6, discovery('\x87', other, ""))));
    EXPECT_TRUE(passes(icmp6(kNobody6, discovery('\x85', "", ""))));
    EXPECT_TRUE(passes(icmp6(kNobody6, std::string("\x8f\0\0\0\0\0\0\0", 8))));
    EXPECT_FALSE(passes(icmp6(kNobody6, std::string("\x80\0\0\0\0\0\0\0", 8))));
    // A router, and what leads elsewhere.
    EXPECT_FALSE(passes(icmp6(kLinkLocal, discovery('\x86', std::string(8, '\0'), kOwn))));
    EXPECT_FALSE(passes(icmp6(kLinkLocal, discovery('\x89', own + other, ""))));
    allow({});
    EXPECT_TRUE(passes(icmp6(kLinkLocal, discovery('\x86', std::string(8, '\0'), kOwn))));
    EXPECT_FALSE(passes(icmp6(kLinkLocal, discovery('\x86', std::string(8, '\0'), kOther))));
}

TEST_F(SenderGuardTest, NeighbourDiscoveryCannotHide) {
    const std::string own = ip("fd00::1");
    const std::string wrong = discovery('\x88', ip("fd00::2"), kOther);
    const std::string right = discovery('\x88', own, kOwn);
    allow({"fd00::1"});
    const std::string options(8, '\0');
    // Behind options, in fragments, behind headers that go on elsewhere, behind too many.
    EXPECT_TRUE(passes(icmp6(own, right, 0, '\x3a' + options.substr(1))));
    EXPECT_FALSE(passes(icmp6(own, wrong, 0, '\x3a' + options.substr(1))));
    EXPECT_FALSE(passes(icmp6(own, right, 44, std::string("\x3a\0\0\x01\0\0\0\x05", 8))));
    EXPECT_TRUE(passes(icmp6(own, wrong, 44, std::string("\x3a\0\0\x09\0\0\0\x05", 8))));
    EXPECT_FALSE(passes(icmp6(own, "", 44, std::string("\0\0\0\x01\0\0\0\x05", 8))));
    std::string many;
    for (int i = 0; i < 7; ++i) {
        many += '\x3c' + options.substr(1);
    }
    EXPECT_FALSE(passes(icmp6(own, wrong, 60, many + '\x3a' + options.substr(1))));
    EXPECT_FALSE(passes(icmp6(own, right, 0, "\x3a\x1f" + std::string(254, '\0'))));
    // Options of no length, cut short, and a message that is longer than the frame.
    EXPECT_FALSE(passes(icmp6(own, right + std::string(8, '\0'))));
    EXPECT_FALSE(passes(icmp6(own, right + "\x01")));
    EXPECT_FALSE(passes(icmp6(own, discovery('\x88', own.substr(1), ""))));
    EXPECT_FALSE(passes(icmp6(own, right).substr(0, 80)));
    std::string second = right;
    EXPECT_FALSE(passes(icmp6(own, second + "\x02\x01" + kOther)));
}

TEST(IpRangeTest, IsAnAddressOrAPrefix) {
    for (const char* const right :
         {"10.0.0.1", "10.0.0.0/8", "0.0.0.0/0", "10.0.0.1/32", "::1", "fe80::/10", "::/0"}) {
        EXPECT_TRUE(parse_ip_range(right)) << right;
    }
    for (const char* const wrong : {"",
                                    "10.0.0",
                                    "10.0.0.1/8",
                                    "10.0.0.0/33",
                                    "10.0.0.0/",
                                    "10.0.0.0/+8",
                                    "10.0.0.0/8x",
                                    "fe80::1/10",
                                    "fe80::/129",
                                    "host"}) {
        EXPECT_FALSE(parse_ip_range(wrong)) << wrong;
    }
}

/// Takes so many frames, and keeps what they were after the guest had written them anew.
class TakingPort final : public Port {
  public:
    void attach(EventLoop& /*loop*/, PortEvents& /*events*/) override {}

    void detach() override {}

    [[nodiscard]] size_t send(std::span<const Frame> frames) override {
        if (meanwhile_) {
            meanwhile_();
        }
        size_t taken = 0;
        for (; taken < frames.size() && room_ > 0; ++taken, --room_) {
            std::string bytes(frames[taken].bytes, '\0');
            EXPECT_EQ(copy_front(frames[taken], std::as_writable_bytes(std::span(bytes))),
                      bytes.size());
            sent_.push_back(std::move(bytes));
        }
        return taken;
    }

    [[nodiscard]] std::optional<Frame> next_frame() override { return std::nullopt; }

    void drop_frame() override {}

    void await_frames() override {}

    void load(const PortState& state) override { loaded_ = state; }

    size_t room_ = SIZE_MAX;
    std::function<void()> meanwhile_;
    std::vector<std::string> sent_;
    PortState loaded_;
};

class GuardedPortTest : public ::testing::Test {
  protected:
    GuardedPortTest() { guard({.stations = {kOwnNumber}}); }

    void guard(SenderRules rules) {
        auto port = std::make_unique<TakingPort>();
        taking_ = port.get();
        port_ = std::make_unique<GuardedPort>(std::move(port), std::move(rules));
    }

    /// The one frame, behind which somebody is to write two bytes.
    [[nodiscard]] bool passes_unfinished(const std::string& bytes, const FrameOffload& offload) {
        frames_.clear();
        add(bytes);
        frames_[0].offload = offload;
        const size_t before = taking_->sent_.size();
        EXPECT_EQ(port_->send(frames_), 1U);
        return taking_->sent_.size() > before;
    }

    [[nodiscard]] static FrameOffload sum_at(size_t start, size_t offset) {
        return {.needs_checksum = true,
                .checksum_start = static_cast<uint16_t>(start),
                .checksum_offset = static_cast<uint16_t>(offset)};
    }

    void add(std::string bytes) {
        bytes_.push_back(std::move(bytes));
        // In two pieces, of which the first is all headers and a little more.
        const size_t first = std::min<size_t>(bytes_.back().size(), 60);
        pieces_.push_back({iovec{.iov_base = bytes_.back().data(), .iov_len = first},
                           iovec{.iov_base = bytes_.back().data() + first,
                                 .iov_len = bytes_.back().size() - first}});
        frames_.push_back({.pieces = pieces_.back(), .bytes = bytes_.back().size()});
    }

    void add_spoofed() { add(make_frame("wrong").replace(kSourceAt, 6, kOther)); }

    [[nodiscard]] uint64_t drops() const {
        return port_->counters().dropped.value(DropReason::kSpoofed);
    }

    TakingPort* taking_ = nullptr;
    std::unique_ptr<GuardedPort> port_;
    std::deque<std::string> bytes_;
    std::deque<std::array<iovec, 2>> pieces_;
    std::vector<Frame> frames_;
};

TEST_F(GuardedPortTest, DropsWhatIsSpoofedAndKeepsTheOrder) {
    for (size_t i = 0; i < 200; ++i) {
        add(make_frame(testing::make_payload(10 + 5 * i)));
        add_spoofed();
    }
    EXPECT_EQ(port_->send(frames_), 400U);
    ASSERT_EQ(taking_->sent_.size(), 200U);
    for (size_t i = 0; i < 200; ++i) {
        EXPECT_EQ(taking_->sent_[i], bytes_[2 * i]);
    }
    EXPECT_EQ(drops(), 200U);
}

TEST_F(GuardedPortTest, WhatThePortDoesNotTakeWaits) {
    add_spoofed();
    add(make_frame("one"));
    add_spoofed();
    add(make_frame("two"));
    add_spoofed();
    taking_->room_ = 1;
    EXPECT_EQ(port_->send(frames_), 3U);
    EXPECT_EQ(drops(), 2U);
    EXPECT_EQ(port_->send(std::span(frames_).subspan(3)), 0U);
    EXPECT_EQ(drops(), 2U);
    taking_->room_ = 1;
    EXPECT_EQ(port_->send(std::span(frames_).subspan(3)), 2U);
    EXPECT_EQ(drops(), 3U);
    EXPECT_EQ(taking_->sent_, (std::vector<std::string>{make_frame("one"), make_frame("two")}));
}

TEST_F(GuardedPortTest, GuestCannotChangeWhatWasLookedAt) {
    add(make_frame(testing::make_payload(1000)));
    const std::string before = bytes_[0];
    taking_->meanwhile_ = [&] { bytes_[0].replace(kSourceAt, 6, kOther); };
    EXPECT_EQ(port_->send(frames_), 1U);
    ASSERT_EQ(taking_->sent_.size(), 1U);
    EXPECT_EQ(taking_->sent_[0], before);
}

TEST_F(GuardedPortTest, ChecksumOfTcpAndUdpMayBeLeftToOthers) {
    guard({.stations = {kOwnNumber},
           .addresses = {*parse_ip_range("10.0.0.1"), *parse_ip_range("fd00::1")}});
    for (const FrameOptions& options : {FrameOptions{},
                                        FrameOptions{.vlan_tags = 2, .ip_option_bytes = 40},
                                        FrameOptions{.ip6 = true, .hop_by_hop = true},
                                        FrameOptions{.udp = true},
                                        FrameOptions{.ip6 = true, .udp = true, .vlan_tags = 1}}) {
        const size_t start = transport_start_of(options);
        FrameOffload offload = sum_at(start, options.udp ? 6 : 16);
        EXPECT_TRUE(passes_unfinished(make_frame("text", options), offload));
        offload.segmentation = options.udp
                                   ? Segmentation::kUdp
                                   : (options.ip6 ? Segmentation::kTcp6 : Segmentation::kTcp4);
        offload.segment_bytes = 2;
        EXPECT_TRUE(passes_unfinished(make_frame("text", options), offload));
        // A tunnel's: what is in its packets is not looked at. But there are no segments of it.
        const size_t payload_start = start + (options.udp ? 8 : 20);
        EXPECT_TRUE(passes_unfinished(make_frame("text", options), sum_at(payload_start, 0)));
        EXPECT_TRUE(passes_unfinished(make_frame("text", options), sum_at(payload_start - 2, 4)));
        offload.checksum_start = static_cast<uint16_t>(payload_start);
        offload.checksum_offset = 0;
        EXPECT_FALSE(passes_unfinished(make_frame("text", options), offload));
    }
    EXPECT_EQ(drops(), 5U);
}

// Two bytes that the sender chooses, wherever it says.
TEST_F(GuardedPortTest, Trap20ChecksumCannotWriteWhatWasLookedAt) {
    guard({.stations = {kOwnNumber},
           .addresses = {*parse_ip_range("10.0.0.1"), *parse_ip_range("fd00::1")}});
    const std::string claim = arp(kOwn, ip("10.0.0.1"), 2) + std::string(18, '\0');
    ASSERT_TRUE(passes_unfinished(claim, {}));
    for (size_t at = 14; at <= claim.size() - 2; ++at) {
        EXPECT_FALSE(passes_unfinished(claim, sum_at(at, 0))) << at;
        EXPECT_FALSE(passes_unfinished(claim, sum_at(14, at - 14))) << at;
    }
    for (const FrameOptions& options : {FrameOptions{}, FrameOptions{.ip6 = true}}) {
        const std::string packet = make_frame("text", options);
        const size_t start = transport_start_of(options);
        for (size_t at = 14; at < start + 20; ++at) {
            EXPECT_FALSE(passes_unfinished(packet, sum_at(at, 0))) << at;
            if (at >= start && at != start + 16) {
                EXPECT_FALSE(passes_unfinished(packet, sum_at(start, at - start))) << at;
            }
            EXPECT_FALSE(passes_unfinished(packet, sum_at(14, at - 14))) << at;
        }
    }
    const std::string own = ip("fd00::1");
    const std::string advertisement = icmp6(own, discovery('\x88', own, kOwn));
    ASSERT_TRUE(passes_unfinished(advertisement, {}));
    for (size_t at = 14; at <= advertisement.size() - 2; ++at) {
        EXPECT_FALSE(passes_unfinished(advertisement, sum_at(at, 0))) << at;
    }
}

TEST_F(GuardedPortTest, StateTeachesNoOtherStations) {
    port_->load({.stations = {kOwnNumber, 0x5254'0000'0009}, .leases = {std::byte{1}}});
    EXPECT_EQ(taking_->loaded_.stations, std::vector<StationAddress>{kOwnNumber});
    EXPECT_EQ(taking_->loaded_.leases.size(), 1U);
    guard({.addresses = {*parse_ip_range("10.0.0.1")}});
    port_->load({.stations = {kOwnNumber, 0x5254'0000'0009}});
    EXPECT_EQ(taking_->loaded_.stations.size(), 2U);
}

}  // namespace
}  // namespace outrigger::net
