// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/kept_record.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace outrigger {
namespace {

constexpr size_t kCapacity = 64;

struct Memory {
    alignas(64) std::array<std::byte, KeptRecord::bytes(kCapacity)> bytes{};
};

void store(KeptRecord record, std::string_view text) {
    record.store(std::as_bytes(std::span(text)));
}

std::string text_of(const KeptRecord& record) {
    std::string text;
    for (const std::byte each : record.load()) {
        text.push_back(static_cast<char>(each));
    }
    return text;
}

TEST(KeptRecord, IsEmptyAtFirst) {
    Memory memory;
    EXPECT_TRUE(KeptRecord(memory.bytes).load().empty());
}

TEST(KeptRecord, HasWhatWasStoredLast) {
    Memory memory;
    store(KeptRecord(memory.bytes), "first");
    EXPECT_EQ(text_of(KeptRecord(memory.bytes)), "first");
    store(KeptRecord(memory.bytes), "second, which is longer");
    EXPECT_EQ(text_of(KeptRecord(memory.bytes)), "second, which is longer");
    store(KeptRecord(memory.bytes), "third");
    EXPECT_EQ(text_of(KeptRecord(memory.bytes)), "third");
}

/// Whoever is killed in a store() has written some of the copy that does not count.
TEST(KeptRecord, HasWhatWasStoredBeforeUntilAStoreIsThrough) {
    Memory memory;
    store(KeptRecord(memory.bytes), "before");
    Memory after = memory;
    store(KeptRecord(after.bytes), std::string(kCapacity, 'x'));
    size_t changed = 0;
    for (size_t i = sizeof(uint64_t); i < memory.bytes.size(); ++i) {
        if (memory.bytes[i] != after.bytes[i]) {
            memory.bytes[i] = after.bytes[i];
            ++changed;
            ASSERT_EQ(text_of(KeptRecord(memory.bytes)), "before");
        }
    }
    EXPECT_EQ(changed, kCapacity);
}

TEST(KeptRecord, OfALengthThatCannotBeIsNothing) {
    Memory memory;
    std::ranges::fill(memory.bytes, std::byte{0xff});
    EXPECT_TRUE(KeptRecord(memory.bytes).load().empty());
}

TEST(KeptValue, OfAnotherSizeIsNothing) {
    Memory memory;
    store(KeptRecord(memory.bytes), "1234");
    EXPECT_TRUE(KeptValue<uint32_t>(memory.bytes).load());
    EXPECT_FALSE(KeptValue<uint64_t>(memory.bytes).load());
}

}  // namespace
}  // namespace outrigger
