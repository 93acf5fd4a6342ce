// SPDX-License-Identifier: Apache-2.0
/// A server and how to reach it, and libnbd's handle of one connection to it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <sys/socket.h>

#include "vhost-user-backend/base/result.h"

#include "devices/blk/nbd/nbd_uri.h"

struct nbd_handle;

namespace outrigger::blk {

/// Between attempts to reach a server that is not there, ever longer.
inline constexpr std::chrono::milliseconds kNbdPauseMin{100};
inline constexpr std::chrono::milliseconds kNbdPauseMax{5000};

struct NbdAddress {
    sockaddr_storage storage{};
    socklen_t bytes = 0;
};

/// A URI whose host was looked up, which later nobody could.
struct NbdTarget {
    static constexpr size_t kAddressesMax = 8;

    NbdUri uri;
    std::vector<NbdAddress> addresses{};  ///< 1 to kAddressesMax, the one to try first in front
};

/// Blocking.
[[nodiscard]] Result<NbdTarget> resolve_nbd_target(const NbdUri& uri);

/// What a server says of an export.
struct NbdExport {
    uint64_t size_bytes = 0;
    uint32_t block_bytes_min = 1;  ///< offsets and lengths are multiples of this
    uint32_t block_bytes_preferred = 1;
    uint32_t transfer_bytes_max = 0;  ///< of one read or write
    bool read_only = false;
    bool can_flush = false;
    bool can_fua = false;
    bool can_trim = false;
    bool can_zero = false;
    bool can_multi_conn = false;  ///< what one connection flushed, others wrote

    /// Is this, found after a reconnection, a disk of the same size that can do what `before`
    /// could?
    [[nodiscard]] bool can_stand_for(const NbdExport& before) const;
};

struct CloseNbdHandle {
    void operator()(nbd_handle* handle) const;
};

using NbdHandle = std::unique_ptr<nbd_handle, CloseNbdHandle>;

/// A handle that began to connect to one of the addresses; what follows it says itself. Never
/// blocks.
[[nodiscard]] Result<NbdHandle> begin_nbd_connection(const NbdTarget& target, size_t address);

/// Of a handle that began to connect: can nothing come of it any more?
[[nodiscard]] bool nbd_has_failed(nbd_handle* handle);

/// Connected: what the server says, or in words why that cannot be.
[[nodiscard]] Result<NbdExport> examine_nbd_export(nbd_handle* handle);

/// Waits until a handle is connected, blocking. Tries all addresses, each for its share of the
/// time that is left, and puts the one that answered in front.
[[nodiscard]] Result<NbdHandle> connect_to_nbd(NbdTarget& target,
                                               std::chrono::milliseconds timeout);

/// What libnbd said of the last failure on this thread; one line.
[[nodiscard]] std::string last_nbd_error();

}  // namespace outrigger::blk
