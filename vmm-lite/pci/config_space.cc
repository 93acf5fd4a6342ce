// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/pci/config_space.h"

#include "vhost-user-backend/base/error.h"

namespace outrigger::vmm {
namespace {

constexpr uint16_t kCommand = 0x04;
constexpr uint16_t kMemoryEnable = 1U << 1U;
constexpr uint16_t kBusMaster = 1U << 2U;
constexpr uint16_t kInterruptDisable = 1U << 10U;
constexpr uint16_t kStatus = 0x06;
constexpr uint16_t kHasCapabilities = 1U << 4U;
constexpr uint16_t kRevision = 0x08;
constexpr uint16_t kCacheLine = 0x0C;
constexpr uint16_t kFirstBar = 0x10;
constexpr uint16_t kSubsystemVendor = 0x2C;
constexpr uint16_t kInterruptLine = 0x3C;
constexpr uint16_t kEndOfCapabilities = 0x100;
constexpr uint32_t kBarIs64Bit = 0x4;
constexpr uint64_t kBarKind = 0xF;

constexpr uint16_t bar_at(unsigned index) {
    return static_cast<uint16_t>(kFirstBar + 4 * index);
}

}  // namespace

ConfigSpace::ConfigSpace(const PciIdentity& identity) {
    put<uint16_t>(0, identity.vendor, 0);
    put<uint16_t>(2, identity.device, 0);
    put<uint16_t>(kCommand, 0, kMemoryEnable | kBusMaster | kInterruptDisable);
    put<uint32_t>(kRevision, (identity.class_code << 8U) | identity.revision, 0);
    put<uint8_t>(kCacheLine, 0, 0xFF);
    put<uint16_t>(kSubsystemVendor, identity.subsystem_vendor, 0);
    put<uint16_t>(kSubsystemVendor + 2, identity.subsystem, 0);
    put<uint8_t>(kInterruptLine, 0, 0xFF);
}

template <class T>
void ConfigSpace::put(uint16_t at, T value, T writable) {
    for (size_t i = 0; i < sizeof(T); ++i) {
        bytes_[at + i] = static_cast<uint8_t>(uint64_t{value} >> (8 * i));
        writable_[at + i] = static_cast<uint8_t>(uint64_t{writable} >> (8 * i));
    }
}

void ConfigSpace::read(uint16_t at, std::span<std::byte> out) const {
    for (size_t i = 0; i < out.size(); ++i) {
        out[i] = std::byte{bytes_[at + i]};
    }
}

void ConfigSpace::write(uint16_t at, std::span<const std::byte> in) {
    for (size_t i = 0; i < in.size(); ++i) {
        const uint8_t mask = writable_[at + i];
        uint8_t& byte = bytes_[at + i];
        byte = static_cast<uint8_t>((byte & ~mask) | (std::to_integer<uint8_t>(in[i]) & mask));
    }
}

uint16_t ConfigSpace::add_capability(uint8_t id,
                                     std::span<const uint8_t> body,
                                     std::span<const uint8_t> writable) {
    const uint16_t at = next_capability_;
    const size_t end = (at + 2 + body.size() + 3) & ~size_t{3};
    OUTRIGGER_ASSERT(end <= kEndOfCapabilities);
    bytes_[last_link_] = static_cast<uint8_t>(at);
    bytes_[at] = id;
    for (size_t i = 0; i < body.size(); ++i) {
        bytes_[at + 2 + i] = body[i];
        writable_[at + 2 + i] = i < writable.size() ? writable[i] : 0;
    }
    last_link_ = static_cast<uint16_t>(at + 1);
    next_capability_ = static_cast<uint16_t>(end);
    put<uint16_t>(kStatus, kHasCapabilities, 0);
    return at;
}

void ConfigSpace::add_bar(unsigned index, uint64_t bytes, uint64_t address) {
    const uint64_t writable = ~(bytes - 1) & ~kBarKind;
    put<uint64_t>(bar_at(index), (address & writable) | kBarIs64Bit, writable);
}

uint64_t ConfigSpace::bar(unsigned index) const {
    const uint16_t at = bar_at(index);
    return ((uint64_t{dword(static_cast<uint16_t>(at + 4))} << 32U) | dword(at)) & ~kBarKind;
}

bool ConfigSpace::memory_enabled() const {
    return (word(kCommand) & kMemoryEnable) != 0;
}

uint16_t ConfigSpace::word(uint16_t at) const {
    return static_cast<uint16_t>(bytes_[at] | (bytes_[at + 1U] << 8U));
}

uint32_t ConfigSpace::dword(uint16_t at) const {
    return word(at) | (uint32_t{word(static_cast<uint16_t>(at + 2))} << 16U);
}

}  // namespace outrigger::vmm
