// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/kvm/cpuid.h"

#include <bit>
#include <cstdint>

namespace outrigger::vmm {
namespace {

constexpr uint32_t kHypervisorBit = 1U << 31U;   // leaf 1 ECX
constexpr uint32_t kTscDeadlineBit = 1U << 24U;  // leaf 1 ECX
constexpr uint32_t kThreadsBit = 1U << 28U;      // leaf 1 EDX: EBX[23:16] counts

constexpr uint32_t kTopologyLeaf = 0xB;
constexpr uint32_t kNewTopologyLeaf = 0x1F;

/// Bits of the APIC id that number the cores of a package.
uint32_t core_bits(unsigned vcpus) {
    return static_cast<uint32_t>(std::bit_width(vcpus - 1));
}

void change(kvm_cpuid_entry2& entry, const CpuidOptions& options) {
    switch (entry.function) {
        case 1:
            entry.ebx = (entry.ebx & 0xFFFFU) | ((options.vcpus & 0xFFU) << 16U) |
                        ((options.vcpu & 0xFFU) << 24U);
            // Without it the guest looks for no hypervisor, has no clock of it, and hangs.
            entry.ecx |= kHypervisorBit;
            entry.ecx =
                options.tsc_deadline ? entry.ecx | kTscDeadlineBit : entry.ecx & ~kTscDeadlineBit;
            entry.edx = options.vcpus > 1 ? entry.edx | kThreadsBit : entry.edx & ~kThreadsBit;
            break;
        case 4:  // Intel: cores of the package
            if ((entry.eax & 0x1FU) != 0) {
                const uint32_t cores = (1U << core_bits(options.vcpus)) - 1;
                entry.eax = (entry.eax & 0x03FFFFFFU) | ((cores & 0x3FU) << 26U);
            }
            break;
        case 0x80000008:  // AMD: the same
            entry.ecx = (core_bits(options.vcpus) << 12U) | ((options.vcpus - 1) & 0xFFU);
            break;
        case 0x8000001E:
            entry.eax = options.vcpu;
            entry.ebx = options.vcpu & 0xFFU;  // a core of one thread
            entry.ecx = 0;                     // one node
            break;
        default:
            break;
    }
}

kvm_cpuid_entry2 topology(uint32_t level, const CpuidOptions& options) {
    kvm_cpuid_entry2 entry = {};
    entry.function = kTopologyLeaf;
    entry.index = level;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entry.edx = options.vcpu;
    if (level == 0) {
        entry.ebx = 1;  // a thread a core
        entry.ecx = 1U << 8U;
    } else if (level == 1) {
        entry.eax = core_bits(options.vcpus);
        entry.ebx = options.vcpus;
        entry.ecx = (2U << 8U) | level;
    } else {
        entry.ecx = level;
    }
    return entry;
}

}  // namespace

std::vector<kvm_cpuid_entry2> cpuid_for(const std::vector<kvm_cpuid_entry2>& supported,
                                        const CpuidOptions& options) {
    std::vector<kvm_cpuid_entry2> result;
    result.reserve(supported.size() + 3);
    for (kvm_cpuid_entry2 entry : supported) {
        if (entry.function != kTopologyLeaf && entry.function != kNewTopologyLeaf) {
            change(entry, options);
            result.push_back(entry);
        }
    }
    for (uint32_t level = 0; level < 3; ++level) {
        result.push_back(topology(level, options));
    }
    return result;
}

}  // namespace outrigger::vmm
