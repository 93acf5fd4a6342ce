// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_program.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "devices/net/backend_options.h"
#include "devices/net/net_options.h"

namespace outrigger::net {
namespace {

TEST(ParseMac, TakesSixBytesAndNothingElse) {
    const MacAddress expected{std::byte{0x52},
                              std::byte{0x54},
                              std::byte{0x00},
                              std::byte{0xaB},
                              std::byte{0x34},
                              std::byte{0x56}};
    EXPECT_EQ(parse_mac("52:54:00:ab:34:56"), expected);
    EXPECT_EQ(parse_mac("52:54:00:AB:34:56"), expected);
    for (const char* text : {"",
                             "52:54:00:ab:34",
                             "52:54:00:ab:34:5",
                             "52:54:00:ab:34:567",
                             "52-54-00-ab-34-56",
                             "52:54:00:ab:34:5g",
                             "52:54:00:ab:34: 6",
                             "52:54:00:ab:34:-6"}) {
        EXPECT_FALSE(parse_mac(text)) << text;
    }
}

TEST(ParseMac, RefusesWhatNoStationHas) {
    EXPECT_FALSE(parse_mac("00:00:00:00:00:00"));
    EXPECT_FALSE(parse_mac("ff:ff:ff:ff:ff:ff"));
    EXPECT_FALSE(parse_mac("01:00:5e:00:00:01"));
}

TEST(BackendOptions, AreThoseWhoseHelpSaysSo) {
    for (const OptionSpec& spec : kNetOptions) {
        const bool is_of_some =
            std::ranges::count(kBackendOptions, spec.name, &BackendOption::name) == 1;
        EXPECT_EQ(spec.help.starts_with("Of "), is_of_some) << spec.name;
    }
}

TEST(BackendOptions, ExistByTheirNames) {
    for (const BackendOption& option : kBackendOptions) {
        EXPECT_EQ(std::ranges::count(kNetOptions, option.name, &OptionSpec::name), 1)
            << option.name;
    }
}

TEST(BackendOptions, OfAnotherBackEndAreRefusedEvenWithTheirDefaults) {
    for (const BackendOption& option : kBackendOptions) {
        const auto spec = std::ranges::find(kNetOptions, option.name, &OptionSpec::name);
        OptionValues values;
        values.set_defaults(kNetOptions);
        ASSERT_TRUE(check_backend_options("null", values));
        const std::string_view by_kind = spec->kind == OptionKind::kFlag   ? "on"
                                         : spec->kind == OptionKind::kText ? "x"
                                                                           : "7";
        const std::string_view text = spec->default_value.empty() ? by_kind : spec->default_value;
        ASSERT_TRUE(values.set(*spec, text)) << option.name;

        EXPECT_FALSE(check_backend_options("null", values)) << option.name;
        EXPECT_TRUE(check_backend_options(option.backends.front(), values)) << option.name;
    }
}

}  // namespace
}  // namespace outrigger::net
