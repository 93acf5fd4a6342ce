// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_request.h"

#include <array>
#include <memory>
#include <random>
#include <vector>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "tests/unit/blk/chain_bytes.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kCapacitySectors = 2048;

BlkGeometry test_geometry() {
    return {.capacity_sectors = kCapacitySectors,
            .block_bytes = 512,
            .read_only = false,
            .discard = true,
            .unmap_zeroes = true,
            .secure_erase = true,
            .lifetime = true,
            .discard_sectors_max = 1024,
            .discard_segments_max = 4,
            .write_zeroes_sectors_max = 512,
            .write_zeroes_segments_max = 2,
            .secure_erase_sectors_max = 2048,
            .secure_erase_segments_max = 3};
}

class BlkRequestParser : public testing::Test {
  protected:
    std::expected<BlkRequest, RefusedBlkRequest> parse() {
        ChainReader reader = chain_.reader();
        ChainWriter writer = chain_.writer();
        auto result = parse_request(reader, writer, geometry_, storage_);
        EXPECT_TRUE(chain_.untouched()) << "the parser wrote to the guest";
        return result;
    }

    void expect_refused(BlkRefusal reason) {
        const auto result = parse();
        ASSERT_FALSE(result.has_value());
        EXPECT_EQ(result.error().reason, reason) << describe(result.error().reason);
        EXPECT_EQ(result.error().status.empty(), reason == BlkRefusal::kNoStatus);
    }

    ChainBytes chain_;
    BlkGeometry geometry_ = test_geometry();
    std::array<ImageRange, kBlkRangesMax> storage_;
};

std::vector<std::byte> data(size_t size) {
    return std::vector<std::byte>(size, std::byte{0x5a});
}

// --- Framing: trap 9, row 47 -----------------------------------------------------------------

TEST_F(BlkRequestParser, ReadsASector) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, 7)).writable(512).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->command, BlkCommand::kRead);
    EXPECT_EQ(request->offset_bytes, 7 * 512U);
    EXPECT_EQ(request->length_bytes, 512U);
    ASSERT_EQ(request->data.size(), 1U);
    EXPECT_EQ(request->data[0].iov_base, chain_.written(0).data());
    EXPECT_EQ(request->status.as_iovec().iov_base, chain_.written(1).data());
}

TEST_F(BlkRequestParser, TakesStatusFromTheEndOfADataBuffer) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, 0)).writable(513);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->length_bytes, 512U);
    EXPECT_EQ(request->status.as_iovec().iov_base, chain_.written(0).data() + 512);
}

TEST_F(BlkRequestParser, TakesStatusFromTheLastByteOfALongStatusBuffer) {
    // The seven bytes in front of it are data of the request, which is then no whole sector.
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, 0)).writable(512).writable(8);
    expect_refused(BlkRefusal::kUnaligned);
}

TEST_F(BlkRequestParser, TakesHeaderSplitOverFiveBuffers) {
    const auto header = header_bytes(VIRTIO_BLK_T_IN, 0x1ff);
    const std::span<const std::byte> bytes(header);
    chain_.readable(bytes.first(1)).readable(bytes.subspan(1, 6)).readable(bytes.subspan(7, 2));
    chain_.readable(bytes.subspan(9, 3)).readable(bytes.subspan(12)).writable(512).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->offset_bytes, 0x1ffU * 512);
}

TEST_F(BlkRequestParser, TakesHeaderAndDataFromOneBuffer) {
    auto bytes = header_bytes(VIRTIO_BLK_T_OUT, 1);
    bytes.resize(16 + 1024);
    chain_.readable(bytes).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->command, BlkCommand::kWrite);
    EXPECT_EQ(request->length_bytes, 1024U);
    ASSERT_EQ(request->data.size(), 1U);
    EXPECT_EQ(request->data[0].iov_len, 1024U);
}

TEST_F(BlkRequestParser, TakesDataSplitInsideSectors) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_OUT, 1)).readable(data(100)).readable(data(412));
    chain_.writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->length_bytes, 512U);
    EXPECT_EQ(request->data.size(), 2U);
}

