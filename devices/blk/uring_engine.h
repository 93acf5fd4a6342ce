// SPDX-License-Identifier: Apache-2.0
/// The engine on io_uring: entries go into the worker's ring, which submits them in one call when
/// the worker has gone through its queues. The portable build has none.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "vhost-user-backend/daemon/system_call_rule.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/blk/fixed_memory.h"
#include "devices/blk/io_engine.h"

namespace outrigger::blk {

/// Does the worker's loop have an io_uring with the opcodes for files? (Container runtimes and old
/// kernels lack some.) Never in the portable build. Thread-bound: `worker`.
[[nodiscard]] bool uring_engine_can_serve(Worker& worker);

/// The IORING_OP_* opcodes that the engine submits; none in the portable build.
[[nodiscard]] std::span<const uint8_t> uring_engine_operations();

struct UringEngineOptions {
    int fd = -1;  ///< borrowed
    /// Register the guest's memory, and count it here; null: do not. Borrowed.
    FixedMemoryCounts* fixed_memory = nullptr;
};

/// What an engine that registers memory does beyond that, on the queue's worker: IORING_OP_*
/// opcodes and system calls (which a sandbox allows helper threads as well, see SandboxExtras).
/// None in the portable build.
[[nodiscard]] std::span<const uint8_t> fixed_memory_operations();
[[nodiscard]] std::span<const SystemCallRule> fixed_memory_system_calls();

/// Lets this process register as much memory as it has the right to: root any amount, others up to
/// the hard limit that they were started with (RLIMIT_MEMLOCK). Before privileges are dropped.
void raise_limit_of_fixed_memory();

/// For a worker that it can serve. `helper` makes the calls that io_uring does not have; null when
/// none will come. All are borrowed. The ring keeps the file open until the engine has retired, on
/// the worker's thread; one that was not is destroyed there. Thread-bound: `worker`.
[[nodiscard]] std::unique_ptr<IoEngine> create_uring_engine(const UringEngineOptions& options,
                                                            Worker& worker,
                                                            IoEngine* helper);

}  // namespace outrigger::blk
