// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/host_backlog.h"

#include <cstring>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace outrigger::vsock {
namespace {

void add(HostBacklog& backlog, std::string_view text) {
    std::memcpy(backlog.extend(text.size()).data(), text.data(), text.size());
}

std::string text_of(std::span<const std::byte> bytes) {
    std::string text(bytes.size(), '\0');
    std::memcpy(text.data(), bytes.data(), bytes.size());
    return text;
}

TEST(HostBacklog, StreamComesOutInOrder) {
    HostBacklog backlog;
    EXPECT_TRUE(backlog.empty());
    add(backlog, "abc");
    backlog.take_bytes(2);
    add(backlog, "def");
    EXPECT_EQ(text_of(backlog.stream()), "cdef");
    EXPECT_EQ(backlog.bytes(), 4U);
    backlog.take_bytes(4);
    EXPECT_TRUE(backlog.empty());
}

TEST(HostBacklog, MessagesKeepTheirBounds) {
    HostBacklog backlog;
    add(backlog, "one");
    EXPECT_FALSE(backlog.has_message());
    EXPECT_TRUE(backlog.end_message(false));
    EXPECT_TRUE(backlog.end_message(true));
    add(backlog, "th");
    add(backlog, "ree");
    EXPECT_TRUE(backlog.has_part());
    EXPECT_TRUE(backlog.end_message(true));
    EXPECT_FALSE(backlog.has_part());
    add(backlog, "rest");
    EXPECT_EQ(text_of(backlog.message().bytes), "one");
    EXPECT_FALSE(backlog.message().ends_record);
    backlog.take_message();
    EXPECT_EQ(text_of(backlog.message().bytes), "");
    EXPECT_TRUE(backlog.message().ends_record);
    backlog.take_message();
    EXPECT_EQ(text_of(backlog.message().bytes), "three");
    EXPECT_TRUE(backlog.message().ends_record);
    backlog.take_message();
    EXPECT_FALSE(backlog.has_message());
    EXPECT_TRUE(backlog.has_part());
    EXPECT_FALSE(backlog.empty());
    EXPECT_TRUE(backlog.end_message(false));
    EXPECT_EQ(text_of(backlog.message().bytes), "rest");
    backlog.clear();
    EXPECT_TRUE(backlog.empty());
    add(backlog, "next");
    EXPECT_TRUE(backlog.end_message(false));
    EXPECT_EQ(text_of(backlog.message().bytes), "next");
}

TEST(HostBacklog, KeepsSoManyEmptyMessagesAndAnyNumberOfOthers) {
    HostBacklog backlog;
    for (size_t i = 0; i < HostBacklog::kEmptyMessagesMax; ++i) {
        ASSERT_TRUE(backlog.end_message(false));
        add(backlog, "x");
        ASSERT_TRUE(backlog.end_message(false));
    }
    EXPECT_FALSE(backlog.end_message(false));
    add(backlog, "x");
    EXPECT_TRUE(backlog.end_message(false));
    // The first one that goes makes room.
    backlog.take_message();
    EXPECT_TRUE(backlog.end_message(false));
    EXPECT_FALSE(backlog.end_message(false));
}

}  // namespace
}  // namespace outrigger::vsock
