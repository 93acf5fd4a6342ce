// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/siblings.h"

#include <gtest/gtest.h>

namespace outrigger::vsock {
namespace {

TEST(CallerRule, IsACidOrACidAndAPort) {
    const auto any = parse_caller_rule("4");
    ASSERT_TRUE(any);
    EXPECT_EQ(any->cid, 4U);
    EXPECT_FALSE(any->port);
    const auto one = parse_caller_rule("4294967294:0");
    ASSERT_TRUE(one);
    EXPECT_EQ(one->cid, 4294967294U);
    EXPECT_EQ(one->port, 0U);
}

TEST(CallerRule, AnythingElseIsNone) {
    for (const char* text :
         {"", ":", "4:", ":22", "4:x", "x", "2", "4294967295", "4:4294967296", "4:22:1", " 4"}) {
        EXPECT_FALSE(parse_caller_rule(text)) << text;
    }
}

}  // namespace
}  // namespace outrigger::vsock
