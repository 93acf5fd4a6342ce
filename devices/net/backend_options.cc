// SPDX-License-Identifier: Apache-2.0
#include "devices/net/backend_options.h"

#include <algorithm>
#include <array>
#include <string>

namespace outrigger::net {
namespace {

#ifdef OUTRIGGER_SLIRP
constexpr std::string_view kOfUser[] = {"user"};
#endif
constexpr std::string_view kOfTap[] = {"tap"};
constexpr std::string_view kOfSwitch[] = {"switch"};
constexpr std::string_view kOfSockets[] = {"stream", "dgram"};
constexpr std::string_view kOfDatagrams[] = {"dgram"};

constexpr std::array kOptions = {
#ifdef OUTRIGGER_SLIRP
    BackendOption{.name = "forward", .backends = kOfUser},
    BackendOption{.name = "dns", .backends = kOfUser},
    BackendOption{.name = "search", .backends = kOfUser},
    BackendOption{.name = "host-name", .backends = kOfUser},
    BackendOption{.name = "ipv4", .backends = kOfUser},
    BackendOption{.name = "ipv6", .backends = kOfUser},
    BackendOption{.name = "host-loopback", .backends = kOfUser},
    BackendOption{.name = "max-connections", .backends = kOfUser},
    BackendOption{.name = "merge", .backends = kOfUser},
    BackendOption{.name = "restricted", .backends = kOfUser},
#endif
    BackendOption{.name = "tap", .backends = kOfTap},
    BackendOption{.name = "tap-fd", .backends = kOfTap},
    BackendOption{.name = "switch", .backends = kOfSwitch},
    BackendOption{.name = "switch-addresses", .backends = kOfSwitch},
    BackendOption{.name = "switch-age", .backends = kOfSwitch},
    BackendOption{.name = "flood-limit", .backends = kOfSwitch},
    BackendOption{.name = "switch-thread", .backends = kOfSwitch},
    BackendOption{.name = "switch-tap", .backends = kOfSwitch},
    BackendOption{.name = "switch-tap-fd", .backends = kOfSwitch},
    BackendOption{.name = "peer", .backends = kOfSockets},
    BackendOption{.name = "listen", .backends = kOfSockets},
    BackendOption{.name = "listen-fd-name", .backends = kOfSockets},
    BackendOption{.name = "reconnect-ms", .backends = kOfSockets},
    BackendOption{.name = "vfkit", .backends = kOfDatagrams},
};

}  // namespace

constinit const std::span<const BackendOption> kBackendOptions = kOptions;

Result<void> check_backend_options(std::string_view backend, const OptionValues& values) {
    for (const BackendOption& option : kBackendOptions) {
        if (values.texts(option.name).empty() || std::ranges::count(option.backends, backend)) {
            continue;
        }
        std::string owners;
        for (const std::string_view owner : option.backends) {
            owners += owners.empty() ? "" : " and ";
            owners += owner;
        }
        return failure(
            Error{.message = "--" + std::string(option.name) + " is of --backend=" + owners +
                             ", and does nothing with --backend=" + std::string(backend) +
                             ": leave it out"});
    }
    return {};
}

}  // namespace outrigger::net
