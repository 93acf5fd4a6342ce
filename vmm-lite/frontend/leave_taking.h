// SPDX-License-Identifier: Apache-2.0
/// The end of a connection whose back end lives: it was late, or broke the protocol. A process that
/// is stopped goes on one day, and finishes what it has taken in memory that it still has. It has
/// let go when it closes its end of the socket, by itself or by its death.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "vhost-user-backend/base/unique_fd.h"

#include "vmm-lite/loop/event_loop.h"

namespace outrigger::vmm {

/// Thread-bound: the loop's.
class LeaveTaking final {
  public:
    /// Null when the back end has let go already. `socket` has been shut down for writing;
    /// `on_gone` runs once, from a posted task; never for a back end that does not stop talking.
    [[nodiscard]] static std::unique_ptr<LeaveTaking> begin(
        EventLoop& loop, UniqueFd socket, std::move_only_function<void()> on_gone);

    LeaveTaking(const LeaveTaking&) = delete;
    LeaveTaking& operator=(const LeaveTaking&) = delete;
    ~LeaveTaking() = default;

  private:
    LeaveTaking(EventLoop& loop, UniqueFd socket, std::move_only_function<void()> on_gone);

    [[nodiscard]] bool gone();
    void on_readable();

    EventLoop& loop_;
    UniqueFd socket_;
    std::move_only_function<void()> on_gone_;
    size_t thrown_away_ = 0;  // bytes
    EventLoop::Watch watch_;
    std::shared_ptr<LeaveTaking*> self_;  // what posted tasks hold weakly
};

}  // namespace outrigger::vmm
