// SPDX-License-Identifier: Apache-2.0
/// Submission of io_uring operations from a worker. Completions arrive in the worker's one wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "vhost-user-backend/base/result.h"

// Of <liburing.h>, which who prepares entries includes; the portable build does without.
struct io_uring_sqe;

namespace outrigger {

/// One operation in flight. It owns, or outlives, every buffer the kernel may touch, and it must
/// stay alive and in place until on_complete() was called: there is no cancelling by destruction.
class UringOperation {
  public:
    /// `result` is the CQE's res: >= 0, or -errno. Loop's thread.
    virtual void on_complete(int32_t result, uint32_t cqe_flags) = 0;

  protected:
    ~UringOperation() = default;
};

/// Thread-bound to its loop's thread.
class Uring {
  public:
    /// A cleared submission entry whose completion goes to `operation`. Prepare it with the
    /// io_uring_prep_* functions *before* calling bind(), which sets the user data. When the
    /// submission queue is full it is submitted first; null only if the kernel refuses that.
    [[nodiscard]] virtual io_uring_sqe* next_sqe() = 0;

    /// Ties a prepared entry to its operation. Nothing reaches the kernel yet: one submission for
    /// all entries follows when the worker has gone through its ready queues.
    virtual void bind(io_uring_sqe* sqe, UringOperation& operation) = 0;

    /// Registers a file: entries with the flag IOSQE_FIXED_FILE name it by the slot that this
    /// returns, and the kernel need not count its users. It keeps the file open until
    /// unregister_file(). Nothing when the kernel or the ring has no room for it.
    [[nodiscard]] virtual std::optional<uint32_t> register_file(int fd) = 0;

    /// Operations under way end as if nothing had happened.
    virtual void unregister_file(uint32_t slot) = 0;

    /// Registers memory, at most 1 GiB, for IORING_OP_READ_FIXED and IORING_OP_WRITE_FIXED, which
    /// name it by the slot that this returns. The kernel pins its pages until unregister_buffer(),
    /// counted against RLIMIT_MEMLOCK: what becomes of the mapping or its file afterwards does not
    /// show there. Memory that is registered already, by the same first byte and size, is counted
    /// up. May take a millisecond for each few megabytes that were never touched.
    [[nodiscard]] virtual Result<uint32_t> register_buffer(std::span<std::byte> memory) = 0;

    /// Operations under way end as if nothing had happened.
    virtual void unregister_buffer(uint32_t slot) = 0;

    /// Does this kernel implement the IORING_OP_* opcode?
    [[nodiscard]] virtual bool supports(int opcode) const = 0;

  protected:
    ~Uring() = default;
};

}  // namespace outrigger
