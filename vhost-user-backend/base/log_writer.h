// SPDX-License-Identifier: Apache-2.0
/// Writes log lines where they may find no room: to a pipe or a socket whose reader has stalled.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// Guests wait for whoever logs. So it waits a little for room, then loses lines until there is
/// some, and says then how many. One thread at a time.
class LogWriter final {
  public:
    static constexpr auto kWaitMax = std::chrono::milliseconds(100);

    /// Borrows `fd`.
    explicit LogWriter(int fd);

    void write(std::string_view line);

  private:
    /// False: not all of it.
    [[nodiscard]] bool put(std::string_view text);
    [[nodiscard]] bool wait_for_room(std::chrono::steady_clock::time_point deadline);

    UniqueFd own_;  // a pipe's, which never waits
    const int fd_;
    uint64_t lost_ = 0;
    bool is_stalled_ = false;
    bool is_cut_ = false;  // the last line
};

}  // namespace outrigger
