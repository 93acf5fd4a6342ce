// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/device_state_exchange.h"

#include <algorithm>
#include <utility>

#include <fmt/core.h>

namespace outrigger {

DeviceStateExchange::~DeviceStateExchange() {
    give_up();
}

// --- Saving ------------------------------------------------------------------------------------

Result<DeviceState> DeviceStateExchange::with_sections(DeviceState state) const {
    state.sections = OUTRIGGER_TRY(environment_.device.save_state());
    return state;
}

void DeviceStateExchange::keep(DeviceState state) {
    if (auto whole = with_sections(std::move(state))) {
        kept_ = *std::move(whole);
        ++version_;
    }
}

void DeviceStateExchange::drop_kept() {
    kept_.reset();
    ++version_;
}

std::optional<Refusal> DeviceStateExchange::begin_save(UniqueFd fd, DeviceState state) {
    if (under_way()) {
        return Refusal::kState;
    }
    auto channel = StateChannel::adopt(std::move(fd), StateChannel::Direction::kSave);
    if (!channel) {
        return Refusal::kStateChannel;
    }
    if (loaded_ && !state.features) {
        // What came here and never ran goes on as it is.
        state.features = loaded_->features;
        state.queues = loaded_->queues;
    }
    auto whole = kept_ ? Result<DeviceState>(*kept_) : with_sections(std::move(state));
    if (!whole) {
        environment_.log.log(LogLevel::kWarning,
                             "{}: its state cannot be saved: {}",
                             environment_.device.identity().name,
                             whole.error().message);
        return Refusal::kDeviceState;
    }
    transfer_ = StateTransfer::save(
        environment_.worker,
        environment_.control_loop,
        *std::move(channel),
        *std::move(whole),
        [this](StateTransfer::Outcome outcome) { on_transfer_ended(std::move(outcome)); });
    if (transfer_ == nullptr) {
        return Refusal::kState;
    }
    on_transfer_begun(false);
    return std::nullopt;
}

// --- Loading -----------------------------------------------------------------------------------

std::optional<Refusal> DeviceStateExchange::begin_load(UniqueFd fd) {
    if (under_way()) {
        return Refusal::kState;
    }
    auto channel = StateChannel::adopt(std::move(fd), StateChannel::Direction::kLoad);
    if (!channel) {
        return Refusal::kStateChannel;
    }
    transfer_ = StateTransfer::load(
        environment_.worker,
        environment_.control_loop,
        *std::move(channel),
        [this](StateTransfer::Outcome outcome) { on_transfer_ended(std::move(outcome)); });
    if (transfer_ == nullptr) {
        return Refusal::kState;
    }
    on_transfer_begun(true);
    return std::nullopt;
}

/// All that can be known before features and rings come is checked now: while the front end still
/// asks, the source can go on instead.
Result<void, StateError> DeviceStateExchange::take(DeviceState state) {
    const auto other = [](std::string message) {
        return failure(StateError{.fault = StateFault::kOther, .message = std::move(message)});
    };
    const DeviceIdentity identity = environment_.device.identity();
    if (state.device_id != identity.virtio_id) {
        return other(fmt::format("it is of a device of kind {}, and this is of kind {}",
                                 state.device_id,
                                 identity.virtio_id));
    }
    if (state.features && !environment_.offered.contains(*state.features)) {
        return other(fmt::format("its driver took features that are not there: {:#x}",
                                 state.features->bits() & ~environment_.offered.bits()));
    }
    for (const SavedQueue& queue : state.queues) {
        if (queue.index >= identity.queue_count || queue.size > identity.queue_size_max) {
            return other(fmt::format(
                "its queue {}, of size {}, is more than this device has", queue.index, queue.size));
        }
    }
    const KnownSections known =
        OUTRIGGER_TRY(select_sections(state.sections, environment_.device.state_sections()));
    for (const std::string& skipped : known.skipped) {
        environment_.log.log(LogLevel::kInfo,
                             "{}: {}, of its saved state is skipped: not known here, and not "
                             "critical",
                             identity.name,
                             skipped);
    }
    if (const auto loaded = environment_.device.load_state(known.sections); !loaded) {
        return failure(
            StateError{.fault = StateFault::kContent, .message = loaded.error().message});
    }
    state.sections.clear();
    loaded_ = std::move(state);
    return {};
}

Result<std::optional<SavedQueue>> DeviceStateExchange::admit(uint16_t ring,
                                                             uint16_t size,
                                                             FeatureSet features) const {
    if (!loaded_) {
        return std::nullopt;
    }
    if (loaded_->features && *loaded_->features != features) {
        return failure(Error{
            .message = fmt::format("the state that was loaded is of a driver with other features: "
                                   "{:#x}, and not {:#x}",
                                   loaded_->features->bits(),
                                   features.bits())});
    }
    const auto queue = std::ranges::find(loaded_->queues, ring, &SavedQueue::index);
    if (queue == loaded_->queues.end()) {
        return std::nullopt;
    }
    if (queue->size != size) {
        return failure(Error{.message = fmt::format("its size was {} in the state that was loaded, "
                                                    "and is {}",
                                                    queue->size,
                                                    size)});
    }
    return *queue;
}

void DeviceStateExchange::on_ring_started(uint16_t ring) {
    ++version_;
    kept_.reset();
    ran_since_load_ = true;
    if (loaded_) {
        std::erase_if(loaded_->queues,
                      [&](const SavedQueue& queue) { return queue.index == ring; });
    }
}

void DeviceStateExchange::on_rings_stopped() {
    // Before the first has started, they are still to come.
    if (ran_since_load_) {
        loaded_.reset();
        ++version_;
    }
}

// --- Transfers ---------------------------------------------------------------------------------

void DeviceStateExchange::on_transfer_begun(bool is_load) {
    is_load_ = is_load;
    outcome_.reset();
    ++version_;
    if (is_load) {
        load_failed_ = false;
        loaded_.reset();
        ran_since_load_ = false;
        kept_.reset();
    }
    const auto deadline = EventLoop::Clock::now() + environment_.time_limit;
    time_limit_ = environment_.control_loop.start_timer(deadline, [this] {
        time_limit_.reset();
        on_transfer_ended(failure(StateError{.fault = StateFault::kTransfer,
                                             .message = "the front end did not end the transfer "
                                                        "in time"}));
    });
}

void DeviceStateExchange::on_transfer_ended(StateTransfer::Outcome outcome) {
    give_up();
    Result<void, StateError> ended;
    if (!outcome) {
        ended = failure(std::move(outcome).error());
    } else if (is_load_) {
        ended = take(*std::move(outcome));
    }
    outcome_ = ended.has_value();
    load_failed_ = load_failed_ || (is_load_ && !ended);
    if (!ended) {
        environment_.counters.states_failed.add();
        environment_.log.log(LogLevel::kWarning,
                             "{}: its state could not be {}: {}",
                             environment_.device.identity().name,
                             is_load_ ? "loaded" : "saved",
                             ended.error().message);
    } else {
        (is_load_ ? environment_.counters.states_loaded : environment_.counters.states_saved).add();
    }
    ++version_;
    environment_.on_ended(is_load_ && ended.has_value());
    wake_waiter();
}

void DeviceStateExchange::when_ended(std::move_only_function<void()> then) {
    OUTRIGGER_ASSERT(!waiter_);
    if (!under_way()) {
        then();
        return;
    }
    waiter_ = std::move(then);
}

void DeviceStateExchange::wake_waiter() {
    if (auto waiter = std::exchange(waiter_, nullptr)) {
        waiter();
    }
}

void DeviceStateExchange::give_up() {
    transfer_.reset();
    if (time_limit_) {
        environment_.control_loop.cancel_timer(*std::exchange(time_limit_, std::nullopt));
    }
}

void DeviceStateExchange::forget() {
    OUTRIGGER_ASSERT(!waiter_);
    give_up();
    load_failed_ = false;
    outcome_.reset();
    loaded_.reset();
    ++version_;
}

void DeviceStateExchange::end() {
    give_up();
    wake_waiter();
}

// --- For another process -----------------------------------------------------------------------

DeviceStateExchange::Kept DeviceStateExchange::to_keep() const {
    Kept kept{.load_failed = load_failed_ || is_loading(),
              .ran_since_load = ran_since_load_,
              .interrupted = under_way(),
              .outcome = outcome_,
              .loaded = loaded_,
              .saved = kept_};
    if (under_way()) {
        kept.outcome = false;
    }
    return kept;
}

void DeviceStateExchange::restore(Kept kept) {
    load_failed_ = kept.load_failed;
    ran_since_load_ = kept.ran_since_load;
    outcome_ = kept.outcome;
    loaded_ = std::move(kept.loaded);
    kept_ = std::move(kept.saved);
    ++version_;
    if (kept.interrupted) {
        environment_.counters.states_failed.add();
        environment_.log.log(LogLevel::kWarning,
                             "{}: a transfer of its state ended with the process that had it",
                             environment_.device.identity().name);
    }
}

}  // namespace outrigger
