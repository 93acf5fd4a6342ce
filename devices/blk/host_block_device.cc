// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/host_block_device.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string>

#include <fcntl.h>
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::blk {
namespace {

/// A line from the device's queue directory in sysfs; a partition has it one level up. Empty when
/// sysfs is not there (containers): the caller then assumes that the host can, and learns.
std::string read_queue_attribute(const std::string& sysfs, dev_t device, const char* name) {
    for (const char* const parent : {"", "../"}) {
        const std::string path = fmt::format(
            "{}/dev/block/{}:{}/{}queue/{}", sysfs, major(device), minor(device), parent, name);
        const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
        char text[32];
        const ssize_t length = fd.valid() ? ::read(fd.get(), text, sizeof text) : -1;
        if (length > 0) {
            return {text, static_cast<size_t>(length)};
        }
    }
    return {};
}

std::optional<uint64_t> read_queue_limit(const std::string& sysfs, dev_t device, const char* name) {
    const std::string text = read_queue_attribute(sysfs, device, name);
    uint64_t value = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    return result.ec == std::errc() ? std::optional(value) : std::nullopt;
}

template <class T>
T query(int fd, unsigned long request, T otherwise) {
    T value{};
    return ::ioctl(fd, request, &value) == 0 ? value : otherwise;
}

/// Nothing in sysfs tells. A range that begins inside a sector touches nothing, and Linux (since
/// 5.19) looks at the device before the range: EINVAL says that the device can.
bool can_erase_securely(int fd) {
    uint64_t range[2] = {1, 512};
    return ::ioctl(fd, BLKSECDISCARD, &range) != 0 && errno == EINVAL;
}

}  // namespace

Result<uint64_t> size_of_device(int fd) {
    uint64_t size_bytes = 0;
    if (::ioctl(fd, BLKGETSIZE64, &size_bytes) != 0) {
        return failure(error_from_errno("cannot read the size of the block device"));
    }
    return size_bytes;
}

Result<ImageProperties> properties_of_device(int fd, dev_t device) {
    ImageProperties properties;
    properties.size_bytes = OUTRIGGER_TRY(size_of_device(fd));
    const int logical = query<int>(fd, BLKSSZGET, 512);
    properties.block_bytes = static_cast<uint32_t>(std::max(logical, 512));
    const auto physical = query<unsigned>(fd, BLKPBSZGET, properties.block_bytes);
    properties.physical_block_bytes = is_power_of_two(physical)
                                          ? std::max(physical, properties.block_bytes)
                                          : properties.block_bytes;
    properties.minimum_io_bytes = query<unsigned>(fd, BLKIOMIN, 0);
    properties.optimal_io_bytes = query<unsigned>(fd, BLKIOOPT, 0);
    // -1 says that a stacked device's parts do not line up: then there is nothing to tell.
    properties.alignment_offset_bytes =
        static_cast<uint32_t>(std::max(query<int>(fd, BLKALIGNOFF, 0), 0));
    const uint64_t granularity =
        read_queue_limit("/sys", device, "discard_granularity").value_or(0);
    if (is_power_of_two(granularity) && granularity <= (uint64_t{1} << 30)) {
        properties.discard_alignment_bytes = static_cast<uint32_t>(granularity);
    }
    const bool zeroes = read_queue_limit("/sys", device, "write_zeroes_max_bytes").value_or(1) != 0;
    const bool discards = read_queue_limit("/sys", device, "discard_max_bytes").value_or(1) != 0;
    properties.can_discard = zeroes || discards;
    properties.can_unmap_zeroes = zeroes;
    properties.can_secure_erase = can_erase_securely(fd);
    return properties;
}

bool device_polls(const std::string& sysfs, dev_t device) {
    return read_queue_limit(sysfs, device, "io_poll").value_or(0) == 1;
}

ImageZoning zoning_of_device(const std::string& sysfs, int fd, dev_t device) {
    const auto zone_sectors = query<uint32_t>(fd, BLKGETZONESZ, 0);
    const std::string model = read_queue_attribute(sysfs, device, "zoned");
    ImageZoning zoning;
    if (model.starts_with("host-managed") || (model.empty() && zone_sectors != 0)) {
        zoning.model = ZoneModel::kHostManaged;
    } else if (model.starts_with("host-aware")) {
        zoning.model = ZoneModel::kHostAware;
    } else {
        return zoning;
    }
    const auto limit = [&](const char* name) {
        const uint64_t value = read_queue_limit(sysfs, device, name).value_or(0);
        return value <= UINT32_MAX ? static_cast<uint32_t>(value) : 0;
    };
    zoning.zone_bytes = uint64_t{zone_sectors} * 512;
    zoning.open_zones_max = limit("max_open_zones");
    zoning.active_zones_max = limit("max_active_zones");
    // Linux since 5.11; before, a physical block is what it is.
    const uint32_t granularity = limit("zone_write_granularity");
    zoning.write_granularity_bytes =
        granularity != 0 ? granularity : query<unsigned>(fd, BLKPBSZGET, 512);
    return zoning;
}

}  // namespace outrigger::blk
