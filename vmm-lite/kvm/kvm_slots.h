// SPDX-License-Identifier: Apache-2.0
/// The memory slots of a virtual machine behind those of its RAM: what devices share with the
/// guest. Thread: any; it locks.
#pragma once

#include <cstdint>
#include <mutex>
#include <set>

#include "vmm-lite/kvm/connections.h"

namespace outrigger::vmm {

class KvmSlots final : public MemorySlots {
  public:
    /// Slots from `first` on, below `end`, which is KVM_CAP_NR_MEMSLOTS. `vm_fd` is borrowed.
    KvmSlots(int vm_fd, uint32_t first, uint32_t end) : vm_fd_(vm_fd), next_(first), end_(end) {}

    KvmSlots(const KvmSlots&) = delete;
    KvmSlots& operator=(const KvmSlots&) = delete;

    [[nodiscard]] Result<uint32_t> show(uint64_t address,
                                        std::span<std::byte> memory,
                                        bool writable) override;
    void hide(uint32_t slot) override;

  private:
    const int vm_fd_;
    std::mutex mutex_;  // what follows
    uint32_t next_;     // never used so far
    const uint32_t end_;
    std::set<uint32_t> free_;
};

}  // namespace outrigger::vmm
