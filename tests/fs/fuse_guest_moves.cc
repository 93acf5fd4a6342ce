// SPDX-License-Identifier: Apache-2.0
// A guest that goes on elsewhere.
#include <utility>

#include "tests/fs/fuse_guest.h"
#include "tests/support/state_pipe.h"

namespace outrigger::testing {

std::optional<std::string> FuseGuest::leave() {
    for (driver::DriverQueue& queue : running_.queues) {
        if (!queue.stop(*frontend_)) {
            return std::nullopt;
        }
    }
    std::string state = save_state(*frontend_);
    return state.empty() ? std::nullopt : std::optional(std::move(state));
}

bool FuseGuest::start_queues() {
    for (driver::DriverQueue& queue : running_.queues) {
        if (!driver::went_well(queue.start(*frontend_, memory_)) ||
            !driver::went_well(frontend_->set_vring_enable(queue.index(), 1))) {
            return false;
        }
    }
    return true;
}

bool FuseGuest::stay() {
    return start_queues();
}

bool FuseGuest::arrive(const std::string& socket_path, std::string_view state) {
    auto connected = driver::Frontend::connect(socket_path, driver::after(kPatience));
    if (!connected) {
        return false;
    }
    // The source keeps what the guest has until the guest is here.
    const driver::Frontend source = *std::move(frontend_);
    frontend_.emplace(*std::move(connected));
    frontend_->set_time_limit(kPatience);
    const driver::BringUpOptions options = bring_up_options();
    const auto features = frontend_->get_features();
    const auto offer = frontend_->get_protocol_features();
    if (!features || !offer ||
        !driver::went_well(frontend_->set_protocol_features(*offer & options.protocol_features)) ||
        !load_state(*frontend_, state)) {
        return false;
    }
    auto agreement = driver::negotiate(*frontend_, options);
    if (!agreement || !driver::share_memory(*frontend_, memory_, *agreement)) {
        return false;
    }
    running_.agreement = *std::move(agreement);
    return start_queues();
}

}  // namespace outrigger::testing
