// SPDX-License-Identifier: Apache-2.0
/// Bytes in memory that outlives this process, replaced as a whole: whoever reads them when their
/// writer was killed finds what it stored last, or what it stored before. There are two copies, and
/// a word that says which one counts.
///
/// Not synchronized: one writes, and others read when it is gone.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

namespace outrigger {

class KeptRecord final {
  public:
    /// Of memory for records of at most `capacity` bytes.
    [[nodiscard]] static constexpr size_t bytes(size_t capacity) {
        return kLine + 2 * round_up(capacity);
    }

    /// `memory` is of bytes(capacity), zeroed or as another process left it, and begins at a
    /// multiple of 64 bytes.
    explicit KeptRecord(std::span<std::byte> memory)
        : memory_(memory), capacity_((memory.size() - kLine) / 2) {}

    /// What was stored last; empty: nothing. Valid until the next but one store().
    [[nodiscard]] std::span<const std::byte> load() const {
        const uint64_t word = this->word().load(std::memory_order_acquire);
        const uint64_t length = word >> 1;
        return length <= capacity_ ? copy(word & 1).first(length) : std::span<const std::byte>();
    }

    /// At most the capacity.
    void store(std::span<const std::byte> bytes) {
        const uint64_t which = ~this->word().load(std::memory_order_relaxed) & 1;
        if (!bytes.empty()) {
            std::memcpy(copy(which).data(), bytes.data(), bytes.size());
        }
        // Whoever sees the word, in another process after this one's end, sees the bytes.
        this->word().store(uint64_t{bytes.size()} << 1 | which, std::memory_order_release);
    }

  private:
    static constexpr size_t kLine = 64;

    static constexpr size_t round_up(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

    [[nodiscard]] std::span<std::byte> copy(uint64_t which) const {
        return memory_.subspan(kLine + which * capacity_, capacity_);
    }

    [[nodiscard]] std::atomic_ref<uint64_t> word() const {
        // SAFETY: the memory has kLine bytes here, at a multiple of 64, and lives as long as we do.
        // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
        return std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(memory_.data()));
    }

    std::span<std::byte> memory_;
    size_t capacity_;
};

/// A KeptRecord of one type.
template <class T>
requires std::is_trivially_copyable_v<T>

class KeptValue final {
  public:
    static constexpr size_t kBytes = KeptRecord::bytes(sizeof(T));

    explicit KeptValue(std::span<std::byte> memory) : record_(memory) {}

    [[nodiscard]] std::optional<T> load() const {
        const auto bytes = record_.load();
        if (bytes.size() != sizeof(T)) {
            return std::nullopt;
        }
        T value;
        std::memcpy(&value, bytes.data(), sizeof value);
        return value;
    }

    void store(const T& value) { record_.store(std::as_bytes(std::span(&value, 1))); }

  private:
    KeptRecord record_;
};

}  // namespace outrigger
