// SPDX-License-Identifier: Apache-2.0
/// The registers that a processor starts with.
#pragma once

#include <vector>

#include <linux/kvm.h>

#include "vhost-user-backend/base/result.h"

#include "vmm-lite/kvm/entry_state.h"

namespace outrigger::vmm {

/// What every processor gets, the ones that the guest starts as well.
[[nodiscard]] Result<void> set_common_state(int vcpu_fd,
                                            const std::vector<kvm_cpuid_entry2>& cpuid);

/// And the first one.
[[nodiscard]] Result<void> set_entry_state(int vcpu_fd, const EntryState& entry);

/// Whether the guest's KVM clock is on: Linux switches it off on its way to a restart that somebody
/// asked for, and not when it restarts because of a panic.
[[nodiscard]] bool guest_clock_is_on(int vcpu_fd);

}  // namespace outrigger::vmm
