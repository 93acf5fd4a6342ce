// SPDX-License-Identifier: Apache-2.0
/// A device's saved state in a file, in words.
#pragma once

#include <string>

#include "vhost-user-backend/base/result.h"

namespace outrigger::ctl {

/// Lines for people. An Error says why the file is none that a daemon would load: the sections
/// themselves only their device can judge.
[[nodiscard]] Result<std::string> state_file_text(const std::string& path);

}  // namespace outrigger::ctl
