// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/qcow2_map.h"

#include <algorithm>

#include "vhost-user-backend/base/checked_math.h"

#include "devices/blk/qcow2/big_endian.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kCopied = uint64_t{1} << 63;  // about writing only
constexpr uint64_t kCompressed = uint64_t{1} << 62;
constexpr uint64_t kReadsAsZero = 1;
constexpr uint64_t kOffsetMask = 0x00ff'ffff'ffff'fe00;  // bits 9 to 55
constexpr uint64_t kSectorBytes = 512;

/// A compressed cluster as a whole.
Qcow2Run compressed_cluster(const Qcow2Geometry& geometry, uint64_t entry) {
    // The offset has this many bits; the number of further sectors has the rest, up to bit 61.
    const uint32_t offset_bits = 62 - (geometry.cluster_bits - 8);
    const uint64_t descriptor = entry & (kCompressed - 1);
    const uint64_t offset = descriptor & ((uint64_t{1} << offset_bits) - 1);
    const uint64_t sectors = (descriptor >> offset_bits) + 1;
    if ((entry & kCopied) != 0 || offset >> 56 != 0 || offset == 0 ||
        offset >= geometry.file_bytes) {
        return {};
    }
    const uint64_t bytes = sectors * kSectorBytes - offset % kSectorBytes;
    return {.kind = Qcow2RunKind::kCompressed,
            .length_bytes = geometry.cluster_bytes(),
            .host_offset = offset,
            // The last sector need not be whole at the file's end.
            .host_bytes = std::min(bytes, geometry.file_bytes - offset)};
}

/// Checks a standard entry, all but bit 0.
bool standard_entry_is_sound(const Qcow2Geometry& geometry, uint64_t entry) {
    const uint64_t offset = entry & kOffsetMask;
    return (entry & ~(kOffsetMask | kCopied | kReadsAsZero)) == 0 &&
           offset % geometry.cluster_bytes() == 0 && (offset != 0 || (entry & kCopied) == 0);
}

/// A data cluster must begin inside the file; its end may be missing where nothing was written.
Qcow2RunKind data_kind(const Qcow2Geometry& geometry, uint64_t cluster_offset) {
    return cluster_offset != 0 && cluster_offset < geometry.file_bytes ? Qcow2RunKind::kData
                                                                       : Qcow2RunKind::kDamaged;
}

/// What stands at `offset_bytes`, to the end of its cluster.
Qcow2Run rest_of_cluster_at(const Qcow2Geometry& geometry,
                            std::span<const std::byte> slice,
                            uint64_t offset_bytes) {
    const size_t at =
        static_cast<size_t>(offset_bytes >> geometry.cluster_bits) * Qcow2Geometry::kEntryBytes;
    const auto entry = load_big_endian<uint64_t>(slice, at);
    const uint64_t in_cluster = offset_bytes & (geometry.cluster_bytes() - 1);
    Qcow2Run run;
    if ((entry & kCompressed) != 0) {
        run = compressed_cluster(geometry, entry);
    } else if (standard_entry_is_sound(geometry, entry)) {
        const uint64_t offset = entry & kOffsetMask;
        run.host_offset = offset + in_cluster;
        if ((entry & kReadsAsZero) != 0) {
            run.kind = geometry.version >= 3 ? Qcow2RunKind::kZero : Qcow2RunKind::kDamaged;
        } else {
            run.kind = offset == 0 ? Qcow2RunKind::kUnallocated : data_kind(geometry, offset);
        }
    }
    run.length_bytes = geometry.cluster_bytes() - in_cluster;
    return run;
}

bool goes_on(const Qcow2Run& run, const Qcow2Run& next) {
    switch (run.kind) {
        case Qcow2RunKind::kUnallocated:
        case Qcow2RunKind::kZero:
            return next.kind == run.kind;
        case Qcow2RunKind::kData:
            return next.kind == run.kind && next.host_offset == run.host_offset + run.length_bytes;
        case Qcow2RunKind::kCompressed:
        case Qcow2RunKind::kDamaged:
            return false;
    }
    return false;
}

}  // namespace

std::optional<uint64_t> qcow2_l2_table(const Qcow2Geometry& geometry, uint64_t entry) {
    const uint64_t offset = entry & kOffsetMask;
    if ((entry & ~(kOffsetMask | kCopied)) != 0 || offset % geometry.cluster_bytes() != 0) {
        return std::nullopt;
    }
    if (offset != 0 && !range_fits(offset, geometry.cluster_bytes(), geometry.file_bytes)) {
        return std::nullopt;
    }
    return offset;
}

Qcow2Run map_qcow2_run(const Qcow2Geometry& geometry,
                       std::span<const std::byte> slice,
                       uint64_t offset_bytes,
                       uint64_t length_max) {
    Qcow2Run run = rest_of_cluster_at(geometry, slice, offset_bytes);
    const uint64_t most = std::min(length_max, geometry.slice_span_bytes() - offset_bytes);
    // Each turn takes an entry of the slice.
    while (run.length_bytes < most) {
        const Qcow2Run next = rest_of_cluster_at(geometry, slice, offset_bytes + run.length_bytes);
        if (!goes_on(run, next)) {
            break;
        }
        run.length_bytes += next.length_bytes;
    }
    run.length_bytes = std::min(run.length_bytes, most);
    return run;
}

}  // namespace outrigger::blk
