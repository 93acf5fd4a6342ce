// SPDX-License-Identifier: Apache-2.0
/// Cuts a front end's conversation short at any byte, for tests of hang-ups.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace outrigger::driver {

/// What a Frontend sends, counted; and from where on it sends nothing. Beyond the cut every call
/// answers kClosed, as if the connection were lost; hanging up is left to the caller.
struct Cut {
    /// So many bytes go out, descriptors with the first byte of their message.
    uint64_t bytes_max = std::numeric_limits<uint64_t>::max();
    /// Whether the reply to a message that ends exactly at the cut is read.
    bool read_last_reply = true;

    uint64_t bytes_sent = 0;
    std::vector<uint64_t> message_bytes{};  ///< size of each message that was begun

    [[nodiscard]] bool reached() const { return bytes_sent == bytes_max; }
};

}  // namespace outrigger::driver
