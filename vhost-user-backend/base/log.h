// SPDX-License-Identifier: Apache-2.0
/// The program's log: lines on stderr through spdlog, which stays out of this header.
///
/// Levels: error, the daemon or a device cannot go on; warning, a peer or the host misbehaved and
/// was answered; info, a line per connection and device; debug, a line per message; trace, a line
/// per request. What a peer can cause goes through a LogLimiter: at most one line a second a kind.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/core.h>

namespace outrigger {

enum class LogLevel : uint8_t { kTrace, kDebug, kInfo, kWarning, kError, kOff };

/// Sets the lowest level that is written; `kInfo` until called. Any thread.
void set_log_level(LogLevel lowest);
[[nodiscard]] LogLevel log_level();
[[nodiscard]] bool log_enabled(LogLevel level);

/// "off", "error", "warning", "info", "debug", "trace".
[[nodiscard]] std::string_view log_level_name(LogLevel level);
[[nodiscard]] std::optional<LogLevel> log_level_named(std::string_view name);

/// Writes one line. Any thread.
void write_log(LogLevel level, std::string_view line);

template <class... Args>
void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
    if (log_enabled(level)) {
        write_log(level, fmt::format(format, std::forward<Args>(args)...));
    }
}

/// Lets so many lines a second through and counts what it held back. Any thread; one object a kind.
class LogLimiter final {
  public:
    explicit LogLimiter(uint32_t lines_per_second = 1) : lines_per_second_(lines_per_second) {}

    /// True when a line may be written now; `suppressed` is then how many were held back before.
    [[nodiscard]] bool allow(uint64_t& suppressed);

    template <class... Args>
    void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
        uint64_t suppressed = 0;
        if (!log_enabled(level) || !allow(suppressed)) {
            return;
        }
        auto line = fmt::format(format, std::forward<Args>(args)...);
        if (suppressed > 0) {
            line += fmt::format(" ({} more like this not shown)", suppressed);
        }
        write_log(level, line);
    }

  private:
    using Clock = std::chrono::steady_clock;

    const uint32_t lines_per_second_;
    std::mutex mutex_;  // what follows
    Clock::time_point second_began_;
    uint32_t lines_ = 0;  // in that second
    uint64_t suppressed_ = 0;
};

}  // namespace outrigger
