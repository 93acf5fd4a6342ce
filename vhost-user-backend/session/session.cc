// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/session.h"

#include <utility>

#include "vhost-user-backend/session/feature_offer.h"
#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {

Session::Session(const Environment& environment,
                 UniqueFd socket,
                 const SessionOptions& options,
                 OnClosed on_closed)
    : impl_(std::make_unique<Impl>(environment, std::move(socket), options, std::move(on_closed))) {
}

Session::~Session() = default;

void Session::close() {
    impl_->close(CloseReason::kShutdown);
}

Session::Impl::Impl(const Environment& environment,
                    UniqueFd socket,
                    const SessionOptions& options,
                    OnClosed on_closed)
    : environment_(environment),
      options_(options),
      on_closed_(std::move(on_closed)),
      identity_(environment.device.identity()),
      offered_(offered_virtio_features(environment.device)),
      protocol_offered_(offered_protocol_features(identity_)),
      rings_(identity_.queue_count),
      connection_(environment.control_loop, std::move(socket), options.message_timeout, *this) {
    OUTRIGGER_ASSERT(!environment.workers.empty() && identity_.queue_count > 0);
    environment_.counters.sessions_opened.add();
}

// --- One request -------------------------------------------------------------------------------

bool Session::Impl::on_message(wire::Message message) {
    if (close_reason_) {
        return false;
    }
    environment_.counters.messages_received.add();
    const wire::RequestDescription* request = wire::find_frontend_request(message.header.request);
    log(LogLevel::kDebug,
        "{}: {} ({} bytes, {} fds{})",
        identity_.name,
        request != nullptr ? request->name : "unknown request",
        message.payload.size(),
        message.fds.size(),
        message.needs_reply() ? ", reply wanted" : "");

    request_ = message.header.request;
    needs_reply_ = message.needs_reply();
    has_own_reply_ = request != nullptr && request->reply != wire::ReplyRule::kAck;
    handling_ = true;

    Outcome outcome;
    if (request == nullptr) {
        outcome = refuse(Refusal::kUnknownRequest);
    } else if (const auto reason = malformed(*request, message)) {
        handling_ = false;
        close(*reason);
        return false;
    } else if (const auto refusal = not_now(*request, message)) {
        outcome = refuse(*refusal);
    } else {
        outcome = dispatch(message);
    }
    handling_ = false;
    if (outcome.kind == Outcome::Kind::kLater) {
        if (!finished_) {
            waiting_ = true;
            return false;
        }
        outcome = *std::exchange(finished_, std::nullopt);
    }
    answer(outcome);
    return !close_reason_;
}

std::optional<CloseReason> Session::Impl::malformed(const wire::RequestDescription& request,
                                                    const wire::Message& message) const {
    if (!wire::payload_size_fits(request.payload, message.payload)) {
        return CloseReason::kPayloadSize;
    }
    const wire::FdCount fds = wire::expected_fds(request.fds, message.payload);
    if (message.fds.size() < fds.least || message.fds.size() > fds.most) {
        return CloseReason::kFdCount;
    }
    return std::nullopt;
}

std::optional<Refusal> Session::Impl::not_now(const wire::RequestDescription& request,
                                              const wire::Message& message) const {
    if (request.served != wire::Served::kYes) {
        return Refusal::kNotServed;
    }
    switch (request.gate.kind) {
        case wire::Gate::Kind::kAlways:
        case wire::Gate::Kind::kProtocolNegotiation:  // always offered
            break;
        case wire::Gate::Kind::kProtocol:
            if (!protocol_features_.has(request.gate.bit)) {
                return Refusal::kNotNegotiated;
            }
            break;
        case wire::Gate::Kind::kVirtio:
            if (!features_.has(request.gate.bit)) {
                return Refusal::kNotNegotiated;
            }
            break;
    }
    switch (request.state) {
        case wire::StateRule::kAny:
            break;
        case wire::StateRule::kRingStopped: {
            const auto index = ring_index(payload_as<wire::VringState>(message).index);
            if (index && rings_[*index].runner != nullptr) {
                return Refusal::kState;
            }
            break;
        }
        case wire::StateRule::kAllRingsStopped:
            if (any_ring_running()) {
                return Refusal::kState;
            }
            break;
        case wire::StateRule::kNoMemory:
            if (!memory_->regions().empty()) {
                return Refusal::kState;
            }
            break;
    }
    return std::nullopt;
}