TEST_F(BlkRequestParser, RefusesShortHeader) {
    const auto header = header_bytes(VIRTIO_BLK_T_IN, 0);
    chain_.readable(std::span(header).first(15)).writable(512).writable(1);
    expect_refused(BlkRefusal::kHeaderShort);
}

TEST_F(BlkRequestParser, RefusesMissingHeader) {
    chain_.writable(1);
    expect_refused(BlkRefusal::kHeaderShort);
}

TEST_F(BlkRequestParser, RefusesChainWithoutWritableBuffer) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, 0));
    expect_refused(BlkRefusal::kNoStatus);
}

TEST_F(BlkRequestParser, RefusesStatusBufferOfNoBytes) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_FLUSH, 0)).writable(0);
    expect_refused(BlkRefusal::kNoStatus);
}

// --- Bounds: traps 4 and 6, row 48 -----------------------------------------------------------

TEST_F(BlkRequestParser, ReadsTheLastSector) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, kCapacitySectors - 1)).writable(512).writable(1);
    EXPECT_TRUE(parse());
}

TEST_F(BlkRequestParser, RefusesOneSectorBeyondTheEnd) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, kCapacitySectors)).writable(512).writable(1);
    expect_refused(BlkRefusal::kBeyondEnd);
}

TEST_F(BlkRequestParser, RefusesWriteThatCrossesTheEnd) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_OUT, kCapacitySectors - 1)).readable(data(1024));
    chain_.writable(1);
    expect_refused(BlkRefusal::kBeyondEnd);
}

TEST_F(BlkRequestParser, RefusesSectorWhoseByteOffsetWraps) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, uint64_t{1} << 55)).writable(512).writable(1);
    expect_refused(BlkRefusal::kBeyondEnd);
}

TEST_F(BlkRequestParser, RefusesSectorThatWrapsWithItsLength) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, UINT64_MAX)).writable(512).writable(1);
    expect_refused(BlkRefusal::kBeyondEnd);
}

TEST_F(BlkRequestParser, RefusesLengthOneByteShort) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, 0)).writable(511).writable(1);
    expect_refused(BlkRefusal::kUnaligned);
}

TEST_F(BlkRequestParser, RefusesLengthOneByteLong) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_OUT, 0)).readable(data(513)).writable(1);
    expect_refused(BlkRefusal::kUnaligned);
}

TEST_F(BlkRequestParser, TakesReadOfNoBytes) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, 3)).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->length_bytes, 0U);
    EXPECT_TRUE(request->data.empty());
}

TEST_F(BlkRequestParser, RefusesReadOfNoBytesBeyondTheEnd) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, kCapacitySectors + 1)).writable(1);
    expect_refused(BlkRefusal::kBeyondEnd);
}

TEST_F(BlkRequestParser, SectorsStay512BytesWithLargeBlocks) {
    geometry_.block_bytes = 4096;
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, 8)).writable(4096).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->offset_bytes, 4096U);
}

TEST_F(BlkRequestParser, RefusesSectorInsideALargeBlock) {
    geometry_.block_bytes = 4096;
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, 1)).writable(4096).writable(1);
    expect_refused(BlkRefusal::kUnaligned);
}

TEST_F(BlkRequestParser, RefusesPartOfALargeBlock) {
    geometry_.block_bytes = 4096;
    chain_.readable(header_bytes(VIRTIO_BLK_T_IN, 8)).writable(512).writable(1);
    expect_refused(BlkRefusal::kUnaligned);
}

// --- Types and read-only: traps 13 and 18, row 49 --------------------------------------------

TEST_F(BlkRequestParser, RefusesUnknownType) {
    chain_.readable(header_bytes(3, 0)).writable(1);
    expect_refused(BlkRefusal::kUnknownType);
}

