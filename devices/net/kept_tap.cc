// SPDX-License-Identifier: Apache-2.0
#include "devices/net/kept_tap.h"

#include <utility>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/daemon/device_keeper.h"

namespace outrigger::net {
namespace {

std::string key_of(const TapWish& wish, size_t queue) {
    return queue == 0 ? wish.key : wish.key + "." + std::to_string(queue);
}

/// What of the other queues was kept. With fewer than all of them the tap has none: what the kernel
/// gave to one that nobody reads would be lost.
void take_kept_queues(const TapWish& wish, DeviceKeeper& keeper, Tap& tap) {
    size_t taken = 1;
    for (; taken < wish.queue_count; ++taken) {
        UniqueFd fd = keeper.take(key_of(wish, taken));
        if (!fd.valid() || !add_tap_queue(tap, std::move(fd))) {
            break;
        }
    }
    if (taken == wish.queue_count) {
        return;
    }
    tap.others.clear();
    for (size_t queue = 1; queue <= taken; ++queue) {
        keeper.forget(key_of(wish, queue));
    }
}

/// Nothing: none was kept, or somebody has deleted it, and may have made it anew.
Result<std::optional<Tap>> take_kept_tap(const TapWish& wish, DeviceKeeper& keeper) {
    UniqueFd fd = keeper.take(wish.key);
    if (!fd.valid()) {
        return std::nullopt;
    }
    auto tap = take_tap(std::move(fd));
    if (!tap && wish.name) {
        for (size_t queue = 0; queue < wish.queue_count; ++queue) {
            keeper.forget(key_of(wish, queue));
        }
        return std::nullopt;
    }
    if (!tap) {
        return failure(tap.error());
    }
    take_kept_queues(wish, keeper, *tap);
    return std::optional(*std::move(tap));
}

/// All queues are used; the first goes on to be.
Result<Tap> take_given_tap(const TapWish& wish) {
    Tap tap;
    for (const int number : wish.fds) {
        UniqueFd fd(number);
        if (wish.fds.size() > 1) {
            (void)use_tap_queue(number, true);  // whoever had it may have given it up
        }
        if (tap.fd.valid()) {
            OUTRIGGER_TRY(add_tap_queue(tap, std::move(fd)));
        } else {
            tap = OUTRIGGER_TRY(take_tap(std::move(fd)));
        }
    }
    return tap;
}

void keep_tap(const TapWish& wish, const Tap& tap, DeviceKeeper& keeper) {
    bool is_kept = keeper.keep_open(wish.key, tap.fd.get());
    for (size_t i = 0; i < tap.others.size(); ++i) {
        is_kept &= keeper.keep_open(key_of(wish, i + 1), tap.others[i].get());
    }
    if (!is_kept) {
        log(LogLevel::kWarning, "net: the tap {} ends with this process", tap.name);
    }
}

}  // namespace

Result<Tap> open_wished_tap(const TapWish& wish, DeviceKeeper* keeper) {
    if (keeper != nullptr) {
        auto kept = OUTRIGGER_TRY(take_kept_tap(wish, *keeper));
        if (kept) {
            return *std::move(kept);
        }
    }
    Tap tap = OUTRIGGER_TRY(wish.fds.empty() ? open_tap(*wish.name, wish.queue_count)
                                             : take_given_tap(wish));
    if (wish.queue_count > 1 && tap.others.empty()) {
        log(LogLevel::kInfo, "net: the tap {} has one queue, which all pairs share", tap.name);
    }
    for (const UniqueFd& other : tap.others) {
        (void)use_tap_queue(other.get(), false);  // until the guest uses its pair
    }
    if (keeper != nullptr) {
        keep_tap(wish, tap, *keeper);
    }
    return tap;
}

}  // namespace outrigger::net
