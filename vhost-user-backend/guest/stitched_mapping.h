// SPDX-License-Identifier: Apache-2.0
/// Scattered pieces of guest memory, mapped once more side by side.
///
/// A ring area is contiguous in the addresses that the driver uses. Behind a virtual IOMMU its
/// pages may lie anywhere in the guest's memory, whereas ring code wants one pointer.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/guest/sigbus_guard.h"

namespace outrigger {

/// Owner of such a mapping. The memory stays mapped where the pieces come from, too.
class StitchedMapping final {
  public:
    /// Maps the bytes of `pieces` again, one behind the other. Two neighbours must meet at the
    /// border of a page; only the first may begin, and the last end, inside of one. Fails when
    /// they do not, when the memory is of huge pages, and where the system offers no way.
    [[nodiscard]] static Result<std::unique_ptr<StitchedMapping>> map(
        std::span<const iovec> pieces);

    StitchedMapping(const StitchedMapping&) = delete;
    StitchedMapping& operator=(const StitchedMapping&) = delete;
    ~StitchedMapping() = default;

    /// The first byte of the first piece.
    [[nodiscard]] std::byte* data() const { return data_; }

    /// Is this the mapping of exactly these pieces?
    [[nodiscard]] bool is_of(std::span<const iovec> pieces) const;

    /// Where the bytes come from, in order.
    [[nodiscard]] std::span<const iovec> pieces() const { return pieces_; }

    /// The front end truncated the file of a piece: what is here now is zeroes of our own.
    [[nodiscard]] bool lost() const { return guard_.lost(); }

  private:
    /// Address space that is unmapped with it.
    class Range final {
      public:
        explicit Range(std::span<std::byte> whole) : whole_(whole) {}

        Range(const Range&) = delete;
        Range& operator=(const Range&) = delete;
        ~Range();

        [[nodiscard]] std::span<std::byte> whole() const { return whole_; }

      private:
        std::span<std::byte> whole_;  // page-aligned
    };

    StitchedMapping(std::span<std::byte> whole, size_t slack, std::span<const iovec> pieces);

    Range range_;
    std::byte* data_;
    std::vector<iovec> pieces_;
    GuardedRange guard_;  // behind the range: it goes first
};

}  // namespace outrigger
