// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/attribute_map.h"

#include <cerrno>

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

AttributeMap map_of(std::string_view rules) {
    auto map = AttributeMap::parse(rules);
    EXPECT_TRUE(map.has_value()) << rules;
    return map ? *std::move(map) : AttributeMap();
}

Errno error_of(const Result<std::string, Errno>& result) {
    return result ? 0 : result.error();
}

TEST(AttributeMap, WithoutRulesNamesAreWhatTheyAre) {
    const AttributeMap map;
    EXPECT_EQ(map.to_host("user.a").value(), "user.a");
    EXPECT_EQ(map.to_guest("trusted.b"), "trusted.b");
}

TEST(AttributeMap, PrefixOfBothGoesThereAndBack) {
    const AttributeMap map = map_of(":prefix:all:trusted.:user.virtiofs.:");
    EXPECT_EQ(map.to_host("trusted.a").value(), "user.virtiofs.trusted.a");
    EXPECT_EQ(map.to_guest("user.virtiofs.trusted.a"), "trusted.a");
}

TEST(AttributeMap, WhatNoRuleNamesIsRefusedAndHidden) {
    const AttributeMap map = map_of(":prefix:all:trusted.:user.virtiofs.:");
    EXPECT_EQ(error_of(map.to_host("user.a")), EPERM);
    EXPECT_EQ(map.to_guest("user.a"), std::nullopt);
}

TEST(AttributeMap, BadAndUnsupportedSaySo) {
    const AttributeMap map = map_of(":bad:all:a:a: :unsupported:all:b:b: :ok:all:::");
    EXPECT_EQ(error_of(map.to_host("a1")), EPERM);
    EXPECT_EQ(error_of(map.to_host("b1")), EOPNOTSUPP);
    EXPECT_EQ(map.to_guest("a1"), std::nullopt);
    EXPECT_EQ(map.to_guest("b1"), std::nullopt);
    EXPECT_EQ(map.to_host("c1").value(), "c1");
}

TEST(AttributeMap, TheFirstRuleCounts) {
    const AttributeMap map = map_of(":ok:all:user.:user.:\n/prefix/all//user.x./");
    EXPECT_EQ(map.to_host("user.a").value(), "user.a");
    EXPECT_EQ(map.to_host("trusted.a").value(), "user.x.trusted.a");
}

TEST(AttributeMap, AMapOfAKeyLeavesOthersAlone) {
    const AttributeMap map = map_of(":map:trusted.:user.virtiofs.:");
    EXPECT_EQ(map.to_host("trusted.a").value(), "user.virtiofs.trusted.a");
    EXPECT_EQ(map.to_host("user.a").value(), "user.a");
    EXPECT_EQ(error_of(map.to_host("user.virtiofs.trusted.a")), EPERM);
    EXPECT_EQ(map.to_guest("trusted.a"), std::nullopt);
    EXPECT_EQ(map.to_guest("user.virtiofs.trusted.a"), "trusted.a");
}

TEST(AttributeMap, AMapWithoutAKeyHidesAllElse) {
    const AttributeMap map = map_of(":map::user.virtiofs.:");
    EXPECT_EQ(map.to_host("user.virtiofs.a").value(), "user.virtiofs.user.virtiofs.a");
    EXPECT_EQ(map.to_guest("user.a"), std::nullopt);
}

TEST(AttributeMap, ShowsNothingThatCannotBeReachedByItsName) {
    // Stripped it would be "user.a", which is kept elsewhere.
    const AttributeMap map = map_of(":prefix:all:trusted.:user.virtiofs.: :ok:all:::");
    EXPECT_EQ(map.to_guest("user.virtiofs.user.a"), std::nullopt);
}

TEST(AttributeMap, RefusesARuleWithoutItsEnd) {
    EXPECT_FALSE(AttributeMap::parse(":prefix:all:trusted.:user.virtiofs."));
    EXPECT_FALSE(AttributeMap::parse(":prefix:all:"));
    EXPECT_FALSE(AttributeMap::parse(":"));
}

TEST(AttributeMap, RefusesATypeThatIsNone) {
    EXPECT_FALSE(AttributeMap::parse(":maybe:all:a:b:"));
}

TEST(AttributeMap, RefusesAScopeThatIsNone) {
    EXPECT_FALSE(AttributeMap::parse(":ok:everybody:a:b:"));
}

TEST(AttributeMap, RefusesARuleBehindAMap) {
    EXPECT_FALSE(AttributeMap::parse(":map:a:b: :ok:all:::"));
}

TEST(AttributeMap, RefusesNoRuleAtAll) {
    EXPECT_FALSE(AttributeMap::parse(""));
    EXPECT_FALSE(AttributeMap::parse(" \n"));
}

}  // namespace
}  // namespace outrigger::fs
