// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/capability_list.h"

#include <linux/capability.h>

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

constexpr uint64_t bit(int capability) {
    return uint64_t{1} << capability;
}

TEST(CapabilityList, AddsAndRemoves) {
    const auto changes = parse_capability_changes("+sys_admin:-chown");
    ASSERT_TRUE(changes.has_value());
    EXPECT_EQ(changes->apply(bit(CAP_CHOWN) | bit(CAP_FOWNER)),
              bit(CAP_SYS_ADMIN) | bit(CAP_FOWNER));
}

TEST(CapabilityList, KnowsTheLastOne) {
    EXPECT_EQ(parse_capability_changes("+checkpoint_restore")->added, bit(CAP_LAST_CAP));
}

TEST(CapabilityList, TheLastWordCounts) {
    const auto changes = parse_capability_changes("+mknod:-mknod");
    ASSERT_TRUE(changes.has_value());
    EXPECT_EQ(changes->apply(bit(CAP_MKNOD)), 0U);
}

TEST(CapabilityList, RefusesAnUnknownName) {
    EXPECT_FALSE(parse_capability_changes("+sys_everything"));
}

TEST(CapabilityList, RefusesANameWithoutASign) {
    EXPECT_FALSE(parse_capability_changes("sys_admin"));
}

TEST(CapabilityList, RefusesNothing) {
    EXPECT_FALSE(parse_capability_changes(""));
    EXPECT_FALSE(parse_capability_changes("+"));
    EXPECT_FALSE(parse_capability_changes("+chown:"));
}

}  // namespace
}  // namespace outrigger::fs
