// SPDX-License-Identifier: Apache-2.0
#include "devices/net/kept_tap.h"

#include <span>
#include <utility>

#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vhost-user-backend/base/crc32c.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/daemon/device_keeper.h"
#include "vhost-user-backend/daemon/passed_descriptor.h"

namespace outrigger::net {
namespace {

/// Another name is another tap: what was kept of that one is not found, and goes when this process
/// serves. It is the name that was wished, for the tap may have got another one since.
std::string key_of_name(const TapWish& wish) {
    if (!wish.name) {
        return wish.key;
    }
    const auto bytes = std::as_bytes(std::span(wish.name->data(), wish.name->size()));
    return wish.key + "-" + std::to_string(crc32c(bytes));
}

/// Of the queues of the tap that a keeper has under `key`.
std::string key_of(const std::string& key, size_t queue) {
    return queue == 0 ? key : key + "." + std::to_string(queue);
}

void forget_queues(const TapWish& wish,
                   const std::string& key,
                   size_t first,
                   DeviceKeeper& keeper) {
    for (size_t queue = first; queue < wish.queue_count; ++queue) {
        keeper.forget(key_of(key, queue));
    }
}

/// False: the process ends with what was to be kept.
bool keep_queues(const std::string& key, const Tap& tap, size_t first, DeviceKeeper& keeper) {
    bool is_kept = true;
    for (size_t i = first; i < tap.others.size(); ++i) {
        is_kept &= keeper.keep_open(key_of(key, i + 1), tap.others[i].get());
    }
    return is_kept;
}

void warn_of_lost_queues(const Tap& tap) {
    log(LogLevel::kWarning, "net: queues of the tap {} end with this process", tap.name);
}

/// Gives up those from `first` on, until the guest uses their pairs.
Result<void> give_up_queues(const Tap& tap, size_t first) {
    for (size_t i = first; i < tap.others.size(); ++i) {
        const int fd = tap.others[i].get();
        if (use_tap_queue(fd, false) && is_tap_queue_used(fd)) {
            // As macvtap: nobody could tell later which of them the kernel uses. Whoever opened it
            // may still give it, alone.
            (void)use_tap_queue(fd, true);
            return failure(Error{.message = "the queues of the tap " + tap.name +
                                            " do not say whether they are used: give one"});
        }
    }
    return {};
}

/// What of the other queues was kept, and what of them is new: the device has more pairs than the
/// process before had. False: not all of them are there.
Result<bool> take_queues(const TapWish& wish,
                         const std::string& key,
                         DeviceKeeper& keeper,
                         Tap& tap) {
    while (tap.others.size() + 1 < wish.queue_count) {
        UniqueFd fd = keeper.take(key_of(key, tap.others.size() + 1));
        if (!fd.valid()) {
            break;
        }
        if (!add_tap_queue(tap, std::move(fd))) {
            return false;
        }
    }
    const size_t kept = tap.others.size();
    if (wish.name) {
        open_tap_queues(tap, wish.queue_count);
    }
    if (tap.others.size() + 1 < wish.queue_count) {
        return false;
    }
    OUTRIGGER_TRY(give_up_queues(tap, kept));
    if (!keep_queues(key, tap, kept, keeper)) {
        warn_of_lost_queues(tap);
    }
    return true;
}

/// With fewer than all queues the tap has one: what the kernel gave to one that nobody reads would
/// be lost.
Result<void> take_kept_queues(const TapWish& wish,
                              const std::string& key,
                              DeviceKeeper& keeper,
                              Tap& tap) {
    if (!OUTRIGGER_TRY(take_queues(wish, key, keeper, tap))) {
        tap.others.clear();
        forget_queues(wish, key, 1, keeper);
    }
    return {};
}

/// Nothing: none of that name was kept, or somebody has deleted it, and may have made it anew.
Result<std::optional<Tap>> take_named_tap(const TapWish& wish, DeviceKeeper& keeper) {
    const std::string own_key = key_of_name(wish);
    // Under the other one it is a tap that was given as a descriptor, or kept by an older program.
    for (const std::string& key : {own_key, wish.key}) {
        UniqueFd fd = keeper.take(key);
        if (!fd.valid()) {
            continue;
        }
        auto tap = take_tap(std::move(fd));
        if (tap && (key == own_key || tap->name == *wish.name)) {
            OUTRIGGER_TRY(take_kept_queues(wish, key, keeper, *tap));
            return std::optional(*std::move(tap));
        }
        forget_queues(wish, key, 0, keeper);
    }
    return std::nullopt;
}

/// The tap of a descriptor that this process was passed. Nothing: what has that number is no tap,
/// or one that was opened since, or came from the keeper.
std::optional<std::string> passed_tap(int number) {
    ifreq found{};
    if (!is_passed(number) || ::ioctl(number, TUNGETIFF, &found) != 0) {
        return std::nullopt;
    }
    return found.ifr_name;
}

/// Nothing: none was kept, or the given ones are of another tap.
Result<std::optional<Tap>> take_given_before(const TapWish& wish, DeviceKeeper& keeper) {
    UniqueFd fd = keeper.take(wish.key);
    if (!fd.valid()) {
        return std::nullopt;
    }
    const auto passed = passed_tap(wish.fds.front());
    auto kept = take_tap(std::move(fd));
    if (!kept && passed) {
        // Somebody has deleted it: no process before could go on with it either.
        forget_queues(wish, wish.key, 0, keeper);
        return std::nullopt;
    }
    Tap tap = OUTRIGGER_TRY(std::move(kept));
    if (passed && *passed != tap.name) {
        if (keeper.can_hand_back()) {
            // It would not find its own again.
            return failure(Error{.message = "the device has the tap " + tap.name +
                                            ", and is given " + *passed +
                                            ": give that to a device of another name"});
        }
        forget_queues(wish, wish.key, 0, keeper);
        return std::nullopt;
    }
    OUTRIGGER_TRY(take_kept_queues(wish, wish.key, keeper, tap));
    // A service manager's programs are given their own at each start. Nobody would read these.
    for (const int number : wish.fds) {
        if (passed_tap(number)) {
            ::close(number);
        }
    }
    return std::optional(std::move(tap));
}

/// Nothing: there is none to go on with.
Result<std::optional<Tap>> take_kept_tap(const TapWish& wish, DeviceKeeper& keeper) {
    return wish.name ? take_named_tap(wish, keeper) : take_given_before(wish, keeper);
}

/// What was passed to an earlier process of the daemon is kept for the section that named it, and
/// its number is free: by now it may be another device's tap, or anything that is our own.
Result<void> check_passed(const TapWish& wish) {
    for (const int number : wish.fds) {
        if (!is_passed(number)) {
            return failure(
                Error{.message = "--" + wish.key + "-fd=" + std::to_string(number) +
                                 ": this process is not passed that descriptor, which the section "
                                 "that named it first has: give a tap by name, or start the "
                                 "program anew"});
        }
    }
    return {};
}

/// All queues are used; the first goes on to be.
Result<Tap> take_given_tap(const TapWish& wish) {
    OUTRIGGER_TRY(check_passed(wish));
    Tap tap;
    for (const int number : wish.fds) {
        UniqueFd fd(number);
        (void)use_tap_queue(number, true);  // whoever had it may have given it up
        if (tap.fd.valid()) {
            OUTRIGGER_TRY(add_tap_queue(tap, std::move(fd)));
        } else {
            tap = OUTRIGGER_TRY(take_tap(std::move(fd)));
        }
    }
    return tap;
}

Result<Tap> open_new_tap(const TapWish& wish, DeviceKeeper* keeper) {
    Tap tap = OUTRIGGER_TRY(wish.fds.empty() ? open_tap(*wish.name, wish.queue_count)
                                             : take_given_tap(wish));
    OUTRIGGER_TRY(give_up_queues(tap, 0));
    const std::string key = key_of_name(wish);
    if (keeper != nullptr && !keeper->keep_open(key, tap.fd.get())) {
        log(LogLevel::kWarning, "net: the tap {} ends with this process", tap.name);
    } else if (keeper != nullptr && !keep_queues(key, tap, 0, *keeper)) {
        warn_of_lost_queues(tap);
    }
    return tap;
}

}  // namespace

Result<Tap> open_wished_tap(const TapWish& wish, DeviceKeeper* keeper) {
    std::optional<Tap> tap;
    if (keeper != nullptr) {
        tap = OUTRIGGER_TRY(take_kept_tap(wish, *keeper));
    }
    if (!tap) {
        tap = OUTRIGGER_TRY(open_new_tap(wish, keeper));
    }
    if (wish.queue_count > 1 && tap->others.empty()) {
        log(LogLevel::kInfo, "net: the tap {} has one queue, which all pairs share", tap->name);
    }
    return *std::move(tap);
}

}  // namespace outrigger::net
