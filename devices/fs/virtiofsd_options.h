// SPDX-License-Identifier: Apache-2.0
/// Command lines that were written for virtiofsd: most options have the same names here, and this
/// turns the others into ours, where there is one that means the same.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace outrigger::fs {

/// `given` with the program's name in front. What has no counterpart stays as it is, and is
/// refused by name.
[[nodiscard]] std::vector<std::string> translate_virtiofsd_options(
    std::span<const char* const> given);

}  // namespace outrigger::fs
