// SPDX-License-Identifier: Apache-2.0
// Frames as drivers leave them, and commands of a control queue, with their bad neighbours.
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "tests/fuzz/net_script.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/seeds.h"
#include "tests/support/net_frames.h"

namespace outrigger::fuzz {
namespace {

using testing::FrameOptions;
using testing::make_frame;
using testing::make_payload;
using testing::transport_start_of;

constexpr uint64_t kAllFeatures = ~uint64_t{0};

void put(ScriptWriter& script, std::string_view bytes) {
    for (const char byte : bytes) {
        script.u8(static_cast<uint8_t>(byte));
    }
}

struct FrameSeed {
    uint8_t options = 0;
    uint64_t features = kAllFeatures;
    uint8_t flags = 1;
    uint8_t type = 0;
    uint16_t segment_bytes = 0;
    uint16_t start = 0;
    uint16_t offset = 0;
    uint16_t more = 0;
};

void add(Seeds& seeds, const std::string& name, const FrameSeed& seed, std::string_view frame) {
    ScriptWriter script;
    script.u8(seed.options).u64(seed.features).u8(seed.flags).u8(seed.type).u16(0);
    script.u16(seed.segment_bytes).u16(seed.start).u16(seed.offset).u16(0).u16(seed.more);
    put(script, frame);
    seeds["net-frames/" + name] = script.script();
}

/// `type` and its segments, where the headers of `options` end.
void add_of(Seeds& seeds, const std::string& name, FrameOptions options, uint8_t type) {
    options.partial_checksum = true;
    const FrameSeed seed{.options = kNetGuardsAddresses,
                         .type = type,
                         .segment_bytes = static_cast<uint16_t>(type == 0 ? 0 : 100),
                         .start = static_cast<uint16_t>(transport_start_of(options)),
                         .offset = static_cast<uint16_t>(options.udp ? 6 : 16)};
    add(seeds, name, seed, make_frame(make_payload(350), options));
}

constexpr uint8_t kTcp4 = 1;
constexpr uint8_t kTcp6 = 4;
constexpr uint8_t kFragments = 3;
constexpr uint8_t kUdp = 5;
constexpr uint8_t kEcn = 0x80;

void add_frames(Seeds& seeds) {
    const std::string own{"\x0a\0\0\x07", 4};
    add_of(seeds, "tcp4", {.source = own}, 0);
    add_of(seeds, "udp4", {.udp = true, .source = own}, 0);
    add_of(seeds, "tcp6", {.ip6 = true}, 0);
    add_of(seeds, "tcp4-segments", {.source = own}, kTcp4);
    add_of(seeds, "tcp4-segments-ecn", {.source = own, .tcp_flags = 0xd8}, kTcp4 | kEcn);
    add_of(seeds, "tcp4-options", {.ip_option_bytes = 8, .tcp_option_bytes = 12}, kTcp4);
    add_of(seeds, "tcp4-vlan", {.vlan_tags = 2}, kTcp4);
    add_of(seeds, "tcp6-segments", {.ip6 = true}, kTcp6);
    add_of(seeds, "tcp6-extension", {.ip6 = true, .hop_by_hop = true}, kTcp6);
    add_of(seeds, "udp4-segments", {.udp = true}, kUdp);
    add_of(seeds, "udp6-segments", {.ip6 = true, .udp = true}, kUdp);
    // The first fragment would be longer than a frame may be.
    const FrameOptions udp6{.ip6 = true, .udp = true, .partial_checksum = true};
    const auto udp6_start = static_cast<uint16_t>(transport_start_of(udp6));
    add(seeds,
        "udp6-fragments-longest",
        {.type = kFragments,
         .segment_bytes = 65'496,
         .start = udp6_start,
         .offset = 6,
         .more = 65'500 - 8},
        make_frame({}, udp6));
    add_of(seeds, "tcp4-said-to-be-6", {}, kTcp6);
    add_of(seeds, "unknown-kind", {}, 7);
    const std::string frame = make_frame(make_payload(100), {.partial_checksum = true});
    add(seeds, "checksum-in-the-ethernet-header", {.start = 0, .offset = 6}, frame);
    add(seeds, "checksum-at-the-end", {.start = 152, .offset = 0}, frame);
    add(seeds, "checksum-beyond-the-end", {.start = 153, .offset = 0}, frame);
    // Would make another sender of it.
    add(seeds,
        "checksum-in-the-address",
        {.options = kNetGuardsAddresses, .start = 28, .offset = 0},
        make_frame("", {.source = own, .partial_checksum = true}));
    add(seeds, "segments-of-no-bytes", {.type = kTcp4, .start = 34, .offset = 16}, frame);
    add(seeds,
        "too-many-segments",
        {.type = kTcp4, .segment_bytes = 1, .start = 34, .offset = 16, .more = 60'000},
        frame);
    add(seeds, "not-agreed", {.features = 0, .start = 34, .offset = 16}, frame);
    add(seeds, "runt", {.flags = 0}, "short");
    add(seeds, "giant", {.flags = 0, .more = 65'535}, frame);
}

class ControlSeed final {
  public:
    explicit ControlSeed(uint64_t features = kAllFeatures) { script_.u64(features).u8(3); }

    ControlSeed& command(std::initializer_list<uint8_t> bytes) {
        script_.u16(bytes.size());
        for (const uint8_t byte : bytes) {
            script_.u8(byte);
        }
        return *this;
    }

    void add(Seeds& seeds, const std::string& name) const {
        seeds["net-control/" + name] = script_.script();
    }

  private:
    ScriptWriter script_;
};

void add_commands(Seeds& seeds) {
    ControlSeed seed;
    for (uint8_t mode = 0; mode < 7; ++mode) {
        seed.command({0, mode, 1}).command({0, mode, 0});
    }
    seed.add(seeds, "modes");
    ControlSeed()
        .command({0, 0, 0})
        .command({1, 0, 1, 0, 0, 0, 0x52, 0x54, 0, 0, 0, 9, 1, 0, 0, 0, 0x33, 0x33, 0, 0, 0, 1})
        .command({1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
        .add(seeds, "stations");
    ControlSeed()
        .command({1, 0, 2, 0, 0, 0, 0x52, 0x54, 0, 0, 0, 9, 0, 0, 0, 0})
        .command({1, 0, 0xff, 0xff, 0xff, 0xff})
        .command({1, 0, 0, 0, 0, 0})
        .add(seeds, "stations-cut");
    ControlSeed()
        .command({1, 1, 0x52, 0x54, 0, 0, 0, 9})
        .command({1, 1, 0x53, 0x54, 0, 0, 0, 9})
        .command({1, 1, 0x52, 0x54, 0, 0, 0})
        .add(seeds, "own-station");
    ControlSeed()
        .command({2, 0, 5, 0})
        .command({2, 1, 5, 0})
        .command({2, 0, 0, 16})
        .command({2, 2, 5, 0})
        .add(seeds, "vlans");
    ControlSeed().command({3, 0}).command({3, 0, 0}).command({3, 1}).add(seeds, "announcement");
    ControlSeed()
        .command({4, 0, 4, 0})
        .command({4, 0, 5, 0})
        .command({4, 0, 0, 0})
        .add(seeds, "pairs");
    ControlSeed()
        .command({5, 0, 2, 0, 0, 0, 0, 0, 0, 0})
        .command({5, 0, 1, 0, 0, 0, 0, 0, 0, 0})
        .command({5, 0, 2, 0, 0, 0})
        .add(seeds, "offloads");
    ControlSeed(0).command({0, 0, 1}).command({4, 0, 1, 0}).add(seeds, "nothing-agreed");
    ControlSeed().command({}).command({0}).command({6, 0}).add(seeds, "no-commands");
}

}  // namespace

void add_net_seeds(Seeds& seeds) {
    add_frames(seeds);
    add_commands(seeds);
}

}  // namespace outrigger::fuzz
