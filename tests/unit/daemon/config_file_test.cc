// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/config_file.h"

#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace outrigger {
namespace {

std::string refusal(std::string_view text) {
    const auto config = parse_config(text);
    return config ? "accepted" : config.error().message;
}

TEST(ConfigFile, NothingIsNothing) {
    const auto config = parse_config("");
    ASSERT_TRUE(config);
    EXPECT_TRUE(config->defaults.empty());
    EXPECT_TRUE(config->sections.empty());
}

TEST(ConfigFile, DefaultsAndSectionsHaveTheirLines) {
    const auto config =
        parse_config("# all\n\nmax = 2M\n[vm1]\n; one\n  a\t= 1 \r\nb=x = y\n[vm-2]");
    ASSERT_TRUE(config) << config.error().message;
    ASSERT_EQ(config->defaults.size(), 1U);
    EXPECT_EQ(config->defaults[0].line, 3U);
    EXPECT_EQ(config->defaults[0].key, "max");
    EXPECT_EQ(config->defaults[0].value, "2M");
    ASSERT_EQ(config->sections.size(), 2U);
    EXPECT_EQ(config->sections[0].name, "vm1");
    EXPECT_EQ(config->sections[0].line, 4U);
    ASSERT_EQ(config->sections[0].items.size(), 2U);
    EXPECT_EQ(config->sections[0].items[0].key, "a");
    EXPECT_EQ(config->sections[0].items[0].value, "1");
    EXPECT_EQ(config->sections[0].items[0].line, 6U);
    EXPECT_EQ(config->sections[0].items[1].value, "x = y");
    EXPECT_EQ(config->sections[1].name, "vm-2");
    EXPECT_TRUE(config->sections[1].items.empty());
}

TEST(ConfigFile, QuotesKeepBlanks) {
    const auto config = parse_config("a = \" x # y \"");
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_EQ(config->defaults[0].value, " x # y ");
}

TEST(ConfigFile, QuoteThatDoesNotEndIsRefused) {
    EXPECT_EQ(refusal("a = \"x"), "line 1: a value in double quotes ends with the second of them");
    EXPECT_EQ(refusal("\na = \"x\" y"),
              "line 2: a value in double quotes ends with the second of them");
    EXPECT_EQ(refusal("a = \""), "line 1: a value in double quotes ends with the second of them");
}

TEST(ConfigFile, ValueThatIsEmptyIsRefused) {
    EXPECT_EQ(refusal("a ="), "line 1: a has no value");
    EXPECT_EQ(refusal("a = \"\""), "line 1: a has no value");
}

TEST(ConfigFile, LineThatIsNothingIsRefused) {
    EXPECT_EQ(refusal("[v]\npostcopy"), "line 2: this is neither KEY = VALUE nor [NAME]");
    EXPECT_EQ(refusal("= 3"), "line 1: this is neither KEY = VALUE nor [NAME]");
}

TEST(ConfigFile, SectionThatDoesNotEndIsRefused) {
    EXPECT_EQ(refusal("[vm1"), "line 1: a section is [NAME]");
    EXPECT_EQ(refusal("[vm1] x"), "line 1: a section is [NAME]");
    EXPECT_EQ(refusal("["), "line 1: a section is [NAME]");
}

TEST(ConfigFile, NameOfASectionIsPlain) {
    const std::string longest(kSectionNameMax, 'x');
    EXPECT_EQ(refusal("[" + longest + "]"), "accepted");
    for (const std::string& name : {std::string(),
                                    longest + "x",
                                    std::string("a.b"),
                                    std::string("a:b"),
                                    std::string("a/b"),
                                    std::string("a b")}) {
        EXPECT_EQ(refusal("[" + name + "]"),
                  "line 1: the name of a section has letters, digits and '-', at most 24")
            << name;
    }
}

TEST(ConfigFile, SectionThatIsThereTwiceIsRefused) {
    EXPECT_EQ(refusal("[a]\n[b]\n[a]\n"), "line 3: [a] is there twice, first in line 1");
}

TEST(ConfigFile, ControlCharacterIsRefused) {
    EXPECT_EQ(refusal(std::string_view("a = x\0y", 7)), "line 1: there is a control character");
    EXPECT_EQ(refusal("a = x\x1by"), "line 1: there is a control character");
}

}  // namespace
}  // namespace outrigger
