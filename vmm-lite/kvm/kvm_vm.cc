// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/kvm/kvm_vm.h"

#include <cerrno>
#include <utility>

#include <sys/ioctl.h>

#include "vhost-user-backend/base/log.h"

namespace outrigger::vmm {
namespace {

/// Intel processors need four pages for real mode, in a place that no RAM and no device has.
constexpr unsigned long kTssAddress = 0xFFFBD000;
constexpr uint64_t kIdentityMapAddress = 0xFFFBC000;

/// Attempts of KVM_CREATE_VM, which a signal interrupts.
constexpr int kAttemptsMax = 10;

kvm_ioeventfd doorbell(uint64_t address, int eventfd, uint32_t flags) {
    kvm_ioeventfd request = {};
    request.addr = address;
    request.len = 0;  // any width
    request.fd = eventfd;
    request.flags = flags;
    return request;
}

}  // namespace

Result<KvmVm> KvmVm::create(const KvmHost& host) {
    UniqueFd fd;
    for (int attempt = 0; attempt < kAttemptsMax && !fd.valid(); ++attempt) {
        fd.reset(::ioctl(host.fd(), KVM_CREATE_VM, 0));
        if (!fd.valid() && errno != EINTR) {
            break;
        }
    }
    if (!fd.valid()) {
        return failure(error_from_errno("KVM cannot create a virtual machine"));
    }
    uint64_t identity_map = kIdentityMapAddress;
    if (::ioctl(fd.get(), KVM_SET_TSS_ADDR, kTssAddress) != 0 ||
        ::ioctl(fd.get(), KVM_SET_IDENTITY_MAP_ADDR, &identity_map) != 0) {
        return failure(error_from_errno("KVM takes no place for real mode"));
    }
    if (::ioctl(fd.get(), KVM_CREATE_IRQCHIP, 0) != 0) {
        return failure(error_from_errno("KVM cannot create the interrupt controllers"));
    }
    // Without it a program of the guest that uses such an instruction on shared memory which is in
    // no slot yet gets a signal. Since Linux 5.16.
    kvm_enable_cap tells = {};
    tells.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE;
    tells.args[0] = 1;
    (void)::ioctl(fd.get(), KVM_ENABLE_CAP, &tells);
    return KvmVm(std::move(fd));
}

Result<void> KvmVm::set_memory(std::span<const MemoryRegion> regions) const {
    uint32_t slot = 0;
    for (const MemoryRegion& region : regions) {
        kvm_userspace_memory_region request = {
            .slot = slot++,
            .flags = 0,
            .guest_phys_addr = static_cast<uint64_t>(region.guest_address),
            .memory_size = region.bytes,
            .userspace_addr = region.frontend_address,
        };
        if (::ioctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &request) != 0) {
            return failure(error_from_errno("KVM does not take the guest's memory"));
        }
    }
    return {};
}

Result<UniqueFd> KvmVm::create_vcpu(unsigned index) const {
    UniqueFd fd(::ioctl(fd_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(index)));
    if (!fd.valid()) {
        return failure(error_from_errno("KVM cannot create a processor"));
    }
    return fd;
}

Result<void> KvmVm::connect(uint64_t address, int eventfd) {
    kvm_ioeventfd request = doorbell(address, eventfd, 0);
    if (::ioctl(fd_.get(), KVM_IOEVENTFD, &request) != 0) {
        return failure(error_from_errno("KVM_IOEVENTFD"));
    }
    return {};
}

void KvmVm::disconnect(uint64_t address, int eventfd) {
    kvm_ioeventfd request = doorbell(address, eventfd, KVM_IOEVENTFD_FLAG_DEASSIGN);
    if (::ioctl(fd_.get(), KVM_IOEVENTFD, &request) != 0) {
        log(LogLevel::kWarning, "{}", error_from_errno("KVM keeps a doorbell").message);
    }
}

}  // namespace outrigger::vmm
