// SPDX-License-Identifier: Apache-2.0
/// A Unix socket of the machine's that clients connect to.
#pragma once

#include <string>
#include <string_view>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::vmm {

/// Listens at `path`, mode 0600. A socket there that nobody has open is replaced; anything else
/// stays, and is an error. `option` is for errors. While no other thread makes files.
[[nodiscard]] Result<UniqueFd> listen_at(const std::string& path, std::string_view option);

}  // namespace outrigger::vmm
