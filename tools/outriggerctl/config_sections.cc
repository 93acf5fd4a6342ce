// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/config_sections.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <fmt/core.h>

#include "vhost-user-backend/control/printable_text.h"
#include "vhost-user-backend/daemon/config_text.h"

namespace outrigger::ctl {
namespace {

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

/// Each with its line end.
std::vector<std::string_view> lines_of(std::string_view text) {
    std::vector<std::string_view> lines;
    while (!text.empty()) {
        const size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
        lines.push_back(text.substr(0, end));
        text.remove_prefix(end);
    }
    return lines;
}

bool is_comment(std::string_view line) {
    const size_t begin = line.find_first_not_of(" \t\r");
    return begin != std::string_view::npos && (line[begin] == '#' || line[begin] == ';');
}

bool has_section(const ConfigText& config, const std::string& name) {
    return std::ranges::find(config.sections, name, &ConfigSection::name) != config.sections.end();
}

}  // namespace

Result<std::string> with_section(const std::string& text,
                                 const std::string& name,
                                 const std::vector<std::string>& items) {
    const ConfigText before = OUTRIGGER_TRY(parse_config(text));
    if (has_section(before, name)) {
        return refuse(fmt::format("there is a section [{}] already", control::printable(name)));
    }
    std::string out = text;
    if (!out.empty()) {
        out += out.ends_with('\n') ? "\n" : "\n\n";
    }
    out += fmt::format("[{}]\n", name);
    std::vector<std::pair<std::string, std::string>> wanted;
    for (const std::string& item : items) {
        const size_t equals = item.find('=');
        if (equals == std::string::npos || equals == 0) {
            return refuse(fmt::format("'{}' is not KEY=VALUE", control::printable(item)));
        }
        wanted.emplace_back(item.substr(0, equals), item.substr(equals + 1));
        out += fmt::format("{} = \"{}\"\n", wanted.back().first, wanted.back().second);
    }
    // What was put in must be what is read: nothing in a name or value ends its line or its quotes.
    const auto after = parse_config(out);
    const bool same =
        after && after->sections.size() == before.sections.size() + 1 &&
        after->sections.back().name == name &&
        std::ranges::equal(after->sections.back().items, wanted, [](const auto& read, auto& put) {
            return read.key == put.first && read.value == put.second;
        });
    if (!same) {
        return refuse(after
                          ? fmt::format("a file cannot say that of [{}]", control::printable(name))
                          : fmt::format("as a section of a file: {}", after.error().message));
    }
    return out;
}

Result<std::string> without_section(const std::string& text, const std::string& name) {
    const ConfigText config = OUTRIGGER_TRY(parse_config(text));
    const auto section = std::ranges::find(config.sections, name, &ConfigSection::name);
    if (section == config.sections.end()) {
        return refuse(fmt::format("there is no section [{}]", control::printable(name)));
    }
    const auto lines = lines_of(text);
    const size_t begin = section->line - 1;
    size_t end = lines.size();
    if (section + 1 != config.sections.end()) {
        end = (section + 1)->line - 1;
        while (end > begin + 1 && is_comment(lines[end - 1])) {
            --end;
        }
    }
    std::string out;
    for (size_t i = 0; i < lines.size(); ++i) {
        if (i < begin || i >= end) {
            out += lines[i];
        }
    }
    return out;
}

}  // namespace outrigger::ctl
