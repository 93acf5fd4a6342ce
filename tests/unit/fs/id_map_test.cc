// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/id_map.h"

#include <cerrno>

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

using Rules = std::vector<std::string>;

IdMap map_of(const Rules& rules) {
    auto map = IdMap::parse("translate-uid", rules);
    EXPECT_TRUE(map.has_value()) << map.error().message;
    return map ? *std::move(map) : IdMap();
}

bool is_refused(const std::string& rule) {
    return !IdMap::parse("translate-uid", Rules{rule});
}

TEST(IdMap, WithoutRulesEverybodyIsHimself) {
    const IdMap map;
    EXPECT_TRUE(map.is_empty());
    EXPECT_EQ(map.to_host(7).value(), 7U);
    EXPECT_EQ(map.to_guest(7), 7U);
}

TEST(IdMap, MapsBothWays) {
    const IdMap map = map_of({"map:0:100000:1000"});
    EXPECT_EQ(map.to_host(0).value(), 100'000U);
    EXPECT_EQ(map.to_host(999).value(), 100'999U);
    EXPECT_EQ(map.to_host(1000).value(), 1000U);
    EXPECT_EQ(map.to_guest(100'999), 999U);
    EXPECT_EQ(map.to_guest(101'000), 101'000U);
    EXPECT_EQ(map.to_guest(5), 5U);
}

TEST(IdMap, OneWayIsNotTheOther) {
    const IdMap map = map_of({"guest:1000:5000:10", "host:7000:2000:10"});
    EXPECT_EQ(map.to_host(1005).value(), 5005U);
    EXPECT_EQ(map.to_guest(5005), 5005U);
    EXPECT_EQ(map.to_guest(7005), 2005U);
    EXPECT_EQ(map.to_host(2005).value(), 2005U);
}

TEST(IdMap, SquashesManyToOne) {
    const IdMap map = map_of({"squash-guest:0:1000:4294967295", "squash-host:0:0:1000"});
    EXPECT_EQ(map.to_host(0).value(), 1000U);
    EXPECT_EQ(map.to_host(4'294'967'294).value(), 1000U);
    EXPECT_EQ(map.to_guest(999), 0U);
    EXPECT_EQ(map.to_guest(1000), 1000U);
}

TEST(IdMap, ForbidsSome) {
    const IdMap map = map_of({"forbid-guest:0:10"});
    EXPECT_EQ(map.to_host(9).error(), EPERM);
    EXPECT_EQ(map.to_host(10).value(), 10U);
    EXPECT_EQ(map.to_guest(9), 9U);
}

TEST(IdMap, RefusesNumbersInTwoRules) {
    EXPECT_FALSE(IdMap::parse("translate-uid", Rules{"map:0:100:10", "guest:9:500:1"}));
    EXPECT_FALSE(IdMap::parse("translate-uid", Rules{"map:0:100:10", "host:100:500:1"}));
    EXPECT_TRUE(IdMap::parse("translate-uid", Rules{"map:0:100:10", "guest:10:500:1"}));
}

TEST(IdMap, RefusesRulesThatAreNone) {
    EXPECT_TRUE(is_refused(""));
    EXPECT_TRUE(is_refused("map"));
    EXPECT_TRUE(is_refused("map:1:2"));
    EXPECT_TRUE(is_refused("map:1:2:3:4"));
    EXPECT_TRUE(is_refused("map:1:2:0"));
    EXPECT_TRUE(is_refused("map:-1:2:3"));
    EXPECT_TRUE(is_refused("map:1:2:x"));
    EXPECT_TRUE(is_refused("shift:1:2:3"));
    EXPECT_TRUE(is_refused("forbid-guest:1:2:3"));
}

TEST(IdMap, RefusesTheNumberThatMeansNobody) {
    EXPECT_TRUE(is_refused("map:0:4294967295:1"));
    EXPECT_TRUE(is_refused("guest:4294967290:0:6"));
    EXPECT_FALSE(is_refused("guest:4294967290:0:5"));
    EXPECT_TRUE(is_refused("guest:0:4294967290:6"));
    EXPECT_TRUE(is_refused("squash-guest:0:4294967295:5"));
}

TEST(IdMap, IsTheMapOfAUserNamespace) {
    const std::vector<std::string> rules = {"map:0:100000:1000", "map:5000:7:1"};
    const auto map = IdMap::parse("translate-uid", rules);
    ASSERT_TRUE(map.has_value());
    EXPECT_EQ(map->namespace_lines("translate-uid").value(), "100000 0 1000\n7 5000 1\n");
}

TEST(IdMap, WithoutRulesANamespaceHasEverybody) {
    EXPECT_EQ(IdMap().namespace_lines("translate-gid").value(), "0 0 4294967295\n");
}

TEST(IdMap, OtherRulesAreNoNamespaces) {
    for (const char* const rule : {"guest:0:1:1",
                                   "host:0:1:1",
                                   "squash-guest:0:1:1",
                                   "squash-host:0:1:1",
                                   "forbid-guest:0:1"}) {
        const std::vector<std::string> rules = {"map:5000:7:1", rule};
        const auto map = IdMap::parse("translate-uid", rules);
        ASSERT_TRUE(map.has_value()) << rule;
        const auto lines = map->namespace_lines("translate-uid");
        ASSERT_FALSE(lines) << rule;
        EXPECT_NE(lines.error().message.find("--translate-uid"), std::string::npos);
    }
}

}  // namespace
}  // namespace outrigger::fs
