// SPDX-License-Identifier: Apache-2.0
/// A connection to the socket beside that of a Unix socket port. It carries lines like "80x24", one
/// whenever the terminal of its process has another size. So what goes over the port's own socket
/// is the guest's, byte for byte.
///
/// A line stays in the socket until it counts: who goes on when this process was killed reads it
/// once more, and half a line is not lost.
///
/// Thread-bound: host thread.
#pragma once

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

    struct Options {
        UniqueFd socket{};
        pid_t process = 0;
        std::optional<TerminalSize> size{};  ///< that it told an earlier process
        std::optional<size_t> slot{};        ///< in KeptViewers
    };

    SizeTeller(Options options, HostLoop& loop, OnSize on_size);
    SizeTeller(const SizeTeller&) = delete;
    SizeTeller& operator=(const SizeTeller&) = delete;
    ~SizeTeller();

    [[nodiscard]] pid_t process() const { return process_; }

    [[nodiscard]] std::optional<size_t> slot() const { return slot_; }

    /// What it said last.
    [[nodiscard]] std::optional<TerminalSize> size() const { return size_; }

    /// It has hung up, or said what is no size.
    [[nodiscard]] bool gone() const { return gone_; }

    void on_events(uint32_t events) override;

  private:
    [[nodiscard]] size_t take_lines(std::string_view text);

    UniqueFd socket_;
    const pid_t process_;
    HostLoop& loop_;
    OnSize on_size_;
    const std::optional<size_t> slot_;
    std::optional<TerminalSize> size_;
    bool gone_ = false;
};

}  // namespace outrigger::console
