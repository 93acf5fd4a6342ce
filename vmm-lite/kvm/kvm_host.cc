// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/kvm/kvm_host.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/ioctl.h>

#include <fmt/format.h>

#include "vmm-lite/kvm/counted_requests.h"

namespace outrigger::vmm {
namespace {

constexpr RequiredCapability kRequired[] = {
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP", "interrupt controllers in the kernel"},
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", "guest memory"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR", "real mode on Intel processors"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID", "the processor that the guest sees"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD", "interrupts straight from a back end"},
    {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING", "MSI-X"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD", "kicks straight to a back end"},
    {KVM_CAP_IOEVENTFD_ANY_LENGTH, "KVM_CAP_IOEVENTFD_ANY_LENGTH", "kicks straight to a back end"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", "stopping a processor (Linux 4.13)"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE", "several processors"},
};

/// What a kernel of ours ever returned is below 100; KVM says E2BIG when it has more.
constexpr uint32_t kCpuidEntriesMax = 256;

}  // namespace

std::span<const RequiredCapability> required_capabilities() {
    return kRequired;
}

Result<KvmHost> KvmHost::open() {
    UniqueFd fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!fd.valid()) {
        const int code = errno;
        std::string_view what_to_do = "";
        if (code == ENOENT || code == ENODEV || code == ENXIO) {
            what_to_do =
                "; switch virtualisation on in the firmware and load kvm_amd or kvm_intel, or in "
                "a virtual machine allow nesting";
        } else if (code == EACCES || code == EPERM) {
            what_to_do = "; become a member of its group (kvm)";
        }
        return failure(Error{
            .message = fmt::format("cannot open /dev/kvm: {}{}", std::strerror(code), what_to_do),
            .os_error = code});
    }
    const int version = ::ioctl(fd.get(), KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        return failure(Error{.message = fmt::format("/dev/kvm speaks version {} of its interface, "
                                                    "not {}",
                                                    version,
                                                    KVM_API_VERSION)});
    }
    return KvmHost(std::move(fd));
}

int KvmHost::capability(int number) const {
    return std::max(0, ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, number));
}

std::vector<RequiredCapability> KvmHost::missing_capabilities() const {
    std::vector<RequiredCapability> missing;
    for (const RequiredCapability& required : kRequired) {
        if (capability(required.number) == 0) {
            missing.push_back(required);
        }
    }
    return missing;
}

int KvmHost::vcpus_max() const {
    return std::max(1, capability(KVM_CAP_MAX_VCPUS));
}

Result<size_t> KvmHost::run_bytes() const {
    const int bytes = ::ioctl(fd_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
    if (bytes < static_cast<int>(sizeof(kvm_run))) {
        return failure(error_from_errno("KVM_GET_VCPU_MMAP_SIZE"));
    }
    return static_cast<size_t>(bytes);
}

Result<std::vector<kvm_cpuid_entry2>> KvmHost::supported_cpuid() const {
    std::vector<kvm_cpuid_entry2> entries(kCpuidEntriesMax);
    auto request = counted_request<kvm_cpuid_entry2>(entries);
    if (::ioctl(fd_.get(), kGetSupportedCpuid, request.data()) != 0) {
        return failure(error_from_errno("KVM_GET_SUPPORTED_CPUID"));
    }
    CountedHead head;
    std::memcpy(&head, request.data(), sizeof(head));
    entries.resize(std::min(head.count, kCpuidEntriesMax));
    if (!entries.empty()) {
        std::memcpy(entries.data(),
                    request.data() + sizeof(head),
                    entries.size() * sizeof(kvm_cpuid_entry2));
    }
    return entries;
}

}  // namespace outrigger::vmm
