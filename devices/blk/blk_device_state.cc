// SPDX-License-Identifier: Apache-2.0
// Saving the disk's state, and taking up that of another process. An operator's settings (limits,
// error policy, write protection) are the daemon's, not the guest's, and stay where they are.
#include "devices/blk/blk_device.h"
#include "devices/blk/blk_state.h"

namespace outrigger::blk {

std::span<const StateSectionKind> BlkDevice::state_sections() const {
    return kBlkSections;
}

Result<std::vector<StateSection>> BlkDevice::save_state() const {
    BlkState state{.write_back = write_back_wanted_,
                   .read_write_through = read_write_through_,
                   .keep_write_through = keep_write_through_,
                   .read_only = settings_.geometry.read_only,
                   .config = config_};
    state.config.writeback = write_back() ? 1 : 0;
    return write_blk_state(state);
}

Result<void> BlkDevice::load_state(std::span<const StateSection> sections) {
    const BlkState state = OUTRIGGER_TRY(read_blk_state(sections));
    OUTRIGGER_TRY(check_config(state.config, config_));
    if (settings_.geometry.read_only && !state.read_only) {
        return failure(Error{.message = "the disk could be written, and is read-only here"});
    }
    write_back_wanted_ = state.write_back;
    read_write_through_ = state.read_write_through;
    keep_write_through_ = state.keep_write_through;
    update_write_through();
    if (config_.capacity != state.config.capacity && frontend_ != nullptr) {
        // It grew on the way. Told when a queue runs.
        frontend_->config_changed();
    }
    return {};
}

}  // namespace outrigger::blk
