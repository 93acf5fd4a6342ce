// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/ctl_limits.h"

#include <string_view>
#include <utility>

#include "vhost-user-backend/control/printable_text.h"

namespace outrigger::ctl {
namespace {

namespace v1 = control::v1;

std::unexpected<Error> usage_error(std::string message) {
    return failure(Error{.message = std::move(message)});
}

Result<void> set_rate(const OptionValues& values, std::string_view option, v1::Rate* rate) {
    const std::string text = values.text(option).value_or("");
    const size_t colon = text.find(':');
    const auto per_second = parse_size_text(text.substr(0, colon));
    const auto burst = colon == std::string::npos ? std::optional<uint64_t>(0)
                                                  : parse_size_text(text.substr(colon + 1));
    if (!per_second || !burst) {
        return usage_error("--" + std::string(option) +
                           " takes a rate like 100M, or with a burst like 100M:1G");
    }
    if (*per_second == 0 && *burst != 0) {
        return usage_error("--" + std::string(option) + "=" + text +
                           " has a burst without a rate; 0 alone takes the limit away");
    }
    rate->set_per_second(*per_second);
    rate->set_burst(*burst);
    return {};
}

Result<void> read_disk_limits(const OptionValues& values, v1::SetLimits& command) {
    using Slot = v1::Rate* (v1::Limits::*)();
    constexpr std::pair<std::string_view, Slot> kRates[] = {
        {"bytes", &v1::Limits::mutable_bytes},
        {"read-bytes", &v1::Limits::mutable_read_bytes},
        {"write-bytes", &v1::Limits::mutable_write_bytes},
        {"ops", &v1::Limits::mutable_operations},
        {"read-ops", &v1::Limits::mutable_read_operations},
        {"write-ops", &v1::Limits::mutable_write_operations},
    };
    for (const auto& [option, slot] : kRates) {
        if (values.has(option)) {
            OUTRIGGER_TRY(set_rate(values, option, (command.mutable_limits()->*slot)()));
        }
    }
    if (values.has("group") && values.flag("no-group")) {
        return usage_error("--group and --no-group exclude each other");
    }
    if (values.has("group") || values.flag("no-group")) {
        command.set_group(control::printable(values.text("group").value_or("")));
    }
    return {};
}

/// Whether there was any.
bool read_network_limits(const OptionValues& values, v1::SetNetworkLimits& command) {
    using Set = void (v1::SetNetworkLimits::*)(uint64_t);
    constexpr std::pair<std::string_view, Set> kLimits[] = {
        {"send-bytes", &v1::SetNetworkLimits::set_send_bytes},
        {"send-frames", &v1::SetNetworkLimits::set_send_frames},
        {"receive-bytes", &v1::SetNetworkLimits::set_receive_bytes},
        {"receive-frames", &v1::SetNetworkLimits::set_receive_frames},
    };
    bool is_any = false;
    for (const auto& [option, set] : kLimits) {
        if (const auto number = values.number(option)) {
            (command.*set)(*number);
            is_any = true;
        }
    }
    return is_any;
}

/// Whether there was any.
bool read_entropy_limit(const OptionValues& values, v1::SetEntropyLimit& command) {
    if (const auto bytes = values.number("max-bytes")) {
        command.set_bytes_max(*bytes);
    }
    if (const auto period = values.number("period")) {
        command.set_period_milliseconds(*period);
    }
    return command.has_bytes_max() || command.has_period_milliseconds();
}

}  // namespace

std::optional<uint64_t> parse_size_text(const std::string& text) {
    constexpr OptionSpec kSize = {.name = "size", .kind = OptionKind::kSize};
    OptionValues values;
    return values.set(kSize, text) ? values.number("size") : std::nullopt;
}

Result<void> read_limits(const OptionValues& values, v1::Request& request) {
    v1::SetLimits of_disk;
    OUTRIGGER_TRY(read_disk_limits(values, of_disk));
    v1::SetNetworkLimits of_network;
    const bool is_network = read_network_limits(values, of_network);
    const bool is_disk = of_disk.has_limits() || of_disk.has_group();
    v1::SetEntropyLimit of_entropy;
    const bool is_entropy = read_entropy_limit(values, of_entropy);
    if (int{is_disk} + int{is_network} + int{is_entropy} > 1) {
        return usage_error(
            "limit takes options of a disk, of a network device or of an entropy device: no "
            "device is two of them");
    }
    if (is_entropy) {
        *request.mutable_set_entropy_limit() = of_entropy;
        return {};
    }
    if (is_network) {
        *request.mutable_set_network_limits() = std::move(of_network);
        return {};
    }
    if (!is_disk) {
        return usage_error(
            "limit takes at least one of its options, like --bytes=100M or --send-bytes=100M");
    }
    *request.mutable_set_limits() = std::move(of_disk);
    return {};
}

Result<void> read_allowed(const OptionValues& values, v1::SetAllowedSenders& command) {
    using List = v1::AllowedNames* (v1::SetAllowedSenders::*)();

    struct Kind {
        std::string_view option;
        std::string_view any;
        List list;
    };

    constexpr Kind kKinds[] = {
        {"mac", "any-mac", &v1::SetAllowedSenders::mutable_macs},
        {"ip", "any-ip", &v1::SetAllowedSenders::mutable_addresses},
    };
    for (const Kind& kind : kKinds) {
        if (values.has(kind.option) && values.flag(kind.any)) {
            return usage_error("--" + std::string(kind.option) + " and --" + std::string(kind.any) +
                               " exclude each other");
        }
        if (values.has(kind.option) || values.flag(kind.any)) {
            v1::AllowedNames& list = *(command.*kind.list)();
            for (const std::string& text : values.texts(kind.option)) {
                list.add_names(control::printable(text));
            }
        }
    }
    if (!command.has_macs() && !command.has_addresses()) {
        return usage_error("allow takes at least one of its options, like --ip=192.0.2.7");
    }
    return {};
}

}  // namespace outrigger::ctl
