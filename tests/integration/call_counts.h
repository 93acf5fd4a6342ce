// SPDX-License-Identifier: Apache-2.0
/// How often threads that said so allocate and lock. A program that links this has malloc() and the
/// locking functions of pthreads replaced by ones that count, and go on to the C library's.
#pragma once

#include <cstdint>
#include <ostream>

namespace outrigger::testing {

struct CallCounts {
    uint64_t allocations = 0;  ///< malloc() and its kin; operator new calls them
    uint64_t locks = 0;        ///< of mutexes and readers-writer locks, also where nobody waits

    friend bool operator==(const CallCounts&, const CallCounts&) = default;

    friend std::ostream& operator<<(std::ostream& out, const CallCounts& counts);
};

/// From now on the calling thread is one of those that are counted.
void count_this_thread();

/// Begins to count at zero.
void start_counting();

/// Ends it. Any thread.
[[nodiscard]] CallCounts stop_counting();

}  // namespace outrigger::testing
