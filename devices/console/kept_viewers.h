// SPDX-License-Identifier: Apache-2.0
/// Who is at a port, in memory that outlives this process: the next one goes on with them where
/// this one left off. Their descriptors are the keeper's.
///
/// Thread-bound: host thread, after the main thread has read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace outrigger::console {

class KeptViewers final {
  public:
    struct Viewer {
        size_t slot = 0;
        uint64_t order = 0;  ///< in which they came
        uint64_t value = 0;
        uint32_t kind = 0;
        int32_t process = 0;
    };

    [[nodiscard]] static constexpr size_t bytes(size_t count_max) {
        return (count_max * kSlotBytes + 63) / 64 * 64;
    }

    /// `memory` is of bytes(), zeroed or as another process left it; empty: nobody is kept.
    KeptViewers(std::span<std::byte> memory, size_t count_max)
        : memory_(memory), count_max_(memory.empty() ? 0 : count_max) {}

    /// Those that are there, in the order in which they came. Anybody may have written them.
    [[nodiscard]] std::vector<Viewer> all() const;

    /// A slot that nobody has; its viewer is there from begin() on. Nothing: there is none.
    [[nodiscard]] std::optional<size_t> find_free() const;

    /// `viewer.order` is chosen here.
    void begin(const Viewer& viewer);
    void end(size_t slot);

    /// What else there is to know of it: how far it has seen, say.
    void set_value(size_t slot, uint64_t value);

    [[nodiscard]] uint64_t value(size_t slot) const { return field(slot, kValue); }

  private:
    static constexpr size_t kSlotBytes = 32;
    // Of a slot. An order of 0: nobody has it.
    static constexpr size_t kOrder = 0;
    static constexpr size_t kValue = 8;
    static constexpr size_t kKindAndProcess = 16;

    [[nodiscard]] uint64_t field(size_t slot, size_t at) const;
    void set_field(size_t slot, size_t at, uint64_t value);

    std::span<std::byte> memory_;
    size_t count_max_;
};

}  // namespace outrigger::console
