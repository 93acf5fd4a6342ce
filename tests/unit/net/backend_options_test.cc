// SPDX-License-Identifier: Apache-2.0
#include "devices/net/backend_options.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "devices/net/net_options.h"

namespace outrigger::net {
namespace {

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
