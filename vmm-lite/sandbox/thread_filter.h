// SPDX-License-Identifier: Apache-2.0
/// Which system calls the threads of a running machine may make, each kind its own: one that makes
/// another ends the process by SIGSYS. What is left does not open files, start programs, or change
/// who the process is.
#pragma once

#include <vector>

#include <linux/filter.h>

#include "vhost-user-backend/base/result.h"

namespace outrigger::vmm {

/// A sanitizer makes system calls of its own, which no list could name: with one nobody is bound.
#if defined(__has_feature)
inline constexpr bool kFiltersBind =
    !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer);
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kFiltersBind = false;
#else
inline constexpr bool kFiltersBind = true;
#endif

/// Immutable, so that any thread can enter it. libseccomp compiles it, behind this header.
class ThreadFilter final {
  public:
    /// For a processor's thread: runs the guest, and answers its accesses.
    [[nodiscard]] static Result<ThreadFilter> for_vcpu();
    /// For the loop's: back ends, operators, and the end of the machine.
    [[nodiscard]] static Result<ThreadFilter> for_loop();

    /// Binds the calling thread, and those that it starts, for good. Allocates nothing.
    [[nodiscard]] Result<void> enter() const;

  private:
    explicit ThreadFilter(std::vector<sock_filter> program) : program_(std::move(program)) {}

    std::vector<sock_filter> program_;
};

}  // namespace outrigger::vmm
