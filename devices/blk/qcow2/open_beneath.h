// SPDX-License-Identifier: Apache-2.0
/// Opens a file below a directory, and nothing else, whoever renames what there meanwhile.
#pragma once

#include <filesystem>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::blk {

/// A descriptor of `path` from which open_beneath() goes on. Symbolic links are followed.
[[nodiscard]] Result<UniqueFd> open_directory(const std::filesystem::path& path);

/// `relative` has names only, without "..", and leads through directories to a file; ELOOP or
/// ENOTDIR when one of them is a symbolic link. Opened for reading, without waiting.
[[nodiscard]] Result<UniqueFd> open_beneath(int directory, const std::filesystem::path& relative);

}  // namespace outrigger::blk
