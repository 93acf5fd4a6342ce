// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/frontend_handle.h"

#include <utility>

#include "vhost-user-backend/session/backend_requests.h"

namespace outrigger {

void FrontendHandle::detach() {
    requests_ = nullptr;
    const std::lock_guard lock(mutex_);
    control_loop_ = nullptr;
}

bool FrontendHandle::post(EventLoop::Task task) {
    const std::lock_guard lock(mutex_);
    if (control_loop_ == nullptr) {
        return false;
    }
    control_loop_->post(std::move(task));
    return true;
}

template <class Callback, class Ask>
bool FrontendHandle::post_request(Callback callback, Ask ask) {
    return post([self = shared_from_this(),
                 callback = std::move(callback),
                 ask = std::move(ask)]() mutable {
        if (self->requests_ != nullptr) {
            ask(*self->requests_, std::move(callback));
        } else {
            callback(failure(FrontendError::kGone));
        }
    });
}

void FrontendHandle::config_changed() {
    // Acquire and release on both sides: what the device wrote before a call that found the flag
    // set is seen by the task that clears it (the partner is the exchange below).
    if (config_change_posted_.exchange(true, std::memory_order_acq_rel)) {
        return;
    }
    const bool posted = post([self = shared_from_this()] {
        // The partner of the exchange above.
        (void)self->config_change_posted_.exchange(false, std::memory_order_acq_rel);
        if (self->requests_ != nullptr) {
            self->requests_->config_changed();
        }
    });
    (void)posted;  // without a session there is nobody to tell
}

bool FrontendHandle::add_shared_object(const Uuid& object, OnDone on_done) {
    return post_request(std::move(on_done), [object](BackendRequests& requests, OnDone callback) {
        requests.add_shared_object(object, std::move(callback));
    });
}

bool FrontendHandle::remove_shared_object(const Uuid& object, OnDone on_done) {
    return post_request(std::move(on_done), [object](BackendRequests& requests, OnDone callback) {
        requests.remove_shared_object(object, std::move(callback));
    });
}

bool FrontendHandle::look_up_shared_object(const Uuid& object, OnFound on_found) {
    return post_request(std::move(on_found), [object](BackendRequests& requests, OnFound callback) {
        requests.look_up_shared_object(object, std::move(callback));
    });
}

bool FrontendHandle::map_shared_memory(const SharedMemoryRange& range,
                                       SharedMemorySource source,
                                       OnDone on_done) {
    return post_request(
        std::move(on_done),
        [range, source = std::move(source)](BackendRequests& requests, OnDone callback) mutable {
            requests.map_shared_memory(range, std::move(source), std::move(callback));
        });
}

bool FrontendHandle::unmap_shared_memory(const SharedMemoryRange& range, OnDone on_done) {
    return post_request(std::move(on_done), [range](BackendRequests& requests, OnDone callback) {
        requests.unmap_shared_memory(range, std::move(callback));
    });
}

void FrontendHandle::adopt_shared_memory(const SharedMemoryRange& range) {
    const bool posted = post([self = shared_from_this(), range] {
        if (self->requests_ != nullptr) {
            self->requests_->adopt_shared_memory(range);
        }
    });
    (void)posted;  // without a session nothing is mapped
}

}  // namespace outrigger
