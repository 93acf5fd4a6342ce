// SPDX-License-Identifier: Apache-2.0
/// Keeps the process alive when a front end truncates a file that it passed as guest memory.
///
/// Touching a page behind the end of a mapped file raises SIGBUS, which would end the daemon and
/// with it every device that it serves. The guard knows where guest memory is mapped: it puts
/// a page of zeroes in place of what was touched, marks the region as lost, and lets the access go
/// on. The ring that uses the region finds the mark and stops. (Where the kernel does the access
/// for us it answers EFAULT instead, and goes on doing so.)
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

namespace outrigger {

namespace sigbus_guard {

/// How many regions were lost since the process began: a cheap way to ask whether to look closer.
[[nodiscard]] uint32_t lost_count();

/// For buffers of guest memory that the kernel could not access (EFAULT): finds out whether their
/// file was truncated, by asking the kernel for the page of each one's last byte, which is the
/// first to go. lost_count() tells.
void look_for_loss(std::span<const iovec> buffers);

struct Slot;

}  // namespace sigbus_guard

/// A range of memory that the guard watches over, as long as this object lives. The first one
/// installs the handler; what other code installed before keeps its say about all other addresses.
class GuardedRange final {
  public:
    /// `data`: start of a mapping, page-aligned; `size` in bytes. Any thread.
    GuardedRange(std::byte* data, size_t size);
    GuardedRange(GuardedRange&& other) noexcept;
    GuardedRange& operator=(GuardedRange&&) = delete;
    GuardedRange(const GuardedRange&) = delete;
    GuardedRange& operator=(const GuardedRange&) = delete;
    /// Before the range is unmapped.
    ~GuardedRange();

    /// Is some of it gone? Any thread.
    [[nodiscard]] bool lost() const;

  private:
    sigbus_guard::Slot* slot_;
};

}  // namespace outrigger
