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
    backlog.end_message();
    backlog.end_message();
    add(backlog, "th");
    add(backlog, "ree");
    backlog.end_message();
    add(backlog, "rest");
    EXPECT_EQ(text_of(backlog.message()), "one");
    backlog.take_message();
    EXPECT_EQ(text_of(backlog.message()), "");
    backlog.take_message();
    EXPECT_EQ(text_of(backlog.message()), "three");
    backlog.take_message();
    EXPECT_FALSE(backlog.has_message());
    EXPECT_FALSE(backlog.empty());
    backlog.end_message();
    EXPECT_EQ(text_of(backlog.message()), "rest");
    backlog.clear();
    EXPECT_TRUE(backlog.empty());
    add(backlog, "next");
    backlog.end_message();
    EXPECT_EQ(text_of(backlog.message()), "next");
}

}  // namespace
}  // namespace outrigger::vsock
