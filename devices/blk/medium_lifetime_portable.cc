// SPDX-License-Identifier: Apache-2.0
// In place of medium_lifetime.cc: other systems have no files that tell.
#include "devices/blk/medium_lifetime.h"

namespace outrigger::blk {

std::vector<LifetimeAttribute> find_lifetime_attributes(const std::string& /*sysfs*/,
                                                        dev_t /*device*/) {
    return {};
}

bool read_lifetime(const LifetimeAttribute& /*attribute*/,
                   std::string_view /*text*/,
                   ImageLifetime& /*lifetime*/) {
    return false;
}

}  // namespace outrigger::blk
