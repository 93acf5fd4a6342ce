// SPDX-License-Identifier: Apache-2.0
/// Changes of the text of a --config file, which leave all else in it as it is. Pure.
#pragma once

#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"

namespace outrigger::ctl {

/// `text` with a section more at its end, of these "KEY=VALUE". An error: it would not say just
/// that.
[[nodiscard]] Result<std::string> with_section(const std::string& text,
                                               const std::string& name,
                                               const std::vector<std::string>& items);

/// `text` without that section. Comments right before the next one stay.
[[nodiscard]] Result<std::string> without_section(const std::string& text, const std::string& name);

}  // namespace outrigger::ctl
