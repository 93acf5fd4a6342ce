// SPDX-License-Identifier: Apache-2.0
/// What a leak would add to, in this process or in a child of ours.
#pragma once

#include <cstddef>
#include <ostream>
#include <string>

#include <sys/types.h>

#include <gtest/gtest.h>

#include "tests/support/wait.h"

namespace outrigger::testing {

struct ProcessCounts {
    size_t descriptors = 0;
    size_t io_urings = 0;        ///< of the descriptors
    size_t shared_memories = 0;  ///< of the descriptors: memfds and POSIX shared memory objects
    size_t memory_mappings = 0;  ///< of files that the driver's GuestMemory made
    size_t threads = 0;          ///< without those that the kernel keeps for an io_uring

    friend bool operator==(const ProcessCounts&, const ProcessCounts&) = default;

    friend std::ostream& operator<<(std::ostream& out, const ProcessCounts& counts);

    [[nodiscard]] static ProcessCounts now();

    /// Of another process. All zeroes where we may not look: a daemon hides from its own user, but
    /// not from root.
    [[nodiscard]] static ProcessCounts of(pid_t process);
};

/// Does this process come down to no more than `before` of anything, within kPatience? Seldom at
/// once: the kernel lets go of who joins a thread before it takes that thread off its list. For the
/// same reason `before` may count a thread that was about to go.
[[nodiscard]] ::testing::AssertionResult comes_down_to(const ProcessCounts& before);

/// Do the two functions below see only what is ours? A sanitizer remembers every access and thread
/// in memory of the same process.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kMemoryIsOurs = false;
#else
inline constexpr bool kMemoryIsOurs = true;
#endif

/// Lines of /proc/PID/maps: all mappings there are. Not among the counts, because the heap and
/// the stacks of libraries come and go by a few; compare with a margin.
[[nodiscard]] size_t mappings_of(pid_t process);

/// Memory of its own that a process has in use (RssAnon): heap and stacks, not the guest's memory.
[[nodiscard]] size_t own_memory_bytes_of(pid_t process);

/// Those of another process when nothing has come or gone for 50 ms, or at the end of kPatience: a
/// thread that was joined a moment ago may still be counted, as above. All zeroes where we may not
/// look.
[[nodiscard]] ProcessCounts settled_counts_of(pid_t process);

/// What `make` returns, when `process` has more descriptors than before for it: a keeper has what
/// was accepted then, and who is killed earlier takes it along. Where we may not look, 50 ms later.
template <class Make>
[[nodiscard]] auto make_and_hold(pid_t process, Make make) {
    const size_t before = settled_counts_of(process).descriptors;
    auto made = make();
    EXPECT_TRUE(eventually([&] {
        const size_t now = settled_counts_of(process).descriptors;
        return now > before || before == 0;
    }));
    return made;
}

}  // namespace outrigger::testing
