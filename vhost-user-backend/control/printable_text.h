// SPDX-License-Identifier: Apache-2.0
/// Texts as messages and terminals can have them.
#pragma once

#include <string>
#include <string_view>

namespace outrigger::control {

/// `text` with a question mark for each control character (also those of
/// U+0080 to U+009F), and for each byte that is not part of a
/// UTF-8 sequence: paths may hold anything, and fields of messages may not.
[[nodiscard]] std::string printable(std::string_view text);

}  // namespace outrigger::control
