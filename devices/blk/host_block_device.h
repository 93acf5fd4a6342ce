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

/// Which kind of zones the open block device has, and their limits; append_bytes_max is left 0.
/// `sysfs` is where sysfs is mounted. Without it (in a container, or behind the sandbox) a device
/// that has zones passes for host-managed, which is the careful guess.
[[nodiscard]] ImageZoning zoning_of_device(const std::string& sysfs, int fd, dev_t device);

/// Has the block device, or the one with the file system that is `device`, queues that are polled
/// instead of interrupting? Without sysfs the answer is no.
[[nodiscard]] bool device_polls(const std::string& sysfs, dev_t device);

}  // namespace outrigger::blk
