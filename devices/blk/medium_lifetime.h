// SPDX-License-Identifier: Apache-2.0
/// What Linux tells of the wear of eMMC and UFS media: attributes in sysfs, which stay open,
/// because the values change and the sandbox lets nothing be opened later.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "devices/blk/image.h"

namespace outrigger::blk {

/// A file of one or two numbers.
struct LifetimeAttribute {
    enum class Kind : uint8_t {
        kPreEndOfLife,
        kEstimateA,
        kEstimateB,
        kEstimates,  ///< A and B
    };

    Kind kind = Kind::kPreEndOfLife;
    UniqueFd fd;
};

/// Those of the medium that the block device, or partition, `device` lies on; none when the host
/// does not tell. `sysfs` is where sysfs is mounted. Blocking.
[[nodiscard]] std::vector<LifetimeAttribute> find_lifetime_attributes(const std::string& sysfs,
                                                                      dev_t device);

/// Reads what the attribute's file said into `lifetime`. False when that is not what it should be.
[[nodiscard]] bool read_lifetime(const LifetimeAttribute& attribute,
                                 std::string_view text,
                                 ImageLifetime& lifetime);

}  // namespace outrigger::blk
