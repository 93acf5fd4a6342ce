// SPDX-License-Identifier: Apache-2.0
// Finding the back end: for the first time, and again when it has gone.
#include <algorithm>
#include <future>
#include <utility>

#include <fcntl.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/log.h"

#include "vmm-lite/frontend/remote_device.h"

namespace outrigger::vmm {
namespace {

/// Between two looks for a socket that is not there yet, when the machine starts.
constexpr std::chrono::milliseconds kFirstLookPause{20};

/// How long a daemon of ours that hung up is waited for, to say why.
constexpr std::chrono::milliseconds kObituaryPause{2};
constexpr int kObituaryLooksMax = 250;

/// Between two looks at the files behind shared memory.
constexpr std::chrono::milliseconds kFilesPause{500};

using Clock = EventLoop::Clock;

std::chrono::milliseconds in_ms(Clock::duration duration) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(duration);
}

}  // namespace

std::string_view describe(RemoteDevice::Phase phase) {
    switch (phase) {
        case RemoteDevice::Phase::kConnecting:
            return "connecting";
        case RemoteDevice::Phase::kReady:
            return "ready";
        case RemoteDevice::Phase::kStarting:
            return "starting";
        case RemoteDevice::Phase::kRunning:
            return "running";
        case RemoteDevice::Phase::kStopping:
            return "stopping";
        case RemoteDevice::Phase::kAway:
            return "away";
        case RemoteDevice::Phase::kLost:
            return "lost";
    }
    return "unknown";
}

Result<void> connect_all(std::span<const std::unique_ptr<RemoteDevice>> devices) {
    std::vector<std::future<Result<void>>> results;
    for (const auto& device : devices) {
        auto promise = std::make_shared<std::promise<Result<void>>>();
        results.push_back(promise->get_future());
        device->connect([promise](Result<void> result) { promise->set_value(std::move(result)); });
    }
    Result<void> first_error;
    for (auto& result : results) {
        auto one = result.get();
        if (!one && first_error) {
            first_error = std::move(one);
        }
    }
    return first_error;
}

void RemoteDevice::connect(Done done) {
    loop_.post([self = std::weak_ptr<RemoteDevice*>(self_), done = std::move(done)]() mutable {
        if (const auto there = self.lock()) {
            RemoteDevice& device = **there;
            device.on_connected_ = std::move(done);
            device.connect_deadline_ = Clock::now() + device.options_.deadlines.start;
            device.try_first_connection();
        }
    });
}

void RemoteDevice::try_first_connection() {
    auto socket = options_.source->open();
    if (socket) {
        attach(*std::move(socket));
        return;
    }
    // A daemon that is started together with us may not listen yet.
    if (!options_.source->can_reopen() || Clock::now() + kFirstLookPause > connect_deadline_) {
        end_connect(failure(
            Error{.message = std::move(socket).error().message + "; is its daemon running?"}));
        return;
    }
    retry_ = loop_.start_timer(kFirstLookPause, [this] { try_first_connection(); });
}

/// `on_connected_` may destroy us: nothing follows it.
void RemoteDevice::end_connect(Result<void> result) {
    retry_ = {};
    negotiation_limit_ = {};
    if (!result) {
        phase_ = Phase::kLost;
        result = failure(Error{.message = options_.name + ": " + result.error().message,
                               .os_error = result.error().os_error});
    }
    if (on_connected_) {
        std::exchange(on_connected_, nullptr)(std::move(result));
    }
}

void RemoteDevice::attach(UniqueFd socket) {
    const Clock::duration limit =
        first_offer_known_ ? options_.deadlines.start : connect_deadline_ - Clock::now();
    // A back end that answers each message late, but none too late, must not hold us for minutes.
    negotiation_limit_ = loop_.start_timer(std::max(limit, Clock::duration{}), [this] {
        link_->channel().fail(Error{.message = fmt::format("it did not negotiate within {} ms",
                                                           options_.deadlines.start.count()),
                                    .os_error = ETIMEDOUT});
    });
    link_ = std::make_unique<Link>(
        loop_,
        std::move(socket),
        Link::Options{.negotiation = {.kind = options_.kind,
                                      .memory_regions = memory_.size(),
                                      .shared_memory = options_.shared_memory},
                      .deadlines = options_.deadlines,
                      .windows = &windows_},
        Link::Handler{.on_offer = [this](Offer offer) { on_offer(std::move(offer)); },
                      .on_lost = [this](const Error& reason) { on_lost(reason); },
                      .on_config_change = [this] { refresh_config(); },
                      .on_mapped = [this] { watch_files(); }});
}

