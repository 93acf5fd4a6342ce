// SPDX-License-Identifier: Apache-2.0
/// Which bytes of a file one owner has locked: the kernel does not tell, and another process must
/// know to lock them again.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <fcntl.h>

namespace outrigger::fs {

class HeldRanges final {
  public:
    /// As many as one owner may have of a file: each takes memory of the kernel.
    static constexpr size_t kRangesMax = 4096;

    struct Range {
        uint64_t start = 0;
        uint64_t end = 0;  ///< of the last byte
        uint32_t type = F_RDLCK;

        friend bool operator==(const Range&, const Range&) = default;
    };

    /// May there be more? One lock or unlock adds two at most.
    [[nodiscard]] bool is_full() const { return ranges_.size() + 2 > kRangesMax; }

    /// The owner has locked, or unlocked (F_UNLCK), these bytes; what it had of them is replaced.
    void set(const Range& wish) {
        std::vector<Range> next;
        for (const Range& range : ranges_) {
            if (range.end < wish.start || range.start > wish.end) {
                next.push_back(range);
                continue;
            }
            if (range.start < wish.start) {
                next.push_back({.start = range.start, .end = wish.start - 1, .type = range.type});
            }
            if (range.end > wish.end) {
                next.push_back({.start = wish.end + 1, .end = range.end, .type = range.type});
            }
        }
        if (wish.type != F_UNLCK) {
            next.push_back(wish);
        }
        std::ranges::sort(next, {}, &Range::start);
        join(next);
        ranges_ = std::move(next);
    }

    [[nodiscard]] std::span<const Range> all() const { return ranges_; }

    void clear() { ranges_.clear(); }

  private:
    /// Neighbours of one type become one, as in the kernel.
    static void join(std::vector<Range>& ranges) {
        size_t kept = 0;
        for (const Range& range : ranges) {
            if (kept > 0 && ranges[kept - 1].type == range.type &&
                ranges[kept - 1].end + 1 == range.start) {
                ranges[kept - 1].end = range.end;
            } else {
                ranges[kept++] = range;
            }
        }
        ranges.resize(kept);
    }

    std::vector<Range> ranges_;  // by where they begin; none overlap
};

}  // namespace outrigger::fs
