// SPDX-License-Identifier: Apache-2.0
/// A user namespace that nobody lives in: what an idmapped mount says by whose files are whose
/// (mount_setattr(2), MOUNT_ATTR_IDMAP).
#pragma once

#include <string>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::fs {

/// `uids` and `gids` are the lines of /proc/PID/uid_map and gid_map. Takes root, before threads are
/// started: a child makes it, and is gone when this returns.
[[nodiscard]] Result<UniqueFd> make_user_namespace(const std::string& uids,
                                                   const std::string& gids);

}  // namespace outrigger::fs
