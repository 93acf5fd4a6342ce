// SPDX-License-Identifier: Apache-2.0
#include "devices/net/packet_filter.h"

#include <algorithm>
#include <array>

#include <linux/filter.h>

#include "devices/net/packet_layout.h"

namespace outrigger::net {
namespace {

// Names of <linux/filter.h>, put together.
constexpr uint16_t kShiftMask = 31;
constexpr uint16_t kNegate = BPF_ALU | BPF_NEG;
constexpr uint16_t kJumpAlways = BPF_JMP | BPF_JA;
constexpr uint16_t kReturnConstant = BPF_RET | BPF_K;
constexpr uint16_t kReturnA = BPF_RET | BPF_A;
constexpr uint16_t kLoadHeaderLength = BPF_LDX | BPF_B | BPF_MSH;

constexpr uint16_t kPlain[] = {BPF_LD | BPF_W | BPF_ABS,
                               BPF_LD | BPF_H | BPF_ABS,
                               BPF_LD | BPF_B | BPF_ABS,
                               BPF_LD | BPF_W | BPF_IND,
                               BPF_LD | BPF_H | BPF_IND,
                               BPF_LD | BPF_B | BPF_IND,
                               BPF_LD | BPF_W | BPF_LEN,
                               BPF_LD | BPF_IMM,
                               BPF_LDX | BPF_W | BPF_LEN,
                               BPF_LDX | BPF_IMM,
                               kLoadHeaderLength,
                               kReturnConstant,
                               kReturnA,
                               BPF_MISC | BPF_TAX,
                               BPF_MISC | BPF_TXA,
                               kNegate};
constexpr uint16_t kOfMemory[] = {BPF_LD | BPF_MEM, BPF_LDX | BPF_MEM, BPF_ST, BPF_STX};
constexpr uint16_t kCalculations[] = {
    BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_MOD, BPF_OR, BPF_AND, BPF_XOR, BPF_LSH, BPF_RSH};
constexpr uint16_t kComparisons[] = {BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET};

template <size_t kCount>
bool has(const uint16_t (&codes)[kCount], int code) {
    return std::ranges::any_of(codes, [&](uint16_t each) { return each == code; });
}

/// `left`: how many instructions are behind it.
bool is_good(const FilterInstruction& instruction, size_t left) {
    const uint16_t code = instruction.code;
    if (has(kPlain, code)) {
        return BPF_CLASS(code) == BPF_RET || left > 0;
    }
    if (has(kOfMemory, code)) {
        return instruction.k < BPF_MEMWORDS && left > 0;
    }
    if (code == kJumpAlways) {
        return instruction.k < left;
    }
    constexpr uint16_t kKnownBits = 0xff;
    const uint16_t operation = BPF_OP(code);
    if ((code & ~kKnownBits) != 0) {
        return false;
    }
    if (BPF_CLASS(code) == BPF_JMP) {
        return has(kComparisons, operation) && instruction.jump_true < left &&
               instruction.jump_false < left;
    }
    const bool divides = operation == BPF_DIV || operation == BPF_MOD;
    return BPF_CLASS(code) == BPF_ALU && has(kCalculations, operation) && left > 0 &&
           !(divides && BPF_SRC(code) == BPF_K && instruction.k == 0);
}

/// What a program has: all of it is zero when it begins.
struct Machine {
    std::span<const std::byte> bytes;
    uint32_t frame_bytes = 0;
    uint32_t a = 0;
    uint32_t x = 0;
    std::array<uint32_t, BPF_MEMWORDS> memory{};

    /// Nothing beyond the end.
    [[nodiscard]] std::optional<uint32_t> load(uint64_t at, uint16_t size) const {
        const size_t width = size == BPF_W ? 4 : size == BPF_H ? 2 : 1;
        if (at > bytes.size() || bytes.size() - at < width) {
            return std::nullopt;
        }
        switch (width) {
            case 4:
                return read_be32(bytes, at);
            case 2:
                return read_be16(bytes, at);
            default:
                return std::to_integer<uint32_t>(bytes[at]);
        }
    }

