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

// --- Rings and workers -------------------------------------------------------------------------

void Session::Impl::for_one_runner(QueueRunner& runner, RunnerTask task, Continuation then) {
    auto on_control = [this, then = std::move(then)]() mutable {
        environment_.control_loop.post(std::move(then));
    };
    runner.worker().post(
        [&runner, task = std::move(task), on_control = std::move(on_control)]() mutable {
            task(runner, std::move(on_control));
        });
}

void Session::Impl::for_each_runner(const std::shared_ptr<RunnerTask>& task, Continuation then) {
    // One more than the rings, so that `then` runs once even when no ring runs.
    auto outstanding = std::make_shared<size_t>(1);
    auto shared_then = std::make_shared<Continuation>(std::move(then));
    const auto one_done = [outstanding, shared_then] {
        if (--*outstanding == 0) {
            (*shared_then)();
        }
    };
    for (Vring& ring : rings_) {
        if (ring.runner != nullptr) {
            ++*outstanding;
            for_one_runner(
                *ring.runner,
                [task](QueueRunner& runner, QueueRunner::Done done) {
                    (*task)(runner, std::move(done));
                },
                one_done);
        }
    }
    one_done();
}

void Session::Impl::stop_ring(size_t index, Continuation then) {
    Vring& ring = rings_[index];
    ring.started = false;
    ring.descriptors.kick = nullptr;
    if (ring.runner == nullptr) {
        ring.broken = false;
        then();
        return;
    }
    QueueRunner& runner = *ring.runner;
    auto on_control = [this, index, then = std::move(then)](VringBase base) mutable {
        environment_.control_loop.post([this, index, base, then = std::move(then)]() mutable {
            Vring& stopped = rings_[index];
            stopped.base = base;
            stopped.broken = false;
            stopped.runner.reset();
            then();
        });
    };
    runner.worker().post([&runner, on_control = std::move(on_control)]() mutable {
        runner.stop(std::move(on_control));
    });
}

void Session::Impl::stop_all_rings(Continuation then) {
    auto outstanding = std::make_shared<size_t>(rings_.size());
    auto shared_then = std::make_shared<Continuation>(std::move(then));
    for (size_t index = 0; index < rings_.size(); ++index) {
        stop_ring(index, [outstanding, shared_then] {
            if (--*outstanding == 0) {
                (*shared_then)();
            }
        });
    }
}

bool Session::Impl::any_ring_running() const {
    for (const Vring& ring : rings_) {
        if (ring.runner != nullptr) {
            return true;
        }
    }
    return false;
}

void Session::Impl::on_ring_broken(size_t index, RingError error) {
    environment_.counters.rings_broken.add(error);
    rings_[index].broken = true;
    broken_log_.log(LogLevel::kWarning,
                    "{}: ring {} stopped, the guest's driver broke it: {}",
                    identity_.name,
                    index,
                    describe(error));
}

bool Session::Impl::effectively_enabled(const Vring& ring) const {
    // Without VHOST_USER_F_PROTOCOL_FEATURES rings are enabled from the start ("Ring states").
    return ring.enabled || !features_.has(wire::kProtocolFeaturesBit);
}

VringBase Session::Impl::base_of(const Vring& ring) const {
    // A ring that was never told where it stands is new. In a packed one, both wrap counters are 1.
    constexpr VringBase kNewPackedRing{0x8000'8000};
    return ring.base.value_or(features_.has(kFeatureRingPacked) ? kNewPackedRing : VringBase{});
}

bool Session::Impl::ring_is_ready(const Vring& ring) const {
    return ring.started && ring.runner == nullptr && ring.size && ring.address &&
           !memory_->regions().empty();
}

std::optional<Refusal> Session::Impl::start_ring(size_t index, Continuation then) {
    Vring& ring = rings_[index];
    auto queue = Virtqueue::create(queue_config(ring), base_of(ring), memory_);
    if (!queue) {
        switch (queue.error()) {
            case VirtqueueSetupError::kSize:
                return Refusal::kRingSize;
            case VirtqueueSetupError::kBase:
                return Refusal::kRingBase;
            case VirtqueueSetupError::kAlignment:
            case VirtqueueSetupError::kUnmapped:
                return Refusal::kRingAddress;
        }
    }
    const std::span<Worker* const> workers = environment_.workers;
    auto on_broken = [this, index](RingError error) {
        environment_.control_loop.post([this, index, error] { on_ring_broken(index, error); });
    };
    ring.runner = std::make_unique<QueueRunner>(
        QueueRunner::Environment{.device = environment_.device,
                                 .index = QueueIndex{static_cast<uint16_t>(index)},
                                 .worker = *workers[index % workers.size()],
                                 .counters = environment_.counters},
        *std::move(queue),
        ring.descriptors,
        effectively_enabled(ring),
        std::move(on_broken));
    // Control and worker meet in `started`: written before the post, read after it.
    auto started = std::make_shared<Result<void>>();
    for_one_runner(
        *ring.runner,
        [started](QueueRunner& runner, QueueRunner::Done runner_done) {
            *started = runner.start();
            runner_done();
        },
        [this, index, started, then = std::move(then)]() mutable {
            if (started->has_value()) {
                environment_.counters.rings_started.add();
            } else {
                refusal_log_.log(LogLevel::kWarning,
                                 "{}: ring {} cannot start: {}",
                                 identity_.name,
                                 index,
                                 started->error().message);
                rings_[index].runner.reset();
            }
            then();
        });
    return std::nullopt;
}

void Session::Impl::start_ready_rings(std::optional<size_t> asked,
                                      std::move_only_function<void(std::optional<Refusal>)> then) {
    // One more than the rings, so that `then` runs after the loop at the earliest.
    struct Progress {
        size_t outstanding = 1;
        std::optional<Refusal> refusal;
        std::move_only_function<void(std::optional<Refusal>)> then;
    };

    auto progress = std::make_shared<Progress>();
    progress->then = std::move(then);
    const auto one_done = [progress] {
        if (--progress->outstanding == 0) {
            progress->then(progress->refusal);
        }
    };
    for (size_t index = 0; index < rings_.size(); ++index) {
        if (!ring_is_ready(rings_[index])) {
            continue;
        }
        ++progress->outstanding;
        const auto refusal = start_ring(index, [this, index, asked, progress, one_done] {
            if (asked == index && rings_[index].runner == nullptr) {
                progress->refusal = Refusal::kDevice;
            }
            one_done();
        });
        if (!refusal) {
            continue;
        }
        if (asked == index) {
            progress->refusal = refusal;
        } else {
            refusal_log_.log(LogLevel::kWarning,
                             "{}: ring {} cannot start: {}",
                             identity_.name,
                             index,
                             describe(*refusal));
        }
        one_done();
    }
    one_done();
}

}  // namespace outrigger
