// SPDX-License-Identifier: Apache-2.0
/// The descriptors of a library that wants to be polled: it says anew in each round what it waits
/// for, as for poll(). An epoll instance watches them, and the kernel is told only what has changed
/// since the round before, so that a round costs nothing where nothing has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::net {

/// Thread-bound. Events are EPOLL....
class PolledDescriptors final {
  public:
    /// What telling the kernel came to.
    struct Told {
        size_t system_calls = 0;
        /// It did not take all of them, and the next round tries again: no memory, or no watches
        /// left for the user (fs.epoll.max_user_watches). 0: it did.
        int os_error = 0;
    };

    PolledDescriptors();

    /// False: there is no epoll instance, and errno says why.
    [[nodiscard]] bool valid() const { return epoll_.valid(); }

    /// Readable while a descriptor is ready.
    [[nodiscard]] int fd() const { return epoll_.get(); }

    void begin_round();

    /// Waits for these events, too, or for none. The descriptor's index in this round.
    int add(int fd, uint32_t events);

    [[nodiscard]] Told end_round();

    /// Of this round, by their index.
    [[nodiscard]] std::span<const int> all() const { return asked_; }

    /// It is about to be closed, and its number to be used again.
    void forget(int fd);

    /// Notes which are ready, until forget_ready(), and says how many.
    [[nodiscard]] int find_ready();
    [[nodiscard]] uint32_t ready(int index) const;

    void forget_ready() { ready_.clear(); }

  private:
    /// As the kernel was told of it.
    struct Watched {
        uint32_t wanted = 0;  // in this round
        uint32_t told = 0;
    };

    [[nodiscard]] int tell(int fd, const Watched& watched) const;

    UniqueFd epoll_;
    std::unordered_map<int, Watched> watched_;
    std::vector<int> asked_;
    std::unordered_map<int, uint32_t> ready_;
};

}  // namespace outrigger::net