/// Nobody tells of a file that it has become shorter. Only as long as there is something to look
/// at; what was not seen yet costs the guest that wait.
void RemoteDevice::watch_files() {
    if (std::exchange(files_watched_, true)) {
        return;
    }
    files_ = loop_.start_timer(kFilesPause, [this] {
        files_watched_ = false;
        windows_.look_at_files();
        if (windows_.pieces() != 0) {
            watch_files();
        }
    });
}

void RemoteDevice::drop_link() {
    negotiation_limit_ = {};
    transfer_.reset();
    link_.reset();
    config_asked_ = false;
    config_stale_ = false;
    telling_.reset();
}

void RemoteDevice::on_offer(Offer offer) {
    negotiation_limit_ = {};
    if (auto completed = complete_offer(options_.kind, options_.given, offer); !completed) {
        link_->channel().fail(std::move(completed).error());
        return;
    }
    options_.source->on_serving();
    if (!first_offer_known_) {
        if (auto accepted = accept_first(offer); !accepted) {
            link_->channel().fail(std::move(accepted).error());
            return;
        }
        phase_ = Phase::kReady;
        log(LogLevel::kInfo,
            "{}: {} at {}: {} queues, features {:#x}, protocol features {:#x}",
            options_.name,
            options_.kind.name,
            options_.source->describe(),
            offer.queue_count,
            offer.features.bits(),
            offer.protocol_features.bits());
        // The callback may destroy us, with the link that calls here.
        post([](RemoteDevice& device) {
            if (device.link_ != nullptr) {  // else it was lost meanwhile, and that is said
                device.end_connect({});
            }
        });
        return;
    }
    if (auto same = compare(offer); !same) {
        link_->channel().fail(std::move(same).error());
        return;
    }
    windows_.expect_anew();
    if (offer.has_config) {
        // What the driver wrote holds for the device, and the new back end has not heard of it.
        config_.tell_again();
        take_config(offer.config);
    }
    phase_ = Phase::kReady;
    if (active_ && !suspended_) {
        start_rings();
    } else {
        settle();
    }
    tell_writes();
}

/// What the driver is going to see.
Result<void> RemoteDevice::accept_first(Offer& offer) {
    windows_ = OUTRIGGER_TRY(SharedWindows::reserve(offer.shared_memory, pieces_max_));
    config_.reset(offer.config);
    first_offer_ = offer;
    first_offer_known_ = true;
    return {};
}

/// The driver has seen the first offer, and the guest cannot be told of another one.
Result<void> RemoteDevice::compare(const Offer& offer) const {
    const auto differs = [](const std::string& what) {
        return failure(Error{.message = "it is another device than the one before: " + what});
    };
    if (offer.features != first_offer_.features) {
        return differs(fmt::format(
            "features {:#x}, not {:#x}", offer.features.bits(), first_offer_.features.bits()));
    }
    if (offer.queue_count != first_offer_.queue_count) {
        return differs(
            fmt::format("{} queues, not {}", offer.queue_count, first_offer_.queue_count));
    }
    if (offer.config.size() != first_offer_.config.size()) {
        return differs(fmt::format(
            "{} bytes of configuration, not {}", offer.config.size(), first_offer_.config.size()));
    }
    if (offer.shared_memory != first_offer_.shared_memory) {
        return differs("other regions of shared memory");
    }
    if (active_ && active_->inflight != nullptr &&
        !offer.has(wire::ProtocolFeature::kInflightShmfd)) {
        return differs("it takes no in-flight buffer");
    }
    return {};
}

std::string RemoteDevice::with_obituary(const std::string& reason) const {
    const std::string obituary = options_.source->obituary();
    return obituary.empty() ? reason : obituary;
}

