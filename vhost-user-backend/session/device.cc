// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/device.h"

namespace outrigger {

void Device::read_config(ConfigOffset /*at*/, std::span<std::byte> /*out*/) const {
    // A device without a configuration space is never asked; one with fields overrides this.
}

Result<void, ConfigError> Device::write_config(ConfigOffset /*at*/,
                                               std::span<const std::byte> /*in*/) {
    return failure(ConfigError::kReadOnly);
}

}  // namespace outrigger
