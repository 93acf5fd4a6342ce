// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/command_sockets.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <vector>

#include "vhost-user-backend/daemon/activated_sockets.h"
#include "vhost-user-backend/daemon/common_options.h"
#include "vhost-user-backend/daemon/descriptor_store.h"

namespace outrigger {
namespace {

/// Of a device's options and of the process's. All options of that kind are called so.
void add_inherited(const OptionValues& values,
                   std::span<const OptionSpec> specs,
                   std::vector<int>& numbers) {
    for (const OptionSpec& spec : specs) {
        const bool is_descriptor = spec.name == "fd" || spec.name.ends_with("-fd");
        if (!is_descriptor || spec.kind != OptionKind::kNumber) {
            continue;
        }
        for (const uint64_t number : values.numbers(spec.name)) {
            numbers.push_back(static_cast<int>(number));
        }
    }
}

}  // namespace

void name_descriptors(const OptionValues& process,
                      const DeviceProgram& program,
                      CommandLine& line) {
    add_inherited(process, process_options(), line.inherited);
    for (const DeviceSettings& device : line.devices) {
        add_inherited(device.values, device_common_options(), line.inherited);
        add_inherited(device.values, program.options, line.inherited);
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
        }
    }
    return {};
}

}  // namespace outrigger
