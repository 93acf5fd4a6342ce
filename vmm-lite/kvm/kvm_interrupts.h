// SPDX-License-Identifier: Apache-2.0
/// The interrupts of a virtual machine: 24 pins of the I/O APIC, and behind them messages.
/// Thread: any; it locks.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include <linux/kvm.h>

#include "vmm-lite/kvm/connections.h"

namespace outrigger::vmm {

inline constexpr uint32_t kIoApicPins = 24;

/// KVM_SET_GSI_ROUTING replaces the whole table, so this is the whole table.
class RoutingTable final {
  public:
    /// `entries_max` is KVM_CAP_IRQ_ROUTING, pins included.
    explicit RoutingTable(uint32_t entries_max) : entries_max_(entries_max) {}

    /// The lowest number behind the pins that is free.
    [[nodiscard]] Result<uint32_t> allocate();
    void release(uint32_t gsi);
    /// False when that is the message already, and KVM need not be told.
    [[nodiscard]] bool set(uint32_t gsi, const MsiMessage& message);
    /// Pins first. A number that has no message yet has no entry.
    [[nodiscard]] std::vector<kvm_irq_routing_entry> entries() const;

  private:
    struct Slot {
        bool has_message = false;
        MsiMessage message;
    };

    const uint32_t entries_max_;
    std::map<uint32_t, Slot> messages_;
};

class KvmInterrupts final : public MessageInterrupts {
  public:
    /// `vm_fd` is borrowed.
    KvmInterrupts(int vm_fd, uint32_t entries_max) : vm_fd_(vm_fd), table_(entries_max) {}

    /// The pins alone: before anything is connected.
    [[nodiscard]] Result<void> start();

    [[nodiscard]] Result<uint32_t> allocate() override;
    void release(uint32_t gsi) override;
    [[nodiscard]] Result<void> route(uint32_t gsi, const MsiMessage& message) override;
    [[nodiscard]] Result<void> connect(uint32_t gsi, int eventfd) override;
    void disconnect(uint32_t gsi, int eventfd) override;

  private:
    [[nodiscard]] Result<void> commit() const;  // with mutex_

    const int vm_fd_;
    std::mutex mutex_;
    RoutingTable table_;
};

}  // namespace outrigger::vmm
