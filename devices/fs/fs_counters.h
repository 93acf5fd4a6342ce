// SPDX-License-Identifier: Apache-2.0
/// What a share counts for its operator.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "vhost-user-backend/base/counters.h"

#include "devices/fs/fuse_wire.h"

namespace outrigger::fs {

/// Of one queue: written by its worker, read by any thread. On cache lines of its own, so that no
/// other worker writes them.
struct alignas(64) FsCounters {
    /// Errors that answers may have are below it.
    static constexpr size_t kErrorsMax = 160;

    std::array<Counter, kOpcodeCount> operations;  ///< by opcode; 0: any that there is not
    Counter bytes_read;
    Counter bytes_written;
    Counter bytes_copied;
    Counter pool_jobs;                       ///< requests that went to the threads that may wait
    Counter uring_reads;                     ///< reads that wait in the kernel
    Counter lock_waits;                      ///< requests that waited for somebody's lock
    Counter replays;                         ///< that an earlier process had in hand
    Counter unanswerable;                    ///< without room for an answer, which they need
    Counter malformed;                       ///< whose header or arguments are wrong in themselves
    std::array<Counter, kErrorsMax> errors;  ///< answered with it; 0: with any other
};

/// What handlers of all queues refuse. Any thread: who does right never gets here.
enum class FsRefusal : uint8_t {
    kUnknownNode,      ///< there is no such id
    kUnknownHandle,    ///< there is no such file, or it is another node's
    kDescriptorLimit,  ///< the guest has all the descriptors that it may have (ENFILE)
    kNodeLimit,        ///< or all the nodes
};

inline constexpr std::array<std::string_view, 4> kFsRefusalNames = {
    "unknown-node", "unknown-handle", "descriptor-limit", "node-limit"};

class FsRefusals final {
  public:
    [[gnu::cold]] void add(FsRefusal why) {
        counts_[static_cast<size_t>(why)].fetch_add(1, std::memory_order_relaxed);
    }

    [[nodiscard]] uint64_t value(FsRefusal why) const {
        return counts_[static_cast<size_t>(why)].load(std::memory_order_relaxed);
    }

  private:
    std::array<std::atomic<uint64_t>, kFsRefusalNames.size()> counts_{};
};

}  // namespace outrigger::fs
