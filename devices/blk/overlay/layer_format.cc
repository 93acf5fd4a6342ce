// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/layer_format.h"

#include <algorithm>
#include <cstring>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/crc32c.h"
#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/little_endian.h"

namespace outrigger::blk {
namespace {

constexpr std::array<char, 8> kHeaderMagic = {'O', 'U', 'T', 'R', 'O', 'V', 'L', 'Y'};
constexpr std::array<char, 8> kPageMagic = {'O', 'U', 'T', 'R', 'P', 'A', 'G', 'E'};
constexpr uint32_t kVersion = 1;

constexpr uint32_t kStateInUse = 1;
constexpr uint32_t kStateCommitting = 2;
constexpr uint32_t kBaseHasTime = 1;

/// Data begins at a multiple of this: of every block and stripe that matters.
constexpr uint64_t kDataAlignment = uint64_t{1} << 20;

/// The checksum covers the block behind it.
struct HeaderBlock {
    std::array<char, 8> magic{};
    Le32 version;
    Le32 checksum;
    Le64 generation;
    Le64 layer_id;
    Le64 disk_bytes;
    Le32 cluster_bytes;
    Le32 state;
    Le64 base_bytes;
    Le64 base_modified_ns;
    Le32 base_flags;
    Le32 base_path_bytes;
    std::array<char, kBaseKindBytesMax + 1> base_kind{};  // ends with NULs
    std::array<char, kBasePathBytesMax> base_path{};      // not terminated
    std::array<char, 1960> reserved{};                    // zeroes
};

static_assert(sizeof(HeaderBlock) == kLayerBlockBytes);
constexpr size_t kHeaderChecked = offsetof(HeaderBlock, generation);

struct PageBlock {
    std::array<char, 8> magic{};
    Le32 checksum;
    Le32 index;
    Le64 sequence;
    Le64 layer_id;
    std::array<Le64, kWordsPerPage> words{};
};

static_assert(sizeof(PageBlock) == kLayerBlockBytes);
constexpr size_t kPageChecked = offsetof(PageBlock, index);
static_assert(kLayerClustersMax / kClustersPerPage < UINT32_MAX);

template <class Block>
uint32_t checksum_of(const Block& block, size_t from) {
    return crc32c(std::as_bytes(std::span(&block, 1)).subspan(from));
}

template <class Block>
LayerBlock as_block(const Block& block) {
    LayerBlock bytes;
    std::memcpy(bytes.data(), &block, sizeof block);
    return bytes;
}

bool all_zero(std::span<const char> text) {
    return std::ranges::all_of(text, [](char letter) { return letter == 0; });
}

bool texts_are_whole(const HeaderBlock& block) {
    const size_t path_bytes = block.base_path_bytes.value();
    const auto kind_end = std::ranges::find(block.base_kind, '\0');
    return path_bytes <= kBasePathBytesMax && kind_end != block.base_kind.end() &&
           all_zero({kind_end, block.base_kind.end()}) &&
           std::find(block.base_path.begin(), block.base_path.begin() + path_bytes, '\0') ==
               block.base_path.begin() + path_bytes &&
           all_zero(std::span(block.base_path).subspan(path_bytes)) && all_zero(block.reserved);
}

}  // namespace

uint64_t LayerGeometry::valid_bits(uint64_t word) const {
    const uint64_t first = word * kClustersPerWord;
    if (first >= cluster_count) {
        return 0;
    }
    const uint64_t left = cluster_count - first;
    return left >= kClustersPerWord ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
}

std::optional<LayerGeometry> layer_geometry(uint64_t disk_bytes, uint32_t cluster_bytes) {
    if (!is_power_of_two(cluster_bytes) || cluster_bytes < kClusterBytesMin ||
        cluster_bytes > kClusterBytesMax || disk_bytes == 0 || disk_bytes % 512 != 0 ||
        disk_bytes > kLayerClustersMax * cluster_bytes) {
        return std::nullopt;
    }
    LayerGeometry geometry;
    geometry.cluster_count = (disk_bytes + cluster_bytes - 1) / cluster_bytes;
    geometry.page_count = (geometry.cluster_count + kClustersPerPage - 1) / kClustersPerPage;
    const uint64_t metadata_end = geometry.page_offset(0, 2);
    geometry.data_offset = align_down(metadata_end + kDataAlignment - 1, kDataAlignment);
    geometry.file_bytes = geometry.data_offset + geometry.cluster_count * cluster_bytes;
    return geometry;
}

std::string_view describe(LayerFault fault) {
    switch (fault) {
        case LayerFault::kMagic:
            return "it does not begin like one";
        case LayerFault::kVersion:
            return "it is of a version that this program does not know";
        case LayerFault::kChecksum:
            return "its checksum is wrong";
        case LayerFault::kField:
            return "a field holds an impossible value";
    }
    return "";
}

LayerBlock encode_header(const LayerHeader& header) {
    OUTRIGGER_ASSERT(header.base.kind.size() <= kBaseKindBytesMax &&
                     header.base.path.size() <= kBasePathBytesMax);
    HeaderBlock block;
    block.magic = kHeaderMagic;
    block.version = kVersion;
    block.generation = header.generation;
    block.layer_id = header.layer_id;
    block.disk_bytes = header.disk_bytes;
    block.cluster_bytes = header.cluster_bytes;
    block.state = (header.in_use ? kStateInUse : 0) | (header.committing ? kStateCommitting : 0);
    block.base_bytes = header.base.size_bytes;
    block.base_modified_ns = static_cast<uint64_t>(header.base.modified_ns.value_or(0));
    block.base_flags = header.base.modified_ns ? kBaseHasTime : 0;
    block.base_path_bytes = static_cast<uint32_t>(header.base.path.size());
    std::ranges::copy(header.base.kind, block.base_kind.begin());
    std::ranges::copy(header.base.path, block.base_path.begin());
    block.checksum = checksum_of(block, kHeaderChecked);
    return as_block(block);
}

Result<LayerHeader, LayerFault> decode_header(std::span<const std::byte, kLayerBlockBytes> bytes) {
    HeaderBlock block;
    std::memcpy(static_cast<void*>(&block), bytes.data(), sizeof block);
    if (block.magic != kHeaderMagic) {
        return failure(LayerFault::kMagic);
    }
    if (block.version != kVersion) {
        return failure(LayerFault::kVersion);
    }
    if (block.checksum != checksum_of(block, kHeaderChecked)) {
        return failure(LayerFault::kChecksum);
    }
    LayerHeader header;
    header.generation = block.generation;
    header.layer_id = block.layer_id;
    header.disk_bytes = block.disk_bytes;
    header.cluster_bytes = block.cluster_bytes;
    const uint32_t state = block.state;
    const uint32_t flags = block.base_flags;
    if (!texts_are_whole(block) || (state & ~(kStateInUse | kStateCommitting)) != 0 ||
        (flags & ~kBaseHasTime) != 0 || !layer_geometry(header.disk_bytes, header.cluster_bytes)) {
        return failure(LayerFault::kField);
    }
    header.in_use = (state & kStateInUse) != 0;
    header.committing = (state & kStateCommitting) != 0;
    header.base.kind = block.base_kind.data();
    header.base.path.assign(block.base_path.data(), block.base_path_bytes.value());
    header.base.size_bytes = block.base_bytes;
    if ((flags & kBaseHasTime) != 0) {
        header.base.modified_ns = static_cast<int64_t>(block.base_modified_ns.value());
    }
    return header;
}

LayerBlock encode_page(const LayerPage& page) {
    PageBlock block;
    block.magic = kPageMagic;
    block.index = static_cast<uint32_t>(page.index);
    block.sequence = page.sequence;
    block.layer_id = page.layer_id;
    std::ranges::copy(page.words, block.words.begin());
    block.checksum = checksum_of(block, kPageChecked);
    return as_block(block);
}

Result<LayerPage, LayerFault> decode_page(std::span<const std::byte, kLayerBlockBytes> bytes) {
    PageBlock block;
    std::memcpy(static_cast<void*>(&block), bytes.data(), sizeof block);
    if (block.magic != kPageMagic) {
        return failure(LayerFault::kMagic);
    }
    if (block.checksum != checksum_of(block, kPageChecked)) {
        return failure(LayerFault::kChecksum);
    }
    LayerPage page{.sequence = block.sequence, .layer_id = block.layer_id, .index = block.index};
    std::ranges::copy(block.words, page.words.begin());
    return page;
}

}  // namespace outrigger::blk
