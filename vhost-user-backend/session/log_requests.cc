// SPDX-License-Identifier: Apache-2.0
// SET_LOG_BASE, SET_LOG_FD, and what they, SET_FEATURES (LOG_ALL) and SET_VRING_ADDR (F_LOG) come
// to together, in whatever order they come: which log each ring keeps. vhost-user "Migration".
#include <utility>

#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/guest/dirty_log.h"
#include "vhost-user-backend/session/feature_offer.h"
#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {

Session::Impl::Outcome Session::Impl::handle_set_log_base(const wire::Message& message) {
    const auto layout = payload_as<wire::Log>(message);
    const int fd = message.fds[0].get();
    static LogLimiter limiter;
    if (options_.require_sealed && !platform::is_sealed_against_shrinking(fd)) {
        limiter.log(LogLevel::kWarning,
                    "{}: refused a dirty log whose file can be truncated (--require-sealed): it is "
                    "no memfd with F_SEAL_SHRINK",
                    identity_.name);
        return refuse(Refusal::kDirtyLog);
    }
    auto log = DirtyLog::map({.offset = layout.offset, .size = layout.size}, fd);
    if (!log) {
        limiter.log(LogLevel::kWarning,
                    "{}: cannot use a dirty log of {} bytes from {}: {}",
                    identity_.name,
                    layout.size,
                    layout.offset,
                    log.error().message);
        return refuse(Refusal::kDirtyLog);
    }
    log_ = *std::move(log);
    // Front ends swap logs while rings run, to read one at rest: by the time of the reply the old
    // one is written no more.
    update_logging([this, layout] { finish(reply_object(layout)); });
    return later();
}

Session::Impl::Outcome Session::Impl::handle_set_log_fd(wire::Message& message) {
    UniqueFd fd = std::move(message.fds[0]);
    const auto kind = check_notification_fd(fd.get());
    if (!kind) {
        return refuse(Refusal::kNotificationFd);
    }
    log_call_ = share_fd(std::move(fd), *kind);
    for_each_runner(std::make_shared<RunnerTask>(
                        [log_call = log_call_](QueueRunner& runner, QueueRunner::Done runner_done) {
                            runner.set_log_call(log_call);
                            runner_done();
                        }),
                    [this] { finish(done()); });
    return later();
}

/// VHOST_F_LOG_ALL says whether there is logging at all; without a log there is none either.
const std::shared_ptr<const DirtyLog>& Session::Impl::wanted_log() const {
    static const std::shared_ptr<const DirtyLog> kNone;
    return features_.has(wire::kLogAllBit) ? log_ : kNone;
}

std::optional<GuestAddr> Session::Impl::used_log_address(const Vring& ring) const {
    // It is a guest physical address, and stands for the used ring. Behind an IOMMU QEMU gives a
    // virtual one, and for a packed ring that of the device event area; where those are in guest
    // memory the ring knows itself.
    const bool has_meaning = !features_.has(kFeatureRingPacked) && !memory_->mode().iommu;
    if (!has_meaning || !ring.address || (ring.address->flags & wire::kVringAddressFlagLog) == 0) {
        return std::nullopt;
    }
    return GuestAddr{ring.address->log};
}

bool Session::Impl::log_may_come() const {
    // One that came stays, whatever is negotiated later.
    return negotiated(wire::ProtocolFeature::kLogShmfd) || log_ != nullptr;
}

/// Waits for no request: those in flight are marked when they are back.
void Session::Impl::update_logging(Continuation then) {
    if (log_in_use_ == nullptr && wanted_log() != nullptr && !is_restoring()) {
        log_is_incomplete_ = false;  // what was written until now is copied anyway
    }
    log_in_use_ = wanted_log();
    std::vector<std::optional<GuestAddr>> used_addresses;
    used_addresses.reserve(rings_.size());
    for (const Vring& ring : rings_) {
        used_addresses.push_back(used_log_address(ring));
    }
    for_each_runner(std::make_shared<RunnerTask>(
                        [log = log_in_use_, used_addresses = std::move(used_addresses)](
                            QueueRunner& runner, QueueRunner::Done runner_done) {
                            runner.set_log(log, used_addresses[to_number(runner.index())]);
                            runner_done();
                        }),
                    std::move(then));
}

/// SET_VRING_ADDR on a running ring: its place is the same.
Session::Impl::Outcome Session::Impl::move_used_log(Vring& ring,
                                                    const wire::VringAddress& address) {
    ring.address = address;
    for_one_runner(
        *ring.runner,
        [log = log_in_use_, used_address = used_log_address(ring)](QueueRunner& runner,
                                                                   QueueRunner::Done runner_done) {
            runner.set_log(log, used_address);
            runner_done();
        },
        [this] { finish(done()); });
    return later();
}

}  // namespace outrigger
