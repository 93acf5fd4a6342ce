// SPDX-License-Identifier: Apache-2.0
#include "devices/console/byte_ring.h"

#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger::console {
namespace {

/// With memory of its own.
struct OwnRing {
    explicit OwnRing(size_t capacity) : memory(capacity), ring(memory) {}

    std::vector<std::byte> memory;
    ByteRing ring;
};

void append(ByteRing& ring, std::string_view text) {
    ring.append(std::as_bytes(std::span(text)));
}

std::string text_from(const ByteRing& ring, uint64_t position, size_t count = 100) {
    std::string text(count, '\0');
    text.resize(ring.copy(position, std::as_writable_bytes(std::span(text))));
    return text;
}

TEST(ByteRing, KeepsWhatFits) {
    OwnRing own(8);
    ByteRing& ring = own.ring;
    append(ring, "abc");
    append(ring, "defgh");
    EXPECT_EQ(ring.room(), 0U);
    EXPECT_EQ(text_from(ring, 0), "abcdefgh");
    EXPECT_EQ(text_from(ring, 3, 2), "de");
}

TEST(ByteRing, TheOldestBytesMakeRoom) {
    OwnRing own(8);
    ByteRing& ring = own.ring;
    append(ring, "abcdefgh");
    append(ring, "XYZ");
    EXPECT_EQ(ring.begin(), 3U);
    EXPECT_EQ(ring.end(), 11U);
    EXPECT_EQ(text_from(ring, 3), "defghXYZ");
}

TEST(ByteRing, OfMoreThanFitsTheEndStays) {
    OwnRing own(4);
    ByteRing& ring = own.ring;
    append(ring, "ab");
    append(ring, "0123456789");
    EXPECT_EQ(ring.end(), 12U);
    EXPECT_EQ(ring.begin(), 8U);
    EXPECT_EQ(text_from(ring, 8), "6789");
}

TEST(ByteRing, WhatIsDroppedMakesRoomAndPositionsStay) {
    OwnRing own(4);
    ByteRing& ring = own.ring;
    append(ring, "abcd");
    ring.drop(3);
    EXPECT_EQ(ring.room(), 3U);
    append(ring, "efg");
    EXPECT_EQ(text_from(ring, 3), "defg");
}

TEST(ByteRing, WhatIsPreparedAndNotCommittedDoesNotAppear) {
    OwnRing own(4);
    ByteRing& ring = own.ring;
    append(ring, "abc");
    ring.make_room(2);
    (void)ring.prepare(2);
    EXPECT_EQ(ring.end(), 3U);
    EXPECT_EQ(text_from(ring, ring.begin()), "bc");
}

}  // namespace
}  // namespace outrigger::console
