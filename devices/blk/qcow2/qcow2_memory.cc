// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/qcow2_memory.h"

namespace outrigger::blk {
namespace {

constexpr size_t kPartsOfTheRest = 8;

}  // namespace

std::unique_ptr<Qcow2Budget::Share> Qcow2Budget::take_share() {
    const std::lock_guard lock(mutex_);
    const Qcow2Memory taken = {.tables = left_.tables / kPartsOfTheRest,
                               .clusters = left_.clusters / kPartsOfTheRest,
                               .inputs = left_.inputs / kPartsOfTheRest};
    left_.tables -= taken.tables;
    left_.clusters -= taken.clusters;
    left_.inputs -= taken.inputs;
    return std::make_unique<Share>(*this, taken);
}

Qcow2Budget::Share::~Share() {
    const std::lock_guard lock(budget_.mutex_);
    budget_.left_.tables += memory_.tables;
    budget_.left_.clusters += memory_.clusters;
    budget_.left_.inputs += memory_.inputs;
}

}  // namespace outrigger::blk
