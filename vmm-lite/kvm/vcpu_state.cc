// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/kvm/vcpu_state.h"

#include <cstring>
#include <initializer_list>

#include <sys/ioctl.h>

#include "vmm-lite/kvm/counted_requests.h"

namespace outrigger::vmm {
namespace {

constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;
constexpr uint16_t kTaskSelector = 0x20;

constexpr uint64_t kCr0ProtectedMode = 1U << 0U;
constexpr uint64_t kCr0ExtensionType = 1U << 4U;
constexpr uint64_t kCr0Paging = 1U << 31U;
constexpr uint64_t kCr4PhysicalAddressExtension = 1U << 5U;
constexpr uint64_t kEferLongMode = (1U << 8U) | (1U << 10U);  // enabled and active

constexpr uint32_t kMsrMiscEnable = 0x1A0;
constexpr uint64_t kFastStrings = 1;
constexpr uint32_t kMsrMtrrDefaultType = 0x2FF;
constexpr uint64_t kMtrrWriteBack = 0x806;  // on, write-back where nothing else is said
constexpr uint32_t kMsrKvmSystemTime = 0x4B564D01;
constexpr uint32_t kMsrKvmSystemTimeOld = 0x12;

constexpr size_t kLapicLint0 = 0x350;
constexpr size_t kLapicLint1 = 0x360;
constexpr uint32_t kDeliverExternal = 7U << 8U;
constexpr uint32_t kDeliverNmi = 4U << 8U;

/// A request of one entry.
struct OneMsr {
    CountedHead head;
    kvm_msr_entry entry;
};

OneMsr one_msr(uint32_t index, uint64_t value) {
    OneMsr msr = {};
    msr.head.count = 1;
    msr.entry.index = index;
    msr.entry.data = value;
    return msr;
}

Result<void> set_cpuid(int fd, const std::vector<kvm_cpuid_entry2>& entries) {
    const auto request = counted_request<kvm_cpuid_entry2>(entries);
    if (::ioctl(fd, kSetCpuid2, request.data()) != 0) {
        return failure(error_from_errno("KVM does not take the processor's CPUID"));
    }
    return {};
}

/// The pins of the local APIC as firmware leaves them.
Result<void> set_lapic(int fd) {
    kvm_lapic_state lapic = {};
    if (::ioctl(fd, KVM_GET_LAPIC, &lapic) != 0) {
        return failure(error_from_errno("KVM_GET_LAPIC"));
    }
    std::memcpy(lapic.regs + kLapicLint0, &kDeliverExternal, sizeof(kDeliverExternal));
    std::memcpy(lapic.regs + kLapicLint1, &kDeliverNmi, sizeof(kDeliverNmi));
    if (::ioctl(fd, KVM_SET_LAPIC, &lapic) != 0) {
        return failure(error_from_errno("KVM_SET_LAPIC"));
    }
    return {};
}

kvm_segment flat_segment(uint16_t selector, uint8_t type, bool long_mode) {
    kvm_segment segment = {};
    segment.limit = 0xFFFFFFFF;
    segment.selector = selector;
    segment.type = type;
    segment.present = 1;
    segment.s = 1;
    segment.g = 1;
    segment.l = long_mode ? 1 : 0;
    segment.db = long_mode ? 0 : 1;
    return segment;
}

}  // namespace

BootGdt boot_gdt(EntryState::Mode mode) {
    constexpr uint64_t kCode32 = 0x00CF9B000000FFFF;
    constexpr uint64_t kCode64 = 0x00AF9B000000FFFF;
    constexpr uint64_t kData = 0x00CF93000000FFFF;
    constexpr uint64_t kTask = 0x00008B0000000067;
    return {{0, 0, mode == EntryState::Mode::kLong64 ? kCode64 : kCode32, kData, kTask}};
}

Result<void> set_common_state(int vcpu_fd, const std::vector<kvm_cpuid_entry2>& cpuid) {
    // CPUID first: since Linux 6.13 it decides which MSRs there are, and the APIC looks at it.
    OUTRIGGER_TRY(set_cpuid(vcpu_fd, cpuid));
    for (const auto& [index, value] : std::initializer_list<std::pair<uint32_t, uint64_t>>{
             {kMsrMiscEnable, kFastStrings}, {kMsrMtrrDefaultType, kMtrrWriteBack}}) {
        OneMsr msr = one_msr(index, value);
        // One of them is Intel's. A guest starts without either.
        (void)::ioctl(vcpu_fd, kSetMsrs, &msr);
    }
    kvm_fpu fpu = {};
    fpu.fcw = 0x37F;
    fpu.mxcsr = 0x1F80;
    if (::ioctl(vcpu_fd, KVM_SET_FPU, &fpu) != 0) {
        return failure(error_from_errno("KVM_SET_FPU"));
    }
    return set_lapic(vcpu_fd);
}

Result<void> set_entry_state(int vcpu_fd, const EntryState& entry) {
    const bool long_mode = entry.mode == EntryState::Mode::kLong64;
    kvm_sregs sregs = {};
    if (::ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) != 0) {
        return failure(error_from_errno("KVM_GET_SREGS"));
    }
    sregs.cs = flat_segment(kCodeSelector, 0xB, long_mode);
    sregs.ds = flat_segment(kDataSelector, 0x3, false);
    sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
    sregs.tr = {};
    sregs.tr.limit = 0x67;
    sregs.tr.selector = kTaskSelector;
    sregs.tr.type = 0xB;
    sregs.tr.present = 1;
    sregs.gdt.base = entry.gdt;
    sregs.gdt.limit = sizeof(BootGdt) - 1;
    sregs.idt = {};
    sregs.cr0 = kCr0ProtectedMode | kCr0ExtensionType;
    if (long_mode) {
        sregs.cr0 |= kCr0Paging;
        sregs.cr3 = entry.page_table;
        sregs.cr4 = kCr4PhysicalAddressExtension;
        sregs.efer = kEferLongMode;
    }
    if (::ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) != 0) {
        return failure(error_from_errno("KVM does not take the processor's mode"));
    }
    kvm_regs regs = {};
    regs.rflags = 2;
    regs.rip = entry.instruction;
    (long_mode ? regs.rsi : regs.rbx) = entry.parameters;
    if (::ioctl(vcpu_fd, KVM_SET_REGS, &regs) != 0) {
        return failure(error_from_errno("KVM does not take the processor's registers"));
    }
    return {};
}

bool guest_clock_is_on(int vcpu_fd) {
    for (const uint32_t index : {kMsrKvmSystemTime, kMsrKvmSystemTimeOld}) {
        OneMsr msr = one_msr(index, 0);
        if (::ioctl(vcpu_fd, kGetMsrs, &msr) == 1 && (msr.entry.data & 1U) != 0) {
            return true;
        }
    }
    return false;
}

}  // namespace outrigger::vmm
