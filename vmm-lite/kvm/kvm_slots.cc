// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/kvm/kvm_slots.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "vhost-user-backend/base/log.h"

namespace outrigger::vmm {

Result<uint32_t> KvmSlots::show(uint64_t address, std::span<std::byte> memory, bool writable) {
    const std::lock_guard lock(mutex_);
    if (free_.empty() && next_ >= end_) {
        return failure(Error{.message = "KVM has no memory slot left"});
    }
    const uint32_t slot = free_.empty() ? next_ : *free_.begin();
    kvm_userspace_memory_region request = {
        .slot = slot,
        .flags = writable ? 0U : static_cast<uint32_t>(KVM_MEM_READONLY),
        .guest_phys_addr = address,
        .memory_size = memory.size(),
        // SAFETY: an address for the kernel, which checks it; nothing is read through it here.
        .userspace_addr = reinterpret_cast<uint64_t>(memory.data()),
    };
    if (::ioctl(vm_fd_, KVM_SET_USER_MEMORY_REGION, &request) != 0) {
        return failure(error_from_errno("KVM does not take a device's memory"));
    }
    if (slot == next_) {
        ++next_;
    } else {
        free_.erase(slot);
    }
    return slot;
}

void KvmSlots::hide(uint32_t slot) {
    const std::lock_guard lock(mutex_);
    kvm_userspace_memory_region request = {};  // of no bytes: the slot goes
    request.slot = slot;
    if (::ioctl(vm_fd_, KVM_SET_USER_MEMORY_REGION, &request) != 0) {
        log(LogLevel::kWarning, "{}", error_from_errno("KVM keeps a device's memory").message);
        return;
    }
    free_.insert(slot);
}

}  // namespace outrigger::vmm