TEST_F(BlkRequestParser, RefusesTypeWithTheLegacyBarrierBit) {
    chain_.readable(header_bytes(0x8000'0000U | VIRTIO_BLK_T_OUT, 0)).writable(1);
    expect_refused(BlkRefusal::kUnknownType);
}

TEST_F(BlkRequestParser, UnknownIsUnsupportedAndWrongIsAnError) {
    EXPECT_EQ(status_of(BlkRefusal::kUnknownType), VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(status_of(BlkRefusal::kReservedFlags), VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(status_of(BlkRefusal::kHeaderShort), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(status_of(BlkRefusal::kReadOnly), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(status_of(BlkRefusal::kUnaligned), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(status_of(BlkRefusal::kBeyondEnd), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(status_of(BlkRefusal::kSegmentList), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(status_of(BlkRefusal::kSegmentCount), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(status_of(BlkRefusal::kSegmentTooLong), VIRTIO_BLK_S_IOERR);
}

TEST_F(BlkRequestParser, TakesFlushWhateverItsSector) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_FLUSH, UINT64_MAX)).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->command, BlkCommand::kFlush);
}

TEST_F(BlkRequestParser, TakesFlushOfAReadOnlyDisk) {
    geometry_.read_only = true;
    chain_.readable(header_bytes(VIRTIO_BLK_T_FLUSH, 0)).writable(1);
    EXPECT_TRUE(parse());
}

TEST_F(BlkRequestParser, RefusesWriteToAReadOnlyDisk) {
    geometry_.read_only = true;
    chain_.readable(header_bytes(VIRTIO_BLK_T_OUT, 0)).readable(data(512)).writable(1);
    expect_refused(BlkRefusal::kReadOnly);
}

TEST_F(BlkRequestParser, RefusesDiscardOnAReadOnlyDisk) {
    geometry_.read_only = true;
    geometry_.discard = false;
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0)).readable(segment_bytes(0, 8, 0));
    chain_.writable(1);
    expect_refused(BlkRefusal::kReadOnly);
}

TEST_F(BlkRequestParser, RefusesZeroingOfAReadOnlyDisk) {
    geometry_.read_only = true;
    chain_.readable(header_bytes(VIRTIO_BLK_T_WRITE_ZEROES, 0)).readable(segment_bytes(0, 8, 0));
    chain_.writable(1);
    expect_refused(BlkRefusal::kReadOnly);
}

TEST_F(BlkRequestParser, GivesTheIdBufferAsItIs) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_GET_ID, 0)).writable(5).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->command, BlkCommand::kGetId);
    ASSERT_EQ(request->data.size(), 1U);
    EXPECT_EQ(request->data[0].iov_len, 5U);
}

TEST_F(BlkRequestParser, TakesIdRequestWithoutRoomForTheId) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_GET_ID, 0)).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_TRUE(request->data.empty());
}

// --- Discard and write zeroes: traps 7 and 8, row 49 -----------------------------------------

TEST_F(BlkRequestParser, TakesDiscardOfSeveralSegments) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0));
    chain_.readable(segment_bytes(8, 16, 0)).readable(segment_bytes(100, 1, 0)).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->command, BlkCommand::kDiscard);
    ASSERT_EQ(request->ranges.size(), 2U);
    EXPECT_EQ(request->ranges[0].offset_bytes, 8U * 512);
    EXPECT_EQ(request->ranges[0].length_bytes, 16U * 512);
    EXPECT_EQ(request->ranges[1].offset_bytes, 100U * 512);
    EXPECT_EQ(request->length_bytes, 17U * 512);
}

TEST_F(BlkRequestParser, RefusesUnmapFlagInDiscard) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0)).readable(segment_bytes(0, 8, 1));
    chain_.writable(1);
    expect_refused(BlkRefusal::kReservedFlags);
}

TEST_F(BlkRequestParser, RefusesReservedFlagInTheSecondSegment) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_WRITE_ZEROES, 0));
    chain_.readable(segment_bytes(0, 8, 1)).readable(segment_bytes(8, 8, 2)).writable(1);
    expect_refused(BlkRefusal::kReservedFlags);
}

TEST_F(BlkRequestParser, TakesUnmapFlagInWriteZeroes) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_WRITE_ZEROES, 0));
    chain_.readable(segment_bytes(0, 8, 1)).readable(segment_bytes(8, 8, 0)).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_TRUE(request->ranges[0].unmap);
    EXPECT_FALSE(request->ranges[1].unmap);
}

