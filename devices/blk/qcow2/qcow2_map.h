// SPDX-License-Identifier: Apache-2.0
/// Where the bytes of a qcow2 disk stand in its file: what L1 and L2 entries say, checked. Pure: no
/// I/O. QEMU's docs/interop/qcow2.txt, "Cluster mapping".
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace outrigger::blk {

/// Sizes that follow from the header. L2 tables are read in slices, so that a cluster of 2 MiB does
/// not make every miss a read of 2 MiB.
struct Qcow2Geometry {
    static constexpr uint32_t kSliceBytesMax = 4096;
    static constexpr uint32_t kEntryBytes = 8;

    uint32_t version = 3;
    uint32_t cluster_bits = 16;
    uint64_t file_bytes = 0;  ///< of the file, when it was opened

    [[nodiscard]] uint64_t cluster_bytes() const { return uint64_t{1} << cluster_bits; }

    [[nodiscard]] uint32_t slice_bytes() const {
        return static_cast<uint32_t>(std::min<uint64_t>(cluster_bytes(), kSliceBytesMax));
    }

    /// Bytes of the disk that a slice, or a whole L2 table, maps.
    [[nodiscard]] uint64_t slice_span_bytes() const {
        return uint64_t{slice_bytes()} / kEntryBytes << cluster_bits;
    }

    [[nodiscard]] uint64_t l2_span_bytes() const {
        return cluster_bytes() / kEntryBytes << cluster_bits;
    }
};

enum class Qcow2RunKind : uint8_t {
    kUnallocated,  ///< what the backing file has, or zeroes
    kZero,
    kData,        ///< as it is, from `host_offset` on
    kCompressed,  ///< one cluster, or a part of one, in `host_bytes` at `host_offset`
    kDamaged,     ///< the entry cannot be right
};

struct Qcow2Run {
    Qcow2RunKind kind = Qcow2RunKind::kDamaged;
    uint64_t length_bytes = 0;  ///< of the disk; more than 0
    uint64_t host_offset = 0;
    uint64_t host_bytes = 0;  ///< kCompressed: at most two clusters, inside the file, more than 0
};

/// Where an L1 entry says that its L2 table is, inside the file; 0: not allocated. Nothing: the
/// entry cannot be right.
[[nodiscard]] std::optional<uint64_t> qcow2_l2_table(const Qcow2Geometry& geometry, uint64_t entry);

/// What stands at `offset_bytes` (< slice_span_bytes()) of the part of the disk that `slice` maps,
/// as far as it goes on the same way there, and not beyond `length_max` (> 0).
[[nodiscard]] Qcow2Run map_qcow2_run(const Qcow2Geometry& geometry,
                                     std::span<const std::byte> slice,
                                     uint64_t offset_bytes,
                                     uint64_t length_max);

}  // namespace outrigger::blk
