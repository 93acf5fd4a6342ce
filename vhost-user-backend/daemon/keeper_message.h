// SPDX-License-Identifier: Apache-2.0
/// What a worker and its keeper say to each other: lines of NAME=value as sd_notify(3) has them,
/// and descriptors, one packet a message.
///
/// To the keeper: what systemd understands (FDSTORE=1 with FDNAME= and a descriptor,
/// FDSTOREREMOVE=1 with FDNAME=, READY=1), HELLO=1 first of all, LAST=1 when
/// no other process could go on, and LAST=0 when one could again. From the keeper: FDNAMES=a:b:c
/// with so many descriptors, and then GO=first, GO=again or GO=upgrade; LEAVE=1 before it kills a
/// worker that another one takes over from, who may say LEFT=1. With LEAVE=1
/// comes HEARD=, how many LAST messages it has had from that worker: where one crosses with LEAVE=1
/// it counts, and the worker stays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// Of one message.
inline constexpr size_t kKeeperTextMax = 8192;
inline constexpr size_t kKeeperFdsMax = 100;

struct KeeperMessage {
    std::string text{};
    std::vector<UniqueFd> fds{};

    /// The value of the first line with that name; empty when there is none.
    [[nodiscard]] std::string_view field(std::string_view name) const;
};

enum class KeeperWait : uint8_t { kWaits, kNever };

/// With at most kKeeperFdsMax descriptors (borrowed). False, with errno: the other end has gone, or
/// does not read within a second (kNever: EAGAIN, it has not read what was sent before).
[[nodiscard]] bool send_keeper_message(int channel,
                                       std::string_view text,
                                       std::span<const int> fds = {},
                                       KeeperWait wait = KeeperWait::kWaits);

/// False when the other end is gone, or (kNever) nothing is there, or what came is no message: too
/// long, or with descriptors that could not be taken.
[[nodiscard]] bool receive_keeper_message(int channel, KeeperMessage& message, KeeperWait wait);

/// "a:b" as {a, b}; empty names are kept, as they count descriptors.
[[nodiscard]] std::vector<std::string> split_names(std::string_view text);

}  // namespace outrigger
