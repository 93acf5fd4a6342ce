// SPDX-License-Identifier: Apache-2.0
/// What the host says of one of its block devices.
#pragma once

#include <string>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"

#include "devices/blk/image.h"

namespace outrigger::blk {

/// Of an open block device.
[[nodiscard]] Result<uint64_t> size_of_device(int fd);

/// `fd` is an open block device whose number is `device`. read_only is left false; the caller
/// knows how it opened it.
[[nodiscard]] Result<ImageProperties> properties_of_device(int fd, dev_t device);

/// Is it a zoned device that takes writes only where its zones say (host-managed)? `sysfs` is where
/// sysfs is mounted; without one the answer is no.
[[nodiscard]] bool is_host_managed(const std::string& sysfs, dev_t device);

}  // namespace outrigger::blk
