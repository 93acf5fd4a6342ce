// SPDX-License-Identifier: Apache-2.0
/// The name of a listening socket in the file system, which is ours to remove and nothing else is.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// Owns the socket file at a path from bind to destruction. Every owned file is also known to
/// remove_socket_files(), for exits that run no destructors.
class SocketFile final {
  public:
    /// Takes charge of the file that bind() has just made at `path` (at most 107 bytes).
    [[nodiscard]] static Result<SocketFile> adopt(const std::string& path);

    /// Takes charge of the file at `path` if it is the one that `file` is, which another process
    /// of ours made and kept (open_file()). Nothing when somebody has replaced it.
    [[nodiscard]] static std::optional<SocketFile> adopt_kept(const std::string& path, int file);

    /// A descriptor that stands for the file, and can do nothing else with it: for a keeper.
    /// Invalid where the system has none.
    [[nodiscard]] static UniqueFd open_file(const std::string& path);

    SocketFile(SocketFile&& other) noexcept;
    SocketFile& operator=(SocketFile&& other) noexcept;
    SocketFile(const SocketFile&) = delete;
    SocketFile& operator=(const SocketFile&) = delete;
    /// The directory that the file is in, which must allow its removal. Borrowed.
    [[nodiscard]] int directory_fd() const;

    /// May this process, with the privileges that it has by now, remove names there?
    [[nodiscard]] bool is_removable() const;

    /// Removes the file if it is still the one that was adopted.
    ~SocketFile();

  private:
    explicit SocketFile(size_t slot) : slot_(slot) {}

    void remove();

    std::optional<size_t> slot_;
};

/// Removes all owned files. Async-signal-safe; the process must exit next.
void remove_socket_files();

}  // namespace outrigger
