// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/backend_requests.h"

#include <utility>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/session/frontend_handle.h"
#include "vhost-user-backend/session/peer_name.h"

namespace outrigger {
namespace {

/// Requests of the device that may be unanswered. With one call and one err for each of 256 rings
/// and a change of configuration, a quarter of the channel's room is left for others.
constexpr size_t kDeviceRequestsMax = 255;

/// "MMAP request": VHOST_USER_FLAG_MAP_RW.
constexpr uint64_t kMapWritable = 1;

template <class T>
std::vector<std::byte> payload_of(const T& object) {
    const auto bytes = std::as_bytes(std::span(&object, 1));
    return {bytes.begin(), bytes.end()};
}

wire::SharedObject to_wire(const Uuid& object) {
    wire::SharedObject shared{};
    std::memcpy(shared.uuid, object.data(), sizeof shared.uuid);
    return shared;
}

Result<void, FrontendError> to_result(const Result<ChannelReply, FrontendError>& reply) {
    if (!reply) {
        return failure(reply.error());
    }
    if (reply->value != 0) {
        return failure(FrontendError::kRefused);
    }
    return {};
}

}  // namespace

BackendRequests::BackendRequests(EventLoop& loop,
                                 std::string_view device_name,
                                 size_t ring_count,
                                 std::span<const uint64_t> shared_memory_bytes,
                                 std::chrono::milliseconds message_timeout,
                                 LogLimiter& log,
                                 Handler& handler)
    : loop_(loop),
      device_name_(device_name),
      message_timeout_(message_timeout),
      log_(log),
      handler_(handler),
      handle_(std::make_shared<FrontendHandle>(loop, *this)),
      shared_memory_(shared_memory_bytes),
      ring_signals_(ring_count) {}

BackendRequests::~BackendRequests() {
    end();
}

std::shared_ptr<Frontend> BackendRequests::frontend() const {
    return handle_;
}

void BackendRequests::set_channel(UniqueFd socket, size_t owed, BackendChannel::OnOwed on_owed) {
    if (channel_ != nullptr) {
        channel_->end();
    }
    channel_ = std::make_unique<BackendChannel>(
        loop_, std::move(socket), message_timeout_, [this](BackendChannel::End reason) {
            on_channel_end(reason);
        });
    channel_->go_on(owed, std::move(on_owed));
    on_state_changed();
}

void BackendRequests::on_channel_end(BackendChannel::End reason) {
    // The channel itself stays until the next one: it is on the stack.
    switch (reason) {
        case BackendChannel::End::kHungUp:
            log_.log(
                LogLevel::kInfo, "{}: the front end closed the back-end channel", device_name_);
            return;
        case BackendChannel::End::kViolated:
            handler_.on_channel_violated();
            return;
    }
}

void BackendRequests::end() {
    handle_->detach();
    if (channel_ != nullptr) {
        channel_->end();
    }
}

void BackendRequests::send(wire::BackendRequest request,
                           std::vector<std::byte> payload,
                           UniqueFd fd,
                           BackendChannel::OnReply on_reply) {
    channel_->hold(handler_.suspended());
    channel_->send({.request = request,
                    .payload = std::move(payload),
                    .fd = std::move(fd),
                    .need_reply = handler_.negotiated(wire::ProtocolFeature::kReplyAck)},
                   std::move(on_reply));
}

void BackendRequests::on_state_changed() {
    if (channel_ != nullptr) {
        channel_->hold(handler_.suspended());
    }
    send_config_change();
    for (size_t index = 0; index < ring_signals_.size(); ++index) {
        send_signal(RingSignal::kCall, index);
        send_signal(RingSignal::kErr, index);
    }
}

void BackendRequests::on_device_reset() {
    shared_memory_.clear();
    for (auto& signals : ring_signals_) {
        for (Signal& signal : signals) {
            signal.due = false;
        }
    }
}

// --- Signals -----------------------------------------------------------------------------------

void BackendRequests::config_changed() {
    config_change_.due = true;
    send_config_change();
}

void BackendRequests::send_config_change() {
    if (!config_change_.due || config_change_.unanswered || !can_send() || handler_.suspended() ||
        !handler_.negotiated(wire::ProtocolFeature::kConfig)) {
        return;
    }
    config_change_ = {.due = false, .unanswered = true};
    send(wire::BackendRequest::kConfigChangeMsg,
         {},
         {},
         [this](const Result<ChannelReply, FrontendError>& reply) {
             config_change_.unanswered = false;
             // Who did not get it learns of it on the next channel.
             config_change_.due |= !reply.has_value();
             send_config_change();
         });
}

bool BackendRequests::signal_ring(RingSignal signal, size_t index) {
    ring_signals_[index][static_cast<size_t>(signal)].due = true;
    send_signal(signal, index);
    return can_send();
}

void BackendRequests::send_signal(RingSignal signal, size_t index) {
    Signal& state = ring_signals_[index][static_cast<size_t>(signal)];
    if (!state.due || state.unanswered || !can_send() || handler_.suspended()) {
        return;
    }
    state = {.due = false, .unanswered = true};
    send(signal == RingSignal::kCall ? wire::BackendRequest::kVringCall
                                     : wire::BackendRequest::kVringErr,
         payload_of(wire::VringState{.index = static_cast<uint32_t>(index), .num = 0}),
         {},
         [this, signal, index](const Result<ChannelReply, FrontendError>& reply) {
             Signal& answered = ring_signals_[index][static_cast<size_t>(signal)];
             answered.unanswered = false;
             answered.due |= !reply.has_value();
             send_signal(signal, index);
         });
}

// --- Requests of the device --------------------------------------------------------------------

std::optional<FrontendError> BackendRequests::not_now(wire::ProtocolFeature feature) const {
    if (!handler_.negotiated(feature) || channel_ == nullptr) {
        return FrontendError::kNotNegotiated;
    }
    if (handler_.suspended()) {
        return FrontendError::kSuspended;
    }
    if (!channel_->has_room()) {
        return channel_->ended() ? FrontendError::kGone : FrontendError::kTooMany;
    }
    if (device_requests_ >= kDeviceRequestsMax) {
        return FrontendError::kTooMany;
    }
    return std::nullopt;
}

void BackendRequests::send_for_device(wire::BackendRequest request,
                                      std::vector<std::byte> payload,
                                      UniqueFd fd,
                                      BackendChannel::OnReply on_reply) {
    ++device_requests_;
    send(request,
         std::move(payload),
         std::move(fd),
         [this, on_reply = std::move(on_reply)](Result<ChannelReply, FrontendError> reply) mutable {
             --device_requests_;
             on_reply(std::move(reply));
         });
}

void BackendRequests::tell_of_shared_object(wire::BackendRequest request,
                                            const Uuid& object,
                                            Frontend::OnDone on_done) {
    if (const auto error = not_now(wire::ProtocolFeature::kSharedObject)) {
        on_done(failure(*error));
        return;
    }
    send_for_device(
        request,
        payload_of(to_wire(object)),
        {},
        [on_done = std::move(on_done)](const Result<ChannelReply, FrontendError>& reply) mutable {
            on_done(to_result(reply));
        });
}

void BackendRequests::add_shared_object(const Uuid& object, Frontend::OnDone on_done) {
    tell_of_shared_object(wire::BackendRequest::kSharedObjectAdd, object, std::move(on_done));
}

void BackendRequests::remove_shared_object(const Uuid& object, Frontend::OnDone on_done) {
    tell_of_shared_object(wire::BackendRequest::kSharedObjectRemove, object, std::move(on_done));
}

void BackendRequests::look_up_shared_object(const Uuid& object, Frontend::OnFound on_found) {
    if (const auto error = not_now(wire::ProtocolFeature::kSharedObject)) {
        on_found(failure(*error));
        return;
    }
    send_for_device(
        wire::BackendRequest::kSharedObjectLookup,
        payload_of(to_wire(object)),
        {},
        [on_found = std::move(on_found)](Result<ChannelReply, FrontendError> reply) mutable {
            if (!reply) {
                on_found(failure(reply.error()));
            } else if (reply->value != 0 || !reply->fd.valid() || has_named_peer(reply->fd.get())) {
                on_found(failure(FrontendError::kRefused));
            } else {
                on_found(std::move(reply->fd));
            }
        });
}

void BackendRequests::map_shared_memory(const SharedMemoryRange& range,
                                        SharedMemorySource source,
                                        Frontend::OnDone on_done) {
    if (const auto error = not_now(wire::ProtocolFeature::kShmem)) {
        on_done(failure(*error));
        return;
    }
    if (!handler_.negotiated(wire::ProtocolFeature::kBackendSendFd)) {
        on_done(failure(FrontendError::kNotNegotiated));
        return;
    }
    if (!source.fd.valid() || !shared_memory_.is_page_multiple(source.fd_offset) ||
        !checked_add(source.fd_offset, range.bytes)) {
        on_done(failure(FrontendError::kValue));
        return;
    }
    const auto entry = shared_memory_.begin_map(range);
    if (!entry) {
        on_done(failure(FrontendError::kValue));
        return;
    }
    send_for_device(wire::BackendRequest::kShmemMap,
                    payload_of(wire::ShmemMap{.shmid = range.region,
                                              .padding = {},
                                              .fd_offset = source.fd_offset,
                                              .shm_offset = range.offset,
                                              .length = range.bytes,
                                              .flags = source.writable ? kMapWritable : 0}),
                    std::move(source.fd),
                    [this, entry = *entry, on_done = std::move(on_done)](
                        const Result<ChannelReply, FrontendError>& reply) mutable {
                        const auto result = to_result(reply);
                        if (!result) {
                            shared_memory_.erase(entry);
                        }
                        on_done(result);
                    });
}

void BackendRequests::unmap_shared_memory(const SharedMemoryRange& range,
                                          Frontend::OnDone on_done) {
    if (const auto error = not_now(wire::ProtocolFeature::kShmem)) {
        on_done(failure(*error));
        return;
    }
    const auto entry = shared_memory_.begin_unmap(range);
    if (!entry) {
        on_done(failure(FrontendError::kValue));
        return;
    }
    send_for_device(wire::BackendRequest::kShmemUnmap,
                    payload_of(wire::ShmemMap{.shmid = range.region,
                                              .padding = {},
                                              .fd_offset = 0,
                                              .shm_offset = range.offset,
                                              .length = range.bytes,
                                              .flags = 0}),
                    {},
                    [this, entry = *entry, on_done = std::move(on_done)](
                        const Result<ChannelReply, FrontendError>& reply) mutable {
                        const auto result = to_result(reply);
                        if (result) {
                            shared_memory_.erase(entry);
                        } else {
                            shared_memory_.keep(entry);
                        }
                        on_done(result);
                    });
}

}  // namespace outrigger
