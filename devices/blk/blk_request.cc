// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_request.h"

#include <optional>

#include <linux/virtio_blk.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/little_endian.h"

namespace outrigger::blk {
namespace {

/// VIRTIO 1.3, 5.2.6: the device-readable head of every request.
struct RequestHeader {
    Le32 type;
    Le32 reserved;
    Le64 sector;
};

static_assert(sizeof(RequestHeader) == 16);

/// VIRTIO 1.3, 5.2.6: struct virtio_blk_discard_write_zeroes.
struct RangeSegment {
    Le64 sector;
    Le32 sector_count;
    Le32 flags;
};

static_assert(sizeof(RangeSegment) == 16);

using Refused = std::optional<BlkRefusal>;

/// Shift instead of divide: sectors are checked as sectors, so that nothing can wrap.
Refused check_extent(uint64_t sector, uint64_t length_bytes, const BlkGeometry& geometry) {
    if (length_bytes % geometry.block_bytes != 0 ||
        sector % (geometry.block_bytes / kSectorBytes) != 0) {
        return BlkRefusal::kUnaligned;
    }
    if (!range_fits(sector, length_bytes / kSectorBytes, geometry.capacity_sectors)) {
        return BlkRefusal::kBeyondEnd;
    }
    return std::nullopt;
}

struct RangeLimits {
    uint32_t sectors_max;
    uint32_t segments_max;
    uint32_t flags_known;
};

RangeLimits discard_limits(const BlkGeometry& geometry) {
    return {.sectors_max = geometry.discard_sectors_max,
            .segments_max = geometry.discard_segments_max,
            .flags_known = 0};
}

RangeLimits zeroing_limits(const BlkGeometry& geometry) {
    return {.sectors_max = geometry.write_zeroes_sectors_max,
            .segments_max = geometry.write_zeroes_segments_max,
            .flags_known = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP};
}

RangeLimits erase_limits(const BlkGeometry& geometry) {
    return {.sectors_max = geometry.secure_erase_sectors_max,
            .segments_max = geometry.secure_erase_segments_max,
            .flags_known = 0};
}

/// One segment from guest memory, checked, into `range`.
Refused parse_range(const RangeSegment& segment,
                    const RangeLimits& limits,
                    const BlkGeometry& geometry,
                    ImageRange& range) {
    const uint64_t sector = segment.sector;
    const uint32_t sector_count = segment.sector_count;
    const uint32_t flags = segment.flags;
    if ((flags & ~limits.flags_known) != 0) {
        return BlkRefusal::kReservedFlags;
    }
    if (sector_count > limits.sectors_max) {
        return BlkRefusal::kSegmentTooLong;
    }
    const uint64_t length_bytes = uint64_t{sector_count} * kSectorBytes;
    if (const Refused refused = check_extent(sector, length_bytes, geometry)) {
        return refused;
    }
    range.offset_bytes = sector * kSectorBytes;
    range.length_bytes = length_bytes;
    range.unmap = geometry.unmap_zeroes && (flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0;
    return std::nullopt;
}

Refused parse_ranges(ChainReader& reader,
                     const RangeLimits& limits,
                     const BlkGeometry& geometry,
                     std::span<ImageRange, kBlkRangesMax> storage,
                     BlkRequest& request) {
    if (geometry.read_only) {
        return BlkRefusal::kReadOnly;
    }
    const uint64_t bytes = reader.remaining();
    if (bytes == 0 || bytes % sizeof(RangeSegment) != 0) {
        return BlkRefusal::kSegmentList;
    }
    const uint64_t count = bytes / sizeof(RangeSegment);
    if (count > limits.segments_max || count > storage.size()) {
        return BlkRefusal::kSegmentCount;
    }
    for (size_t i = 0; i < count; ++i) {
        const auto segment = reader.read_object<RangeSegment>();
        OUTRIGGER_ASSERT(segment.has_value());  // the count came from the same reader
        if (const Refused refused = parse_range(*segment, limits, geometry, storage[i])) {
            return refused;
        }
        request.length_bytes += storage[i].length_bytes;
    }
    request.ranges = std::span<const ImageRange>(storage).first(count);
    return std::nullopt;
}

Refused parse_transfer(uint64_t sector,
                       uint64_t length_bytes,
                       const BlkGeometry& geometry,
                       BlkRequest& request) {
    if (const Refused refused = check_extent(sector, length_bytes, geometry)) {
        return refused;
    }
    request.offset_bytes = sector * kSectorBytes;
    request.length_bytes = length_bytes;
    return std::nullopt;
}

std::optional<ZoneCommand> zone_command(uint32_t type) {
    switch (type) {
        case kZoneAppendType:
            return ZoneCommand::kAppend;
        case kZoneReportType:
            return ZoneCommand::kReport;
        case kZoneOpenType:
            return ZoneCommand::kOpen;
        case kZoneCloseType:
            return ZoneCommand::kClose;
        case kZoneFinishType:
            return ZoneCommand::kFinish;
        case kZoneResetType:
            return ZoneCommand::kReset;
        case kZoneResetAllType:
            return ZoneCommand::kResetAll;
        default:
            return std::nullopt;
    }
}

/// What is asked of zones. VIRTIO 1.3, 5.2.6: UNSUPP unless the feature was negotiated.
Refused parse_zone_request(ZoneCommand command,
                           uint64_t sector,
                           ChainReader& reader,
                           ChainWriter& writer,
                           const BlkGeometry& geometry,
                           BlkRequest& request) {
    const bool append = command == ZoneCommand::kAppend;
    if (!geometry.zoned || (append && geometry.append_sectors_max == 0)) {
        return BlkRefusal::kUnknownType;
    }
    request.zone_command = command;
    request.command = append                            ? BlkCommand::kZoneAppend
                      : command == ZoneCommand::kReport ? BlkCommand::kZoneReport
                                                        : BlkCommand::kZoneChange;
    if (command != ZoneCommand::kReport && geometry.read_only) {
        return BlkRefusal::kReadOnly;
    }
    if (command != ZoneCommand::kResetAll) {
        if (sector >= geometry.capacity_sectors) {
            return BlkRefusal::kZoneCommand;
        }
        request.offset_bytes = sector * kSectorBytes;
    }
    if (command == ZoneCommand::kReport) {
        request.length_bytes = writer.remaining();
        request.data = writer.take_iovecs();
        return request.length_bytes < kZoneReportHeadBytes ? Refused(BlkRefusal::kZoneCommand)
                                                           : std::nullopt;
    }
    if (append) {
        request.length_bytes = reader.remaining();
        if (request.length_bytes % geometry.block_bytes != 0) {
            return BlkRefusal::kUnaligned;
        }
        if (request.length_bytes > uint64_t{geometry.append_sectors_max} * kSectorBytes) {
            return BlkRefusal::kZoneCommand;
        }
        // Exactly: the layout would be ambiguous with more.
        if (writer.remaining() != kAppendSectorBytes) {
            return BlkRefusal::kAnswerRoom;
        }
        request.data = reader.take_iovecs();
        request.append_sector = writer.take_iovecs();
    }
    return std::nullopt;
}

/// Everything behind the header.
Refused parse_body(const RequestHeader& header,
                   ChainReader& reader,
                   ChainWriter& writer,
                   const BlkGeometry& geometry,
                   std::span<ImageRange, kBlkRangesMax> storage,
                   BlkRequest& request) {
    switch (header.type.value()) {
        case VIRTIO_BLK_T_IN:
            request.command = BlkCommand::kRead;
            if (const Refused refused =
                    parse_transfer(header.sector, writer.remaining(), geometry, request)) {
                return refused;
            }
            request.data = writer.take_iovecs();
            return std::nullopt;
        case VIRTIO_BLK_T_OUT:
            request.command = BlkCommand::kWrite;
            if (geometry.read_only) {
                return BlkRefusal::kReadOnly;
            }
            if (geometry.writes_need_zones && !geometry.zoned) {
                return BlkRefusal::kZonesUnknown;
            }
            if (const Refused refused =
                    parse_transfer(header.sector, reader.remaining(), geometry, request)) {
                return refused;
            }
            request.data = reader.take_iovecs();
            return std::nullopt;
        case VIRTIO_BLK_T_FLUSH:
            request.command = BlkCommand::kFlush;
            return std::nullopt;
        case VIRTIO_BLK_T_GET_ID:
            request.command = BlkCommand::kGetId;
            request.data = writer.take_iovecs();
            return std::nullopt;
        case kGetLifetimeType:
            if (!geometry.lifetime) {
                return BlkRefusal::kUnknownType;
            }
            request.command = BlkCommand::kGetLifetime;
            if (writer.remaining() < kLifetimeBytes) {
                return BlkRefusal::kAnswerRoom;
            }
            request.data = writer.take_iovecs();
            return std::nullopt;
        case VIRTIO_BLK_T_DISCARD:
            if (!geometry.discard && !geometry.read_only) {
                return BlkRefusal::kUnknownType;
            }
            request.command = BlkCommand::kDiscard;
            return parse_ranges(reader, discard_limits(geometry), geometry, storage, request);
        case VIRTIO_BLK_T_WRITE_ZEROES:
            if (geometry.write_zeroes_segments_max == 0 && !geometry.read_only) {
                return BlkRefusal::kUnknownType;
            }
            request.command = BlkCommand::kWriteZeroes;
            return parse_ranges(reader, zeroing_limits(geometry), geometry, storage, request);
        case VIRTIO_BLK_T_SECURE_ERASE:
            if (!geometry.secure_erase) {
                return BlkRefusal::kUnknownType;
            }
            request.command = BlkCommand::kSecureErase;
            return parse_ranges(reader, erase_limits(geometry), geometry, storage, request);
        default:
            if (const std::optional<ZoneCommand> command = zone_command(header.type)) {
                return parse_zone_request(
                    *command, header.sector, reader, writer, geometry, request);
            }
            return BlkRefusal::kUnknownType;
    }
}

}  // namespace

std::expected<BlkRequest, RefusedBlkRequest> parse_request(
    ChainReader& reader,
    ChainWriter& writer,
    const BlkGeometry& geometry,
    std::span<ImageRange, kBlkRangesMax> range_storage) {
    // The status is the last writable byte, not a descriptor of its own (VIRTIO 1.3, 2.7.4.1:
    // no assumption about framing).
    const std::optional<GuestBuffer> status = writer.take_last_byte();
    if (!status) {
        return std::unexpected(RefusedBlkRequest{.reason = BlkRefusal::kNoStatus, .status = {}});
    }
    const auto header = reader.read_object<RequestHeader>();
    if (!header) {
        return std::unexpected(
            RefusedBlkRequest{.reason = BlkRefusal::kHeaderShort, .status = *status});
    }
    // Built in place: the result is as large as a cache line.
    std::expected<BlkRequest, RefusedBlkRequest> request;
    request->status = *status;
    if (const Refused refused =
            parse_body(*header, reader, writer, geometry, range_storage, *request)) {
        request = std::unexpected(RefusedBlkRequest{.reason = *refused, .status = *status});
    }
    return request;
}

uint8_t status_of(BlkRefusal refusal) {
    switch (refusal) {
        case BlkRefusal::kUnknownType:
        case BlkRefusal::kReservedFlags:
            return VIRTIO_BLK_S_UNSUPP;
        case BlkRefusal::kZoneCommand:
            return kStatusZoneInvalidCommand;
        case BlkRefusal::kNoStatus:
        case BlkRefusal::kHeaderShort:
        case BlkRefusal::kReadOnly:
        case BlkRefusal::kUnaligned:
        case BlkRefusal::kBeyondEnd:
        case BlkRefusal::kSegmentList:
        case BlkRefusal::kSegmentCount:
        case BlkRefusal::kSegmentTooLong:
        case BlkRefusal::kAnswerRoom:
        case BlkRefusal::kZonesUnknown:
            return VIRTIO_BLK_S_IOERR;
    }
    return VIRTIO_BLK_S_IOERR;
}

std::string_view describe(BlkRefusal refusal) {
    switch (refusal) {
        case BlkRefusal::kNoStatus:
            return "no byte for the status";
        case BlkRefusal::kHeaderShort:
            return "header shorter than 16 bytes";
        case BlkRefusal::kUnknownType:
            return "unknown request type";
        case BlkRefusal::kReservedFlags:
            return "reserved segment flags";
        case BlkRefusal::kReadOnly:
            return "change to a read-only disk";
        case BlkRefusal::kUnaligned:
            return "sector or length not a multiple of the block size";
        case BlkRefusal::kBeyondEnd:
            return "beyond the end of the disk";
        case BlkRefusal::kSegmentList:
            return "segment list empty or not a multiple of 16 bytes";
        case BlkRefusal::kSegmentCount:
            return "more segments than offered";
        case BlkRefusal::kSegmentTooLong:
            return "segment longer than offered";
        case BlkRefusal::kAnswerRoom:
            return "no room for the answer";
        case BlkRefusal::kZonesUnknown:
            return "a write to a disk of zones by a driver that knows of none";
        case BlkRefusal::kZoneCommand:
            return "not what can be asked of a zone";
    }
    return "unknown";
}

}  // namespace outrigger::blk
