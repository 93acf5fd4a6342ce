// SPDX-License-Identifier: Apache-2.0
// What an operator has the daemon do, and what the next process is to know of that.
#include <algorithm>
#include <string>
#include <utility>

#include <sys/stat.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/control/device_control.h"
#include "vhost-user-backend/daemon/daemon.h"

namespace outrigger {

/// Does its file let nobody but our user, and root, connect? So is one that we made. A listening
/// socket does not change its path.
bool Daemon::is_private_control_socket() const {
    if (!control_endpoint_->listener) {
        return false;
    }
    if (control_endpoint_->listener->file) {
        return true;
    }
    const std::string path = bound_path(control_endpoint_->listener->fd.get());

    struct stat status {};

    constexpr mode_t kOthersMayConnect = S_IWGRP | S_IWOTH;
    return !path.empty() && ::lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode) &&
           status.st_uid == own_user_ && (status.st_mode & kOthersMayConnect) == 0;
}

void Daemon::start_control() {
    if (!control_endpoint_) {
        return;
    }
    for (Served& served : served_) {
        if (control::DeviceControl* const control = served.device->control()) {
            control->attach(*loop_, served.worker_list);
            control->tell_departures_to(
                [this, &served](bool departed) { return on_departure(served, departed); });
        }
    }
    auto tell_drain = [this](size_t index, bool drained) { return on_drain(index, drained); };
    control_ =
        std::make_unique<ControlServer>(ControlServer::Environment{.loop = *loop_,
                                                                   .description = description_,
                                                                   .own_user = own_user_,
                                                                   .root_user = root_looks_like_,
                                                                   .tell_drain = tell_drain},
                                        *std::exchange(control_endpoint_, std::nullopt));
    control_->start();
    const ControlSettings& control = settings_.control;
    if (control.activated || !control.socket_path.empty()) {
        log(LogLevel::kInfo,
            "control: listening at {}",
            control.activated ? "fd-name " + control.activated->name : control.socket_path);
    }
}

bool Daemon::on_departure(Served& served, bool departed) {
    if (store_ == nullptr) {
        return true;
    }
    // Who is told to leave does nothing that the next process would not know of. The keeper, for
    // its part, takes that back when it hears of a departure that was told before.
    if (departed && (is_leaving_ || store_->is_spoken_to())) {
        return false;
    }
    served.departed = departed;
    if (std::ranges::any_of(served_, &Served::departed)) {
        store_->give_up("an operator changed what its command line says");
    } else {
        store_->take_up();
    }
    return true;
}

std::string Daemon::drain_mark_name(size_t index) const {
    return std::string(kStorePrefix) + "g" + settings_.devices[index].key;
}

/// The keeper has the mark while the device is drained: so the next process begins as this one is.
Result<void> Daemon::take_drain_mark(size_t index) {
    if (store_ == nullptr) {
        return {};
    }
    Served& served = served_[index];
    served.drain_mark = store_->take(drain_mark_name(index));
    served.starts_drained = served.drain_mark.valid();
    if (!served.starts_drained) {
        // The sandbox does not let us make one later.
        served.drain_mark = platform::open_eventfd();
    }
    return served.drain_mark.valid() ? Result<void>{}
                                     : failure(error_from_errno("cannot create an eventfd"));
}

bool Daemon::on_drain(size_t index, bool drained) {
    if (store_ == nullptr) {
        return true;
    }
    if (!drained) {
        store_->forget_open(drain_mark_name(index));
        return true;
    }
    if (is_leaving_ || store_->is_spoken_to()) {
        return false;
    }
    if (!store_->keep_open(drain_mark_name(index), served_[index].drain_mark.get())) {
        log(LogLevel::kWarning, "the keeper is gone: nobody goes on with what is drained here");
    }
    return true;
}

}  // namespace outrigger
