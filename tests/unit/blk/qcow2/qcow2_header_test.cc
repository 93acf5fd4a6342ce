// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/qcow2_header.h"

#include <gtest/gtest.h>

#include "tests/unit/blk/qcow2/qcow2_bytes.h"

namespace outrigger::blk {
namespace {

Result<Qcow2Header> parse(const Qcow2Bytes& file) {
    return parse_qcow2_header(file.bytes(), file.bytes().size());
}

void expect_refused(const Qcow2Bytes& file, std::string_view because) {
    const auto header = parse(file);
    ASSERT_FALSE(header) << because;
    EXPECT_NE(header.error().message.find(because), std::string::npos) << header.error().message;
}

TEST(Qcow2Header, SaysWhatTheFileSays) {
    const auto header = parse(Qcow2Bytes::sound(3)).value();
    EXPECT_EQ(header.version, 3U);
    EXPECT_EQ(header.cluster_bits, 12U);
    EXPECT_EQ(header.size_bytes, uint64_t{1} << 20);
    EXPECT_EQ(header.l1_offset_bytes, 4096U);
    EXPECT_EQ(header.l1_entries, 1U);
    EXPECT_EQ(header.compression, Qcow2Compression::kZlib);
    EXPECT_TRUE(header.backing_name.empty());
}

TEST(Qcow2Header, Version2HasNoFieldsBehindByte72) {
    // What would be the feature bits of version 3 is the header extension that ends them.
    EXPECT_TRUE(parse(Qcow2Bytes::sound(2)));
    EXPECT_TRUE(parse(Qcow2Bytes::sound(2).u32(76, 0xffff'ffff)));
}

TEST(Qcow2Header, OtherMagicAndVersionsAreRefused) {
    expect_refused(Qcow2Bytes::sound(3).u32(0, 0x514649fa), "is not a qcow2 image");
    expect_refused(Qcow2Bytes::sound(3).u32(4, 1), "version 1");
    expect_refused(Qcow2Bytes::sound(3).u32(4, 4), "version 4");
}

TEST(Qcow2Header, FileThatEndsInsideTheHeaderIsRefused) {
    const Qcow2Bytes file = Qcow2Bytes::sound(3);
    for (const size_t size : {0U, 7U, 71U, 103U}) {
        EXPECT_FALSE(parse_qcow2_header(std::span(file.bytes()).first(size), size)) << size;
    }
}

TEST(Qcow2Header, ClustersOf512BytesTo2MiB) {
    expect_refused(Qcow2Bytes::sound(3).u32(20, 8), "clusters of 2^8");
    expect_refused(Qcow2Bytes::sound(3).u32(20, 22), "clusters of 2^22");
    expect_refused(Qcow2Bytes::sound(3).u32(20, 0xffff'ffff), "clusters of");
}

TEST(Qcow2Header, DirtyIsReadBecauseOnlyReferenceCountsAreStale) {
    EXPECT_TRUE(parse(Qcow2Bytes::sound(3).u64(72, 1)));
}

TEST(Qcow2Header, WhatCannotBeReadRightIsRefused) {
    expect_refused(Qcow2Bytes::sound(3).u64(72, 2), "marked corrupt");
    expect_refused(Qcow2Bytes::sound(3).u64(72, 4), "external data file");
    expect_refused(Qcow2Bytes::sound(3).u64(72, 16), "extended L2");
    expect_refused(Qcow2Bytes::sound(3).u64(72, 32), "bit 5");
    expect_refused(Qcow2Bytes::sound(3).u64(72, uint64_t{1} << 63), "bit 63");
    expect_refused(Qcow2Bytes::sound(3).u32(32, 1), "encrypted (AES)");
    expect_refused(Qcow2Bytes::sound(2).u32(32, 2), "encrypted (LUKS)");
}

TEST(Qcow2Header, CompressionTypeAndItsBitAgree) {
    const auto zstd = parse(Qcow2Bytes::sound(3).u64(72, 8).u8(104, 1));
    ASSERT_TRUE(zstd) << zstd.error().message;
    EXPECT_EQ(zstd->compression, Qcow2Compression::kZstd);
    expect_refused(Qcow2Bytes::sound(3).u64(72, 8), "disagree");
    expect_refused(Qcow2Bytes::sound(3).u8(104, 1), "disagree");
    expect_refused(Qcow2Bytes::sound(3).u64(72, 8).u8(104, 2), "compression type 2");
}

TEST(Qcow2Header, UnknownFeatureIsCalledByTheNameThatTheImageGives) {
    Qcow2Bytes file = Qcow2Bytes::sound(3).u64(72, 64);
    file.u32(112, 0x6803f857).u32(116, 48).u8(121, 6).text(122, "time \ntravel");
    expect_refused(file, "'time ?travel' (bit 6)");
}

TEST(Qcow2Header, TablesLieInsideTheFileAndBeginClusters) {
    expect_refused(Qcow2Bytes::sound(3).u64(40, 4097), "not at a cluster's beginning");
    expect_refused(Qcow2Bytes::sound(3).u64(40, 16 * 4096), "not inside the file");
    expect_refused(Qcow2Bytes::sound(3).u64(40, 0xffff'ffff'ffff'f000), "not inside the file");
    expect_refused(Qcow2Bytes::sound(3).u64(40, 0), "not inside the file");
    expect_refused(Qcow2Bytes::sound(3).u64(48, 8), "refcount table");
    expect_refused(Qcow2Bytes::sound(3).u64(64, 8), "snapshot table");
}

TEST(Qcow2Header, L1TableCoversTheDisk) {
    // 2 MiB an entry.
    EXPECT_TRUE(parse(Qcow2Bytes::sound(3).u64(24, 2 << 20)));
    expect_refused(Qcow2Bytes::sound(3).u64(24, (2 << 20) + 512), "needs 2");
    expect_refused(Qcow2Bytes::sound(3).u64(24, uint64_t{1} << 63), "larger than any image");
    expect_refused(Qcow2Bytes::sound(3).u32(36, 0xffff'ffff), "at most");
}

TEST(Qcow2Header, BackingFileIsNamedInsideTheFirstCluster) {
    Qcow2Bytes file = Qcow2Bytes::sound(3);
    file.u32(112, 0xe2792aca).u32(116, 5).text(120, "qcow2");
    file.u64(8, 500).u32(16, 8).text(500, "base.img");
    const auto header = parse(file).value();
    EXPECT_EQ(header.backing_name, "base.img");
    EXPECT_EQ(header.backing_format, "qcow2");
    EXPECT_TRUE(parse(Qcow2Bytes(file).u64(8, 4096 - 8).text(4096 - 8, "base.img")));
    expect_refused(Qcow2Bytes(file).u64(8, 4096 - 7), "not inside the header");
    expect_refused(Qcow2Bytes(file).u64(8, 0xffff'ffff'ffff'fff8), "not inside the header");
    expect_refused(Qcow2Bytes(file).u32(16, 1024), "not inside the header");
    expect_refused(Qcow2Bytes(file).u32(16, 0), "not inside the header");
    expect_refused(Qcow2Bytes(file).u64(8, 50), "not inside the header");
    expect_refused(Qcow2Bytes(file).u32(16, 9), "NUL");
}

TEST(Qcow2Header, ExtensionsEndInsideTheHeader) {
    expect_refused(Qcow2Bytes::sound(3).u32(112, 7).u32(116, 4096), "header extension");
    expect_refused(Qcow2Bytes::sound(3).u32(112, 7).u32(116, 0xffff'fff8), "header extension");
    expect_refused(Qcow2Bytes::sound(3).u32(100, 96), "header_length");
    expect_refused(Qcow2Bytes::sound(3).u32(100, 0xffff'fff8), "header_length");
}

TEST(Qcow2Header, TextOfAnImageIsMadePrintable) {
    EXPECT_EQ(printable("a\x1b[31m\n"), "a?[31m?");
    EXPECT_EQ(printable(std::string(200, 'x')), std::string(100, 'x') + "...");
}

}  // namespace
}  // namespace outrigger::blk
