// SPDX-License-Identifier: Apache-2.0
/// Sockets that a service manager made and passes by name: systemd.socket(5), sd_listen_fds(3).
/// They stay with it: who takes one neither removes its name nor gives it to a keeper, because the
/// next process is passed it again, by systemd or by a keeper that was passed it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// What kind of socket an option takes.
enum class ActivatedKind : uint8_t {
    kUnixStream,     ///< listens, or is one connection
    kUnixListener,   ///< SOCK_STREAM
    kUnixSeqpacket,  ///< listens
    kUnixDatagrams,
    kTcpListener,
    kListener,  ///< Unix, SOCK_STREAM, or TCP
};

/// What an option asks a service manager for.
struct ActivatedRequest {
    std::string option;  ///< for errors: "--fd-name"
    std::string name;    ///< FileDescriptorName= of the socket unit
    ActivatedKind kind = ActivatedKind::kUnixStream;

    /// A socket unit may make several sockets, which all have its name. What may come beside the
    /// first one: of another kind, or at its path with `suffix` behind.
    struct Second {
        ActivatedKind kind = ActivatedKind::kUnixListener;
        std::string_view suffix{};
    };

    std::optional<Second> second{};
};

/// Close-on-exec and non-blocking.
struct ActivatedSocket {
    UniqueFd fd;
    UniqueFd second{};       ///< invalid: there is none
    bool listening = false;  ///< else one connection, or datagrams
    std::string path{};      ///< of a Unix socket; empty: it has none in the file system
};

/// Does the service manager pass what `request` names? Only the environment is looked at: an error
/// is one of usage. So it is in the processes that a keeper starts, which inherit the same numbers
/// and the same environment.
[[nodiscard]] Result<void> find_activated_socket(const ActivatedRequest& request);

/// The numbers of what it passes under that name, by the environment.
[[nodiscard]] std::vector<int> activated_numbers(std::string_view name);

/// What becomes of passed descriptors that no request names, and no number of `others`.
enum class Unnamed : uint8_t {
    kClosed,
    kClosedButStored,  ///< what a process before left in the store of systemd is taken later
    kReserved,         ///< closed, but no other descriptor gets such a number: for a keeper
    kLeft,             ///< of a keeper whose next program may name them
};

/// Notes what is passed for `requests`, as long as it is told apart from what is opened later: the
/// first thing that a program does with descriptors.
void note_activated_sockets(std::span<const ActivatedRequest> requests,
                            std::span<const int> others,
                            Unnamed unnamed);

/// Are those that were noted of the kinds that the requests say? An error is one of usage.
[[nodiscard]] Result<void> check_activated_sockets(std::span<const ActivatedRequest> requests);

/// Takes what was noted, once.
[[nodiscard]] Result<ActivatedSocket> take_activated_socket(const ActivatedRequest& request);

/// Is there one that was noted and listens?
[[nodiscard]] bool has_activated_listener(const ActivatedRequest& request);

/// Where those that were noted are in the file system, also behind taking them.
[[nodiscard]] std::vector<std::string> activated_paths(const ActivatedRequest& request);

/// Closes what was passed under that number, and has nothing else get it: it might be taken for
/// what was passed by the programs of a keeper, which do not inherit what is there in its place.
void reserve_number(int number);

/// The numbers of connections that were noted.
[[nodiscard]] std::vector<int> activated_connections();

}  // namespace outrigger