TEST_F(BlkRequestParser, IgnoresUnmapFlagWhereNothingIsUnmapped) {
    geometry_.unmap_zeroes = false;
    chain_.readable(header_bytes(VIRTIO_BLK_T_WRITE_ZEROES, 0)).readable(segment_bytes(0, 8, 1));
    chain_.writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_FALSE(request->ranges[0].unmap);
}

TEST_F(BlkRequestParser, RefusesDiscardThatWasNotOffered) {
    geometry_.discard = false;
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0)).readable(segment_bytes(0, 8, 0));
    chain_.writable(1);
    expect_refused(BlkRefusal::kUnknownType);
}

TEST_F(BlkRequestParser, RefusesDiscardWithoutSegments) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0)).writable(1);
    expect_refused(BlkRefusal::kSegmentList);
}

TEST_F(BlkRequestParser, RefusesHalfASegment) {
    auto segments = segment_bytes(0, 8, 0);
    segments.resize(24);
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0)).readable(segments).writable(1);
    expect_refused(BlkRefusal::kSegmentList);
}

TEST_F(BlkRequestParser, TakesAsManySegmentsAsOffered) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0));
    chain_.readable(segment_bytes(0, 1, 0)).readable(segment_bytes(1, 1, 0));
    chain_.readable(segment_bytes(2, 1, 0)).readable(segment_bytes(3, 1, 0)).writable(1);
    EXPECT_TRUE(parse());
}

TEST_F(BlkRequestParser, RefusesOneSegmentMoreThanOffered) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0));
    chain_.readable(segment_bytes(0, 1, 0)).readable(segment_bytes(1, 1, 0));
    chain_.readable(segment_bytes(2, 1, 0)).readable(segment_bytes(3, 1, 0));
    chain_.readable(segment_bytes(4, 1, 0)).writable(1);
    expect_refused(BlkRefusal::kSegmentCount);
}

TEST_F(BlkRequestParser, RefusesMoreSegmentsThanThereIsRoomFor) {
    geometry_.discard_segments_max = UINT32_MAX;
    std::vector<std::byte> segments((kBlkRangesMax + 1) * 16);
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0)).readable(segments).writable(1);
    expect_refused(BlkRefusal::kSegmentCount);
}

TEST_F(BlkRequestParser, TakesTheLongestSegment) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0)).readable(segment_bytes(0, 1024, 0));
    chain_.writable(1);
    EXPECT_TRUE(parse());
}

TEST_F(BlkRequestParser, RefusesSegmentOneSectorTooLong) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0)).readable(segment_bytes(0, 1025, 0));
    chain_.writable(1);
    expect_refused(BlkRefusal::kSegmentTooLong);
}

TEST_F(BlkRequestParser, RefusesSegmentThatCrossesTheEnd) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_WRITE_ZEROES, 0));
    chain_.readable(segment_bytes(kCapacitySectors - 1, 2, 0)).writable(1);
    expect_refused(BlkRefusal::kBeyondEnd);
}

TEST_F(BlkRequestParser, RefusesSegmentThatWraps) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0));
    chain_.readable(segment_bytes(UINT64_MAX - 3, 8, 0)).writable(1);
    expect_refused(BlkRefusal::kBeyondEnd);
}

TEST_F(BlkRequestParser, RefusesSegmentOfPartOfALargeBlock) {
    geometry_.block_bytes = 4096;
    chain_.readable(header_bytes(VIRTIO_BLK_T_DISCARD, 0)).readable(segment_bytes(8, 4, 0));
    chain_.writable(1);
    expect_refused(BlkRefusal::kUnaligned);
}

TEST_F(BlkRequestParser, TakesSecureEraseOfSeveralSegments) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_SECURE_ERASE, 0));
    chain_.readable(segment_bytes(0, 2048, 0)).readable(segment_bytes(8, 8, 0)).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->command, BlkCommand::kSecureErase);
    ASSERT_EQ(request->ranges.size(), 2U);
    EXPECT_EQ(request->ranges[1].offset_bytes, 8U * 512);
    EXPECT_EQ(request->ranges[1].length_bytes, 8U * 512);
}

TEST_F(BlkRequestParser, RefusesUnmapFlagInSecureErase) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_SECURE_ERASE, 0)).readable(segment_bytes(0, 8, 1));
    chain_.writable(1);
    expect_refused(BlkRefusal::kReservedFlags);
}

