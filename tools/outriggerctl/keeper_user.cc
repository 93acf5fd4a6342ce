// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/keeper_user.h"

#include <fstream>
#include <string>

#include <grp.h>
#include <unistd.h>

namespace outrigger::ctl {

std::optional<KeeperUser> other_user_of(pid_t keeper) {
    if (::geteuid() != 0) {
        return std::nullopt;
    }
    // Its directory may belong to root all the same: what it says of itself is true.
    std::ifstream status("/proc/" + std::to_string(keeper) + "/status");
    KeeperUser user;
    bool has_uid = false;
    bool has_gid = false;
    for (std::string word; status >> word;) {
        if (word == "Uid:") {
            has_uid = static_cast<bool>(status >> user.uid);
        } else if (word == "Gid:") {
            has_gid = static_cast<bool>(status >> user.gid);
        }
    }
    return has_uid && has_gid && user.uid != 0 ? std::optional(user) : std::nullopt;
}

bool become(const KeeperUser& user) {
    return ::setgroups(0, nullptr) == 0 && ::setresgid(user.gid, user.gid, user.gid) == 0 &&
           ::setresuid(user.uid, user.uid, user.uid) == 0;
}

}  // namespace outrigger::ctl
