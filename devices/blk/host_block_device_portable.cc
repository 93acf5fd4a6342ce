// SPDX-License-Identifier: Apache-2.0
// In place of host_block_device.cc: a size, and nothing else that every system tells.
#include <unistd.h>

#include "devices/blk/host_block_device.h"

namespace outrigger::blk {

Result<uint64_t> size_of_device(int fd) {
    const off_t end = ::lseek(fd, 0, SEEK_END);
    if (end < 0) {
        return failure(error_from_errno("cannot read the size of the block device"));
    }
    return static_cast<uint64_t>(end);
}

Result<ImageProperties> properties_of_device(int fd, dev_t /*device*/) {
    ImageProperties properties;
    properties.size_bytes = OUTRIGGER_TRY(size_of_device(fd));
    return properties;
}

bool device_polls(const std::string& /*sysfs*/, dev_t /*device*/) {
    return false;
}

ImageZoning zoning_of_device(const std::string& /*sysfs*/, int /*fd*/, dev_t /*device*/) {
    return {};
}

}  // namespace outrigger::blk
