// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/qcow2_map.h"

#include <gtest/gtest.h>

#include "tests/unit/blk/qcow2/qcow2_bytes.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kCopied = uint64_t{1} << 63;
constexpr uint64_t kCompressed = uint64_t{1} << 62;
constexpr uint64_t kCluster = 65536;
/// 64 KiB clusters, 100 of them and a bit.
constexpr Qcow2Geometry kGeometry = {
    .version = 3, .cluster_bits = 16, .file_bytes = 100 * kCluster + 1000};

Qcow2Run map_first(uint64_t entry, const Qcow2Geometry& geometry = kGeometry) {
    Qcow2Bytes slice(4096);
    slice.u64(0, entry);
    return map_qcow2_run(geometry, slice.bytes(), 0, kCluster);
}

TEST(Qcow2Map, EntryOfZeroIsUnallocated) {
    EXPECT_EQ(map_first(0).kind, Qcow2RunKind::kUnallocated);
}

TEST(Qcow2Map, RunBeginsInTheMiddleOfACluster) {
    Qcow2Bytes slice(4096);
    slice.u64(8, kCopied | 7 * kCluster);
    const Qcow2Run run = map_qcow2_run(kGeometry, slice.bytes(), kCluster + 512, 1 << 20);
    EXPECT_EQ(run.kind, Qcow2RunKind::kData);
    EXPECT_EQ(run.host_offset, 7 * kCluster + 512);
    EXPECT_EQ(run.length_bytes, kCluster - 512);
}

TEST(Qcow2Map, NeighboursInTheFileAreOneRun) {
    Qcow2Bytes slice(4096);
    slice.u64(0, kCopied | 7 * kCluster).u64(8, 8 * kCluster).u64(16, 10 * kCluster);
    const Qcow2Run run = map_qcow2_run(kGeometry, slice.bytes(), 0, 1 << 20);
    EXPECT_EQ(run.length_bytes, 2 * kCluster);
    EXPECT_EQ(map_qcow2_run(kGeometry, slice.bytes(), 0, 70'000).length_bytes, 70'000U);
}

TEST(Qcow2Map, ZeroesAndHolesJoinTheirLikeOnly) {
    Qcow2Bytes slice(4096);
    slice.u64(0, 1).u64(8, kCopied | 9 * kCluster | 1).u64(32, 5 * kCluster);
    const Qcow2Run zero = map_qcow2_run(kGeometry, slice.bytes(), 0, 1 << 20);
    EXPECT_EQ(zero.kind, Qcow2RunKind::kZero);
    EXPECT_EQ(zero.length_bytes, 2 * kCluster);
    const Qcow2Run hole = map_qcow2_run(kGeometry, slice.bytes(), 2 * kCluster, 1 << 20);
    EXPECT_EQ(hole.kind, Qcow2RunKind::kUnallocated);
    EXPECT_EQ(hole.length_bytes, 2 * kCluster);
}

TEST(Qcow2Map, RunEndsWithItsSlice) {
    const Qcow2Bytes slice(4096);
    const uint64_t last = kGeometry.slice_span_bytes() - 512;
    EXPECT_EQ(map_qcow2_run(kGeometry, slice.bytes(), last, 1 << 20).length_bytes, 512U);
}

TEST(Qcow2Map, DataBeginsInsideTheFile) {
    // The last cluster of a file need not be whole.
    EXPECT_EQ(map_first(100 * kCluster).kind, Qcow2RunKind::kData);
    EXPECT_EQ(map_first(101 * kCluster).kind, Qcow2RunKind::kDamaged);
    EXPECT_EQ(map_first(uint64_t{0x00ff'ffff'ffff'0000}).kind, Qcow2RunKind::kDamaged);
}

TEST(Qcow2Map, UnalignedDataAndReservedBitsAreDamage) {
    EXPECT_EQ(map_first(7 * kCluster + 512).kind, Qcow2RunKind::kDamaged);
    EXPECT_EQ(map_first(7 * kCluster + 2).kind, Qcow2RunKind::kDamaged);
    EXPECT_EQ(map_first(7 * kCluster | uint64_t{1} << 56).kind, Qcow2RunKind::kDamaged);
    EXPECT_EQ(map_first(kCopied).kind, Qcow2RunKind::kDamaged);
}

TEST(Qcow2Map, Version2HasNoZeroClusters) {
    Qcow2Geometry old = kGeometry;
    old.version = 2;
    EXPECT_EQ(map_first(1, old).kind, Qcow2RunKind::kDamaged);
}

TEST(Qcow2Map, CompressedClusterCountsItsSectors) {
    // Bits 0 to 53 are the offset, 54 to 61 count further sectors.
    const Qcow2Run run = map_first(kCompressed | uint64_t{2} << 54 | (3 * kCluster + 100));
    EXPECT_EQ(run.kind, Qcow2RunKind::kCompressed);
    EXPECT_EQ(run.host_offset, 3 * kCluster + 100);
    EXPECT_EQ(run.host_bytes, 3 * 512U - 100U);
    EXPECT_EQ(run.length_bytes, kCluster);
}

TEST(Qcow2Map, CompressedClusterIsCutByTheFile) {
    const uint64_t near_end = kGeometry.file_bytes - 1;
    const Qcow2Run run = map_first(kCompressed | uint64_t{255} << 54 | near_end);
    EXPECT_EQ(run.kind, Qcow2RunKind::kCompressed);
    EXPECT_EQ(run.host_bytes, 1U);
    EXPECT_EQ(map_first(kCompressed | (near_end + 1)).kind, Qcow2RunKind::kDamaged);
    EXPECT_EQ(map_first(kCompressed | kCopied | 512).kind, Qcow2RunKind::kDamaged);
    EXPECT_EQ(map_first(kCompressed).kind, Qcow2RunKind::kDamaged);
}

TEST(Qcow2Map, CompressedClusterTakesTwoClustersAtMost) {
    for (uint32_t bits = 9; bits <= 21; ++bits) {
        const Qcow2Geometry geometry = {
            .version = 3, .cluster_bits = bits, .file_bytes = uint64_t{1} << 40};
        const uint64_t all_sectors = (kCompressed - 1) & ~((uint64_t{1} << (70 - bits)) - 1);
        const Qcow2Run run = map_first(kCompressed | all_sectors | 512, geometry);
        ASSERT_EQ(run.kind, Qcow2RunKind::kCompressed) << bits;
        EXPECT_EQ(run.host_bytes, 2 * geometry.cluster_bytes()) << bits;
    }
}

TEST(Qcow2Map, L2TableLiesInsideTheFile) {
    EXPECT_EQ(qcow2_l2_table(kGeometry, 0), 0U);
    EXPECT_EQ(qcow2_l2_table(kGeometry, kCopied | 5 * kCluster), 5 * kCluster);
    EXPECT_EQ(qcow2_l2_table(kGeometry, 99 * kCluster), 99 * kCluster);
    EXPECT_EQ(qcow2_l2_table(kGeometry, 100 * kCluster), std::nullopt);
    EXPECT_EQ(qcow2_l2_table(kGeometry, 5 * kCluster + 512), std::nullopt);
    EXPECT_EQ(qcow2_l2_table(kGeometry, 5 * kCluster | 1), std::nullopt);
    EXPECT_EQ(qcow2_l2_table(kGeometry, kCompressed | 5 * kCluster), std::nullopt);
}

}  // namespace
}  // namespace outrigger::blk
