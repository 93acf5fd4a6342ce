// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/kept_bits.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace outrigger::blk {
namespace {

/// "OUTBITS" and the version of this layout.
constexpr uint64_t kMagic = 0x4f55'5442'4954'5301;

/// What the words behind it are of.
struct Head {
    uint64_t magic;
    uint64_t layer_id;
    uint64_t cluster_count;
    uint64_t cluster_bytes;
};

static_assert(sizeof(Head) % sizeof(uint64_t) == 0);

size_t word_count_of(const LayerGeometry& geometry) {
    return static_cast<size_t>(geometry.page_count) * kWordsPerPage;
}

}  // namespace

size_t KeptBits::bytes(const LayerGeometry& geometry) {
    return sizeof(Head) + word_count_of(geometry) * sizeof(uint64_t);
}

Result<KeptBits> KeptBits::open(int fd, const LayerHeader& header, const LayerGeometry& geometry) {
    KeptBits bits(OUTRIGGER_TRY(Mapping::map_file(fd, 0, bytes(geometry))),
                  word_count_of(geometry));
    const Head expected{.magic = kMagic,
                        .layer_id = header.layer_id,
                        .cluster_count = geometry.cluster_count,
                        .cluster_bytes = header.cluster_bytes};
    std::byte* const at = bits.mapping_.data();
    if (std::memcmp(at, &expected, sizeof expected) != 0) {
        // In this order, with nobody else there: who is killed in between leaves no head.
        std::memset(at, 0, sizeof expected);
        std::ranges::fill(bits.words(), 0);
        std::memcpy(at, &expected, sizeof expected);
    }
    return bits;
}

std::span<uint64_t> KeptBits::words() const {
    // SAFETY: the mapping is aligned to pages and has so many words behind the head; others that
    // map it are dead, or wait for our end.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    auto* const first = reinterpret_cast<uint64_t*>(mapping_.data() + sizeof(Head));
    return {first, word_count_};
}

}  // namespace outrigger::blk
