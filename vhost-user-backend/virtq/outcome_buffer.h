// SPDX-License-Identifier: Apache-2.0
/// Memory beside the in-flight buffer in which devices note what they are about to do for a request
/// and what came of it, so that whoever serves the rings after a crash does not do it twice. The
/// in-flight buffer says which requests were not answered; this says how far each of them came.
///
/// It is ours alone: no front end sees it. It survives where descriptors are kept (keeper).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/guest/sigbus_guard.h"

namespace outrigger {

/// Mapped as long as a ring or the session uses it. Any thread may look at it; what is inside
/// belongs to the worker of each queue.
class OutcomeBuffer final {
  public:
    struct Shape {
        uint16_t queue_count = 0;   ///< not 0
        uint16_t entries = 0;       ///< the size of the largest ring that has room
        uint16_t record_bytes = 0;  ///< that a device may note at a time: 1 to kOutcomeBytesMax
    };

    /// Zeroed, which means that nothing is known of any request.
    [[nodiscard]] static Result<std::shared_ptr<const OutcomeBuffer>> create(const Shape& shape);

    /// One that another process of ours made for the same shape. Fails for a file that is too
    /// small. What it says is not looked at before a ring starts, and may be anything.
    [[nodiscard]] static Result<std::shared_ptr<const OutcomeBuffer>> map(UniqueFd file,
                                                                          const Shape& shape);

    OutcomeBuffer(UniqueFd file, const Shape& shape, Mapping mapping);

    [[nodiscard]] int fd() const { return file_.get(); }

    [[nodiscard]] const Shape& shape() const { return shape_; }

    /// The part of one queue; empty for a queue that the buffer does not have.
    [[nodiscard]] std::span<std::byte> part(uint16_t queue) const;

  private:
    UniqueFd file_;
    Shape shape_;
    Mapping mapping_;
    GuardedRange guard_;
};

}  // namespace outrigger
