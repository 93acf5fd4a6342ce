// SPDX-License-Identifier: Apache-2.0
/// A connection to the socket beside that of a Unix socket port. It carries lines like "80x24", one
/// whenever the terminal of its process has another size. So what goes over the port's own socket
/// is the guest's, byte for byte.
///
/// Thread-bound: host thread.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <optional>
#include <string_view>

#include <sys/types.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "devices/console/host_loop.h"
#include "devices/console/port_control.h"

namespace outrigger::console {

/// "80x24" (no line end); nullopt when it is no size.
[[nodiscard]] std::optional<TerminalSize> parse_terminal_size(std::string_view text);

class SizeTeller final : public HostLoop::Watch {
  public:
    using OnSize = std::function<void(const SizeTeller&)>;

    SizeTeller(UniqueFd socket, pid_t process, HostLoop& loop, OnSize on_size);
    SizeTeller(const SizeTeller&) = delete;
    SizeTeller& operator=(const SizeTeller&) = delete;
    ~SizeTeller();

    [[nodiscard]] pid_t process() const { return process_; }

    /// What it said last.
    [[nodiscard]] std::optional<TerminalSize> size() const { return size_; }

    /// It has hung up, or said what is no size.
    [[nodiscard]] bool gone() const { return gone_; }

    void on_events(uint32_t events) override;

  private:
    [[nodiscard]] bool take(char each);

    UniqueFd socket_;
    const pid_t process_;
    HostLoop& loop_;
    OnSize on_size_;
    std::array<char, 16> line_{};
    size_t line_bytes_ = 0;
    std::optional<TerminalSize> size_;
    bool gone_ = false;
};

}  // namespace outrigger::console
