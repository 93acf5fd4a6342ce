// SPDX-License-Identifier: Apache-2.0
/// A virtio device on the PCI bus: identity, capabilities, one BAR in front of VirtioTransport, and
/// a second one for shared memory where the device has any.
/// VIRTIO 1.3, 4.1. Modern only, MSI-X only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "vmm-lite/pci/pci_function.h"
#include "vmm-lite/virtio/device_proxy.h"
#include "vmm-lite/virtio/shared_bar.h"
#include "vmm-lite/virtio/virtio_transport.h"

namespace outrigger::vmm {

class VirtioPciFunction final : public PciFunction {
  public:
    // What lies where in BAR 0.
    static constexpr uint64_t kCommon = 0x0;
    static constexpr uint64_t kIsr = 0x2000;
    static constexpr uint64_t kDeviceConfig = 0x4000;
    static constexpr uint64_t kDeviceConfigBytes = 0x1000;
    static constexpr uint64_t kNotify = 0x6000;
    static constexpr uint64_t kNotifyBytes = 0x2000;
    static constexpr uint64_t kMsixTable = 0x8000;
    static constexpr uint64_t kMsixTableBytes = 0x8000;
    static constexpr uint64_t kMsixPending = 0x10000;
    static constexpr uint64_t kMsixPendingBytes = 0x1000;
    static constexpr uint64_t kBarBytes = 0x20000;
    static constexpr unsigned kSharedBar = 2;

    /// What the machine is told of.
    struct Alarms {
        std::function<void()> needs_reset{};  ///< as VirtioTransport::create() has it
        std::function<void()> memory_lost{};  ///< as SharedBar::create() has it
    };

    /// As VirtioTransport::create() and SharedBar::create().
    [[nodiscard]] static Result<std::unique_ptr<VirtioPciFunction>> create(
        DeviceProxy& device,
        const GuestMemory& memory,
        MessageInterrupts& interrupts,
        Doorbells& doorbells,
        MemorySlots& slots,
        Alarms alarms);

    void read_config(uint16_t at, std::span<std::byte> out) override;
    void write_config(uint16_t at, std::span<const std::byte> in) override;
    void read_bar(unsigned bar, uint64_t offset, std::span<std::byte> out) override;
    void write_bar(unsigned bar, uint64_t offset, std::span<const std::byte> in) override;
    void on_bar_moved(const Bar& bar) override;

  private:
    VirtioPciFunction(const DeviceProxy& device,
                      std::unique_ptr<VirtioTransport> transport,
                      std::unique_ptr<SharedBar> shared);

    struct WindowAccess {
        uint64_t offset = 0;
        size_t bytes = 0;
    };

    void add_capabilities(const DeviceProxy& device);
    [[nodiscard]] std::optional<WindowAccess> window_access();

    void add_shared_memory();

    std::unique_ptr<VirtioTransport> transport_;
    std::unique_ptr<SharedBar> shared_;  // null: the device has none
    uint16_t msix_capability_ = 0;
    uint16_t window_capability_ = 0;
};

}  // namespace outrigger::vmm
