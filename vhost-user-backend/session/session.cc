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
    : impl_(std::make_unique<Impl>(
          environment, std::move(socket), options, std::move(on_closed), std::nullopt)) {}

Session::Session(const Environment& environment,
                 UniqueFd socket,
                 const SessionOptions& options,
                 OnClosed on_closed,
                 SavedSession&& saved)
    : impl_(std::make_unique<Impl>(
          environment, std::move(socket), options, std::move(on_closed), std::move(saved))) {}

Session::~Session() = default;

void Session::close() {
    impl_->close(CloseReason::kShutdown);
}

void Session::leave(std::move_only_function<void(bool)> left) {
    impl_->leave(std::move(left));
}

void Session::move_queue(size_t index, size_t worker, std::move_only_function<void(bool)> done) {
    impl_->move_queue(index, worker, std::move(done));
}

void Session::on_gate_changed() {
    impl_->on_gate_changed();
}

bool Session::is_quiet() const {
    return impl_->is_quiet();
}

std::vector<std::optional<size_t>> Session::queue_workers() const {
    return impl_->queue_workers();
}

Session::Impl::Impl(const Environment& environment,
                    UniqueFd socket,
                    const SessionOptions& options,
                    OnClosed on_closed,
                    std::optional<SavedSession> saved)
    : environment_(environment),
      options_(options),
      on_closed_(std::move(on_closed)),
      identity_(environment.device.identity()),
      abilities_(environment.device.abilities()),
      offered_(offered_virtio_features(environment.device)),
      protocol_offered_(offered_protocol_features(identity_, abilities_)),
      postcopy_(options.userfaults, identity_.name),
      placement_(environment.control_loop,
                 identity_.one_worker ? environment.workers.first(1) : environment.workers,
                 identity_.queue_count,
                 identity_.priority_queues,
                 options.balances_queues,
                 *this),
      rings_(identity_.queue_count),
      call_posted_(identity_.queue_count),
      saved_(std::move(saved)),
      requests_(environment.control_loop,
                identity_.name,
                identity_.queue_count,
                abilities_.shared_memory,
                options.message_timeout,
                environment.logs.channel,
                *this),
      misses_(environment.control_loop,
              identity_.name,
              requests_,
              environment.counters,
              environment.logs.translation,
              *this),
      state_({.device = environment.device,
              .control_loop = environment.control_loop,
              .worker = *environment.workers.front(),
              .counters = environment.counters,
              .log = environment.logs.state,
              .offered = offered_,
              .time_limit = options.state_timeout,
              .on_ended = [this](bool loaded) { on_transfer_ended(loaded); }}),
      connection_(environment.control_loop,
                  std::move(socket),
                  {.message_timeout = options.message_timeout,
                   .peeks = environment.journal != nullptr,
                   .paused = saved_.has_value()},
                  *this) {
    OUTRIGGER_ASSERT(!environment.workers.empty() && identity_.queue_count > 0);
    OUTRIGGER_ASSERT(identity_.queue_count <= wire::kVringFdIndexMask + 1);
    OUTRIGGER_ASSERT(abilities_.shared_memory.size() <= std::size(wire::ShmemConfig{}.sizes));
    if (postcopy_.is_offered()) {
        protocol_offered_ = protocol_offered_.with(wire::bit(wire::ProtocolFeature::kPagefault));
        // Behind an IOMMU a ring may have to be mapped a second time, and pages do not wait there.
        offered_ = offered_.without(kFeatureAccessPlatform);
    }
    environment_.counters.sessions_opened.add();
    environment_.device.on_frontend(requests_.frontend());
    if (!connection_.peeks()) {
        environment_.journal = nullptr;
    }
    if (saved_) {
        // From the loop: our owner does not have us yet, and it may end at once.
        environment_.control_loop.post([this] { restore_next(); });
    } else if (environment_.journal != nullptr) {
        environment_.journal->begin(connection_.socket());
    }
}