void RemoteDevice::on_lost(const Error& reason) {
    const bool was_away = phase_ == Phase::kAway;
    UniqueFd socket = link_->channel().take_socket();
    const bool has_memory = link_->has_memory();
    drop_link();
    stable_ = {};
    if (!first_offer_known_ || on_connected_) {
        bury(reason, 0);
        return;
    }
    if (!was_away) {
        ++losses_;
        last_loss_ = reason.message;
        away_since_ = Clock::now();
        pause_ = away_total_ == Clock::duration{} ? options_.reconnect.first_pause : pause_;
        log(LogLevel::kWarning, "{}: its back end was lost: {}", options_.name, reason.message);
    }
    // Whoever waits for the rings to stop, waits no longer: nobody serves them now.
    phase_ = Phase::kAway;
    if (has_memory) {
        take_leave(std::move(socket));
    }
    end_stop(failure(Error{.message = options_.name + ": " + reason.message}));
    if (leave_ != nullptr) {
        look_again(reason.message);  // it lives: there is no better reason
    } else {
        bury(reason, 0);
    }
}

/// A back end that has not hung up may finish requests at any time. Until it lets go no reset is
/// over, because the driver then uses their pages for something else, and nobody follows it.
void RemoteDevice::take_leave(UniqueFd socket) {
    leave_ = LeaveTaking::begin(loop_, std::move(socket), [this] { on_let_go(); });
    if (leave_ != nullptr) {
        options_.source->end();
    }
}

void RemoteDevice::on_let_go() {
    leave_.reset();
    if (!on_reset_.empty()) {
        end_reset();
    }
    if (phase_ == Phase::kAway) {
        retry_ = loop_.start_timer({}, [this] { try_again(); });
    }
}

/// A process that hung up is about to say why, or that it was killed: that is the better reason.
void RemoteDevice::bury(Error reason, int looks) {
    if (looks < kObituaryLooksMax && options_.source->obituary_due()) {
        retry_ =
            loop_.start_timer(kObituaryPause, [this, reason, looks] { bury(reason, looks + 1); });
        return;
    }
    const std::string why = with_obituary(reason.message);
    if (!first_offer_known_ || on_connected_) {
        end_connect(failure(Error{.message = why, .os_error = reason.os_error}));
        return;
    }
    last_loss_ = why;
    look_again(why);
}

void RemoteDevice::look_again(const std::string& why) {
    if (why != last_refusal_) {
        last_refusal_ = why;
        log(LogLevel::kInfo, "{}: looks for its back end again: {}", options_.name, why);
    }
    const Clock::duration away = away_total_ + (Clock::now() - away_since_);
    if (!options_.source->can_reopen()) {
        give_up(why + "; " + options_.source->describe() + " cannot be opened again");
        return;
    }
    if (away + pause_ > options_.reconnect.patience) {
        give_up(fmt::format("{}; it was away for {} ms", why, in_ms(away).count()));
        return;
    }
    retry_ = loop_.start_timer(pause_, [this] { try_again(); });
    pause_ = std::min(pause_ * 2, options_.reconnect.longest_pause);
}

void RemoteDevice::try_again() {
    if (leave_ != nullptr) {
        look_again("the one that was lost has not let go of the guest's memory");
        return;
    }
    auto socket = options_.source->open();
    if (socket) {
        attach(*std::move(socket));
    } else {
        look_again(with_obituary(socket.error().message));
    }
}

/// The back end is there, and does what it should.
void RemoteDevice::settle() {
    last_refusal_.clear();
    if (away_since_ == Clock::time_point{}) {
        return;
    }
    away_total_ += Clock::now() - std::exchange(away_since_, {});
    // A back end that dies again and again as soon as it is there has not come back.
    stable_ = loop_.start_timer(options_.reconnect.stable, [this] {
        away_total_ = {};
        pause_ = options_.reconnect.first_pause;
    });
    log(LogLevel::kInfo, "{}: its back end is back", options_.name);
}

void RemoteDevice::give_up(const std::string& why) {
    phase_ = Phase::kLost;
    retry_ = {};
    log(LogLevel::kError, "{}: given up: {}", options_.name, why);
    windows_.unmap_all();
    last_loss_ = why;
    if (on_resumed_) {
        std::exchange(on_resumed_, nullptr)(failure(Error{.message = options_.name + ": " + why}));
    }
    if (active_) {
        // Whatever was told before: that nobody comes back is news.
        active_->told_needs_reset = false;
        tell_needs_reset(why);
    }
    if (!on_reset_.empty()) {
        end_reset();  // nobody is left who would end it; the machine has just been told
    }
}

}  // namespace outrigger::vmm
