// SPDX-License-Identifier: Apache-2.0
// The bytes of a layer file: what is written is read again, and nothing else is believed.
#include "devices/blk/overlay/layer_format.h"

#include <cstddef>
#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/crc32c.h"

namespace outrigger::blk {
namespace {

LayerHeader some_header() {
    return {.generation = 7,
            .layer_id = 0x1122'3344'5566'7788,
            .cluster_bytes = 65536,
            .disk_bytes = uint64_t{10} << 30,
            .in_use = true,
            .committing = false,
            .base = {.kind = "raw",
                     .path = "images/golden.img",
                     .size_bytes = uint64_t{9} << 30,
                     .modified_ns = 1'700'000'000'123'456'789}};
}

/// The checksum of a header or a page that was changed by hand.
void fix_header(LayerBlock& block) {
    const uint32_t checksum = crc32c(std::span(block).subspan(16));
    std::memcpy(block.data() + 12, &checksum, sizeof checksum);
}

template <class T>
void poke(LayerBlock& block, size_t offset, T value) {
    std::memcpy(block.data() + offset, &value, sizeof value);
    fix_header(block);
}

TEST(Crc32c, KnowsTheCheckValueOfItsPolynomial) {
    EXPECT_EQ(crc32c(std::as_bytes(std::span("123456789", 9))), 0xe306'9283U);
}

TEST(Crc32c, PiecesGiveTheSameAsTheWhole) {
    const auto bytes = std::as_bytes(std::span("123456789", 9));
    EXPECT_EQ(crc32c(bytes.subspan(4), crc32c(bytes.first(4))), crc32c(bytes));
}

TEST(LayerHeaderFormat, IsReadAsItWasWritten) {
    const auto header = decode_header(encode_header(some_header()));
    ASSERT_TRUE(header);
    EXPECT_EQ(header->generation, 7U);
    EXPECT_EQ(header->layer_id, 0x1122'3344'5566'7788U);
    EXPECT_EQ(header->cluster_bytes, 65536U);
    EXPECT_EQ(header->disk_bytes, uint64_t{10} << 30);
    EXPECT_TRUE(header->in_use);
    EXPECT_FALSE(header->committing);
    EXPECT_EQ(header->base.kind, "raw");
    EXPECT_EQ(header->base.path, "images/golden.img");
    EXPECT_EQ(header->base.size_bytes, uint64_t{9} << 30);
    EXPECT_EQ(header->base.modified_ns, 1'700'000'000'123'456'789);
}

TEST(LayerHeaderFormat, BaseWithoutATimeHasNone) {
    LayerHeader header = some_header();
    header.base.modified_ns.reset();
    EXPECT_EQ(decode_header(encode_header(header))->base.modified_ns, std::nullopt);
}

TEST(LayerHeaderFormat, LongestPathFits) {
    LayerHeader header = some_header();
    header.base.path = std::string(kBasePathBytesMax, 'x');
    EXPECT_EQ(decode_header(encode_header(header))->base.path, header.base.path);
}

TEST(LayerHeaderFormat, AnyChangedByteIsNoticed) {
    const LayerBlock good = encode_header(some_header());
    for (size_t at = 0; at < good.size(); ++at) {
        LayerBlock block = good;
        block[at] ^= std::byte{0x10};
        EXPECT_FALSE(decode_header(block)) << at;
    }
}

TEST(LayerHeaderFormat, SaysWhatIsWrong) {
    LayerBlock block = encode_header(some_header());
    block[0] = std::byte{'X'};
    EXPECT_EQ(decode_header(block).error(), LayerFault::kMagic);
    block = encode_header(some_header());
    block[8] = std::byte{2};
    EXPECT_EQ(decode_header(block).error(), LayerFault::kVersion);
    block = encode_header(some_header());
    block[100] ^= std::byte{1};
    EXPECT_EQ(decode_header(block).error(), LayerFault::kChecksum);
}

TEST(LayerHeaderFormat, RefusesValuesThatNobodyWrites) {
    const struct {
        const char* what;
        size_t offset;
        uint32_t value;
    } cases[] = {{"a cluster that is no power of two", 40, 65535},
                 {"a cluster that is too small", 40, 2048},
                 {"a cluster that is too large", 40, 512 << 10},
                 {"an unknown state", 44, 4},
                 {"an unknown flag", 64, 2},
                 {"a path longer than its place", 68, 2049},
                 {"a path that ends before its length", 68, 30},
                 {"a path that goes on behind its length", 68, 3},
                 {"bytes in the reserved part", 3000, 1},
                 {"a disk of part of a sector", 32, 513},
                 {"a disk of more clusters than there may be", 36, 0x4000'0000}};

    for (const auto& wrong : cases) {
        LayerBlock block = encode_header(some_header());
        poke(block, wrong.offset, wrong.value);
        const auto header = decode_header(block);
        ASSERT_FALSE(header) << wrong.what;
        EXPECT_EQ(header.error(), LayerFault::kField) << wrong.what;
    }
}

TEST(LayerHeaderFormat, RefusesAKindWithoutAnEnd) {
    LayerBlock block = encode_header(some_header());
    std::memset(block.data() + 72, 'k', 16);
    fix_header(block);
    EXPECT_EQ(decode_header(block).error(), LayerFault::kField);
}

TEST(LayerPageFormat, IsReadAsItWasWritten) {
    LayerPage page{.sequence = 3, .layer_id = 5, .index = 1000};
    page.words[0] = 1;
    page.words[kWordsPerPage - 1] = ~uint64_t{0};
    const auto read = decode_page(encode_page(page));
    ASSERT_TRUE(read);
    EXPECT_EQ(read->sequence, 3U);
    EXPECT_EQ(read->layer_id, 5U);
    EXPECT_EQ(read->index, 1000U);
    EXPECT_EQ(read->words, page.words);
}

TEST(LayerPageFormat, AnyChangedByteIsNoticed) {
    const LayerBlock good = encode_page({.sequence = 3, .layer_id = 5, .index = 1});
    for (size_t at = 0; at < good.size(); ++at) {
        LayerBlock block = good;
        block[at] ^= std::byte{0x01};
        EXPECT_FALSE(decode_page(block)) << at;
    }
}

TEST(LayerGeometryTest, PlacesDoNotOverlapAndTheDataIsAligned) {
    const uint64_t disk = (kClustersPerPage + 1) * 4096;
    const auto geometry = layer_geometry(disk, 4096);
    ASSERT_TRUE(geometry);
    EXPECT_EQ(geometry->cluster_count, kClustersPerPage + 1);
    EXPECT_EQ(geometry->page_count, 2U);
    EXPECT_GE(geometry->page_offset(0, 0), LayerGeometry::header_offset(1) + kLayerBlockBytes);
    EXPECT_EQ(geometry->page_offset(0, 1), geometry->page_offset(1, 0) + kLayerBlockBytes);
    EXPECT_GE(geometry->data_offset, geometry->page_offset(1, 1) + kLayerBlockBytes);
    EXPECT_EQ(geometry->data_offset % (1 << 20), 0U);
    EXPECT_EQ(geometry->file_bytes, geometry->data_offset + disk);
}

TEST(LayerGeometryTest, LastClusterMayBeAPart) {
    const auto geometry = layer_geometry(5 * 4096 + 512, 4096);
    EXPECT_EQ(geometry->cluster_count, 6U);
    EXPECT_EQ(geometry->valid_bits(0), 0x3fU);
    EXPECT_EQ(geometry->valid_bits(1), 0U);
}

TEST(LayerGeometryTest, BoundsTheNumberOfClusters) {
    EXPECT_TRUE(layer_geometry(kLayerClustersMax * 4096, 4096));
    EXPECT_FALSE(layer_geometry(kLayerClustersMax * 4096 + 512, 4096));
    EXPECT_FALSE(layer_geometry(0, 4096));
    EXPECT_FALSE(layer_geometry(~uint64_t{0} - 511, 256 << 10));
}

}  // namespace
}  // namespace outrigger::blk
