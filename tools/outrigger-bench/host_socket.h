// SPDX-License-Identifier: Apache-2.0
/// Unix sockets of the programs that stand at the host's side of a stream.
#pragma once

#include <string>
#include <utility>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "tools/driver/frontend_socket.h"

namespace outrigger::bench {

/// A socket that listens at a path, and takes the path away at the end.
class HostListener final {
  public:
    [[nodiscard]] static Result<HostListener> create(const std::string& path);

    HostListener(HostListener&& other) noexcept;
    HostListener& operator=(HostListener&&) = delete;
    HostListener(const HostListener&) = delete;
    HostListener& operator=(const HostListener&) = delete;
    ~HostListener();

    /// Errors: nobody has connected by then.
    [[nodiscard]] Result<UniqueFd> accept(driver::Deadline deadline) const;

  private:
    HostListener(UniqueFd socket, std::string path)
        : socket_(std::move(socket)), path_(std::move(path)) {}

    UniqueFd socket_;
    std::string path_;
};

}  // namespace outrigger::bench
