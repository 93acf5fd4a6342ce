// SPDX-License-Identifier: Apache-2.0
/// One virtual machine of KVM: its memory slots, its interrupt controllers, and the doorbells.
/// Owns the descriptor. Thread: `connect` and `disconnect` any, the rest at start-up.
#pragma once

#include <cstdint>
#include <span>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "vmm-lite/kvm/connections.h"
#include "vmm-lite/kvm/kvm_host.h"
#include "vmm-lite/mem/memory_region.h"

namespace outrigger::vmm {

class KvmVm final : public Doorbells {
  public:
    /// With interrupt controllers, and without the timer chip of 1981.
    [[nodiscard]] static Result<KvmVm> create(const KvmHost& host);

    /// Each region becomes a slot. They stay mapped as long as the machine is there.
    [[nodiscard]] Result<void> set_memory(std::span<const MemoryRegion> regions) const;

    /// A vCPU's descriptor; its APIC id is `index`.
    [[nodiscard]] Result<UniqueFd> create_vcpu(unsigned index) const;

    [[nodiscard]] Result<void> connect(uint64_t address, int eventfd) override;
    void disconnect(uint64_t address, int eventfd) override;

    [[nodiscard]] int fd() const { return fd_.get(); }

  private:
    explicit KvmVm(UniqueFd fd) : fd_(std::move(fd)) {}

    UniqueFd fd_;
};

}  // namespace outrigger::vmm
