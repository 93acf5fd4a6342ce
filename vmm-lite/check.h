// SPDX-License-Identifier: Apache-2.0
/// vmm-lite --check: whether this host runs guests, and what to do when not.
#pragma once

namespace outrigger::vmm {

/// Prints what it finds to standard output. Returns the exit status: 0 when guests run.
[[nodiscard]] int check_host();

}  // namespace outrigger::vmm
