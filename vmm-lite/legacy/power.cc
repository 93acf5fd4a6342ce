// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/legacy/power.h"

#include <algorithm>

namespace outrigger::vmm {
namespace {

constexpr uint64_t kSleepControl = 0;
constexpr uint64_t kReset = 1;
constexpr uint8_t kSleepEnable = 1U << 5U;
constexpr uint8_t kSleepTypeOff = 5;  // what \_S5 says
constexpr uint8_t kResetValue = 1;    // what the FADT says
constexpr uint8_t kPulseReset = 0xFE;

}  // namespace

void PowerPorts::read(uint64_t /*offset*/, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0});  // never woken, because it never sleeps
}

void PowerPorts::write(uint64_t offset, std::span<const std::byte> in) {
    const auto value = std::to_integer<uint8_t>(in[0]);
    if (offset == kSleepControl && (value & kSleepEnable) != 0 &&
        ((value >> 2U) & 7U) == kSleepTypeOff) {
        hook_(PowerRequest::kOff);
    } else if (offset == kReset && value == kResetValue) {
        hook_(PowerRequest::kReset);
    }
}

void KeyboardReset::write(uint64_t /*offset*/, std::span<const std::byte> in) {
    if (std::to_integer<uint8_t>(in[0]) == kPulseReset) {
        hook_(PowerRequest::kReset);
    }
}

void BootPhasePort::write(uint64_t /*offset*/, std::span<const std::byte> in) {
    hook_(std::to_integer<uint8_t>(in[0]));
}

}  // namespace outrigger::vmm
