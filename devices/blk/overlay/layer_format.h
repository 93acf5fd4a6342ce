// SPDX-License-Identifier: Apache-2.0
/// The layer file of an overlay as bytes: header, pages of the bitmap, and where they lie. Pure:
/// nothing here reads or writes a file. docs/overlay-format.md is the description for people.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "vhost-user-backend/base/result.h"

namespace outrigger::blk {

/// Header and pages are blocks of this size, each with a checksum of its own.
inline constexpr size_t kLayerBlockBytes = 4096;
using LayerBlock = std::array<std::byte, kLayerBlockBytes>;

inline constexpr uint32_t kClusterBytesMin = 4096;
inline constexpr uint32_t kClusterBytesMax = 256 << 10;
inline constexpr uint32_t kClusterBytesDefault = 65536;
/// Bounds the memory that a layer's bitmap takes: 64 TiB with clusters of the default size.
inline constexpr uint64_t kLayerClustersMax = uint64_t{1} << 30;
inline constexpr size_t kBasePathBytesMax = 2048;
inline constexpr size_t kBaseKindBytesMax = 15;

/// Clusters of one word of the bitmap, and words of one of its pages.
inline constexpr uint64_t kClustersPerWord = 64;
inline constexpr size_t kWordsPerPage = 508;
inline constexpr uint64_t kClustersPerPage = kClustersPerWord * kWordsPerPage;

/// By what a changed base is noticed.
struct BaseIdentity {
    std::string kind{};  ///< "raw", "qcow2", ...; at most kBaseKindBytesMax
    std::string path{};  ///< as given; shown to people, never compared; at most kBasePathBytesMax
    uint64_t size_bytes = 0;
    /// Last modification in nanoseconds since 1970, of regular files.
    std::optional<int64_t> modified_ns{};
};

struct LayerHeader {
    uint64_t generation = 0;  ///< the copy with the larger one counts
    uint64_t layer_id = 0;    ///< random; every page repeats it
    uint32_t cluster_bytes = kClusterBytesDefault;
    uint64_t disk_bytes = 0;
    bool in_use = false;      ///< opened for writing, and not closed since
    bool committing = false;  ///< a commit to the base began and has not ended
    BaseIdentity base{};
};

/// Where things lie in the file. Everything follows from disk and cluster size.
struct LayerGeometry {
    uint64_t cluster_count = 0;
    uint64_t page_count = 0;
    uint64_t data_offset = 0;  ///< where byte 0 of the disk lies
    uint64_t file_bytes = 0;

    [[nodiscard]] static uint64_t header_offset(size_t copy) { return copy * 65536; }

    [[nodiscard]] uint64_t page_offset(uint64_t page, size_t copy) const {
        return 2 * 65536 + (copy * page_count + page) * kLayerBlockBytes;
    }

    /// The bits of that word that stand for clusters of the disk.
    [[nodiscard]] uint64_t valid_bits(uint64_t word) const;
};

/// Nothing when the sizes are out of bounds.
[[nodiscard]] std::optional<LayerGeometry> layer_geometry(uint64_t disk_bytes,
                                                          uint32_t cluster_bytes);

enum class LayerFault : uint8_t {
    kMagic,     ///< not a block of this kind at all
    kVersion,   ///< of a version that this program does not know
    kChecksum,  ///< torn or damaged
    kField,     ///< a value that no program of ours writes
};

[[nodiscard]] std::string_view describe(LayerFault fault);

[[nodiscard]] LayerBlock encode_header(const LayerHeader& header);
[[nodiscard]] Result<LayerHeader, LayerFault> decode_header(
    std::span<const std::byte, kLayerBlockBytes> block);

/// One page of the bitmap: bit c of word w stands for cluster (page * kWordsPerPage + w) * 64 + c.
struct LayerPage {
    uint64_t sequence = 0;  ///< the copy with the larger one counts
    uint64_t layer_id = 0;
    uint64_t index = 0;
    std::array<uint64_t, kWordsPerPage> words{};
};

[[nodiscard]] LayerBlock encode_page(const LayerPage& page);
[[nodiscard]] Result<LayerPage, LayerFault> decode_page(
    std::span<const std::byte, kLayerBlockBytes> block);

}  // namespace outrigger::blk
