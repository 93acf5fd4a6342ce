// SPDX-License-Identifier: Apache-2.0
/// The host's side of a port as it was opened: sockets that listen, a pseudo-terminal, files. All
/// of it is opened before the sandbox, by name; afterwards there are only descriptors.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "vhost-user-backend/base/raw_terminal.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/socket_file.h"

#include "devices/console/conduit.h"
#include "devices/console/kept_console.h"
#include "devices/console/kept_viewers.h"
#include "devices/console/log_file.h"
#include "devices/console/owned_name.h"
#include "devices/console/port_options.h"

namespace outrigger::console {

struct HostEnd {
    // Unix and TCP.
    UniqueFd listener{};
    UniqueFd size_listener{};  ///< Unix: where a viewer tells the size of its terminal
    std::string place{};       ///< of a socket that is passed to us: see PortOptions.place
    // Pseudo-terminals. Nobody but users has the other side: ours hangs up when the last one goes.
    UniqueFd pty_master{};
    UniqueFd pty_events{};  ///< inotify: users that come
    // Standard input and output.
    UniqueFd input{};
    UniqueFd output{};
    bool input_is_socket = false;
    bool output_is_socket = false;
    std::optional<RawTerminal> terminal{};  ///< what input was set to, if it is one

    std::optional<LogFile> file{};
    std::optional<LogFile> log{};
    // Removed when the device goes.
    std::vector<SocketFile> sockets{};
    std::optional<OwnedName> link{};

    /// Somebody who was there when the process before ended.
    struct Left {
        KeptViewers::Viewer known{};
        UniqueFd fd{};  ///< invalid for the user of a pseudo-terminal
    };

    // Where there is a keeper.
    KeptPort kept{};
    Conduit* conduit = nullptr;  ///< borrowed
    std::vector<Left> viewers{};
    std::vector<Left> size_tellers{};
};

/// What viewers and size tellers are called at the keeper, before their slot.
inline constexpr const char* kKeptViewer = "v";
inline constexpr const char* kKeptSizeTeller = "z";

[[nodiscard]] std::string slot_name(const char* what, size_t slot);

/// Opens what `port` says, or goes on with what the process before had open, or says why it cannot
/// be.
[[nodiscard]] Result<HostEnd> open_host_end(const PortOptions& port, const KeptPort& kept = {});

}  // namespace outrigger::console
