// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/option_parser.h"

#include <algorithm>
#include <string>
#include <string_view>

#include <cxxopts.hpp>

namespace outrigger {
namespace {

/// cxxopts takes a name of one letter for a short option, so it hears a longer one.
constexpr std::string_view kLetterSuffix = "-letter";

std::string key_of(const OptionSpec& spec) {
    std::string key(spec.name);
    return key.size() == 1 ? key.append(kLetterSuffix) : key;
}

/// `argument`, or what it is called as an option of one letter that the table has.
std::string renamed(std::string_view argument, std::span<const OptionSpec* const> table) {
    const bool one_letter = argument.size() > 2 && argument.starts_with("--") &&
                            (argument.size() == 3 || argument[3] == '=');
    if (!one_letter || !std::ranges::count(table, argument.substr(2, 1), &OptionSpec::name)) {
        return std::string(argument);
    }
    return std::string(argument.substr(0, 3)).append(kLetterSuffix).append(argument.substr(3));
}

}  // namespace

Result<std::vector<GivenOption>> split_arguments(std::span<const char* const> arguments,
                                                 std::span<const OptionSpec* const> table) {
    cxxopts::Options options("outrigger");
    options.allow_unrecognised_options();
    for (const OptionSpec* spec : table) {
        auto value = cxxopts::value<std::string>();
        if (spec->kind == OptionKind::kFlag) {
            value->implicit_value("on");
        }
        options.add_options()(key_of(*spec), "", value);
    }
    // cxxopts skips the program's name.
    std::vector<std::string> words;
    for (const std::string_view argument : arguments) {
        words.push_back(renamed(argument, table));
    }
    std::vector<const char*> argv = {"outrigger"};
    for (const std::string& word : words) {
        argv.push_back(word.c_str());
    }
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
            const auto spec = std::ranges::find_if(
                table, [&](const OptionSpec* row) { return key_of(*row) == argument.key(); });
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