Session::Impl::~Impl() {
    if (release_timer_) {
        environment_.control_loop.cancel_timer(*release_timer_);
    }
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
    const bool acknowledges = postcopy_.is_acknowledgement(message);
    acknowledges_ = acknowledges;
    reply_rule_ = request != nullptr && !acknowledges ? request->reply : wire::ReplyRule::kAck;
    if (reply_rule_ == wire::ReplyRule::kSameWithFd) {
        request_payload_ = message.payload;
    }
    handling_ = true;
    settled_ = false;
    if (environment_.journal != nullptr) {
        environment_.journal->arrive(message);
    }
    device_was_reset_ = false;
    said_before_ = false;

    Outcome outcome;
    if (request == nullptr) {
        outcome = refuse(Refusal::kUnknownRequest);
    } else if (acknowledges) {
        outcome = handle_postcopy_ack(message);
    } else if (const auto reason = malformed(*request, message)) {
        handling_ = false;
        close(*reason);
        return false;
    } else if (const auto refusal = not_now(*request, message)) {
        outcome = refuse(*refusal);
    } else {
        if (environment_.journal != nullptr) {
            environment_.journal->keep_descriptors(message);
            ring_in_doubt_ = ring_in_doubt(message);
        }
        outcome = dispatch(message);
    }
    handling_ = false;
    if (close_reason_ && outcome.kind != Outcome::Kind::kLater) {
        return false;  // by the handler: there is nobody to answer
    }
    if (outcome.kind == Outcome::Kind::kLater) {
        if (!finished_) {
            waiting_ = true;
            return false;
        }
        outcome = *std::exchange(finished_, std::nullopt);
    }
    answer(outcome);
    if (!close_reason_) {
        misses_.send_queued();
    }
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
            // QEMU enables the rings of a network device long before SET_FEATURES: whoever has set
            // protocol features knows that they are offered.
            if (!features_.has(request.gate.bit) &&
                !(request.gate.bit == wire::kProtocolFeaturesBit && !features_known_ &&
                  protocol_features_ != FeatureSet())) {
                return Refusal::kNotNegotiated;
            }
            break;
    }
    return forbidden_now(request, message);
}

std::optional<Refusal> Session::Impl::forbidden_now(const wire::RequestDescription& request,
                                                    const wire::Message& message) const {
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
        case kGetVringBaseSkipDrain:
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
        case kSendRarp:
            return handle_send_rarp(message);
        case kNetSetMtu:
            return handle_net_set_mtu(message);
        case kSetBackendReqFd:
            return handle_set_backend_req_fd(message);
        case kVringKick:
            return handle_vring_kick(message);
        case kGetSharedObject:
            return handle_get_shared_object(message);
        case kGetShmemConfig:
            return handle_get_shmem_config();
        case kResetDevice:
            return handle_reset_device();
        case kGetMaxMemSlots:
            return reply_u64(options_.memory_slots);
        case kAddMemReg:
            return handle_add_mem_reg(message);
        case kRemMemReg:
            return handle_rem_mem_reg(message);
        case kIotlbMsg:
            return handle_iotlb_msg(message);
        case kPostcopyAdvise:
            return handle_postcopy_advise();
        case kPostcopyListen:
            return handle_postcopy_listen();
        case kPostcopyEnd:
            return handle_postcopy_end();
        case kGetInflightFd:
            return handle_get_inflight_fd(message);
        case kSetInflightFd:
            return handle_set_inflight_fd(message);
        case kSetStatus:
            return handle_set_status(message);
        case kGetStatus:
            return handle_get_status();
        case kSetDeviceStateFd:
            return handle_set_device_state_fd(message);
        case kCheckDeviceState:
            return handle_check_device_state();
        case kSetLogBase:
            return handle_set_log_base(message);
        case kSetLogFd:
            return handle_set_log_fd(message);
        // Known and not served: not_now() refused them on the word of the request table.
        case kSetVringEndian:
        case kCreateCryptoSession:
        case kCloseCryptoSession:
        case kGpuSetSocket:
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
    if (saved_) {
        if (was_restored(outcome)) {
            restore_next();
        }
        return;
    }
    answer(outcome);
    if (!close_reason_) {
        misses_.send_queued();
        connection_.resume();
    }
}

void Session::Impl::acknowledge(uint64_t value) {
    if (needs_reply_ && negotiated(wire::ProtocolFeature::kReplyAck)) {
        send_u64(value);
    }
}

void Session::Impl::answer(const Outcome& outcome) {
    carried_out_ = outcome.kind != Outcome::Kind::kRefused;
    switch (outcome.kind) {
        case Outcome::Kind::kLater:
            break;
        case Outcome::Kind::kRefused:
            answer_refusal(outcome.refusal);
            break;
        case Outcome::Kind::kReply:
            send(outcome.payload, outcome.fd.get());
            break;
        case Outcome::Kind::kDone:
            if (reply_rule_ == wire::ReplyRule::kU64Status) {
                send_u64(0);
            } else {
                acknowledge(0);
            }
            break;
    }
    if (!close_reason_) {
        constexpr bool kHasReply = false;
        settle({}, -1, kHasReply);  // unless the answer was that
    }
}

