// SPDX-License-Identifier: Apache-2.0
/// Everything that a session asks of its front end: the device's requests, notifications of rings
/// that have no descriptor for them, and the rules on when each may be sent.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/frontend.h"
#include "vhost-user-backend/session/backend_channel.h"
#include "vhost-user-backend/session/shared_memory_book.h"
#include "vhost-user-backend/virtq/virtqueue.h"

namespace outrigger {

class FrontendHandle;

/// Thread-bound: control thread.
class BackendRequests final {
  public:
    /// What the session knows.
    class Handler {
      public:
        [[nodiscard]] virtual bool negotiated(wire::ProtocolFeature feature) const = 0;
        /// No ring is started, and none on its way to a stop: nothing may be sent now.
        [[nodiscard]] virtual bool suspended() const = 0;
        /// The front end sent what is no answer: the session must end. From the loop.
        virtual void on_channel_violated() = 0;

      protected:
        ~Handler() = default;
    };

    /// The two that a ring may need where there is no descriptor.
    enum class RingSignal : uint8_t { kCall, kErr };

    BackendRequests(EventLoop& loop,
                    std::string_view device_name,
                    size_t ring_count,
                    std::span<const uint64_t> shared_memory_bytes,
                    std::chrono::milliseconds message_timeout,
                    LogLimiter& log,
                    Handler& handler);
    BackendRequests(const BackendRequests&) = delete;
    BackendRequests& operator=(const BackendRequests&) = delete;
    ~BackendRequests();

    /// What the device gets.
    [[nodiscard]] std::shared_ptr<Frontend> frontend() const;

    /// From now on requests go there. An earlier channel ends. The other two: see
    /// BackendChannel::go_on().
    void set_channel(UniqueFd socket, size_t owed = 0, BackendChannel::OnOwed on_owed = {});

    /// Is there a channel?
    [[nodiscard]] bool has_channel() const { return channel_ != nullptr && !channel_->ended(); }

    /// Is there a channel, and room in it for one request more?
    [[nodiscard]] bool can_send() const { return channel_ != nullptr && channel_->has_room(); }

    /// Queues when can_send(), whatever the state of the rings; what does not go out before the
    /// device is suspended waits. NEED_REPLY where REPLY_ACK was negotiated. `on_reply` as
    /// BackendChannel::send() has it.
    void send(wire::BackendRequest request,
              std::vector<std::byte> payload,
              UniqueFd fd,
              BackendChannel::OnReply on_reply);

    /// Looks again at what waits: a ring started or stopped, or a feature was negotiated.
    void on_state_changed();

    /// VRING_CALL or VRING_ERR. One of a kind and ring is unanswered at a time; signals that come
    /// before the answer make one more. False when there is no channel.
    bool signal_ring(RingSignal signal, size_t index);

    /// Nothing is mapped any more, and no signal waits.
    void on_device_reset();

    /// The session ends: the channel closes, and the device's handle finds nobody.
    void end();

    // --- The device's requests, from FrontendHandle --------------------------------------------

    void config_changed();
    void add_shared_object(const Uuid& object, Frontend::OnDone on_done);
    void remove_shared_object(const Uuid& object, Frontend::OnDone on_done);
    void look_up_shared_object(const Uuid& object, Frontend::OnFound on_found);
    void map_shared_memory(const SharedMemoryRange& range,
                           SharedMemorySource source,
                           Frontend::OnDone on_done);
    void unmap_shared_memory(const SharedMemoryRange& range, Frontend::OnDone on_done);

    void adopt_shared_memory(const SharedMemoryRange& range) { shared_memory_.adopt(range); }

  private:
    /// A message of which one is unanswered at a time.
    struct Signal {
        bool due = false;
        bool unanswered = false;
    };

    [[nodiscard]] std::optional<FrontendError> not_now(wire::ProtocolFeature feature) const;
    void send_for_device(wire::BackendRequest request,
                         std::vector<std::byte> payload,
                         UniqueFd fd,
                         BackendChannel::OnReply on_reply);
    void tell_of_shared_object(wire::BackendRequest request,
                               const Uuid& object,
                               Frontend::OnDone on_done);
    void send_config_change();
    void send_signal(RingSignal signal, size_t index);
    void on_channel_end(BackendChannel::End reason);

    EventLoop& loop_;
    std::string_view device_name_;
    std::chrono::milliseconds message_timeout_;
    LogLimiter& log_;
    Handler& handler_;
    std::shared_ptr<FrontendHandle> handle_;
    std::unique_ptr<BackendChannel> channel_;
    SharedMemoryBook shared_memory_;
    Signal config_change_;
    std::vector<std::array<Signal, 2>> ring_signals_;  // by ring and RingSignal
    size_t device_requests_ = 0;                       // unanswered
};

}  // namespace outrigger
