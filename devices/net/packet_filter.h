// SPDX-License-Identifier: Apache-2.0
/// A program of the classic Berkeley packet filter, as libpcap makes them of an expression, that
/// says of a frame whether it is wanted. Whoever asks compiles the expression, so no parser of
/// expressions is in the daemon; a program is checked when it comes, and always ends: it only jumps
/// forward.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace outrigger::net {

struct FilterInstruction {
    uint16_t code = 0;
    uint8_t jump_true = 0;   ///< instructions that are skipped
    uint8_t jump_false = 0;  ///< likewise
    uint32_t k = 0;
};

class PacketFilter final {
  public:
    static constexpr size_t kInstructionsMax = 4096;

    /// Wants everything.
    PacketFilter() = default;

    /// Nothing: an instruction that there is not, a jump or a word of memory beyond the end, a
    /// division by zero, or no end; none at all is no program.
    [[nodiscard]] static std::optional<PacketFilter> parse(
        std::span<const FilterInstruction> program);

    [[nodiscard]] bool wants_all() const { return program_.empty(); }

    /// `bytes` are the first of a frame of `frame_bytes`. A program that looks beyond them wants
    /// nothing.
    [[nodiscard]] bool wants(std::span<const std::byte> bytes, size_t frame_bytes) const;

  private:
    explicit PacketFilter(std::span<const FilterInstruction> program)
        : program_(program.begin(), program.end()) {}

    std::vector<FilterInstruction> program_;
};

}  // namespace outrigger::net
