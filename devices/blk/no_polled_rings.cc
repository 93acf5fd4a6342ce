// SPDX-License-Identifier: Apache-2.0
// In place of polled_rings.cc where the build has no io_uring.
#include "devices/blk/polled_rings.h"

namespace outrigger::blk {

Result<std::unique_ptr<PolledRings>> PolledRings::create(size_t /*count*/) {
    return failure(Error{.message = "this build has no io_uring"});
}

}  // namespace outrigger::blk
