// SPDX-License-Identifier: Apache-2.0
/// The key by which somebody leaves a terminal that passes every other key on.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// Of the text of --escape, "^]" say; nothing for "none": no key leaves it.
[[nodiscard]] Result<std::optional<std::byte>> parse_escape_key(std::string_view text);

}  // namespace outrigger
