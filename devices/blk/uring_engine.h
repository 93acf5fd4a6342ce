// SPDX-License-Identifier: Apache-2.0
/// The engine on io_uring: entries go into the worker's ring, which submits them in one call when
/// the worker has gone through its queues. The portable build has none.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "vhost-user-backend/io/worker.h"

#include "devices/blk/io_engine.h"

namespace outrigger::blk {

/// Does the worker's loop have an io_uring with the opcodes for files? (Container runtimes and old
/// kernels lack some.) Never in the portable build. Thread-bound: `worker`.
[[nodiscard]] bool uring_engine_can_serve(Worker& worker);

/// The IORING_OP_* opcodes that the engine submits; none in the portable build.
[[nodiscard]] std::span<const uint8_t> uring_engine_operations();

struct UringEngineOptions {
    int fd = -1;          ///< borrowed
    bool direct = false;  ///< it was opened to bypass the page cache
};

/// For a worker that it can serve. `helper` makes the calls that io_uring does not have; null when
/// none will come. All are borrowed. The ring keeps the file open until the engine has retired, on
/// the worker's thread; one that was not is destroyed there. Thread-bound: `worker`.
[[nodiscard]] std::unique_ptr<IoEngine> create_uring_engine(const UringEngineOptions& options,
                                                            Worker& worker,
                                                            IoEngine* helper);

}  // namespace outrigger::blk
