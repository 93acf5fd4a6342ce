// SPDX-License-Identifier: Apache-2.0
/// The 4096 bytes of configuration space of one PCI function: what they are, and which of their
/// bits the guest may change. Thread: whoever holds the bus' lock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace outrigger::vmm {

inline constexpr uint16_t kConfigBytes = 4096;

struct PciIdentity {
    uint16_t vendor = 0;
    uint16_t device = 0;
    uint16_t subsystem_vendor = 0;
    uint16_t subsystem = 0;
    uint32_t class_code = 0;  ///< 24 bits: class, subclass, interface
    uint8_t revision = 0;
};

class ConfigSpace final {
  public:
    explicit ConfigSpace(const PciIdentity& identity);

    /// [at, at + size) is inside; PciBus has looked.
    void read(uint16_t at, std::span<std::byte> out) const;
    /// Changes the bits that may be changed.
    void write(uint16_t at, std::span<const std::byte> in);

    /// Links a capability of `body` behind its two-byte head, whose bits in `writable` (as long, or
    /// empty: none) the guest may change. Returns where its head is. PCI 3.0, 6.7.
    uint16_t add_capability(uint8_t id,
                            std::span<const uint8_t> body,
                            std::span<const uint8_t> writable = {});

    /// A BAR pair's value as the guest wrote it, without the bits that say what it is.
    [[nodiscard]] uint64_t bar(unsigned index) const;
    /// Makes two registers one 64-bit BAR of `bytes`, a power of two, at `address`.
    void add_bar(unsigned index, uint64_t bytes, uint64_t address);

    [[nodiscard]] bool memory_enabled() const;

    [[nodiscard]] uint8_t byte(uint16_t at) const { return bytes_[at]; }

    [[nodiscard]] uint16_t word(uint16_t at) const;
    [[nodiscard]] uint32_t dword(uint16_t at) const;

  private:
    template <class T>
    void put(uint16_t at, T value, T writable);

    std::array<uint8_t, kConfigBytes> bytes_{};
    std::array<uint8_t, kConfigBytes> writable_{};
    uint16_t next_capability_ = 0x40;
    uint16_t last_link_ = 0x34;
};

}  // namespace outrigger::vmm
