// SPDX-License-Identifier: Apache-2.0
#include "devices/console/pty_users.h"

#include <algorithm>
#include <cstring>

#include <unistd.h>

namespace outrigger::console {

PtyUsers::PtyUsers(std::span<std::byte> kept)
    : memory_(kept.empty() ? std::span<std::byte>(own_) : kept),
      kept_(memory_.first(KeptValue<State>::kBytes)),
      state_(kept_.load().value_or(State{})) {
    if (state_.is_reading != 0) {
        count_events();
    }
}

/// An event has a watch that is not 0, so what the kernel wrote before we were killed is known.
void PtyUsers::read(int events) {
    const std::span<std::byte> into = memory_.last(kEventsBytes);
    std::ranges::fill(into, std::byte{0});
    state_.is_reading = 1;
    kept_.store(state_);
    (void)!::read(events, into.data(), into.size());
    count_events();
}

void PtyUsers::count_events() {
    std::span<const std::byte> rest = memory_.last(kEventsBytes);
    while (rest.size() >= sizeof(inotify_event)) {
        inotify_event event;
        std::memcpy(&event, rest.data(), sizeof event);
        if (event.wd == 0 || event.len > rest.size() - sizeof event) {
            break;
        }
        rest = rest.subspan(sizeof event + event.len);
        if ((event.mask & IN_OPEN) != 0) {
            ++state_.count;
        } else if ((event.mask & IN_CLOSE) != 0 && state_.count > 0) {
            --state_.count;
            if (state_.count == 0) {
                state_.has_ended = 1;
            }
        }
    }
    state_.is_reading = 0;
    kept_.store(state_);
}

void PtyUsers::clear_end() {
    state_.has_ended = 0;
    kept_.store(state_);
}

}  // namespace outrigger::console
