// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include <linux/blkzoned.h>
#include <sys/ioctl.h>

#include "devices/blk/zoned/zone_host.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kSector = 512;

/// struct blk_zone_report without the array at its end, which is no C++.
struct ReportHead {
    uint64_t sector = 0;
    uint32_t zone_count = 0;
    uint32_t flags = 0;
};

static_assert(sizeof(ReportHead) == sizeof(blk_zone_report));

/// What one call asks for: 256 KiB of answer.
constexpr size_t kZonesPerCallMax = 4096;

std::optional<ZoneType> zone_type(uint8_t type) {
    switch (type) {
        case BLK_ZONE_TYPE_CONVENTIONAL:
        case BLK_ZONE_TYPE_SEQWRITE_REQ:
        case BLK_ZONE_TYPE_SEQWRITE_PREF:
            return static_cast<ZoneType>(type);
        default:
            return std::nullopt;
    }
}

std::optional<ZoneState> zone_state(uint8_t condition) {
    switch (condition) {
        case BLK_ZONE_COND_NOT_WP:
        case BLK_ZONE_COND_EMPTY:
        case BLK_ZONE_COND_IMP_OPEN:
        case BLK_ZONE_COND_EXP_OPEN:
        case BLK_ZONE_COND_CLOSED:
        case BLK_ZONE_COND_READONLY:
        case BLK_ZONE_COND_FULL:
        case BLK_ZONE_COND_OFFLINE:
            return static_cast<ZoneState>(condition);
        default:
            return std::nullopt;
    }
}

std::optional<ImageZone> image_zone(const blk_zone& zone, bool has_capacity) {
    const auto type = zone_type(zone.type);
    const auto state = zone_state(zone.cond);
    if (!type || !state) {
        return std::nullopt;
    }
    return ImageZone{.start_bytes = zone.start * kSector,
                     .length_bytes = zone.len * kSector,
                     .capacity_bytes = (has_capacity ? zone.capacity : zone.len) * kSector,
                     .write_pointer_bytes = zone.wp * kSector,
                     .type = *type,
                     .state = *state};
}

class DeviceZoneHost final : public ZoneHost {
  public:
    explicit DeviceZoneHost(UniqueFd device) : device_(std::move(device)) {}

    int32_t report(uint64_t offset_bytes, std::span<ImageZone> out) override {
        const size_t wanted = std::min(out.size(), kZonesPerCallMax);
        ReportHead head{.sector = offset_bytes / kSector,
                        .zone_count = static_cast<uint32_t>(wanted)};
        std::vector<std::byte> answer(sizeof head + wanted * sizeof(blk_zone));
        std::memcpy(answer.data(), &head, sizeof head);
        if (::ioctl(device_.get(), BLKREPORTZONE, answer.data()) != 0) {
            return -errno;
        }
        std::memcpy(&head, answer.data(), sizeof head);
        const size_t count = std::min<size_t>(head.zone_count, wanted);
        for (size_t i = 0; i < count; ++i) {
            blk_zone zone;
            std::memcpy(&zone, answer.data() + sizeof head + i * sizeof zone, sizeof zone);
            const auto converted = image_zone(zone, (head.flags & BLK_ZONE_REP_CAPACITY) != 0);
            if (!converted) {
                return -EPROTO;
            }
            out[i] = *converted;
        }
        return static_cast<int32_t>(count);
    }

    int32_t manage(ZoneCommand command, uint64_t offset_bytes, uint64_t length_bytes) override {
        blk_zone_range range{};
        range.sector = offset_bytes / kSector;
        range.nr_sectors = length_bytes / kSector;
        switch (command) {
            case ZoneCommand::kOpen:
                return call(BLKOPENZONE, range);
            case ZoneCommand::kClose:
                return call(BLKCLOSEZONE, range);
            case ZoneCommand::kFinish:
                return call(BLKFINISHZONE, range);
            case ZoneCommand::kReset:
            case ZoneCommand::kResetAll:
                return call(BLKRESETZONE, range);
            case ZoneCommand::kReport:
            case ZoneCommand::kAppend:
                break;  // these change no zone's state
        }
        return -EINVAL;
    }

  private:
    int32_t call(unsigned long request, blk_zone_range& range) {
        return ::ioctl(device_.get(), request, &range) == 0 ? 0 : -errno;
    }

    const UniqueFd device_;
};

}  // namespace

std::unique_ptr<ZoneHost> zone_host_of(UniqueFd device) {
    return std::make_unique<DeviceZoneHost>(std::move(device));
}

}  // namespace outrigger::blk
