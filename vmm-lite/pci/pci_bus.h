// SPDX-License-Identifier: Apache-2.0
/// Bus 0 and nothing else: configuration by ECAM, and two windows of guest addresses in which BARs
/// lie. PCI Express 5.0, 7.2.2.
///
/// The guest may move a BAR wherever a window has room for it. Anywhere else, over RAM for example,
/// or over another BAR, it answers nowhere until the guest moves it again.
/// Thread: any vCPU's; it locks.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "vmm-lite/bus/bus.h"
#include "vmm-lite/pci/pci_function.h"

namespace outrigger::vmm {

struct AddressWindow {
    uint64_t start = 0;
    uint64_t bytes = 0;
};

class PciBus final {
  public:
    /// BARs are placed in `high` at first.
    PciBus(AddressWindow low, AddressWindow high);
    PciBus(const PciBus&) = delete;
    PciBus& operator=(const PciBus&) = delete;

    static constexpr size_t kFunctionsMax = 31;

    /// Before the guest starts. Errors: no slot or no room is left. `function` outlives the bus.
    [[nodiscard]] Result<void> add(PciFunction& function);

    /// For the bus of addresses: the configuration spaces, and the windows.
    [[nodiscard]] BusDevice& ecam() { return ecam_; }

    [[nodiscard]] BusDevice& low_window() { return low_window_; }

    [[nodiscard]] BusDevice& high_window() { return high_window_; }

  private:
    class Ecam final : public BusDevice {
      public:
        explicit Ecam(PciBus& bus) : bus_(bus) {}

        void read(uint64_t offset, std::span<std::byte> out) override;
        void write(uint64_t offset, std::span<const std::byte> in) override;

      private:
        PciBus& bus_;
    };

    class Window final : public BusDevice {
      public:
        Window(PciBus& bus, uint64_t start) : bus_(bus), start_(start) {}

        void read(uint64_t offset, std::span<std::byte> out) override;
        void write(uint64_t offset, std::span<const std::byte> in) override;

      private:
        PciBus& bus_;
        const uint64_t start_;
    };

    struct Target {
        PciFunction* function = nullptr;
        unsigned bar = 0;
        uint64_t offset = 0;
    };

    [[nodiscard]] PciFunction* function_at(uint64_t offset) const;
    [[nodiscard]] Target find(uint64_t address, uint64_t bytes);
    [[nodiscard]] bool has_room(uint64_t address, const PciFunction::Bar& bar) const;
    void place_bars(PciFunction& function);

    const AddressWindow low_;
    const AddressWindow high_;
    Ecam ecam_;
    Window low_window_;
    Window high_window_;
    std::mutex mutex_;  // what follows, and every configuration space
    uint64_t next_address_;
    std::vector<PciFunction*> functions_;  // slot 1 is the first
};

}  // namespace outrigger::vmm
