// SPDX-License-Identifier: Apache-2.0
/// The channel on which a back end asks for something: vhost-user "Back-end communication". Serves
/// what was negotiated, refuses the rest, and never waits for the back end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/message_codec.h"

#include "vmm-lite/frontend/shared_windows.h"
#include "vmm-lite/loop/event_loop.h"

namespace outrigger::vmm {

/// Thread-bound: the loop's.
class BackendRequests final {
  public:
    struct Handler {
        /// The configuration space has changed.
        std::function<void()> on_config_change;
        /// A piece of shared memory was mapped.
        std::function<void()> on_mapped;
        /// The back end broke the rules of this channel. The object may be destroyed from a posted
        /// task.
        std::function<void(const Error&)> on_violation;
    };

    /// Makes the two ends of the channel: ours, and the one that SET_BACKEND_REQ_FD brings.
    [[nodiscard]] static Result<std::pair<UniqueFd, UniqueFd>> make_ends();

    /// `windows` (borrowed) may be null: then there is no shared memory.
    BackendRequests(EventLoop& loop, UniqueFd socket, SharedWindows* windows, Handler handler);
    BackendRequests(const BackendRequests&) = delete;
    BackendRequests& operator=(const BackendRequests&) = delete;
    ~BackendRequests() = default;

    /// What may be asked from now on. Nothing before.
    void set_agreed(FeatureSet protocol_features) { agreed_ = protocol_features; }

  private:
    void on_readable();
    void serve(wire::Message& message);
    [[nodiscard]] Result<void> carry_out(wire::Message& message);
    [[nodiscard]] Result<void> map(wire::Message& message);
    [[nodiscard]] Result<void> unmap(const wire::Message& message);
    void violate(std::string what);

    UniqueFd socket_;
    SharedWindows* const windows_;
    Handler handler_;
    FeatureSet agreed_{};
    wire::MessageStream stream_;
    LogLimiter refusals_;
    bool violated_ = false;
    EventLoop::Watch watch_;
};

}  // namespace outrigger::vmm
