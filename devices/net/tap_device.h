// SPDX-License-Identifier: Apache-2.0
/// Taps of the host: network interfaces whose other end is a descriptor.
#pragma once

#include <string>
#include <string_view>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "devices/net/frame.h"

namespace outrigger::net {

struct Tap {
    UniqueFd fd{};  ///< reads and writes do not wait
    std::string name{};
    /// A header of kVnetHeaderBytes is before each frame, both ways; without it frames are whole.
    bool has_header = false;
    bool cuts_datagrams = false;  ///< the kernel knows frames that are cut into datagrams of UDP
};

/// May an interface have that name?
[[nodiscard]] bool is_interface_name(std::string_view name);

/// Opens the tap `name`, or makes it, which takes CAP_NET_ADMIN; then it goes when nobody has it
/// open. Of one with several queues it is one.
[[nodiscard]] Result<Tap> open_tap(const std::string& name);

/// A tap that somebody else has opened. It is refused when it is no tap, or one whose frames come
/// with a header of the kernel's own (without IFF_NO_PI).
[[nodiscard]] Result<Tap> take_tap(UniqueFd fd);

/// What the kernel may leave unfinished in frames that it gives us (TUNSETOFFLOAD). Where it does
/// not take it, it stays as it was: who reads finishes the rest.
void set_tap_offloads(const Tap& tap, const Offloads& offloads);

}  // namespace outrigger::net
