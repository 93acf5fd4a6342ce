// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/attribute_map.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <fmt/core.h>

namespace outrigger::fs {
namespace {

constexpr size_t kRulesMax = 1000;
constexpr std::string_view kSpace = " \t\n";

Error wrong(std::string_view what, std::string_view text) {
    return Error{.message = fmt::format("--xattrmap: {}: '{}'", what, text)};
}

/// Cuts one field off the front of `text`, and the separator behind it.
std::optional<std::string_view> take_field(std::string_view& text, char separator) {
    const size_t end = text.find(separator);
    if (end == std::string_view::npos) {
        return std::nullopt;
    }
    const std::string_view field = text.substr(0, end);
    text.remove_prefix(end + 1);
    return field;
}

void skip_space(std::string_view& text) {
    text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
}

}  // namespace

bool is_access_list(std::string_view host_name) {
    return host_name == "system.posix_acl_access" || host_name == "system.posix_acl_default";
}

Result<AttributeMap::Rule> AttributeMap::parse_rule(std::string_view type,
                                                    std::string_view scope,
                                                    std::string_view key,
                                                    std::string_view prepend) {
    Rule rule{.key = std::string(key), .prepend = std::string(prepend)};
    if (type == "prefix") {
        rule.type = Type::kPrefix;
    } else if (type == "ok") {
        rule.type = Type::kOk;
    } else if (type == "bad") {
        rule.type = Type::kBad;
    } else if (type == "unsupported") {
        rule.type = Type::kUnsupported;
    } else {
        return failure(wrong("no type of a rule (prefix, ok, bad, unsupported, map)", type));
    }
    rule.of_guest = scope == "client" || scope == "all";
    rule.of_host = scope == "server" || scope == "all";
    if (!rule.of_guest && !rule.of_host) {
        return failure(wrong("no scope of a rule (client, server, all)", scope));
    }
    return rule;
}

/// What the short rule stands for.
void AttributeMap::add_map(std::string_view key, std::string_view prepend) {
    rules_.push_back({.type = Type::kPrefix,
                      .of_guest = true,
                      .of_host = true,
                      .key = std::string(key),
                      .prepend = std::string(prepend)});
    if (key.empty()) {
        rules_.push_back({.type = Type::kBad, .of_guest = true, .of_host = true});
        return;
    }
    // What has the name on the host, the guest does not see; and it does not get behind the prefix.
    rules_.push_back({.type = Type::kBad, .of_host = true, .prepend = std::string(key)});
    rules_.push_back({.type = Type::kBad, .of_guest = true, .key = std::string(prepend)});
    rules_.push_back({.type = Type::kOk, .of_guest = true, .of_host = true});
}

Result<AttributeMap> AttributeMap::parse(std::string_view text) {
    AttributeMap map;
    bool has_map = false;
    for (skip_space(text); !text.empty(); skip_space(text)) {
        const std::string_view whole = text;
        if (has_map) {
            return failure(wrong("a 'map' rule is the last one", whole));
        }
        if (map.rules_.size() >= kRulesMax) {
            return failure(wrong("more rules than anybody needs", whole));
        }
        const char separator = text.front();
        text.remove_prefix(1);
        const auto type = take_field(text, separator);
        has_map = type == "map";
        const auto scope =
            type && !has_map ? take_field(text, separator) : std::optional<std::string_view>("");
        const auto key = scope ? take_field(text, separator) : std::nullopt;
        const auto prepend = key ? take_field(text, separator) : std::nullopt;
        if (!type || !prepend) {
            return failure(wrong("a rule ends early", whole));
        }
        if (has_map) {
            map.add_map(*key, *prepend);
        } else {
            map.rules_.push_back(OUTRIGGER_TRY(parse_rule(*type, *scope, *key, *prepend)));
        }
    }
    if (map.is_empty()) {
        return failure(wrong("no rule", ""));
    }
    return map;
}

Result<std::string, Errno> AttributeMap::to_host(std::string_view name) const {
    if (is_empty()) {
        return std::string(name);
    }
    const auto rule = std::ranges::find_if(
        rules_, [&](const Rule& each) { return each.of_guest && name.starts_with(each.key); });
    if (rule == rules_.end()) {
        return failure(EPERM);
    }
    switch (rule->type) {
        case Type::kPrefix:
            return rule->prepend + std::string(name);
        case Type::kOk:
            return std::string(name);
        case Type::kBad:
            return failure(EPERM);
        case Type::kUnsupported:
            break;
    }
    return failure(EOPNOTSUPP);
}

std::optional<std::string_view> AttributeMap::to_guest(std::string_view name) const {
    if (is_empty()) {
        return name;
    }
    const auto rule = std::ranges::find_if(
        rules_, [&](const Rule& each) { return each.of_host && name.starts_with(each.prepend); });
    if (rule == rules_.end() || rule->type == Type::kBad || rule->type == Type::kUnsupported) {
        return std::nullopt;
    }
    const std::string_view seen =
        rule->type == Type::kPrefix ? name.substr(rule->prepend.size()) : name;
    const auto back = to_host(seen);
    return back && *back == name ? std::optional(seen) : std::nullopt;
}

}  // namespace outrigger::fs
