// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/option_table.h"

#include <array>

#include <gtest/gtest.h>

namespace outrigger {
namespace {

constexpr std::array<std::string_view, 2> kColours = {"red", "green"};

constexpr OptionSpec kFlag{.name = "fast", .kind = OptionKind::kFlag};
constexpr OptionSpec kText{.name = "file", .kind = OptionKind::kText};
constexpr OptionSpec kNumber{
    .name = "count", .kind = OptionKind::kNumber, .number_min = 1, .number_max = 100};
constexpr OptionSpec kSize{.name = "bytes", .kind = OptionKind::kSize, .number_min = 1};
constexpr OptionSpec kChoice{.name = "colour", .kind = OptionKind::kChoice, .choices = kColours};

std::string refusal(const OptionSpec& spec, std::string_view text) {
    OptionValues values;
    const auto result = values.set(spec, text);
    EXPECT_FALSE(values.has(spec.name));
    return result ? "accepted" : result.error().message;
}

std::optional<uint64_t> number_of(const OptionSpec& spec, std::string_view text) {
    OptionValues values;
    return values.set(spec, text) ? values.number(spec.name) : std::nullopt;
}

TEST(OptionValues, KnowsNothingAtFirst) {
    const OptionValues values;

    EXPECT_FALSE(values.has("fast"));
    EXPECT_FALSE(values.flag("fast"));
    EXPECT_EQ(values.text("file"), std::nullopt);
    EXPECT_EQ(values.number("count"), std::nullopt);
}

TEST(OptionValues, FlagTakesOn) {
    OptionValues values;
    ASSERT_TRUE(values.set(kFlag, "on"));

    EXPECT_TRUE(values.flag("fast"));
}

TEST(OptionValues, FlagTakesOff) {
    OptionValues values;
    ASSERT_TRUE(values.set(kFlag, "off"));

    EXPECT_TRUE(values.has("fast"));
    EXPECT_FALSE(values.flag("fast"));
}

TEST(OptionValues, FlagRefusesAnythingElse) {
    EXPECT_EQ(refusal(kFlag, "yes"), "--fast takes on or off, not 'yes'");
    EXPECT_EQ(refusal(kFlag, ""), "--fast takes on or off, not ''");
}

TEST(OptionValues, TextRefusesNothing) {
    EXPECT_EQ(refusal(kText, ""), "--file takes a text, not ''");
}

TEST(OptionValues, NumberTakesItsBounds) {
    EXPECT_EQ(number_of(kNumber, "1"), 1U);
    EXPECT_EQ(number_of(kNumber, "100"), 100U);
}

TEST(OptionValues, NumberTakesHexadecimal) {
    EXPECT_EQ(number_of(kNumber, "0x1f"), 31U);
    EXPECT_EQ(number_of(kNumber, "0X1F"), 31U);
}

TEST(OptionValues, NumberRefusesItsNeighbours) {
    EXPECT_EQ(refusal(kNumber, "0"), "--count takes a number from 1 to 100, not '0'");
    EXPECT_EQ(refusal(kNumber, "101"), "--count takes a number from 1 to 100, not '101'");
}

TEST(OptionValues, NumberRefusesWhatIsNone) {
    EXPECT_NE(refusal(kNumber, ""), "accepted");
    EXPECT_NE(refusal(kNumber, "-1"), "accepted");
    EXPECT_NE(refusal(kNumber, "+1"), "accepted");
    EXPECT_NE(refusal(kNumber, " 1"), "accepted");
    EXPECT_NE(refusal(kNumber, "1 "), "accepted");
    EXPECT_NE(refusal(kNumber, "0x"), "accepted");
    EXPECT_NE(refusal(kNumber, "1.5"), "accepted");
    EXPECT_NE(refusal(kNumber, "1K"), "accepted");
    EXPECT_NE(refusal(kNumber, "18446744073709551617"), "accepted");
}

TEST(OptionValues, SizeTakesSuffixesOf1024) {
    EXPECT_EQ(number_of(kSize, "7"), 7U);
    EXPECT_EQ(number_of(kSize, "2K"), 2048U);
    EXPECT_EQ(number_of(kSize, "2k"), 2048U);
    EXPECT_EQ(number_of(kSize, "3M"), 3U << 20);
    EXPECT_EQ(number_of(kSize, "1G"), 1U << 30);
    EXPECT_EQ(number_of(kSize, "1T"), uint64_t{1} << 40);
}

TEST(OptionValues, SizeRefusesOverflowAndNonsense) {
    EXPECT_EQ(number_of(kSize, "16777215T"), uint64_t{16777215} << 40);
    EXPECT_NE(refusal(kSize, "16777216T"), "accepted");
    EXPECT_NE(refusal(kSize, "K"), "accepted");
    EXPECT_NE(refusal(kSize, "1KB"), "accepted");
    EXPECT_NE(refusal(kSize, "1P"), "accepted");
}

TEST(OptionValues, SizeRefusalSaysWhatItTakes) {
    EXPECT_EQ(refusal(kSize, "0"),
              "--bytes takes a size in bytes (suffix K, M, G or T) of at least 1, not '0'");
}

TEST(OptionValues, ChoiceTakesOneOfItsOwn) {
    OptionValues values;
    ASSERT_TRUE(values.set(kChoice, "green"));

    EXPECT_EQ(values.text("colour"), "green");
}

TEST(OptionValues, ChoiceRefusesOthers) {
    EXPECT_EQ(refusal(kChoice, "blue"), "--colour takes one of red, green, not 'blue'");
}

TEST(OptionValues, DefaultsFillOnlyWhatIsMissing) {
    constexpr std::array<OptionSpec, 2> kSpecs = {{
        {.name = "given", .kind = OptionKind::kNumber, .default_value = "1"},
        {.name = "missing", .kind = OptionKind::kNumber, .default_value = "2"},
    }};
    OptionValues values;
    ASSERT_TRUE(values.set(kSpecs[0], "7"));

    values.set_defaults(kSpecs);

    EXPECT_EQ(values.number("given"), 7U);
    EXPECT_EQ(values.number("missing"), 2U);
}

TEST(OptionValues, TellsWhatWasGivenFromDefaults) {
    constexpr std::array<OptionSpec, 3> kSpecs = {{
        {.name = "given", .kind = OptionKind::kNumber, .default_value = "1"},
        {.name = "missing", .kind = OptionKind::kNumber, .default_value = "2"},
        {.name = "repeated", .default_value = "c", .repeatable = true},
    }};
    OptionValues values;
    ASSERT_TRUE(values.set(kSpecs[0], "7"));
    ASSERT_TRUE(values.set(kSpecs[0], "1"));

    values.set_defaults(kSpecs);

    EXPECT_EQ(values.texts("given"), std::vector<std::string>{"1"});
    EXPECT_EQ(values.numbers("given"), std::vector<uint64_t>{1});
    EXPECT_TRUE(values.numbers("missing").empty());
    EXPECT_TRUE(values.texts("missing").empty());
    EXPECT_EQ(values.texts("repeated"), std::vector<std::string>{"c"});
}

TEST(OptionValues, OptionsWithoutDefaultStayUnset) {
    OptionValues values;

    values.set_defaults(std::span(&kText, 1));

    EXPECT_FALSE(values.has("file"));
}

}  // namespace
}  // namespace outrigger
