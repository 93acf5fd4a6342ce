// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/option_parser.h"

#include <algorithm>

#include <cxxopts.hpp>

namespace outrigger {

Result<std::vector<GivenOption>> split_arguments(std::span<const char* const> arguments,
                                                 std::span<const OptionSpec* const> table) {
    cxxopts::Options options("outrigger");
    options.allow_unrecognised_options();
    for (const OptionSpec* spec : table) {
        auto value = cxxopts::value<std::string>();
        if (spec->kind == OptionKind::kFlag) {
            value->implicit_value("on");
        }
        options.add_options()(std::string(spec->name), "", value);
    }
    // cxxopts skips the program's name.
    std::vector<const char*> argv = {"outrigger"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    try {
        const auto parsed = options.parse(static_cast<int>(argv.size()), argv.data());
        if (!parsed.unmatched().empty()) {
            const std::string& stray = parsed.unmatched().front();
            return failure(Error{.message = stray.starts_with("-")
                                                ? "there is no option " + stray
                                                : "'" + stray + "' is not an option"});
        }
        std::vector<GivenOption> given;
        for (const auto& argument : parsed.arguments()) {
            const auto spec = std::ranges::find(table, argument.key(), &OptionSpec::name);
            OUTRIGGER_ASSERT(spec != table.end());
            given.push_back({.spec = *spec, .text = argument.value()});
        }
        return given;
    } catch (const cxxopts::exceptions::missing_argument&) {
        return failure(Error{.message = "the last option lacks its value"});
    } catch (const cxxopts::exceptions::exception& exception) {
        return failure(Error{.message = exception.what()});
    }
}

}  // namespace outrigger
