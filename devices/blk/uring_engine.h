// SPDX-License-Identifier: Apache-2.0
/// The engine on io_uring: entries go into the worker's ring, which submits them in one call when
/// the worker has gone through its queues.
#pragma once

#include <array>
#include <cstdint>

#include "vhost-user-backend/io/uring.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/blk/io_engine.h"

namespace outrigger::blk {

/// Thread-bound: the queue's worker.
class UringEngine final : public IoEngine {
  public:
    /// `helper` makes the calls that io_uring does not have; null when none will come. All are
    /// borrowed. `worker`'s loop has an io_uring for which can_serve() is true.
    UringEngine(int fd, Worker& worker, IoEngine* helper);

    /// All that it submits.
    static constexpr std::array<uint8_t, 6> kOperations = {IORING_OP_READ,
                                                           IORING_OP_WRITE,
                                                           IORING_OP_READV,
                                                           IORING_OP_WRITEV,
                                                           IORING_OP_FSYNC,
                                                           IORING_OP_FALLOCATE};

    /// Does this ring have the opcodes for files? (Container runtimes and old kernels lack some.)
    [[nodiscard]] static bool can_serve(const Uring& uring);

    void submit(IoOperation& operation) override;

  private:
    /// False when the kernel takes no entry now.
    [[nodiscard]] bool try_submit(IoOperation& operation);
    void retry_parked();

    const int fd_;
    Worker& worker_;
    Uring& uring_;
    IoEngine* const helper_;
    IoOperationList parked_;  // the kernel refused entries for these; a retry is posted
};

}  // namespace outrigger::blk
