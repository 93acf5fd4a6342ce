// SPDX-License-Identifier: Apache-2.0
/// ChainReader and ChainWriter over segments of any shape.
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/virtq/chain_reader.h"
#include "vhost-user-backend/virtq/chain_writer.h"

namespace outrigger::test {
namespace {

/// Segments over one string, cut at the given lengths.
class Segments {
  public:
    Segments(std::string bytes, const std::vector<size_t>& lengths) : bytes_(std::move(bytes)) {
        size_t offset = 0;
        for (const size_t length : lengths) {
            segments_.push_back({.iov_base = bytes_.data() + offset, .iov_len = length});
            offset += length;
        }
        EXPECT_EQ(offset, bytes_.size());
    }

    ChainReader reader() { return {segments_, bytes_.size()}; }

    ChainWriter writer() { return {segments_, bytes_.size()}; }

    [[nodiscard]] const std::string& bytes() const { return bytes_; }

  private:
    std::string bytes_;
    std::vector<iovec> segments_;
};

std::string read_string(ChainReader& reader, size_t size) {
    std::string out(size, '?');
    out.resize(reader.read(std::as_writable_bytes(std::span(out))));
    return out;
}

size_t write_string(ChainWriter& writer, std::string_view text) {
    return writer.write(std::as_bytes(std::span(text)));
}

std::string joined(std::span<const iovec> pieces) {
    std::string out;
    for (const iovec& piece : pieces) {
        out.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
    }
    return out;
}

TEST(ChainReader, ReadsAcrossSegments) {
    Segments segments("abcdefgh", {1, 1, 4, 2});
    ChainReader reader = segments.reader();
    EXPECT_EQ(read_string(reader, 3), "abc");
    EXPECT_EQ(reader.remaining(), 5U);
    EXPECT_EQ(read_string(reader, 5), "defgh");
    EXPECT_EQ(reader.remaining(), 0U);
}

TEST(ChainReader, ReadsWhatIsThereAndNoMore) {
    Segments segments("abc", {2, 1});
    ChainReader reader = segments.reader();
    EXPECT_EQ(read_string(reader, 10), "abc");
    EXPECT_EQ(read_string(reader, 1), "");
}

TEST(ChainReader, ReadsNothingFromNothing) {
    ChainReader reader({}, 0);
    EXPECT_EQ(read_string(reader, 4), "");
    EXPECT_FALSE(reader.read_object<uint8_t>().has_value());
    EXPECT_TRUE(reader.take_iovecs().empty());
}

TEST(ChainReader, ObjectIsReadInOneSegment) {
    Segments segments(std::string("\x01\x02\x03\x04\x05", 5), {5});
    ChainReader reader = segments.reader();
    EXPECT_EQ(reader.read_object<uint32_t>(), 0x04030201U);
    EXPECT_EQ(reader.remaining(), 1U);
}

TEST(ChainReader, ObjectThatEndsItsSegmentLeavesTheNextOne) {
    Segments segments("aaaabbbb", {4, 4});
    ChainReader reader = segments.reader();
    EXPECT_TRUE(reader.read_object<uint32_t>().has_value());
    EXPECT_EQ(joined(reader.take_iovecs()), "bbbb");
}

TEST(ChainReader, ObjectIsReadAcrossSegments) {
    Segments segments(std::string("\x01\x02\x03\x04", 4), {1, 1, 1, 1});
    ChainReader reader = segments.reader();
    EXPECT_EQ(reader.read_object<uint32_t>(), 0x04030201U);
    EXPECT_EQ(reader.remaining(), 0U);
}

TEST(ChainReader, ObjectOneByteShortConsumesNothing) {
    Segments segments("abc", {3});
    ChainReader reader = segments.reader();
    EXPECT_FALSE(reader.read_object<uint32_t>().has_value());
    EXPECT_EQ(reader.remaining(), 3U);
    EXPECT_EQ(read_string(reader, 3), "abc");
}

TEST(ChainReader, ObjectIsReadToWhereTheCallerHasIt) {
    Segments segments(std::string("\x01\x02\x03\x04\x05\x06\x07\x08\x09", 9), {4, 2, 3});
    ChainReader reader = segments.reader();
    uint32_t object = 0;
    EXPECT_TRUE(reader.read_object_to(object));
    EXPECT_EQ(object, 0x04030201U);
    EXPECT_TRUE(reader.read_object_to(object));
    EXPECT_EQ(object, 0x08070605U);
    EXPECT_EQ(reader.remaining(), 1U);
}

TEST(ChainReader, ObjectOneByteShortIsNotReadToAnywhere) {
    Segments segments("abc", {3});
    ChainReader reader = segments.reader();
    uint32_t object = 7;
    EXPECT_FALSE(reader.read_object_to(object));
    EXPECT_EQ(object, 7U);
    EXPECT_EQ(read_string(reader, 3), "abc");
}

TEST(ChainReader, SkipsAcrossSegments) {
    Segments segments("abcdef", {2, 2, 2});
    ChainReader reader = segments.reader();
    reader.skip(3);
    EXPECT_EQ(read_string(reader, 3), "def");
    reader.skip(0);
}

TEST(ChainReader, IovecsBeginWhereReadingStopped) {
    Segments segments("abcdef", {3, 3});
    ChainReader reader = segments.reader();
    EXPECT_EQ(read_string(reader, 1), "a");
    const auto pieces = reader.take_iovecs();
    EXPECT_EQ(pieces.size(), 2U);
    EXPECT_EQ(joined(pieces), "bcdef");
    EXPECT_EQ(reader.remaining(), 0U);
    EXPECT_TRUE(reader.take_iovecs().empty());
}

TEST(ChainReader, IovecsAtASegmentBorderHoldNoEmptyOne) {
    Segments segments("abcdef", {3, 3});
    ChainReader reader = segments.reader();
    EXPECT_EQ(read_string(reader, 3), "abc");
    EXPECT_EQ(reader.take_iovecs().size(), 1U);
}

TEST(ChainReaderDeathTest, SkippingMoreThanRemainsIsABug) {
    Segments segments("abc", {3});
    ChainReader reader = segments.reader();
    EXPECT_DEATH(reader.skip(4), "bytes <= remaining_");
}

TEST(ChainWriter, WritesAcrossSegments) {
    Segments segments("........", {1, 1, 4, 2});
    ChainWriter writer = segments.writer();
    EXPECT_EQ(write_string(writer, "abc"), 3U);
    EXPECT_EQ(write_string(writer, "defgh"), 5U);
    EXPECT_EQ(segments.bytes(), "abcdefgh");
    EXPECT_EQ(writer.remaining(), 0U);
}

TEST(ChainWriter, WritesWhatFitsAndNoMore) {
    Segments segments("...", {2, 1});
    ChainWriter writer = segments.writer();
    EXPECT_EQ(write_string(writer, "abcdef"), 3U);
    EXPECT_EQ(segments.bytes(), "abc");
    EXPECT_EQ(write_string(writer, "x"), 0U);
}

TEST(ChainWriter, WritesZeroes) {
    Segments segments("......", {2, 2, 2});
    ChainWriter writer = segments.writer();
    writer.skip(1);
    EXPECT_EQ(writer.write_zeroes(4), 4U);
    EXPECT_EQ(segments.bytes(), std::string(".\0\0\0\0.", 6));
    EXPECT_EQ(writer.write_zeroes(4), 1U);
}

TEST(ChainWriter, LastByteIsCutOff) {
    Segments segments("....", {2, 2});
    ChainWriter writer = segments.writer();
    const auto status = writer.take_last_byte();
    ASSERT_TRUE(status.has_value());
    EXPECT_EQ(status->size(), 1U);
    EXPECT_EQ(writer.remaining(), 3U);
    EXPECT_EQ(write_string(writer, "abcdef"), 3U);
    status->copy_from(std::as_bytes(std::span("S", 1)));
    EXPECT_EQ(segments.bytes(), "abcS");
}

TEST(ChainWriter, LastByteInASegmentOfItsOwnLeavesNoEmptyOne) {
    Segments segments("...", {2, 1});
    ChainWriter writer = segments.writer();
    ASSERT_TRUE(writer.take_last_byte().has_value());
    const auto pieces = writer.take_iovecs();
    ASSERT_EQ(pieces.size(), 1U);
    EXPECT_EQ(pieces[0].iov_len, 2U);
}

TEST(ChainWriter, TheOnlyByteMayBeTheLast) {
    Segments segments(".", {1});
    ChainWriter writer = segments.writer();
    EXPECT_TRUE(writer.take_last_byte().has_value());
    EXPECT_EQ(writer.remaining(), 0U);
    EXPECT_FALSE(writer.take_last_byte().has_value());
    EXPECT_TRUE(writer.take_iovecs().empty());
}

TEST(ChainWriter, LastByteBehindAPartWrittenFront) {
    Segments segments("....", {4});
    ChainWriter writer = segments.writer();
    EXPECT_EQ(write_string(writer, "ab"), 2U);
    const auto status = writer.take_last_byte();
    ASSERT_TRUE(status.has_value());
    status->copy_from(std::as_bytes(std::span("S", 1)));
    EXPECT_EQ(joined(writer.take_iovecs()), ".");
    EXPECT_EQ(segments.bytes(), "ab.S");
}

TEST(ChainWriterDeathTest, SkippingMoreThanRemainsIsABug) {
    Segments segments("...", {3});
    ChainWriter writer = segments.writer();
    EXPECT_DEATH(writer.skip(4), "bytes <= remaining_");
}

}  // namespace
}  // namespace outrigger::test
