// SPDX-License-Identifier: Apache-2.0
/// What an operator may change while queues run. The device has it under a lock; each queue works
/// with a copy of its own, which a task on its worker replaces.
#pragma once

#include <cstdint>
#include <memory>

#include "devices/blk/blk_request.h"
#include "devices/blk/rate_limit.h"

namespace outrigger::blk {

/// What becomes of a request that the host failed.
enum class ErrorPolicy : uint8_t {
    kReport,      ///< the guest is told
    kStop,        ///< it is held, and the device stops until it is resumed
    kStopOnFull,  ///< the same when there is no room on the host; other failures are reported
};

/// Does the policy hold a request that failed with this errno value?
[[nodiscard]] bool holds_failure(ErrorPolicy policy, int os_error);

/// Who has the device take no more requests.
struct BlkPauses {
    bool by_operator = false;
    bool by_change = false;  ///< a change that waits until nothing is in flight

    [[nodiscard]] bool any() const { return by_operator || by_change; }
};

struct BlkSettings {
    BlkGeometry geometry;
    std::shared_ptr<RateLimiter> limiter;  ///< never null
    ErrorPolicy error_policy = ErrorPolicy::kReport;
    BlkPauses pauses{};
};

}  // namespace outrigger::blk
