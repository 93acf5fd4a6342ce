// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/option_table.h"

#include <algorithm>
#include <charconv>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger {
namespace {

std::optional<uint64_t> parse_number(std::string_view text) {
    int base = 10;
    if (text.starts_with("0x") || text.starts_with("0X")) {
        text.remove_prefix(2);
        base = 16;
    }
    uint64_t number = 0;
    const char* const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, number, base);
    if (error != std::errc() || rest != end) {
        return std::nullopt;
    }
    return number;
}

std::optional<uint64_t> parse_size(std::string_view text) {
    constexpr std::string_view kSuffixes = "KMGT";
    uint64_t unit = 1;
    if (!text.empty()) {
        const char last = static_cast<char>(text.back() & ~0x20);  // upper case
        const size_t power = kSuffixes.find(last);
        if (power != std::string_view::npos) {
            unit = uint64_t{1} << 10 * (power + 1);
            text.remove_suffix(1);
        }
    }
    const auto count = parse_number(text);
    return count ? checked_multiply(*count, unit) : std::nullopt;
}

std::string describe_range(const OptionSpec& spec, std::string_view what) {
    std::string text(what);
    if (spec.number_max == UINT64_MAX) {
        return spec.number_min == 0 ? text
                                    : text + " of at least " + std::to_string(spec.number_min);
    }
    return text + " from " + std::to_string(spec.number_min) + " to " +
           std::to_string(spec.number_max);
}

std::string describe_choices(const OptionSpec& spec) {
    std::string text = "one of";
    for (const std::string_view choice : spec.choices) {
        text += text.ends_with("of") ? " " : ", ";
        text += choice;
    }
    return text;
}

std::unexpected<Error> refuse(const OptionSpec& spec,
                              std::string_view takes,
                              std::string_view got) {
    std::string message = "--";
    message.append(spec.name).append(" takes ").append(takes);
    message.append(", not '").append(got).append("'");
    return failure(Error{.message = std::move(message)});
}

}  // namespace

Result<void> OptionValues::set(const OptionSpec& spec, std::string_view text) {
    Value value{.text = std::string(text)};
    switch (spec.kind) {
        case OptionKind::kFlag:
            if (text != "on" && text != "off") {
                return refuse(spec, "on or off", text);
            }
            break;
        case OptionKind::kText:
            if (text.empty() || text.find('\0') != std::string_view::npos) {
                return refuse(spec, "a text", text);
            }
            break;
        case OptionKind::kChoice:
            if (!std::ranges::count(spec.choices, text)) {
                return refuse(spec, describe_choices(spec), text);
            }
            break;
        case OptionKind::kNumber:
        case OptionKind::kSize: {
            const bool size = spec.kind == OptionKind::kSize;
            const auto number = size ? parse_size(text) : parse_number(text);
            if (!number || *number < spec.number_min || *number > spec.number_max) {
                return refuse(
                    spec,
                    describe_range(spec,
                                   size ? "a size in bytes (suffix K, M, G or T)" : "a number"),
                    text);
            }
            value.number = *number;
            break;
        }
    }
    if (const auto before = values_.find(spec.name); spec.repeatable && before != values_.end()) {
        value.texts = std::move(before->second.texts);
        value.numbers = std::move(before->second.numbers);
    }
    value.texts.push_back(value.text);
    value.numbers.push_back(value.number);
    values_.insert_or_assign(std::string(spec.name), std::move(value));
    return {};
}

void OptionValues::set_defaults(std::span<const OptionSpec> specs) {
    for (const OptionSpec& spec : specs) {
        if (!spec.default_value.empty() && !has(spec.name)) {
            // A default that the option itself does not take is a bug in the table.
            OUTRIGGER_ASSERT(set(spec, spec.default_value).has_value());
            if (!spec.repeatable) {
                values_.find(spec.name)->second.texts.clear();
                values_.find(spec.name)->second.numbers.clear();
            }
        }
    }
}

bool OptionValues::flag(std::string_view name) const {
    const auto found = values_.find(name);
    return found != values_.end() && found->second.text == "on";
}

std::optional<std::string> OptionValues::text(std::string_view name) const {
    const auto found = values_.find(name);
    return found != values_.end() ? std::optional(found->second.text) : std::nullopt;
}

std::vector<std::string> OptionValues::texts(std::string_view name) const {
    const auto found = values_.find(name);
    return found != values_.end() ? found->second.texts : std::vector<std::string>();
}

std::vector<uint64_t> OptionValues::numbers(std::string_view name) const {
    const auto found = values_.find(name);
    return found != values_.end() ? found->second.numbers : std::vector<uint64_t>();
}

std::optional<uint64_t> OptionValues::number(std::string_view name) const {
    const auto found = values_.find(name);
    return found != values_.end() ? std::optional(found->second.number) : std::nullopt;
}

}  // namespace outrigger
