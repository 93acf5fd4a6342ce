// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/activated_sockets.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "vhost-user-backend/daemon/descriptor_store.h"
#include "vhost-user-backend/daemon/keeper_message.h"
#include "vhost-user-backend/daemon/service_manager.h"

namespace outrigger {

Result<int> find_activated_socket(const std::string& option, const std::string& name) {
    const std::string asked = "--" + option + "=" + name;
    const auto count = service_manager::number_of("LISTEN_FDS");
    const auto names = service_manager::text_of("LISTEN_FDNAMES");
    const bool parent_is_keeper = std::getenv(DescriptorStore::kChannelVariable) != nullptr;
    if (!service_manager::is_for_us("LISTEN_PID", parent_is_keeper) || !count || !names) {
        return failure(Error{.message = asked +
                                        " needs sockets of a service manager ($LISTEN_FDS): start "
                                        "this by a socket unit, or give a path"});
    }
    std::vector<std::string> list = split_names(*names);
    list.resize(std::min(list.size(), static_cast<size_t>(*count)));
    const auto found = std::ranges::find(list, name);
    if (found == list.end()) {
        return failure(Error{.message = asked + ": the service manager passes no socket of that " +
                                        "name; it passes '" + *names + "'"});
    }
    if (std::ranges::count(list, name) > 1) {
        return failure(Error{.message = asked + ": the service manager passes several sockets of " +
                                        "that name: give each its own"});
    }
    return service_manager::kFirstListenFd + static_cast<int>(found - list.begin());
}

}  // namespace outrigger
