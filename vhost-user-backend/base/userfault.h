// SPDX-License-Identifier: Apache-2.0
/// Pages of shared memory that somebody else brings, when they are first touched: userfaultfd(2).
///
/// In a postcopy migration a guest runs before all of its memory has come. Whoever touches a page
/// that its file still lacks waits, in the kernel, until the holder of the userfaultfd has put the
/// page there and says so. That holder is the front end, so nobody knows how long this takes: only
/// threads may touch such memory that nobody else depends on.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// One userfaultfd. Thread-bound; the memory may be touched by any thread meanwhile.
class Userfault {
  public:
    virtual ~Userfault() = default;

    /// Another descriptor of it, for whoever brings the pages.
    [[nodiscard]] virtual Result<UniqueFd> share() const = 0;

    /// From now on who touches a page of the mapping `pages` (whole and page-aligned) that its file
    /// lacks waits for it. Fails for memory that the system cannot do this for.
    [[nodiscard]] virtual Result<void> arm(std::span<std::byte> pages) = 0;

    /// `pages` were armed, and are as any memory again: what is still missing reads as zeroes.
    virtual void disarm(std::span<std::byte> pages) = 0;

    /// `pages` were armed, and what is missing will never come: nothing of the file is mapped there
    /// any more. Who waits goes on, by SIGBUS, or EFAULT in the kernel, like whoever touches them
    /// from now on. So nobody reads zeroes in place of a guest's data, and nobody writes them.
    virtual void give_up(std::span<std::byte> pages) = 0;
};

/// Where userfaultfds come from, also when the sandbox has closed. Thread-bound.
class UserfaultSource {
  public:
    virtual ~UserfaultSource() = default;

    /// A fresh one: who holds an earlier one learns nothing of what is armed by this one.
    [[nodiscard]] virtual Result<std::unique_ptr<Userfault>> open() const = 0;
};

/// The kernel's, for accesses of the kernel, too (I/O into guest memory). Needs access to
/// /dev/userfaultfd, or vm.unprivileged_userfaultfd=1; the error says so. Before the sandbox and
/// before capabilities go. In the portable build always an error.
[[nodiscard]] Result<std::unique_ptr<UserfaultSource>> open_userfault_source();

}  // namespace outrigger
