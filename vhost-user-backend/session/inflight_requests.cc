// SPDX-License-Identifier: Apache-2.0
// GET_INFLIGHT_FD and SET_INFLIGHT_FD. The buffer is only taken here; what is in it is looked at
// when a ring starts, because memory and ring addresses come later (QEMU), and it may have changed
// by then. vhost-user "Inflight I/O tracking".
#include <algorithm>
#include <utility>

#include <fcntl.h>

#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {
namespace {

/// The message may come without the padding at its end.
wire::Inflight inflight_of(const wire::Message& message) {
    wire::Inflight inflight{};
    std::memcpy(
        &inflight, message.payload.data(), std::min(message.payload.size(), sizeof inflight));
    return inflight;
}

}  // namespace

Session::Impl::Outcome Session::Impl::handle_get_inflight_fd(const wire::Message& message) {
    const wire::Inflight wish = inflight_of(message);
    if (wish.queue_count == 0 || wish.queue_count > identity_.queue_count ||
        wish.queue_size > kQueueSizeLimit) {
        return refuse(Refusal::kInflight);
    }
    auto buffer =
        make_inflight_buffer(wish.queue_count, std::max(wish.queue_size, identity_.queue_size_max));
    if (buffer == nullptr) {
        return refuse(Refusal::kInflight);
    }
    UniqueFd fd(::fcntl(buffer->fd(), F_DUPFD_CLOEXEC, 0));
    if (!fd.valid()) {
        return refuse(Refusal::kInflight);
    }
    // Rings that run go on with theirs.
    inflight_ = std::move(buffer);
    outcomes_ = nullptr;
    const InflightDescription& made = inflight_->description();
    Outcome outcome = reply_object(wire::Inflight{.mmap_size = made.bytes,
                                                  .mmap_offset = made.offset,
                                                  .queue_count = made.queue_count,
                                                  .queue_size = wish.queue_size,
                                                  .padding = 0});
    outcome.payload.resize(message.payload.size());
    outcome.fd = std::move(fd);
    return outcome;
}

Session::Impl::Outcome Session::Impl::handle_set_inflight_fd(wire::Message& message) {
    const wire::Inflight inflight = inflight_of(message);
    auto buffer = InflightBuffer::map(std::move(message.fds[0]),
                                      {.bytes = inflight.mmap_size,
                                       .offset = inflight.mmap_offset,
                                       .queue_count = inflight.queue_count,
                                       .queue_size = inflight.queue_size},
                                      identity_.queue_count);
    if (!buffer) {
        return refuse(Refusal::kInflight);
    }
    outcomes_ = nullptr;
    const bool is_ours = saved_ && inflight.padding == kOurInflightBuffer;
    (is_ours ? own_inflight_ : inflight_) = *std::move(buffer);
    return done();
}

std::shared_ptr<const InflightBuffer> Session::Impl::make_inflight_buffer(uint16_t queue_count,
                                                                          uint16_t entries) {
    auto buffer = InflightBuffer::create(queue_count, entries);
    if (!buffer) {
        environment_.logs.refusal.log(LogLevel::kWarning,
                                      "{}: no in-flight buffer: {}",
                                      identity_.name,
                                      buffer.error().message);
        return nullptr;
    }
    return *std::move(buffer);
}

bool Session::Impl::frontend_keeps_inflight(size_t index) const {
    return inflight_ != nullptr && index < inflight_->description().queue_count;
}

bool Session::Impl::frontend_keeps_requests(size_t index) const {
    return frontend_keeps_inflight(index) && rings_[index].noted_in == inflight_;
}

bool Session::Impl::may_suspend(size_t index) const {
    if (!frontend_keeps_requests(index)) {
        return false;
    }
    // A front end that knows both chooses by the request which of the two it means each time.
    return request_ == std::to_underlying(wire::FrontendRequest::kGetVringBaseSkipDrain) ||
           (negotiated(wire::ProtocolFeature::kGetVringBaseInflight) &&
            !negotiated(wire::ProtocolFeature::kGetVringBaseSkipDrain));
}

/// A front end's buffer may have room for fewer rings than there are. The others note what they
/// have in one of our own, like all rings where the front end has none.
InflightArea Session::Impl::inflight_area(size_t index) {
    const bool keeps = frontend_keeps_inflight(index);
    if (!keeps && own_inflight_ == nullptr && options_.notes_in_flight) {
        make_own_inflight_buffer();
    }
    const auto& buffer = keeps ? inflight_ : own_inflight_;
    rings_[index].noted_in = buffer;
    if (buffer != nullptr && outcomes_ == nullptr && identity_.outcome_bytes > 0) {
        make_outcome_buffer();
    }
    return {.buffer = buffer,
            .queue = static_cast<uint16_t>(index),
            .base_is_known = rings_[index].stopped_here,
            .outcomes = outcomes_};
}

OutcomeBuffer::Shape Session::Impl::outcome_shape() const {
    return {.queue_count = identity_.queue_count,
            .entries = std::max(identity_.queue_size_max, InflightBuffer::kEntriesAtLeast),
            .record_bytes = identity_.outcome_bytes};
}

/// Without one, requests that are taken up again are of unknown outcome.
void Session::Impl::make_outcome_buffer() {
    const OutcomeBuffer::Shape shape = outcome_shape();
    auto buffer = OutcomeBuffer::create(shape);
    if (!buffer) {
        environment_.logs.refusal.log(LogLevel::kWarning,
                                      "{}: no memory for the outcomes of requests: {}",
                                      identity_.name,
                                      buffer.error().message);
        return;
    }
    outcomes_ = *std::move(buffer);
    if (environment_.journal != nullptr) {
        // Before any ring notes anything in it.
        const auto bytes = std::as_bytes(std::span(&shape, 1));
        environment_.journal->keep_outcomes({bytes.begin(), bytes.end()}, outcomes_->fd());
    }
}

/// Of another version of the device it is of no use: what it says is not known then.
Session::Impl::Outcome Session::Impl::restore_outcomes(SavedSession::Message& saved) {
    const OutcomeBuffer::Shape shape = outcome_shape();
    const auto expected = std::as_bytes(std::span(&shape, 1));
    if (saved.fds.size() != 1 || identity_.outcome_bytes == 0 ||
        !std::ranges::equal(saved.payload, expected)) {
        return done();
    }
    auto buffer = OutcomeBuffer::map(std::move(saved.fds[0]), shape);
    if (buffer) {
        outcomes_ = *std::move(buffer);
    }
    return done();
}

void Session::Impl::make_own_inflight_buffer() {
    own_inflight_ = make_inflight_buffer(identity_.queue_count, identity_.queue_size_max);
    if (own_inflight_ != nullptr && environment_.journal != nullptr) {
        // Before any ring notes anything in it.
        const InflightDescription& made = own_inflight_->description();
        environment_.journal->keep_inflight({.mmap_size = made.bytes,
                                             .mmap_offset = made.offset,
                                             .queue_count = made.queue_count,
                                             .queue_size = made.queue_size,
                                             .padding = kOurInflightBuffer},
                                            own_inflight_->fd());
    }
}

}  // namespace outrigger
