// SPDX-License-Identifier: Apache-2.0
/// All that can be seen of a directory and what is below it, as lines to compare.
#pragma once

#include <string>
#include <vector>

namespace outrigger::randomops {

/// Sorted by path. A file is its type, mode, owner, links, size, content and extended attributes of
/// the user; times are not among it, because two trees are not changed at the same moment.
[[nodiscard]] std::vector<std::string> snapshot_of(const std::string& root);

/// The first line that differs, as "HERE | THERE"; empty when none does.
[[nodiscard]] std::string first_difference(const std::vector<std::string>& here,
                                           const std::vector<std::string>& there);

}  // namespace outrigger::randomops
