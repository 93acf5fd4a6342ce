// SPDX-License-Identifier: Apache-2.0
/// A policy as the kernel takes it. libseccomp compiles it, behind this header.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <linux/filter.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/system_call_rule.h"

namespace outrigger {

/// What becomes of a system call that no rule allows.
enum class Violation : uint8_t {
    kKill,  ///< the process is killed by SIGSYS, which it cannot catch
    kTrap,  ///< the thread gets SIGSYS, see system_call_trap.h
};

/// Immutable, so that any thread can enter it.
class SeccompFilter final {
  public:
    [[nodiscard]] static Result<SeccompFilter> compile(std::span<const SystemCallRule> policy,
                                                       Violation violation);

    /// The calls `forbidden` fail with the error of their rule, and those by another architecture's
    /// numbers kill the process; all others are made. What this architecture lacks is skipped.
    [[nodiscard]] static Result<SeccompFilter> compile_denials(
        std::span<const SystemCallRule> forbidden);

    /// Binds the calling thread, and those that it starts, for good. Needs no_new_privs. Makes one
    /// system call and allocates nothing. 0, or an errno value.
    [[nodiscard]] int enter() const;

  private:
    explicit SeccompFilter(std::vector<sock_filter> program) : program_(std::move(program)) {}

    std::vector<sock_filter> program_;
};

}  // namespace outrigger
