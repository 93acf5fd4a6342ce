// SPDX-License-Identifier: Apache-2.0
/// Counts the system calls of another process without stopping it: by the kernel's trace point, or
/// where that is closed to us by the kernel's count of reads and writes.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::bench {

/// Which calls were counted.
enum class CallScope : uint8_t {
    kAll,
    kReadsAndWrites,  ///< read(2), write(2) and their kin; nothing of io_uring or of waiting
};

struct CallCount {
    CallScope scope = CallScope::kAll;
    uint64_t calls = 0;
};

class SystemCallCounter final {
  public:
    /// Counts from now on, in all threads that `pid` has and those that they start.
    explicit SystemCallCounter(pid_t pid);

    /// So far. Nullopt: this process may not see that one's, by neither way.
    [[nodiscard]] std::optional<CallCount> count() const;

  private:
    [[nodiscard]] bool open_trace_points();

    pid_t pid_;
    std::vector<UniqueFd> trace_points_;        // one for each thread; empty: not allowed
    std::optional<uint64_t> transfers_before_;  // reads and writes
};

/// The sum of reads and writes in the text of /proc/PID/io. Nullopt when it is none.
[[nodiscard]] std::optional<uint64_t> transfers_of_io(std::string_view text);

}  // namespace outrigger::bench
