// SPDX-License-Identifier: Apache-2.0
/// The words for disks that are made of zones. The numbers of the enums are those of VIRTIO 1.3,
/// 5.2.3 and 5.2.6, which are Linux's, and those of the standards ZBC, ZAC and ZNS, too.
#pragma once

#include <cstdint>

namespace outrigger::blk {

enum class ZoneModel : uint8_t {
    kNone = 0,         ///< zones, if there are any, are the disk's own business
    kHostManaged = 1,  ///< sequential zones take writes only at their write pointers
    kHostAware = 2,    ///< sequential zones take writes anywhere, and like some better
};

/// How a disk is made of zones. All but `model` mean nothing when that is kNone.
struct ImageZoning {
    ZoneModel model = ZoneModel::kNone;
    uint64_t zone_bytes = 0;               ///< of each zone, but that the last one may be shorter
    uint32_t open_zones_max = 0;           ///< 0: no limit
    uint32_t active_zones_max = 0;         ///< open or closed; 0: no limit
    uint32_t append_bytes_max = 0;         ///< in one ZoneCommand::kAppend; 0: it is not known
    uint32_t write_granularity_bytes = 0;  ///< of writes to sequential zones
};

enum class ZoneType : uint8_t {
    kConventional = 1,
    kSequentialRequired = 2,   ///< of host-managed disks
    kSequentialPreferred = 3,  ///< of host-aware disks
};

enum class ZoneState : uint8_t {
    kNoWritePointer = 0,  ///< of conventional zones
    kEmpty = 1,
    kImplicitlyOpen = 2,
    kExplicitlyOpen = 3,
    kClosed = 4,
    kReadOnly = 13,
    kFull = 14,
    kOffline = 15,
};

/// Offsets are those of the disk. `write_pointer_bytes` means nothing in conventional, full,
/// read-only and offline zones.
struct ImageZone {
    uint64_t start_bytes = 0;
    uint64_t length_bytes = 0;
    uint64_t capacity_bytes = 0;  ///< that can be written, from the start on
    uint64_t write_pointer_bytes = 0;
    ZoneType type = ZoneType::kConventional;
    ZoneState state = ZoneState::kNoWritePointer;
};

/// What is asked of a disk with zones, beside reads and writes.
enum class ZoneCommand : uint8_t {
    kReport,  ///< tell of the zones from the one on that has the offset
    kAppend,  ///< write at the write pointer, and say where that was
    kOpen,    ///< these four: of the zone that begins at the offset
    kClose,
    kFinish,
    kReset,
    kResetAll,  ///< of every sequential zone
};

/// Why a disk with zones refuses what its host may well be able to do.
enum class ZoneFault : uint8_t {
    kNone,
    kInvalidCommand,  ///< not for this zone, or not in the state that it is in
    kUnalignedWrite,  ///< a write that is not at the write pointer
    kOpenResource,    ///< more zones would be open than may be
    kActiveResource,  ///< more zones would be active than may be
};

}  // namespace outrigger::blk