Session::Impl::Outcome Session::Impl::dispatch(wire::Message& message) {
    using enum wire::FrontendRequest;
    switch (static_cast<wire::FrontendRequest>(message.header.request)) {
        case kGetFeatures:
            return reply_u64(offered_.bits());
        case kSetFeatures:
            return handle_set_features(message);
        case kSetOwner:
        case kResetOwner:  // deprecated: back ends are asked to ignore it
            return done();
        case kSetMemTable:
            return handle_set_mem_table(message);
        case kSetVringNum:
            return handle_set_vring_num(message);
        case kSetVringAddr:
            return handle_set_vring_addr(message);
        case kSetVringBase:
            return handle_set_vring_base(message);
        case kGetVringBase:
            return handle_get_vring_base(message);
        case kSetVringKick:
            return handle_set_vring_kick(message);
        case kSetVringCall:
            return handle_set_vring_call(message);
        case kSetVringErr:
            return handle_set_vring_err(message);
        case kGetProtocolFeatures:
            return reply_u64(protocol_offered_.bits());
        case kSetProtocolFeatures:
            return handle_set_protocol_features(message);
        case kGetQueueNum:
            return reply_u64(identity_.queue_count);
        case kSetVringEnable:
            return handle_set_vring_enable(message);
        case kGetConfig:
            return handle_get_config(message);
        case kSetConfig:
            return handle_set_config(message);
        case kResetDevice:
            return handle_reset_device();
        case kGetMaxMemSlots:
            return reply_u64(options_.memory_slots);
        case kAddMemReg:
            return handle_add_mem_reg(message);
        case kRemMemReg:
            return handle_rem_mem_reg(message);
        case kSetStatus:
            return handle_set_status(message);
        case kGetStatus:
            return handle_get_status();
        // Known and not served: not_now() refused them on the word of the request table.
        case kSetLogBase:
        case kSetLogFd:
        case kSendRarp:
        case kNetSetMtu:
        case kSetBackendReqFd:
        case kIotlbMsg:
        case kSetVringEndian:
        case kCreateCryptoSession:
        case kCloseCryptoSession:
        case kPostcopyAdvise:
        case kPostcopyListen:
        case kPostcopyEnd:
        case kGetInflightFd:
        case kSetInflightFd:
        case kGpuSetSocket:
        case kVringKick:
        case kGetSharedObject:
        case kSetDeviceStateFd:
        case kCheckDeviceState:
        case kGetShmemConfig:
        case kGetVringBaseSkipDrain:
            break;
    }
    return refuse(Refusal::kNotServed);
}

void Session::Impl::finish(Outcome outcome) {
    OUTRIGGER_ASSERT(outcome.kind != Outcome::Kind::kLater);
    if (handling_) {
        finished_ = std::move(outcome);
        return;
    }
    OUTRIGGER_ASSERT(std::exchange(waiting_, false));
    if (close_reason_) {
        begin_close();
        return;
    }
    answer(outcome);
    if (!close_reason_) {
        connection_.resume();
    }
}

bool Session::Impl::acknowledges() const {
    return needs_reply_ && protocol_features_.has(wire::bit(wire::ProtocolFeature::kReplyAck));
}

void Session::Impl::answer(const Outcome& outcome) {
    switch (outcome.kind) {
        case Outcome::Kind::kLater:
            return;
        case Outcome::Kind::kRefused:
            answer_refusal(outcome.refusal);
            return;
        case Outcome::Kind::kReply:
            send(outcome.payload);
            return;
        case Outcome::Kind::kDone:
            if (acknowledges()) {
                const uint64_t success = 0;
                send(std::as_bytes(std::span(&success, 1)));
            }
            return;
    }
}

void Session::Impl::answer_refusal(Refusal refusal) {
    environment_.counters.refused.add(refusal);
    const wire::RequestDescription* request = wire::find_frontend_request(request_);
    refusal_log_.log(LogLevel::kWarning,
                     "{}: refused {} ({}): {}",
                     identity_.name,
                     request != nullptr ? request->name : "a request",
                     request_,
                     describe(refusal));
    if (has_own_reply_) {
        // The front end waits for an answer that does not exist. NEED_REPLY changes nothing here
        // (vhost-user REPLY_ACK): an acknowledgement would be taken for the answer.
        close(CloseReason::kRefused);
    } else if (acknowledges()) {
        const uint64_t failed = 1;
        send(std::as_bytes(std::span(&failed, 1)));
    }
}

void Session::Impl::send(std::span<const std::byte> payload) {
    if (connection_.send_reply(request_, payload)) {
        environment_.counters.replies_sent.add();
    } else {
        close(CloseReason::kReplyNotTaken);
    }
}

// --- The end -----------------------------------------------------------------------------------

void Session::Impl::close(CloseReason reason) {
    if (close_reason_) {
        return;
    }
    close_reason_ = reason;
    environment_.counters.closed.add(reason);
    if (!waiting_) {
        begin_close();
        return;
    }
    // Else finish() goes on from where the workers are. Nobody knows how long a device keeps the
    // requests that a memory change waits for, unless it is told to bring them back.
    if (draining_) {
        for (const Vring& ring : rings_) {
            if (ring.runner != nullptr) {
                QueueRunner& runner = *ring.runner;
                runner.worker().post([&runner] { runner.give_up_drain(); });
            }
        }
    }
}

void Session::Impl::begin_close() {
    OUTRIGGER_ASSERT(!std::exchange(closing_, true));
    stop_all_rings([this] {
        environment_.device.reset();
        memory_ = MemorySnapshot::empty();
        // From the loop, so that whoever called us is off the stack when the session goes.
        environment_.control_loop.post([this] { end_close(); });
    });
}

void Session::Impl::end_close() {
    // The callback may destroy this object.
    OnClosed on_closed = std::move(on_closed_);
    on_closed(*close_reason_);
}

}  // namespace outrigger
