// SPDX-License-Identifier: Apache-2.0
// In place of uring_loop.cc where the build has no io_uring.
#include "vhost-user-backend/io/uring_loop.h"

namespace outrigger {

Result<std::unique_ptr<EventLoop>> create_uring_loop(
    const std::optional<UringOperations>& /*operations*/) {
    return failure(Error{.message = "this build has no io_uring"});
}

}  // namespace outrigger
