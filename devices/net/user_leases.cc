// SPDX-License-Identifier: Apache-2.0
// UserPort: what the library saves of itself.
#include <algorithm>
#include <cstring>
#include <span>

#include <slirp/libslirp.h>

#include "vhost-user-backend/base/little_endian.h"
#include "vhost-user-backend/base/log.h"

#include "devices/net/user_port.h"

namespace outrigger::net {
namespace {

/// The library's, of which 4.7 writes 131 bytes.
constexpr size_t kLeaseBytesMax = 4096;

ssize_t append(const void* bytes, size_t count, void* opaque) {
    auto& out = *static_cast<std::vector<std::byte>*>(opaque);
    const size_t at = out.size();
    out.resize(at + count);
    std::memcpy(&out[at], bytes, count);  // it writes no empty pieces
    return static_cast<ssize_t>(count);
}

/// Zeroes behind the end.
ssize_t take(void* bytes, size_t count, void* opaque) {
    auto& in = *static_cast<std::span<const std::byte>*>(opaque);
    const size_t there = std::min(count, in.size());
    std::memset(bytes, 0, count);
    std::ranges::copy(in.first(there), static_cast<std::byte*>(bytes));
    in = in.subspan(there);
    return static_cast<ssize_t>(count);
}

}  // namespace

PortState UserPort::save() const {
    const Le32 version = static_cast<uint32_t>(::slirp_state_version());
    PortState state;
    (void)append(&version, sizeof version, &state.leases);
    ::slirp_state_save(slirp_, append, &state.leases);
    return state;
}

void UserPort::load(const PortState& state) {
    Le32 version;
    if (state.leases.empty()) {
        return;
    }
    // The library's reader takes sockets, too, which it never writes where there are no programs
    // behind addresses of the guest's network, and which nobody should make by a file: its first
    // byte says that there are none.
    const bool is_sound = state.leases.size() > sizeof version &&
                          state.leases.size() <= kLeaseBytesMax &&
                          state.leases[sizeof version] == std::byte{0};
    if (is_sound) {
        std::memcpy(&version, state.leases.data(), sizeof version);
    }
    // Older forms have other parts.
    if (!is_sound || version.value() != static_cast<uint32_t>(::slirp_state_version())) {
        log(LogLevel::kWarning, "net: the user network's addresses were not taken over");
        return;
    }
    auto rest = std::span(state.leases).subspan(sizeof version);
    if (::slirp_state_load(slirp_, static_cast<int>(version.value()), take, &rest) < 0) {
        log(LogLevel::kWarning, "net: the user network's addresses were taken over in part");
    }
}

}  // namespace outrigger::net
