// SPDX-License-Identifier: Apache-2.0
/// Threads beside the workers: a device that must make calls which block makes them there.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include <signal.h>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// Runs `body` on a new thread called `name` (at most 15 characters are shown by the system), which
/// no signal of the process disturbs. Call it on a queue's worker, in start_queue() or later, so
/// that the thread inherits the confinement of the worker; its own, which is narrower, it enters
/// before `body`.
[[nodiscard]] Result<std::thread> start_helper_thread(const std::string& name,
                                                      std::move_only_function<void()> body);

/// What each helper thread calls before its body; null: nothing. Set while none exists. It must not
/// return when it fails. This is how the daemon's sandbox, which is above this room, reaches them.
void set_helper_thread_entry(void (*entry)());

/// Blocks the signals of the process for the calling thread and those that it starts, until
/// destruction. Those that a thread raises by its own accesses and calls stay.
class BlockedSignals final {
  public:
    BlockedSignals();
    BlockedSignals(const BlockedSignals&) = delete;
    BlockedSignals& operator=(const BlockedSignals&) = delete;
    ~BlockedSignals();

  private:
    sigset_t before_{};
};

}  // namespace outrigger
