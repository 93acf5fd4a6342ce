// SPDX-License-Identifier: Apache-2.0
/// The name of a listening socket in the file system, which is ours to remove and nothing else is.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// Owns the socket file at a path from bind to destruction. Every owned file is also known to
/// remove_socket_files(), for exits that run no destructors.
class SocketFile final {
  public:
    /// Takes charge of the file that bind() has just made at `path` (at most 107 bytes).
    [[nodiscard]] static Result<SocketFile> adopt(const std::string& path);

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
