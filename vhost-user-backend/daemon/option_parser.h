// SPDX-License-Identifier: Apache-2.0
/// Splits argv into options of a table and their texts. cxxopts does the work, behind this header.
#pragma once

#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/option_table.h"

namespace outrigger {

struct GivenOption {
    const OptionSpec* spec;
    std::string text;  ///< "on" for a flag without a value
};

/// The options of `arguments` (argv without the program) in their order. Texts are not checked.
/// Errors: an unknown option, a missing value, an argument that is no option.
[[nodiscard]] Result<std::vector<GivenOption>> split_arguments(
    std::span<const char* const> arguments, std::span<const OptionSpec* const> table);

}  // namespace outrigger
