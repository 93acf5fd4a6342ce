// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/config_text.h"

#include <algorithm>
#include <utility>

#include "vhost-user-backend/base/error.h"

namespace outrigger {
namespace {

constexpr std::string_view kBlanks = " \t\r";

std::string_view trimmed(std::string_view text) {
    const size_t begin = text.find_first_not_of(kBlanks);
    if (begin == std::string_view::npos) {
        return {};
    }
    return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

std::unexpected<Error> wrong(size_t line, const std::string& why) {
    return failure(Error{.message = "line " + std::to_string(line) + ": " + why});
}

bool is_plain(char each) {
    return (each >= 'a' && each <= 'z') || (each >= 'A' && each <= 'Z') ||
           (each >= '0' && each <= '9') || each == '-';
}

Result<ConfigSection> parse_section(size_t line, std::string_view text) {
    if (!text.ends_with(']')) {
        return wrong(line, "a section is [NAME]");
    }
    const std::string_view name = trimmed(text.substr(1, text.size() - 2));
    if (name.empty() || name.size() > kSectionNameMax || !std::ranges::all_of(name, is_plain)) {
        return wrong(line,
                     "the name of a section has letters, digits and '-', at most " +
                         std::to_string(kSectionNameMax));
    }
    return ConfigSection{.line = line, .name = std::string(name)};
}

Result<ConfigItem> parse_item(size_t line, std::string_view text) {
    const size_t equals = text.find('=');
    const std::string_view key = trimmed(text.substr(0, equals));
    if (equals == std::string_view::npos || key.empty()) {
        return wrong(line, "this is neither KEY = VALUE nor [NAME]");
    }
    std::string_view value = trimmed(text.substr(equals + 1));
    if (value.starts_with('"')) {
        value.remove_prefix(1);
        if (value.empty() || value.find('"') != value.size() - 1) {
            return wrong(line, "a value in double quotes ends with the second of them");
        }
        value.remove_suffix(1);
    }
    if (value.empty()) {
        return wrong(line, std::string(key) + " has no value");
    }
    return ConfigItem{.line = line, .key = std::string(key), .value = std::string(value)};
}

}  // namespace

Result<ConfigText> parse_config(std::string_view text) {
    ConfigText config;
    for (size_t line = 1; !text.empty(); ++line) {
        const size_t end = std::min(text.find('\n'), text.size());
        const std::string_view here = trimmed(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
        if (here.empty() || here.starts_with('#') || here.starts_with(';')) {
            continue;
        }
        if (std::ranges::any_of(here, [](char each) {
                return (static_cast<unsigned char>(each) < ' ' && each != '\t') || each == '\x7f';
            })) {
            return wrong(line, "there is a control character");
        }
        if (here.starts_with('[')) {
            ConfigSection section = OUTRIGGER_TRY(parse_section(line, here));
            const auto same =
                std::ranges::find(config.sections, section.name, &ConfigSection::name);
            if (same != config.sections.end()) {
                return wrong(line,
                             "[" + section.name + "] is there twice, first in line " +
                                 std::to_string(same->line));
            }
            config.sections.push_back(std::move(section));
            continue;
        }
        auto& items = config.sections.empty() ? config.defaults : config.sections.back().items;
        items.push_back(OUTRIGGER_TRY(parse_item(line, here)));
    }
    return config;
}

}  // namespace outrigger
