// SPDX-License-Identifier: Apache-2.0
/// Scripts: bytes that a fuzz target reads as a sequence of operations. The reader is all that the
/// targets know of their input, so a script runs the same with and without libFuzzer; the writer
/// makes the committed ones.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <span>
#include <vector>

namespace outrigger::fuzz {

/// Reads a script from its front. Behind the end everything is zero, so a cut script is a script.
class ScriptReader final {
  public:
    explicit ScriptReader(std::span<const uint8_t> script) : rest_(script) {}

    [[nodiscard]] bool at_end() const { return rest_.empty(); }

    template <std::unsigned_integral T>
    [[nodiscard]] T number() {
        T value = 0;
        const size_t count = std::min(sizeof value, rest_.size());
        if (count > 0) {
            std::memcpy(&value, rest_.data(), count);
        }
        rest_ = rest_.subspan(count);
        return value;
    }

    [[nodiscard]] uint8_t u8() { return number<uint8_t>(); }

    [[nodiscard]] uint16_t u16() { return number<uint16_t>(); }

    [[nodiscard]] uint32_t u32() { return number<uint32_t>(); }

    [[nodiscard]] uint64_t u64() { return number<uint64_t>(); }

    /// One of 0 to `count` - 1, `count` > 0; below 256 it takes a byte.
    [[nodiscard]] size_t pick(size_t count) { return (count <= 256 ? u8() : u16()) % count; }

    /// An enumerator of an enum that begins at 0 and has `count` of them.
    template <class Enum>
    [[nodiscard]] Enum pick_enum(size_t count) {
        return static_cast<Enum>(pick(count));
    }

    /// The next bytes, at most `count`; fewer at the end.
    [[nodiscard]] std::span<const uint8_t> bytes(size_t count) {
        const auto taken = rest_.first(std::min(count, rest_.size()));
        rest_ = rest_.subspan(taken.size());
        return taken;
    }

  private:
    std::span<const uint8_t> rest_;
};

/// Writes what ScriptReader reads.
class ScriptWriter final {
  public:
    template <std::unsigned_integral T>
    ScriptWriter& number(T value) {
        uint8_t raw[sizeof value];
        std::memcpy(raw, &value, sizeof value);
        return bytes(raw);
    }

    ScriptWriter& u8(size_t value) { return number(static_cast<uint8_t>(value)); }

    ScriptWriter& u16(size_t value) { return number(static_cast<uint16_t>(value)); }

    ScriptWriter& u32(uint64_t value) { return number(static_cast<uint32_t>(value)); }

    ScriptWriter& u64(uint64_t value) { return number(value); }

    template <class Enum>

    requires std::is_enum_v<Enum>

        ScriptWriter& op(Enum value) {
        return u8(static_cast<size_t>(value));
    }

    ScriptWriter& bytes(std::span<const uint8_t> raw) {
        // Not insert(), in which g++ 12 sees an overflow that is not there.
        std::ranges::copy(raw, std::back_inserter(script_));
        return *this;
    }

    [[nodiscard]] const std::vector<uint8_t>& script() const { return script_; }

  private:
    std::vector<uint8_t> script_;
};

/// Reads one operation code: what a script says modulo their count, so that every byte is one.
template <class Op>
[[nodiscard]] Op next_op(ScriptReader& script) {
    return script.pick_enum<Op>(static_cast<size_t>(Op::kCount));
}

}  // namespace outrigger::fuzz