void Session::Impl::answer_refusal(Refusal refusal) {
    environment_.counters.refused.add(refusal);
    const wire::RequestDescription* request = wire::find_frontend_request(request_);
    environment_.logs.refusal.log(LogLevel::kWarning,
                                  "{}: refused {} ({}): {}",
                                  identity_.name,
                                  request != nullptr ? request->name : "a request",
                                  request_,
                                  describe(refusal));
    constexpr uint64_t kFailed = 1;
    switch (reply_rule_) {
        case wire::ReplyRule::kAck:
            acknowledge(kFailed);
            return;
        case wire::ReplyRule::kAckOrBases:
            if (!postcopy_.is_listening()) {
                acknowledge(kFailed);
                return;
            }
            break;
        case wire::ReplyRule::kU64Status:
            send_u64(kFailed);
            return;
        case wire::ReplyRule::kU64WithFd:
            send_u64(kFailed | wire::kReplyFdNone);
            return;
        case wire::ReplyRule::kConfig:
            send({});
            return;
        case wire::ReplyRule::kSameWithFd:
            send(request_payload_);
            return;
        case wire::ReplyRule::kLogIfShmfd:
            if (!negotiated(wire::ProtocolFeature::kLogShmfd)) {
                acknowledge(kFailed);
                return;
            }
            break;
        case wire::ReplyRule::kU64:
        case wire::ReplyRule::kVringState:
        case wire::ReplyRule::kFd:
        case wire::ReplyRule::kU64AndFd:
        case wire::ReplyRule::kInflight:
        case wire::ReplyRule::kCryptoSession:
        case wire::ReplyRule::kShmemConfig:
            break;
    }
    // The front end waits for an answer that does not exist. NEED_REPLY changes nothing here
    // (vhost-user REPLY_ACK): an acknowledgement would be taken for the answer.
    close(CloseReason::kRefused);
}

void Session::Impl::send(std::span<const std::byte> payload, int fd) {
    constexpr bool kHasReply = true;
    settle(payload, fd, kHasReply);
    if (close_reason_) {
        return;
    }
    SessionJournal* const journal = environment_.journal;
    platform::NotedMessage* const note = journal != nullptr ? &journal->on_replying() : nullptr;
    if (connection_.send_reply(request_, payload, fd, note)) {
        environment_.counters.replies_sent.add();
    } else {
        close(CloseReason::kReplyNotTaken);
    }
    if (journal != nullptr) {
        journal->on_replied();
    }
}

// --- The end -----------------------------------------------------------------------------------

void Session::Impl::close(CloseReason reason) {
    if (close_reason_) {
        return;
    }
    close_reason_ = reason;
    environment_.counters.closed.add(reason);
    release_workers();
    postcopy_.give_up();
    if (!waiting_ && !stops_to_leave_) {
        begin_close();
        return;
    }
    // Else finish(), or what leave() has begun, goes on from where the workers are. Nobody knows
    // how long a device keeps the requests that a memory change waits for, unless it is told to
    // bring them back.
    if (draining_) {
        for (const Vring& ring : rings_) {
            if (ring.runner != nullptr) {
                QueueRunner& runner = *ring.runner;
                runner.post([&runner] { runner.give_up_drain(); });
            }
        }
    }
    state_.end();
}

void Session::Impl::begin_close() {
    OUTRIGGER_ASSERT(!std::exchange(closing_, true));
    placement_.stop();
    requests_.end();
    state_.end();
    stop_all_rings(StopCause::kClose, [this] {
        environment_.device.on_frontend(nullptr);
        environment_.device.reset();
        memory_ = MemorySnapshot::empty();
        log_ = nullptr;
        log_in_use_ = nullptr;
        // From the loop, so that whoever called us is off the stack when the session goes.
        environment_.control_loop.post([this] { end_close(); });
    });
}

void Session::Impl::end_close() {
    if (environment_.journal != nullptr) {
        environment_.journal->end();
    }
    // The callback may destroy this object.
    OnClosed on_closed = std::move(on_closed_);
    on_closed(*close_reason_);
}

}  // namespace outrigger
