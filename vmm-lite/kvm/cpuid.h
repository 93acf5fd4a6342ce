// SPDX-License-Identifier: Apache-2.0
/// What of KVM's CPUID table the machine has to change: who is who, and what KVM leaves to us.
#pragma once

#include <vector>

#include <linux/kvm.h>

namespace outrigger::vmm {

struct CpuidOptions {
    unsigned vcpu = 0;   ///< its index, which is its APIC id
    unsigned vcpus = 1;  ///< of the machine: one package of as many cores
    bool tsc_deadline = false;
};

/// `supported` (KVM_GET_SUPPORTED_CPUID) as this vCPU is to have it.
[[nodiscard]] std::vector<kvm_cpuid_entry2> cpuid_for(
    const std::vector<kvm_cpuid_entry2>& supported, const CpuidOptions& options);

}  // namespace outrigger::vmm
