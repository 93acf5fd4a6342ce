// SPDX-License-Identifier: Apache-2.0
/// /dev/kvm: what this host's KVM can, before there is a virtual machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <linux/kvm.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::vmm {

struct RequiredCapability {
    int number;
    std::string_view name;
    std::string_view purpose;  ///< what does not work without it
};

/// All that vmm-lite needs of KVM.
[[nodiscard]] std::span<const RequiredCapability> required_capabilities();

class KvmHost final {
  public:
    /// Errors say whether the device is missing, closed to this user, or too old.
    [[nodiscard]] static Result<KvmHost> open();

    [[nodiscard]] int fd() const { return fd_.get(); }

    /// 0: no.
    [[nodiscard]] int capability(int number) const;
    [[nodiscard]] std::vector<RequiredCapability> missing_capabilities() const;
    [[nodiscard]] int vcpus_max() const;
    /// What the kernel and a vCPU share.
    [[nodiscard]] Result<size_t> run_bytes() const;
    [[nodiscard]] Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;

  private:
    explicit KvmHost(UniqueFd fd) : fd_(std::move(fd)) {}

    UniqueFd fd_;
};

}  // namespace outrigger::vmm
