// SPDX-License-Identifier: Apache-2.0
/// The ports with which a guest switches itself off or restarts, and the one where it says how far
/// its start is. Thread: any vCPU's.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "vmm-lite/bus/bus.h"

namespace outrigger::vmm {

enum class PowerRequest : uint8_t { kOff, kReset };

/// What a hook gets is called on the vCPU that wrote, which executes nothing behind that write.
using PowerHook = std::function<void(PowerRequest)>;

/// Sleep control, reset and sleep status of hardware-reduced ACPI: four ports.
class PowerPorts final : public BusDevice {
  public:
    explicit PowerPorts(PowerHook hook) : hook_(std::move(hook)) {}

    void read(uint64_t offset, std::span<std::byte> out) override;
    void write(uint64_t offset, std::span<const std::byte> in) override;

  private:
    PowerHook hook_;
};

/// What is left of the keyboard controller: it pulses the reset line.
class KeyboardReset final : public BusDevice {
  public:
    explicit KeyboardReset(PowerHook hook) : hook_(std::move(hook)) {}

    void read(uint64_t /*offset*/, std::span<std::byte> /*out*/) override {}  // all ones: none

    void write(uint64_t offset, std::span<const std::byte> in) override;

  private:
    PowerHook hook_;
};

/// Takes the number of a phase, a byte.
class BootPhasePort final : public BusDevice {
  public:
    explicit BootPhasePort(std::function<void(uint8_t)> hook) : hook_(std::move(hook)) {}

    void read(uint64_t /*offset*/, std::span<std::byte> /*out*/) override {}

    void write(uint64_t offset, std::span<const std::byte> in) override;

  private:
    std::function<void(uint8_t)> hook_;
};

}  // namespace outrigger::vmm
