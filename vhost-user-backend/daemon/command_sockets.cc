// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/command_sockets.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/daemon/activated_sockets.h"
#include "vhost-user-backend/daemon/common_options.h"
#include "vhost-user-backend/daemon/descriptor_store.h"

namespace outrigger {
namespace {

struct Inherited {
    std::string_view option;
    int number;
};

/// Of a device's options and of the process's. All options of that kind are called so.
void add_inherited(const OptionValues& values,
                   std::span<const OptionSpec> specs,
                   std::vector<Inherited>& all) {
    for (const OptionSpec& spec : specs) {
        const bool is_descriptor = spec.name == "fd" || spec.name.ends_with("-fd");
        if (!is_descriptor || spec.kind != OptionKind::kNumber) {
            continue;
        }
        for (const uint64_t number : values.numbers(spec.name)) {
            all.push_back({.option = spec.name, .number = static_cast<int>(number)});
        }
    }
}

/// Else two would read it, and close it.
Result<void> check_taken_once(std::span<const Inherited> all) {
    for (auto one = all.begin(); one != all.end(); ++one) {
        const auto same = std::find_if(std::next(one), all.end(), [&](const auto& other) {
            return one->number == other.number;
        });
        if (same == all.end()) {
            continue;
        }
        const std::string option = "--" + std::string(one->option);
        const std::string number = std::to_string(one->number);
        return failure(Error{
            .message = one->option == same->option
                           ? option + " takes descriptor " + number + " twice: give each its own"
                           : option + " and --" + std::string(same->option) +
                                 " both take descriptor " + number + ": give each its own"});
    }
    return {};
}

}  // namespace

Result<void> name_descriptors(const OptionValues& process,
                              const DeviceProgram& program,
                              CommandLine& line) {
    std::vector<Inherited> inherited;
    add_inherited(process, process_options(), inherited);
    for (const DeviceSettings& device : line.devices) {
        add_inherited(device.values, device_common_options(), inherited);
        add_inherited(device.values, program.options, inherited);
        if (device.activated) {
            line.activated.push_back(*device.activated);
        }
        if (program.activated_sockets != nullptr) {
            std::ranges::move(program.activated_sockets(device.values),
                              std::back_inserter(line.activated));
        }
    }
    for (const auto& request : {line.control.activated, line.metrics.activated}) {
        if (request) {
            line.activated.push_back(*request);
        }
    }
    for (const Inherited& each : inherited) {
        line.inherited.push_back(each.number);
    }
    return check_taken_once(inherited);
}

Result<void> check_activated(const CommandLine& line) {
    const auto& all = line.activated;
    for (auto one = all.begin(); one != all.end(); ++one) {
        // What a process before has stored comes by the same list, and is taken from it first.
        if (one->name.starts_with(kStorePrefix)) {
            return failure(Error{.message = one->option + "=" + one->name +
                                            ": names that begin with " + std::string(kStorePrefix) +
                                            " are of what this program stores: choose another"});
        }
        const auto same = std::find_if(
            std::next(one), all.end(), [&](const auto& other) { return one->name == other.name; });
        if (same != all.end()) {
            return failure(Error{.message = one->option + " and " + same->option +
                                            " both take the socket " + one->name +
                                            " of the service manager: give each its own"});
        }
        if (line.action == CommandAction::kServe) {
            OUTRIGGER_TRY(find_activated_socket(*one));
            for (const int number : activated_numbers(one->name)) {
                if (std::ranges::count(line.inherited, number) > 0) {
                    return failure(
                        Error{.message = one->option + "=" + one->name + " is descriptor " +
                                         std::to_string(number) +
                                         ", which another option takes: give each its own"});
                }
            }
        }
    }
    return {};
}

}  // namespace outrigger
