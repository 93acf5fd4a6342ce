// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/control/printable_text.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace outrigger::control {
namespace {

/// Bytes of the UTF-8 sequence at the beginning of `text`; 0 when there is none. RFC 3629: neither
/// longer forms than needed, nor surrogates, nor anything above U+10FFFF.
size_t sequence_bytes(std::string_view text) {
    const auto first = static_cast<uint8_t>(text[0]);
    const size_t bytes = first < 0x80   ? 1
                         : first < 0xc2 ? 0
                         : first < 0xe0 ? 2
                         : first < 0xf0 ? 3
                         : first < 0xf5 ? 4
                                        : 0;
    if (bytes == 0 || bytes > text.size()) {
        return 0;
    }
    for (size_t i = 1; i < bytes; ++i) {
        if ((static_cast<uint8_t>(text[i]) & 0xc0) != 0x80) {
            return 0;
        }
    }
    const auto second = bytes > 1 ? static_cast<uint8_t>(text[1]) : uint8_t{0x80};
    const bool impossible = (first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) ||
                            (first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90);
    return impossible ? 0 : bytes;
}

}  // namespace

std::string printable(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const size_t bytes = sequence_bytes(text);
        const auto first = static_cast<uint8_t>(text[0]);
        // U+0080 to U+009F: terminals take some of them for the beginning of a command.
        const bool is_c1 = bytes == 2 && first == 0xc2 && static_cast<uint8_t>(text[1]) < 0xa0;
        if (bytes == 0 || first < 0x20 || first == 0x7f || is_c1) {
            out += '?';
            text.remove_prefix(std::max<size_t>(bytes, 1));
        } else {
            out += text.substr(0, bytes);
            text.remove_prefix(bytes);
        }
    }
    return out;
}

}  // namespace outrigger::control
