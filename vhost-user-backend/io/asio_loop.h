// SPDX-License-Identifier: Apache-2.0
/// The portable event loop: Asio's reactor (epoll, kqueue or poll).
#pragma once

#include <memory>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/io/event_loop.h"

namespace outrigger {

[[nodiscard]] Result<std::unique_ptr<EventLoop>> create_asio_loop();

}  // namespace outrigger
