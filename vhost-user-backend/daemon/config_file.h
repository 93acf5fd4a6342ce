// SPDX-License-Identifier: Apache-2.0
/// The file of --config (daemon/config_text.h), and what a keeper has read of it.
#pragma once

#include <string>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/config_text.h"

namespace outrigger {

/// What the file at `path` has now; in a process that a keeper has started, what the keeper read
/// there for it (kConfigVariable), so that a process that is started again finds what the one
/// before was started with.
[[nodiscard]] Result<std::string> read_config(const std::string& path);

/// The environment's name for the descriptor of what a keeper has read.
inline constexpr const char* kConfigVariable = "OUTRIGGER_CONFIG";

/// Memory with what the file at `path` has now, for the environment of others.
[[nodiscard]] Result<UniqueFd> copy_config(const std::string& path);
/// What copy_config() gave.
[[nodiscard]] Result<std::string> read_config_copy(int fd);

}  // namespace outrigger
