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
    /// As many as there may be of a file: each takes memory of the kernel, which looks through all
    /// of them for each new one.
    static constexpr size_t kRangesMax = 4096;

    struct Range {
        uint64_t start = 0;
        uint64_t end = 0;  ///< of the last byte
        uint32_t type = F_RDLCK;

        friend bool operator==(const Range&, const Range&) = default;
    };

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

    /// Is any of these bytes locked?
    [[nodiscard]] bool has_any(uint64_t start, uint64_t end) const {
        return std::ranges::any_of(
            ranges_, [&](const Range& range) { return range.start <= end && range.end >= start; });
    }

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
