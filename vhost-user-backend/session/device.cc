// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/device.h"

namespace outrigger {

bool Device::accepts(FeatureSet /*wanted*/) const {
    return true;
}

void Device::on_serving(std::span<Worker* const> /*workers*/) {}

void Device::on_frontend(std::shared_ptr<Frontend> /*frontend*/) {
    // A device that never asks for anything has no use for it.
}

void Device::read_config(ConfigOffset /*at*/, std::span<std::byte> /*out*/) const {
    // A device without a configuration space is never asked; one with fields overrides this.
}

Result<void, ConfigError> Device::write_config(ConfigOffset /*at*/,
                                               std::span<const std::byte> /*in*/) {
    return failure(ConfigError::kReadOnly);
}

void Device::suspend_queue(QueueIndex index, std::move_only_function<void()> drained) {
    stop_queue(index, std::move(drained));
}

void Device::hurry_queue(QueueIndex /*index*/) {
    // Most devices hold nothing: what they popped is under way.
}

void Device::use_memory(QueueIndex /*index*/,
                        const std::shared_ptr<const MemorySnapshot>& /*memory*/) {
    // Most devices know memory by their chains alone.
}

void Device::on_leaving() {}

void Device::on_suspended() {
    // Most devices have nothing that somebody else may want now.
}

// A device without the ability is never asked.

bool Device::set_mtu(uint16_t /*mtu*/) {
    return false;
}

bool Device::announce(const MacAddress& /*address*/) {
    return false;
}

std::optional<UniqueFd> Device::shared_object(const Uuid& /*object*/) {
    return std::nullopt;
}

std::span<const StateSectionKind> Device::state_sections() const {
    return {};
}

Result<std::vector<StateSection>> Device::save_state() const {
    return {};
}

Result<void> Device::load_state(std::span<const StateSection> /*sections*/) {
    // None comes that state_sections() does not have.
    return {};
}

control::DeviceControl* Device::control() {
    return nullptr;
}

}  // namespace outrigger