    /// False: the program ends, and wants nothing.
    bool load_into_a(const FilterInstruction& instruction) {
        std::optional<uint32_t> value;
        switch (BPF_MODE(instruction.code)) {
            case BPF_ABS:
                value = load(instruction.k, BPF_SIZE(instruction.code));
                break;
            case BPF_IND:
                value = load(uint64_t{x} + instruction.k, BPF_SIZE(instruction.code));
                break;
            case BPF_LEN:
                value = frame_bytes;
                break;
            case BPF_MEM:
                value = memory[instruction.k];
                break;
            default:
                value = instruction.k;
        }
        a = value.value_or(0);
        return value.has_value();
    }

    bool load_into_x(const FilterInstruction& instruction) {
        switch (BPF_MODE(instruction.code)) {
            case BPF_MSH: {
                const auto value = load(instruction.k, BPF_B);
                x = 4 * (value.value_or(0) & 0xf);
                return value.has_value();
            }
            case BPF_LEN:
                x = frame_bytes;
                return true;
            case BPF_MEM:
                x = memory[instruction.k];
                return true;
            default:
                x = instruction.k;
                return true;
        }
    }

    /// False: a division by zero.
    bool calculate(const FilterInstruction& instruction) {
        const uint32_t operand = BPF_SRC(instruction.code) == BPF_X ? x : instruction.k;
        switch (BPF_OP(instruction.code)) {
            case BPF_ADD:
                a += operand;
                return true;
            case BPF_SUB:
                a -= operand;
                return true;
            case BPF_MUL:
                a *= operand;
                return true;
            case BPF_DIV:
                a = operand != 0 ? a / operand : 0;
                return operand != 0;
            case BPF_MOD:
                a = operand != 0 ? a % operand : 0;
                return operand != 0;
            case BPF_OR:
                a |= operand;
                return true;
            case BPF_AND:
                a &= operand;
                return true;
            case BPF_XOR:
                a ^= operand;
                return true;
            case BPF_LSH:
                a = operand <= kShiftMask ? a << operand : 0;
                return true;
            case BPF_RSH:
                a = operand <= kShiftMask ? a >> operand : 0;
                return true;
            default:  // BPF_NEG
                a = 0 - a;
                return true;
        }
    }

    [[nodiscard]] size_t skips(const FilterInstruction& instruction) const {
        const uint32_t operand = BPF_SRC(instruction.code) == BPF_X ? x : instruction.k;
        bool is_true = false;
        switch (BPF_OP(instruction.code)) {
            case BPF_JA:
                return instruction.k;
            case BPF_JEQ:
                is_true = a == operand;
                break;
            case BPF_JGT:
                is_true = a > operand;
                break;
            case BPF_JGE:
                is_true = a >= operand;
                break;
            default:  // BPF_JSET
                is_true = (a & operand) != 0;
        }
        return is_true ? instruction.jump_true : instruction.jump_false;
    }
};

}  // namespace

std::optional<PacketFilter> PacketFilter::parse(std::span<const FilterInstruction> program) {
    if (program.empty() || program.size() > kInstructionsMax) {
        return std::nullopt;
    }
    for (size_t i = 0; i < program.size(); ++i) {
        if (!is_good(program[i], program.size() - 1 - i)) {
            return std::nullopt;
        }
    }
    return PacketFilter(program);
}

bool PacketFilter::wants(std::span<const std::byte> bytes, size_t frame_bytes) const {
    Machine machine{.bytes = bytes, .frame_bytes = static_cast<uint32_t>(frame_bytes)};
    for (size_t i = 0; i < program_.size(); ++i) {
        const FilterInstruction& instruction = program_[i];
        bool goes_on = true;
        switch (BPF_CLASS(instruction.code)) {
            case BPF_LD:
                goes_on = machine.load_into_a(instruction);
                break;
            case BPF_LDX:
                goes_on = machine.load_into_x(instruction);
                break;
            case BPF_ST:
                machine.memory[instruction.k] = machine.a;
                break;
            case BPF_STX:
                machine.memory[instruction.k] = machine.x;
                break;
            case BPF_ALU:
                goes_on = machine.calculate(instruction);
                break;
            case BPF_JMP:
                i += machine.skips(instruction);
                break;
            case BPF_RET:
                return (instruction.code == kReturnA ? machine.a : instruction.k) != 0;
            default:  // BPF_MISC
                if (instruction.code == (BPF_MISC | BPF_TAX)) {
                    machine.x = machine.a;
                } else {
                    machine.a = machine.x;
                }
        }
        if (!goes_on) {
            return false;
        }
    }
    return program_.empty();
}

}  // namespace outrigger::net
