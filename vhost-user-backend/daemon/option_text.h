// SPDX-License-Identifier: Apache-2.0
/// Options of a table in words: for --help, and in roff for man pages. Daemons and tools share it.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/option_table.h"

namespace outrigger {

/// Appends `text` in lines of at most 79 columns, each behind `indent` spaces.
void append_wrapped(std::string& out, std::string_view text, size_t indent);

/// Appends each option that is not hidden: its usage in a line, and what it does below.
void append_option_help(std::string& out, std::span<const OptionSpec> options);

/// Text as roff shows it: hyphens that can be copied, no line that looks like a request.
[[nodiscard]] std::string roff(std::string_view text);

/// Appends each option that is not hidden as a tagged paragraph.
void append_roff_options(std::string& out, std::span<const OptionSpec> options);

/// `page` with each line that is the first of a pair replaced by the second, which ends with a line
/// end. An error names a line that is missing.
[[nodiscard]] Result<std::string> fill_man_page(
    std::string_view page, std::span<const std::pair<std::string_view, std::string>> parts);

}  // namespace outrigger
