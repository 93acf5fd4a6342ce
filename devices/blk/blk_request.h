// SPDX-License-Identifier: Apache-2.0
/// Reads one block request out of a chain, whatever descriptors it came in: a complete, checked
/// value or the reason why not. Pure: no I/O, no device state. VIRTIO 1.3, 5.2.6.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <string_view>

#include <sys/uio.h>

#include "vhost-user-backend/guest/guest_buffer.h"
#include "vhost-user-backend/virtq/chain_reader.h"
#include "vhost-user-backend/virtq/chain_writer.h"

#include "devices/blk/image.h"

namespace outrigger::blk {

/// Sectors of the protocol are 512 bytes whatever the block size (VIRTIO 1.3, 5.2.4).
inline constexpr uint32_t kSectorBytes = 512;

/// The most segments that one discard or write-zeroes request may have.
inline constexpr size_t kBlkRangesMax = 16;

/// What requests are checked against.
struct BlkGeometry {
    uint64_t capacity_sectors = 0;
    uint32_t block_bytes = kSectorBytes;  ///< power of two; every access is a multiple of it
    bool read_only = false;
    bool discard = false;               ///< discard requests are known
    bool unmap_zeroes = false;          ///< the unmap flag of write-zeroes has an effect
    bool secure_erase = false;          ///< secure erase requests are known
    bool lifetime = false;              ///< lifetime requests are known
    bool zoned = false;                 ///< the driver knows of zones: it took VIRTIO_BLK_F_ZONED
    bool writes_need_zones = false;     ///< so writes are not for drivers that do not
    uint32_t append_sectors_max = 0;    ///< in one zone append
    uint32_t discard_sectors_max = 0;   ///< in one segment
    uint32_t discard_segments_max = 0;  ///< at most kBlkRangesMax
    uint32_t write_zeroes_sectors_max = 0;
    uint32_t write_zeroes_segments_max = 0;  ///< at most kBlkRangesMax
    uint32_t secure_erase_sectors_max = 0;
    uint32_t secure_erase_segments_max = 0;  ///< at most kBlkRangesMax
};

enum class BlkCommand : uint8_t {
    kRead,
    kWrite,
    kFlush,
    kGetId,
    kDiscard,
    kWriteZeroes,
    kSecureErase,
    kGetLifetime,
    kZoneReport,
    kZoneAppend,
    kZoneChange,  ///< open, close, finish, reset one, reset all
};
inline constexpr size_t kBlkCommandCount = 11;

/// VIRTIO 1.3, 5.2.6. Linux headers before 6.2 do not have it.
inline constexpr uint32_t kGetLifetimeType = 10;

/// The same, of zones; not in Linux headers before 6.3.
inline constexpr uint32_t kZoneAppendType = 15;
inline constexpr uint32_t kZoneReportType = 16;
inline constexpr uint32_t kZoneOpenType = 18;
inline constexpr uint32_t kZoneCloseType = 20;
inline constexpr uint32_t kZoneFinishType = 22;
inline constexpr uint32_t kZoneResetType = 24;
inline constexpr uint32_t kZoneResetAllType = 26;

/// Their status bytes.
inline constexpr uint8_t kStatusZoneInvalidCommand = 3;
inline constexpr uint8_t kStatusZoneUnalignedWrite = 4;
inline constexpr uint8_t kStatusZoneOpenResource = 5;
inline constexpr uint8_t kStatusZoneActiveResource = 6;

/// struct virtio_blk_lifetime: three 16-bit values.
inline constexpr size_t kLifetimeBytes = 6;

/// A zone append's answer: the sector, in front of the status.
inline constexpr size_t kAppendSectorBytes = 8;

/// struct virtio_blk_zone_report and struct virtio_blk_zone_descriptor.
inline constexpr size_t kZoneReportHeadBytes = 64;
inline constexpr size_t kZoneDescriptorBytes = 64;

/// What is wrong with a request.
enum class BlkRefusal : uint8_t {
    kNoStatus,        ///< no device-writable byte: there is no way to answer
    kHeaderShort,     ///< fewer than 16 device-readable bytes
    kUnknownType,     ///< a type that is not known or was not offered
    kReservedFlags,   ///< a reserved segment flag, or unmap in a discard or secure erase
    kReadOnly,        ///< anything that changes a read-only disk
    kUnaligned,       ///< sector or length is not a multiple of the block size
    kBeyondEnd,       ///< reaches beyond the capacity, or wraps
    kSegmentList,     ///< the data is empty or no multiple of 16 bytes
    kSegmentCount,    ///< more segments than offered
    kSegmentTooLong,  ///< a segment longer than offered
    kAnswerRoom,      ///< no room for the lifetime, or for the sector of a zone append
    kZonesUnknown,    ///< a write to a host-managed disk by a driver that knows of no zones
    kZoneCommand,     ///< beyond the last zone, an append that is too long, no room for a report
};
inline constexpr size_t kBlkRefusalCount = 13;

[[nodiscard]] std::string_view describe(BlkRefusal refusal);

/// The status byte that answers a refused request; kNoStatus has none. VIRTIO 1.3, 5.2.6.2: a
/// request that the device does not know is UNSUPP, what is wrong with zones ZONE_INVALID_CMD, and
/// everything else IOERR.
[[nodiscard]] uint8_t status_of(BlkRefusal refusal);

/// Valid as long as its chain and the range storage.
struct BlkRequest {
    BlkCommand command = BlkCommand::kRead;
    GuestBuffer status;  ///< one byte: the last device-writable one
    uint64_t offset_bytes = 0;
    uint64_t length_bytes = 0;           ///< of kRead, kWrite, kZoneAppend, kZoneReport: bytes of
                                         ///< `data`; of ranges: their sum
    std::span<const iovec> data;         ///< kWrite, kZoneAppend: to store; otherwise to fill
    std::span<const ImageRange> ranges;  ///< kDiscard, kWriteZeroes, kSecureErase
    ZoneCommand zone_command = ZoneCommand::kReport;  ///< of the three with zones
    std::span<const iovec> append_sector;             ///< kZoneAppend: to fill
};

struct RefusedBlkRequest {
    BlkRefusal reason = BlkRefusal::kNoStatus;
    GuestBuffer status;  ///< empty for kNoStatus
};

/// Header and segments are copied once, then checked; no byte of guest memory is written.
/// `range_storage` has room for kBlkRangesMax.
[[nodiscard]] std::expected<BlkRequest, RefusedBlkRequest> parse_request(
    ChainReader& reader,
    ChainWriter& writer,
    const BlkGeometry& geometry,
    std::span<ImageRange, kBlkRangesMax> range_storage);

}  // namespace outrigger::blk
