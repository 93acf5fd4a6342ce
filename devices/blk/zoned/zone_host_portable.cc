// SPDX-License-Identifier: Apache-2.0
// In place of zone_host_linux.cc: no system but Linux has these calls, and no device passes for a
// zoned one.
#include <cerrno>

#include "devices/blk/zoned/zone_host.h"

namespace outrigger::blk {
namespace {

class NoZoneHost final : public ZoneHost {
  public:
    int32_t report(uint64_t /*offset_bytes*/, std::span<ImageZone> /*out*/) override {
        return -EOPNOTSUPP;
    }

    int32_t manage(ZoneCommand /*command*/,
                   uint64_t /*offset_bytes*/,
                   uint64_t /*length_bytes*/) override {
        return -EOPNOTSUPP;
    }
};

}  // namespace

std::unique_ptr<ZoneHost> zone_host_of(UniqueFd /*device*/) {
    return std::make_unique<NoZoneHost>();
}

}  // namespace outrigger::blk
