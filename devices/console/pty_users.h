// SPDX-License-Identifier: Apache-2.0
/// How many have a pseudo-terminal open, by inotify, which tells each open and each close but our
/// own, which came before. Where memory outlives this process, the next one counts on from there:
/// what the kernel told lies in that memory until it is counted.
///
/// Thread-bound: host thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/inotify.h>

#include "vhost-user-backend/base/kept_record.h"

namespace outrigger::console {

class PtyUsers final {
  private:
    struct State {
        uint32_t count = 0;
        uint32_t has_ended = 0;  ///< there was none left since take_end()
        uint32_t is_reading = 0;
    };

    static constexpr size_t kEventsBytes = 64 * sizeof(inotify_event);

  public:
    static constexpr size_t kKeptBytes = KeptValue<State>::kBytes + kEventsBytes;

    /// `kept` is of kKeptBytes, zeroed or as another process left it; empty: there is none.
    explicit PtyUsers(std::span<std::byte> kept);
    PtyUsers(const PtyUsers&) = delete;
    PtyUsers& operator=(const PtyUsers&) = delete;
    ~PtyUsers() = default;

    /// Reads what inotify has to tell.
    void read(int events);

    [[nodiscard]] uint32_t count() const { return state_.count; }

    /// The last one has gone, and clear_end() was not called since.
    [[nodiscard]] bool has_ended() const { return state_.has_ended != 0; }

    void clear_end();

  private:
    void count_events();

    alignas(64) std::array<std::byte, kKeptBytes> own_{};
    std::span<std::byte> memory_;
    KeptValue<State> kept_;
    State state_;
};

}  // namespace outrigger::console
