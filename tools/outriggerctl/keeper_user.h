// SPDX-License-Identifier: Apache-2.0
/// As whom a keeper is to be asked. A keeper has no privileges: its answer, a signal, reaches only
/// processes of its own user, and only their binaries can it read. Linux alone.
#pragma once

#include <optional>

#include <sys/types.h>

namespace outrigger::ctl {

struct KeeperUser {
    uid_t uid = 0;
    gid_t gid = 0;
};

/// Nothing: it is ours, or we could not become another anyway.
[[nodiscard]] std::optional<KeeperUser> other_user_of(pid_t keeper);

/// For a process that does nothing else from now on. False: it is not allowed to.
[[nodiscard]] bool become(const KeeperUser& user);

}  // namespace outrigger::ctl