TEST_F(BlkRequestParser, RefusesOneSegmentMoreThanCanBeErased) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_SECURE_ERASE, 0));
    for (uint64_t i = 0; i < 4; ++i) {
        chain_.readable(segment_bytes(i, 1, 0));
    }
    chain_.writable(1);
    expect_refused(BlkRefusal::kSegmentCount);
}

TEST_F(BlkRequestParser, RefusesSecureEraseThatWasNotOffered) {
    geometry_.secure_erase = false;
    chain_.readable(header_bytes(VIRTIO_BLK_T_SECURE_ERASE, 0)).readable(segment_bytes(0, 8, 0));
    chain_.writable(1);
    expect_refused(BlkRefusal::kUnknownType);
}

TEST_F(BlkRequestParser, RefusesSecureEraseBeyondTheEnd) {
    chain_.readable(header_bytes(VIRTIO_BLK_T_SECURE_ERASE, 0)).readable(segment_bytes(1, 2048, 0));
    chain_.writable(1);
    expect_refused(BlkRefusal::kBeyondEnd);
}

TEST_F(BlkRequestParser, TakesLifetimeRequest) {
    chain_.readable(header_bytes(kGetLifetimeType, UINT64_MAX)).writable(6).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->command, BlkCommand::kGetLifetime);
    ASSERT_EQ(request->data.size(), 1U);
    EXPECT_EQ(request->data[0].iov_len, 6U);
}

TEST_F(BlkRequestParser, RefusesLifetimeWithoutRoom) {
    chain_.readable(header_bytes(kGetLifetimeType, 0)).writable(5).writable(1);
    expect_refused(BlkRefusal::kAnswerRoom);
}

TEST_F(BlkRequestParser, RefusesLifetimeThatWasNotOffered) {
    geometry_.lifetime = false;
    chain_.readable(header_bytes(kGetLifetimeType, 0)).writable(6).writable(1);
    expect_refused(BlkRefusal::kUnknownType);
}

// --- Whatever comes ------------------------------------------------------------------------------

TEST_F(BlkRequestParser, AcceptsNothingThatReachesBeyondTheDisk) {
    std::mt19937_64 random(47);
    const std::array<uint32_t, 8> types{0, 1, 4, 10, 11, 13, 14, 0x8000'0000};
    const std::array<uint64_t, 6> sectors{
        0, 1, kCapacitySectors - 1, kCapacitySectors, uint64_t{1} << 55, UINT64_MAX - 7};
    const std::array<size_t, 7> sizes{0, 1, 15, 16, 511, 512, 1024};
    size_t accepted = 0;
    for (int round = 0; round < 20'000; ++round) {
        chain_ = ChainBytes();
        geometry_.block_bytes = random() % 2 == 0 ? 512 : 1024;
        const auto header = header_bytes(types[random() % 8], sectors[random() % 6]);
        const size_t cut = random() % 17;
        chain_.readable(std::span(header).first(cut)).readable(std::span(header).subspan(cut));
        for (uint64_t segments = random() % 6; segments > 0; --segments) {
            chain_.readable(segment_bytes(
                sectors[random() % 6], static_cast<uint32_t>(random() % 2000), random() % 3 == 0));
        }
        chain_.readable(data(sizes[random() % 7]));
        chain_.writable(sizes[random() % 7]).writable(random() % 3);
        const auto request = parse();
        if (!request) {
            continue;
        }
        ++accepted;
        EXPECT_LE(request->offset_bytes, kCapacitySectors * 512);
        if (request->ranges.empty()) {
            EXPECT_LE(request->length_bytes, kCapacitySectors * 512 - request->offset_bytes);
        }
        for (const ImageRange& range : request->ranges) {
            EXPECT_LE(range.offset_bytes, kCapacitySectors * 512);
            EXPECT_LE(range.length_bytes, kCapacitySectors * 512 - range.offset_bytes);
        }
    }
    EXPECT_GT(accepted, 1000U) << "the generator makes no good requests any more";
}

}  // namespace
}  // namespace outrigger::blk
