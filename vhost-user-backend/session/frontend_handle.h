// SPDX-License-Identifier: Apache-2.0
/// The Frontend that a device holds: carries its requests to the control thread, for as long as the
/// session lives.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "vhost-user-backend/frontend.h"
#include "vhost-user-backend/io/event_loop.h"

namespace outrigger {

class BackendRequests;

/// Any thread, except where a member says otherwise.
class FrontendHandle final : public Frontend, public std::enable_shared_from_this<FrontendHandle> {
  public:
    /// `requests` belongs to the thread of `control_loop`; both outlive the call of detach().
    FrontendHandle(EventLoop& control_loop, BackendRequests& requests)
        : control_loop_(&control_loop), requests_(&requests) {}

    /// The session ends. Control thread.
    void detach();

    void config_changed() override;
    [[nodiscard]] bool add_shared_object(const Uuid& object, OnDone on_done) override;
    [[nodiscard]] bool remove_shared_object(const Uuid& object, OnDone on_done) override;
    [[nodiscard]] bool look_up_shared_object(const Uuid& object, OnFound on_found) override;
    [[nodiscard]] bool map_shared_memory(const SharedMemoryRange& range,
                                         SharedMemorySource source,
                                         OnDone on_done) override;
    [[nodiscard]] bool unmap_shared_memory(const SharedMemoryRange& range, OnDone on_done) override;
    void adopt_shared_memory(const SharedMemoryRange& range) override;

  private:
    /// Runs `task` on the control thread; false when the session has ended.
    [[nodiscard]] bool post(EventLoop::Task task);

    /// Posts a request whose `ask` hands over to the session; kGone when that ended meanwhile.
    template <class Callback, class Ask>
    [[nodiscard]] bool post_request(Callback callback, Ask ask);

    std::mutex mutex_;           // control_loop_
    EventLoop* control_loop_;    // null: detached
    BackendRequests* requests_;  // of the control thread; null: detached
    std::atomic<bool> config_change_posted_ = false;
};

}  // namespace outrigger
