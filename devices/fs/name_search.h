// SPDX-License-Identifier: Apache-2.0
/// Finds names of files whose own was removed while they have others: the kernel tells the name by
/// which a file was pinned, and no more of it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "devices/fs/inode_table.h"
#include "devices/fs/share.h"
#include "devices/fs/time_limit.h"

namespace outrigger::fs {

struct WantedName {
    InodeKey key{};
    std::optional<std::string> path{};  ///< below the root; nothing: not found
};

/// Looks through the share until each has a path, or too many entries were seen. Directories that
/// cannot be read are passed over. False: until the time was over.
[[nodiscard]] bool find_names(const Share& share,
                              std::vector<WantedName>& wanted,
                              const TimeLimit& limit);

}  // namespace outrigger::fs
