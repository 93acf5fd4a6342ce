// SPDX-License-Identifier: Apache-2.0
/// Finds names of files whose own was removed while they have others: the kernel tells the name by
/// which a file was pinned, and no more of it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "devices/fs/inode_table.h"
#include "devices/fs/share.h"

namespace outrigger::fs {

struct WantedName {
    InodeKey key{};
    std::optional<std::string> path{};  ///< below the root; nothing: not found
};

/// Looks through the share until each has a path, or too many entries were seen. Directories that
/// cannot be read are passed over.
void find_names(const Share& share, std::vector<WantedName>& wanted);

}  // namespace outrigger::fs
