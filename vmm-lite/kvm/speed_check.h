// SPDX-License-Identifier: Apache-2.0
/// Times a short loop of a guest: some hosts offer a /dev/kvm that interprets, and a kernel would
/// take an hour there.
#pragma once

#include "vhost-user-backend/base/result.h"

#include "vmm-lite/kvm/kvm_host.h"

namespace outrigger::vmm {

/// Below this, in guest instructions a second, nothing useful runs: an emulator in software reaches
/// hundreds of millions, a processor thousands.
inline constexpr double kUsableInstructionsPerSecond = 50e6;
inline constexpr double kFullSpeedInstructionsPerSecond = 1000e6;

/// Guest instructions a second. Takes a second at most. Errors: KVM does not run the loop.
[[nodiscard]] Result<double> measure_guest_speed(const KvmHost& host);

}  // namespace outrigger::vmm
