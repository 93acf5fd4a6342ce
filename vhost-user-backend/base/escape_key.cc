// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/escape_key.h"

#include <cctype>
#include <string>

namespace outrigger {

Result<std::optional<std::byte>> parse_escape_key(std::string_view text) {
    if (text == "none") {
        return std::nullopt;
    }
    constexpr char kFirst = '@';
    constexpr char kLast = '_';
    const char key = text.size() == 2 ? static_cast<char>(::toupper(text[1])) : '\0';
    if (key < kFirst || key > kLast || text[0] != '^') {
        return failure(Error{.message = "--escape takes a caret and one of @ A to Z [ \\ ] ^ _, or "
                                        "none, not '" +
                                        std::string(text) + "'"});
    }
    return static_cast<std::byte>(key - kFirst);
}

}  // namespace outrigger
