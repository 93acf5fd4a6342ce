// SPDX-License-Identifier: Apache-2.0
/// The Linux event loop: one io_uring whose completions are kicks, wake-ups and block I/O alike.
#pragma once

#include <memory>
#include <optional>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/io/event_loop.h"

namespace outrigger {

/// Fails where the kernel refuses io_uring or is older than 5.11, and always in the portable build.
/// Must run on the loop's thread, which must also destroy the loop. `operations`: see
/// create_event_loop().
[[nodiscard]] Result<std::unique_ptr<EventLoop>> create_uring_loop(
    const std::optional<UringOperations>& operations);

}  // namespace outrigger
