// SPDX-License-Identifier: Apache-2.0
#include "devices/net/packet_filter.h"

#include <string>
#include <vector>

#include <linux/filter.h>

#include <gtest/gtest.h>

#include "tests/support/net_frames.h"

namespace outrigger::net {
namespace {

using testing::make_frame;

using Program = std::vector<FilterInstruction>;

constexpr FilterInstruction kAll{.code = BPF_RET | BPF_K, .k = 65535};
constexpr FilterInstruction kNone{.code = BPF_RET | BPF_K, .k = 0};

bool wants(const Program& program, const std::string& frame) {
    const auto filter = PacketFilter::parse(program);
    EXPECT_TRUE(filter);
    return filter && filter->wants(std::as_bytes(std::span(frame)), frame.size());
}

/// Does that value, left in A by `program`, come out?
bool gives(Program program, uint32_t value, const std::string& frame = std::string(64, '\x11')) {
    program.push_back({.code = BPF_JMP | BPF_JEQ | BPF_K, .jump_false = 1, .k = value});
    program.push_back(kAll);
    program.push_back(kNone);
    return wants(program, frame);
}

FilterInstruction constant(uint32_t value) {
    return {.code = BPF_LD | BPF_IMM, .k = value};
}

TEST(PacketFilter, WithoutAProgramEverythingIsWanted) {
    EXPECT_TRUE(PacketFilter().wants({}, 0));
}

TEST(PacketFilter, ProgramOfLibpcapForUdp) {
    // tcpdump -d 'ip and udp dst port 5000', as libpcap 1.10 prints it.
    const Program program{{BPF_LD | BPF_H | BPF_ABS, 0, 0, 12},
                          {BPF_JMP | BPF_JEQ | BPF_K, 0, 8, 0x800},
                          {BPF_LD | BPF_B | BPF_ABS, 0, 0, 23},
                          {BPF_JMP | BPF_JEQ | BPF_K, 0, 6, 17},
                          {BPF_LD | BPF_H | BPF_ABS, 0, 0, 20},
                          {BPF_JMP | BPF_JSET | BPF_K, 4, 0, 0x1fff},
                          {BPF_LDX | BPF_B | BPF_MSH, 0, 0, 14},
                          {BPF_LD | BPF_H | BPF_IND, 0, 0, 16},
                          {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 5000},
                          kAll,
                          kNone};
    EXPECT_TRUE(wants(program, make_frame("x", {.udp = true})));
    EXPECT_TRUE(wants(program, make_frame("x", {.udp = true, .ip_option_bytes = 8})));
    EXPECT_FALSE(wants(program, make_frame("x", {.udp = true, .destination_port = 5001})));
    EXPECT_FALSE(wants(program, make_frame("x", {})));
    EXPECT_FALSE(wants(program, make_frame("x", {.ip6 = true, .udp = true})));
    EXPECT_FALSE(wants(program, make_frame("x", {.udp = true}).substr(0, 30)));
}

TEST(PacketFilter, LoadsAreOfNetworkByteOrder) {
    const std::string frame("\x01\x02\x03\x04\x05\x06", 6);
    EXPECT_TRUE(gives({{BPF_LD | BPF_W | BPF_ABS, 0, 0, 2}}, 0x03040506, frame));
    EXPECT_TRUE(gives({{BPF_LD | BPF_H | BPF_ABS, 0, 0, 4}}, 0x0506, frame));
    EXPECT_TRUE(gives({{BPF_LD | BPF_B | BPF_ABS, 0, 0, 5}}, 0x06, frame));
    EXPECT_TRUE(gives({{BPF_LD | BPF_W | BPF_LEN, 0, 0, 0}}, 6, frame));
    EXPECT_TRUE(
        gives({{BPF_LDX | BPF_B | BPF_MSH, 0, 0, 5}, {BPF_MISC | BPF_TXA, 0, 0, 0}}, 24, frame));
}

TEST(PacketFilter, LoadBeyondTheEndWantsNothing) {
    const std::string frame(6, '\0');
    EXPECT_FALSE(wants({{BPF_LD | BPF_W | BPF_ABS, 0, 0, 3}, kAll}, frame));
    EXPECT_FALSE(wants({{BPF_LD | BPF_H | BPF_ABS, 0, 0, 5}, kAll}, frame));
    EXPECT_FALSE(wants({{BPF_LD | BPF_B | BPF_ABS, 0, 0, 6}, kAll}, frame));
    EXPECT_FALSE(wants({{BPF_LD | BPF_W | BPF_ABS, 0, 0, UINT32_MAX}, kAll}, frame));
    EXPECT_FALSE(wants({{BPF_LDX | BPF_B | BPF_MSH, 0, 0, 6}, kAll}, frame));
    EXPECT_FALSE(wants(
        {{BPF_LDX | BPF_IMM, 0, 0, UINT32_MAX}, {BPF_LD | BPF_B | BPF_IND, 0, 0, UINT32_MAX}, kAll},
        frame));
}

TEST(PacketFilter, Calculates) {
    const auto with = [](uint16_t operation, uint32_t a, uint32_t k, uint32_t result) {
        const bool by_constant = gives(
            {constant(a), {static_cast<uint16_t>(BPF_ALU | BPF_K | operation), 0, 0, k}}, result);
        const bool by_x = gives({constant(a),
                                 {BPF_LDX | BPF_IMM, 0, 0, k},
                                 {static_cast<uint16_t>(BPF_ALU | BPF_X | operation), 0, 0, 0}},
                                result);
        return by_constant && by_x;
    };
    EXPECT_TRUE(with(BPF_ADD, UINT32_MAX, 2, 1));
    EXPECT_TRUE(with(BPF_SUB, 1, 2, UINT32_MAX));
    EXPECT_TRUE(with(BPF_MUL, 0x10000, 0x10001, 0x10000));
    EXPECT_TRUE(with(BPF_DIV, 7, 2, 3));
    EXPECT_TRUE(with(BPF_MOD, 7, 4, 3));
    EXPECT_TRUE(with(BPF_AND, 6, 3, 2));
    EXPECT_TRUE(with(BPF_OR, 6, 3, 7));
    EXPECT_TRUE(with(BPF_XOR, 6, 3, 5));
    EXPECT_TRUE(with(BPF_LSH, 1, 31, 0x80000000));
    EXPECT_TRUE(with(BPF_LSH, 1, 32, 0));
    EXPECT_TRUE(with(BPF_RSH, 0x80000000, 31, 1));
    EXPECT_TRUE(with(BPF_RSH, 1, 99, 0));
    EXPECT_TRUE(gives({constant(1), {BPF_ALU | BPF_NEG, 0, 0, 0}}, UINT32_MAX));
}

TEST(PacketFilter, DivisionByAZeroOfThePacketWantsNothing) {
    EXPECT_FALSE(wants({{BPF_ALU | BPF_DIV | BPF_X, 0, 0, 0}, kAll}, "frame"));
    EXPECT_FALSE(wants({{BPF_ALU | BPF_MOD | BPF_X, 0, 0, 0}, kAll}, "frame"));
}

TEST(PacketFilter, MemoryKeepsWhatIsStored) {
    EXPECT_TRUE(gives({constant(77),
                       {BPF_ST, 0, 0, 15},
                       constant(1),
                       {BPF_MISC | BPF_TAX, 0, 0, 0},
                       {BPF_STX, 0, 0, 0},
                       {BPF_LD | BPF_MEM, 0, 0, 15},
                       {BPF_LDX | BPF_MEM, 0, 0, 0},
                       {BPF_ALU | BPF_ADD | BPF_X, 0, 0, 0}},
                      78));
}

TEST(PacketFilter, ProgramsThatAreNoneAreRefused) {
    EXPECT_FALSE(PacketFilter::parse({}));
    const auto is_refused = [](const Program& program) { return !PacketFilter::parse(program); };
    EXPECT_TRUE(is_refused(Program(PacketFilter::kInstructionsMax + 1, kAll)));
    EXPECT_FALSE(is_refused(Program(PacketFilter::kInstructionsMax, kAll)));
    // No end.
    EXPECT_TRUE(is_refused({constant(1)}));
    EXPECT_TRUE(is_refused({kAll, {BPF_ST, 0, 0, 0}}));
    EXPECT_TRUE(is_refused({kAll, {BPF_ALU | BPF_ADD, 0, 0, 1}}));
    // Jumps to behind the end.
    EXPECT_TRUE(is_refused({{BPF_JMP | BPF_JA, 0, 0, 1}, kAll}));
    EXPECT_TRUE(is_refused({{BPF_JMP | BPF_JA, 0, 0, UINT32_MAX}, kAll}));
    EXPECT_TRUE(is_refused({{BPF_JMP | BPF_JEQ, 1, 0, 0}, kAll}));
    EXPECT_TRUE(is_refused({{BPF_JMP | BPF_JEQ, 0, 1, 0}, kAll}));
    EXPECT_FALSE(is_refused({{BPF_JMP | BPF_JEQ, 0, 0, 0}, kAll}));
    // Memory, division.
    EXPECT_TRUE(is_refused({{BPF_ST, 0, 0, 16}, kAll}));
    EXPECT_TRUE(is_refused({{BPF_LDX | BPF_MEM, 0, 0, 16}, kAll}));
    EXPECT_TRUE(is_refused({{BPF_ALU | BPF_DIV, 0, 0, 0}, kAll}));
    EXPECT_TRUE(is_refused({{BPF_ALU | BPF_MOD, 0, 0, 0}, kAll}));
}

TEST(PacketFilter, EveryCodeIsRefusedOrCarriedOut) {
    size_t good = 0;
    for (uint32_t code = 0; code <= UINT16_MAX; ++code) {
        const Program program{{static_cast<uint16_t>(code), 0, 0, 1}, kAll};
        if (const auto filter = PacketFilter::parse(program)) {
            ++good;
            (void)filter->wants(std::as_bytes(std::span("frame")), 6);
        }
    }
    // 16 of plain ones, 4 of memory, 10 calculations and 4 comparisons by K and by X. A jump over
    // one instruction would be to behind the end.
    EXPECT_EQ(good, 16U + 4 + 20 + 8);
}

}  // namespace
}  // namespace outrigger::net
