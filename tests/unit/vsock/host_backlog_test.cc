// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/host_backlog.h"

#include <array>
#include <cstring>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace outrigger::vsock {
namespace {

constexpr size_t kBytes = 16;
constexpr size_t kMessages = 8192;

std::string text_of(const HostBacklog::Ranges& ranges) {
    std::string text;
    for (const iovec& range : ranges) {
        text.append(static_cast<const char*>(range.iov_base), range.iov_len);
    }
    return text;
}

class HostBacklogTest : public ::testing::Test {
  protected:
    void add(std::string_view text) {
        for (const iovec& range : backlog_.extend(text.size())) {
            if (range.iov_len > 0) {
                std::memcpy(range.iov_base, text.data(), range.iov_len);
            }
            text.remove_prefix(range.iov_len);
        }
        EXPECT_TRUE(text.empty());
    }

    std::array<std::byte, kBytes> bytes_{};
    std::array<uint32_t, kMessages> ends_{};
    HostBacklog backlog_{bytes_, ends_};
};

TEST_F(HostBacklogTest, StreamComesOutInOrder) {
    EXPECT_TRUE(backlog_.empty());
    add("abc");
    backlog_.take_bytes(2);
    add("def");
    EXPECT_EQ(text_of(backlog_.stream()), "cdef");
    EXPECT_EQ(backlog_.bytes(), 4U);
    backlog_.take_bytes(4);
    EXPECT_TRUE(backlog_.empty());
}

TEST_F(HostBacklogTest, StreamGoesRoundItsMemory) {
    add("0123456789");
    backlog_.take_bytes(8);
    add("abcdefghijklmn");
    EXPECT_EQ(backlog_.bytes(), kBytes);
    EXPECT_EQ(text_of(backlog_.stream()), "89abcdefghijklmn");
    EXPECT_GT(backlog_.stream()[1].iov_len, 0U);
}

TEST_F(HostBacklogTest, MessagesKeepTheirBounds) {
    add("one");
    EXPECT_FALSE(backlog_.has_message());
    EXPECT_TRUE(backlog_.end_message(false));
    EXPECT_TRUE(backlog_.end_message(true));
    add("th");
    add("ree");
    EXPECT_TRUE(backlog_.has_part());
    EXPECT_TRUE(backlog_.end_message(true));
    EXPECT_FALSE(backlog_.has_part());
    add("rest");
    EXPECT_EQ(text_of(backlog_.message().bytes), "one");
    EXPECT_FALSE(backlog_.message().ends_record);
    backlog_.take_message(backlog_.message());
    EXPECT_EQ(text_of(backlog_.message().bytes), "");
    EXPECT_TRUE(backlog_.message().ends_record);
    backlog_.take_message(backlog_.message());
    EXPECT_EQ(text_of(backlog_.message().bytes), "three");
    EXPECT_TRUE(backlog_.message().ends_record);
    backlog_.take_message(backlog_.message());
    EXPECT_FALSE(backlog_.has_message());
    EXPECT_TRUE(backlog_.has_part());
    EXPECT_FALSE(backlog_.empty());
    EXPECT_TRUE(backlog_.end_message(false));
    EXPECT_EQ(text_of(backlog_.message().bytes), "rest");
    backlog_.clear();
    EXPECT_TRUE(backlog_.empty());
    add("next");
    EXPECT_TRUE(backlog_.end_message(false));
    EXPECT_EQ(text_of(backlog_.message().bytes), "next");
}

TEST_F(HostBacklogTest, KeepsSoManyEmptyMessagesAndAnyNumberOfOthers) {
    for (size_t i = 0; i < HostBacklog::kEmptyMessagesMax; ++i) {
        ASSERT_TRUE(backlog_.end_message(false));
    }
    EXPECT_FALSE(backlog_.end_message(false));
    for (size_t i = 0; i < kBytes; ++i) {
        add("x");
        ASSERT_TRUE(backlog_.end_message(false));
    }
    EXPECT_FALSE(backlog_.end_message(false));
    // The first one that goes makes room.
    backlog_.take_message(backlog_.message());
    EXPECT_TRUE(backlog_.end_message(false));
    EXPECT_FALSE(backlog_.end_message(false));
}

TEST_F(HostBacklogTest, AnotherGoesOnFromItsPosition) {
    add("0123456789");
    EXPECT_TRUE(backlog_.end_message(false));
    EXPECT_TRUE(backlog_.end_message(true));
    add("abc");
    backlog_.take_message(backlog_.message());
    HostBacklog other(bytes_, ends_);
    ASSERT_TRUE(other.restore(backlog_.position()));
    EXPECT_EQ(text_of(other.message().bytes), "");
    EXPECT_TRUE(other.message().ends_record);
    EXPECT_TRUE(other.has_part());
    other.take_message(other.message());
    EXPECT_EQ(text_of(other.stream()), "abc");
}

// Whoever else has the memory may write to it at any time.
TEST_F(HostBacklogTest, NoMessageHasMoreThanThereIs) {
    add("0123");
    EXPECT_TRUE(backlog_.end_message(false));
    add("ab");
    EXPECT_TRUE(backlog_.end_message(false));
    ends_[0] = 1'000'000;
    const HostBacklog::Message first = backlog_.message();
    EXPECT_EQ(first.count, 6U);
    EXPECT_EQ(text_of(first.bytes), "0123ab");
    ends_[0] = 5;
    backlog_.take_message(first);
    EXPECT_EQ(backlog_.bytes(), 0U);
    // The second one ends before where this is.
    ends_[1] = 2;
    EXPECT_EQ(backlog_.message().count, 0U);
    backlog_.take_message(backlog_.message());
    EXPECT_TRUE(backlog_.empty());
    add("next");
    EXPECT_EQ(text_of(backlog_.stream()), "next");
}

TEST_F(HostBacklogTest, PositionThatCannotBeIsRefused) {
    add("0123");
    EXPECT_TRUE(backlog_.end_message(false));
    const HostBacklog::Position good = backlog_.position();
    HostBacklog other(bytes_, ends_);
    HostBacklog::Position bad = good;
    bad.end = bad.begin + kBytes + 1;
    EXPECT_FALSE(other.restore(bad));
    bad = good;
    bad.messages_end += kMessages;
    EXPECT_FALSE(other.restore(bad));
    bad = good;
    bad.end -= 1;  // the message would end behind it
    EXPECT_FALSE(other.restore(bad));
    EXPECT_TRUE(other.empty());
    EXPECT_TRUE(other.restore(good));
}

TEST_F(HostBacklogTest, GivesBackMemoryThatItDoesNotNeed) {
    add("0123456789");
    EXPECT_TRUE(backlog_.take_unused(2)[0].empty());
    backlog_.take_bytes(10);
    EXPECT_TRUE(backlog_.take_unused(10)[0].empty());
    const auto unused = backlog_.take_unused(2);
    EXPECT_EQ(unused[0].data(), bytes_.data() + 2);
    EXPECT_EQ(unused[0].size(), 8U);
    EXPECT_TRUE(unused[1].empty());
    EXPECT_TRUE(backlog_.take_unused(2)[0].empty());
}

}  // namespace
}  // namespace outrigger::vsock
