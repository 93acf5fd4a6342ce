// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/id_map.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <utility>

#include <fmt/core.h>

namespace outrigger::fs {
namespace {

std::optional<uint32_t> parse_number(std::string_view text) {
    uint32_t number = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, number);
    return error == std::errc() && stop == end ? std::optional(number) : std::nullopt;
}

/// The parts of `text` between colons.
std::vector<std::string_view> split(std::string_view text) {
    std::vector<std::string_view> parts;
    while (true) {
        const size_t end = std::min(text.find(':'), text.size());
        parts.push_back(text.substr(0, end));
        if (end == text.size()) {
            return parts;
        }
        text.remove_prefix(end + 1);
    }
}

}  // namespace

/// False: some of it is there already, or its numbers go beyond the last one.
bool IdMap::add_range(std::vector<Range>& ranges, const Range& range) {
    // The last number means nobody.
    const auto fits = [](uint32_t first, uint32_t count) { return count <= UINT32_MAX - first; };
    if (range.count == 0 || !fits(range.first, range.count) ||
        !fits(range.target, range.kind == Kind::kShift ? range.count : 1)) {
        return false;
    }
    const bool is_taken = std::ranges::any_of(
        ranges, [&](const Range& each) { return each.has(range.first) || range.has(each.first); });
    if (!is_taken) {
        ranges.push_back(range);
    }
    return !is_taken;
}

Result<void> IdMap::add(std::string_view rule) {
    const std::vector<std::string_view> parts = split(rule);
    const std::string_view type = parts.front();
    const bool forbids = type == "forbid-guest";
    const auto number = [&](size_t index) {
        return index < parts.size() ? parse_number(parts[index]) : std::nullopt;
    };
    const auto first = number(1);
    const auto target = forbids ? std::optional<uint32_t>(0) : number(2);
    const auto count = number(forbids ? 2 : 3);
    if (parts.size() != (forbids ? 3U : 4U) || !first || !target || !count) {
        return failure(Error{.message = "a rule is TYPE:FIRST:TARGET:COUNT, or "
                                        "forbid-guest:FIRST:COUNT"});
    }
    const bool squashes = type == "squash-guest" || type == "squash-host";
    const Range range{.kind = forbids    ? Kind::kForbid
                              : squashes ? Kind::kSquash
                                         : Kind::kShift,
                      .first = *first,
                      .count = *count,
                      .target = *target};
    bool added = false;
    has_only_pairs_ = has_only_pairs_ && type == "map";
    if (type == "guest" || type == "squash-guest" || forbids) {
        added = add_range(to_host_, range);
    } else if (type == "host" || type == "squash-host") {
        added = add_range(to_guest_, range);
    } else if (type == "map") {
        added = add_range(to_host_, range) &&
                add_range(to_guest_, {.first = *target, .count = *count, .target = *first});
    } else {
        return failure(Error{.message = "types are guest, host, map, squash-guest, squash-host and "
                                        "forbid-guest"});
    }
    if (!added) {
        return failure(Error{.message = "numbers are in two rules, or beyond 4294967294"});
    }
    return {};
}

Result<IdMap> IdMap::parse(std::string_view option, std::span<const std::string> rules) {
    IdMap map;
    for (const std::string& rule : rules) {
        if (auto added = map.add(rule); !added) {
            return failure(
                Error{.message = fmt::format("--{}={}: {}", option, rule, added.error().message)});
        }
    }
    return map;
}

Result<std::string> IdMap::namespace_lines(std::string_view option) const {
    if (!has_only_pairs_) {
        return failure(Error{
            .message = fmt::format("--{}: a mount takes rules of the type map alone", option)});
    }
    if (is_empty()) {
        return fmt::format("0 0 {}\n", UINT32_MAX);
    }
    std::string lines;
    for (const Range& range : to_host_) {
        lines += fmt::format("{} {} {}\n", range.target, range.first, range.count);
    }
    return lines;
}

Result<uint32_t, Errno> IdMap::to_host(uint32_t id) const {
    const auto range =
        std::ranges::find_if(to_host_, [id](const Range& each) { return each.has(id); });
    if (range == to_host_.end()) {
        return id;
    }
    switch (range->kind) {
        case Kind::kShift:
            return range->target + (id - range->first);
        case Kind::kSquash:
            return range->target;
        case Kind::kForbid:
            break;
    }
    return failure(EPERM);
}

uint32_t IdMap::to_guest(uint32_t id) const {
    const auto range =
        std::ranges::find_if(to_guest_, [id](const Range& each) { return each.has(id); });
    if (range == to_guest_.end()) {
        return id;
    }
    return range->kind == Kind::kShift ? range->target + (id - range->first) : range->target;
}

}  // namespace outrigger::fs
