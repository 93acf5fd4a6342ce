// SPDX-License-Identifier: Apache-2.0
/// Taps of the host: network interfaces whose other end is a descriptor.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "devices/net/frame.h"

namespace outrigger::net {

struct Tap {
    UniqueFd fd{};  ///< reads and writes do not wait
    std::string name{};
    /// Of its other queues, where it has one for each pair of the guest's; queue N is of pair N.
    /// The kernel chooses one for each flow: that on which we have sent a frame of it last.
    std::vector<UniqueFd> others{};
    /// A header of kVnetHeaderBytes is before each frame, both ways; without it frames are whole.
    bool has_header = false;
    bool cuts_datagrams = false;   ///< the kernel knows frames that are cut into datagrams of UDP
    bool makes_fragments = false;  ///< and datagrams that become fragments of IP
};

/// May an interface have that name?
[[nodiscard]] bool is_interface_name(std::string_view name);

/// Opens the tap `name`, or makes it, which takes CAP_NET_ADMIN; then it goes when nobody has it
/// open. It has `queue_count` queues or, where the tap that is there cannot have so many, one; of
/// those of others it is one more.
[[nodiscard]] Result<Tap> open_tap(const std::string& name, uint16_t queue_count);

/// Opens those of `queue_count` queues that are missing, where the tap may have several. If that
/// fails for one, it has none of the others.
void open_tap_queues(Tap& tap, uint16_t queue_count);

/// A tap that somebody else has opened. It is refused when it is no tap, or one whose frames come
/// with a header of the kernel's own (without IFF_NO_PI).
[[nodiscard]] Result<Tap> take_tap(UniqueFd fd);

/// One more queue of that tap, which somebody else has opened; the kernel uses it or not. An error:
/// it is none of it.
[[nodiscard]] Result<void> add_tap_queue(Tap& tap, UniqueFd fd);

/// Does the kernel use the queue, and not only have it open (TUNSETQUEUE)? All those that are used
/// get frames.
[[nodiscard]] bool is_tap_queue_used(int fd);

/// False: it stays as it is.
bool use_tap_queue(int fd, bool is_used);

/// What the kernel may leave unfinished in frames that it gives us (TUNSETOFFLOAD). Where it does
/// not take it, it stays as it was: who reads finishes the rest.
void set_tap_offloads(const Tap& tap, const Offloads& offloads);

}  // namespace outrigger::net
