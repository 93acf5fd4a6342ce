// SPDX-License-Identifier: Apache-2.0
/// The little languages inside option values: --device and --cpus.
#include <charconv>

#include "vhost-user-backend/daemon/command_line.h"

namespace outrigger {
namespace {

/// Takes the next "KEY=VALUE" off `text`, with doubled commas made single.
std::string take_item(std::string_view& text) {
    std::string item;
    while (!text.empty()) {
        const char next = text.front();
        text.remove_prefix(1);
        if (next == ',') {
            if (!text.starts_with(',')) {
                break;
            }
            text.remove_prefix(1);
        }
        item += next;
    }
    return item;
}

std::optional<unsigned> take_cpu(std::string_view& text) {
    constexpr unsigned kCpuMax = 1023;  // the kernel interface behind affinity ends there
    unsigned cpu = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), cpu);
    if (error != std::errc() || cpu > kCpuMax) {
        return std::nullopt;
    }
    text.remove_prefix(static_cast<size_t>(rest - text.data()));
    return cpu;
}

}  // namespace

Result<std::vector<KeyValue>> split_device_text(std::string_view text) {
    std::vector<KeyValue> items;
    while (!text.empty()) {
        const std::string item = take_item(text);
        const size_t equals = item.find('=');
        KeyValue pair{.key = item.substr(0, equals), .value = "on"};
        if (equals != std::string::npos) {
            pair.value = item.substr(equals + 1);
        }
        if (pair.key.empty()) {
            return failure(Error{.message = "a key is missing before '=' or between commas"});
        }
        items.push_back(std::move(pair));
    }
    return items;
}

std::optional<std::vector<unsigned>> parse_cpu_list(std::string_view text) {
    std::vector<unsigned> cpus;
    while (true) {
        const auto first = take_cpu(text);
        if (!first) {
            return std::nullopt;
        }
        unsigned last = *first;
        if (text.starts_with('-')) {
            text.remove_prefix(1);
            const auto end = take_cpu(text);
            if (!end || *end < *first) {
                return std::nullopt;
            }
            last = *end;
        }
        for (unsigned cpu = *first; cpu <= last; ++cpu) {
            cpus.push_back(cpu);
        }
        if (text.empty()) {
            return cpus;
        }
        if (!text.starts_with(',')) {
            return std::nullopt;
        }
        text.remove_prefix(1);
    }
}

}  // namespace outrigger
