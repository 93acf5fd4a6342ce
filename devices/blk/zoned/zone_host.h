// SPDX-License-Identifier: Apache-2.0
/// What a host's zoned block device is asked beside reads and writes. Narrow, so that tests can
/// play the host.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "vhost-user-backend/base/unique_fd.h"

#include "devices/blk/zones.h"

namespace outrigger::blk {

/// Any thread, also several at a time; every call may block.
class ZoneHost {
  public:
    ZoneHost() = default;
    ZoneHost(const ZoneHost&) = delete;
    ZoneHost& operator=(const ZoneHost&) = delete;
    virtual ~ZoneHost() = default;

    /// Fills `out` from the zone on that has `offset_bytes`, as far as there are zones. Returns how
    /// many, or -errno.
    [[nodiscard]] virtual int32_t report(uint64_t offset_bytes, std::span<ImageZone> out) = 0;

    /// Open, close, finish or reset the zones of the range, which for reset may be the whole
    /// device. 0 or -errno: ETOOMANYREFS for too many open zones, EOVERFLOW for too many active
    /// ones.
    [[nodiscard]] virtual int32_t manage(ZoneCommand command,
                                         uint64_t offset_bytes,
                                         uint64_t length_bytes) = 0;
};

/// Of an open device. In the portable build every call fails.
[[nodiscard]] std::unique_ptr<ZoneHost> zone_host_of(UniqueFd device);

}  // namespace outrigger::blk
