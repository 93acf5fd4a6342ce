// SPDX-License-Identifier: Apache-2.0
/// What the kernel connects for us, as the PCI room sees it: messages of MSI-X to interrupts,
/// writes of the guest to doorbells, and memory beside the guest's own to its addresses.
/// KvmInterrupts, KvmVm and KvmSlots implement it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vhost-user-backend/base/result.h"

namespace outrigger::vmm {

/// An entry of an MSI-X table as far as the interrupt controller sees it. PCI 3.0, 6.8.2.
struct MsiMessage {
    uint64_t address = 0;
    uint32_t data = 0;

    friend bool operator==(const MsiMessage&, const MsiMessage&) = default;
};

/// Thread: any; it locks.
class MessageInterrupts {
  public:
    virtual ~MessageInterrupts() = default;
    /// A number for one message. Error: the machine has no more.
    [[nodiscard]] virtual Result<uint32_t> allocate() = 0;
    virtual void release(uint32_t gsi) = 0;
    /// What the interrupt is from now on. Before `connect`.
    [[nodiscard]] virtual Result<void> route(uint32_t gsi, const MsiMessage& message) = 0;
    /// Each signal of `eventfd` raises the interrupt from now on; one that already waits does, too.
    [[nodiscard]] virtual Result<void> connect(uint32_t gsi, int eventfd) = 0;
    virtual void disconnect(uint32_t gsi, int eventfd) = 0;
};

/// Thread: any.
class Doorbells {
  public:
    virtual ~Doorbells() = default;
    /// Writes of any width to exactly this guest physical address signal `eventfd`, and the vCPU
    /// goes on without leaving the kernel.
    [[nodiscard]] virtual Result<void> connect(uint64_t address, int eventfd) = 0;
    virtual void disconnect(uint64_t address, int eventfd) = 0;
};

/// Thread: any; it locks.
class MemorySlots {
  public:
    virtual ~MemorySlots() = default;
    /// From now on the guest reads, and where `writable` writes, `memory` at this guest physical
    /// address without leaving the kernel. Both begin and end with a page. Writes to what is not
    /// writable are accesses of a device. Error: the machine has no slot left.
    [[nodiscard]] virtual Result<uint32_t> show(uint64_t address,
                                                std::span<std::byte> memory,
                                                bool writable) = 0;
    /// No vCPU reaches the memory of `slot` any more when it returns.
    virtual void hide(uint32_t slot) = 0;
};

}  // namespace outrigger::vmm
