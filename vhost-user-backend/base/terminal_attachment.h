// SPDX-License-Identifier: Apache-2.0
/// Our terminal, or whatever standard input and output are, at the host's side of a console's port,
/// until a key, a signal or either side ends it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// Where that side is.
struct AttachmentPlace {
    enum class Kind : uint8_t {
        kUnixSocket,
        kLoopbackPort,  ///< TCP, on 127.0.0.1
        kTerminal,      ///< one side of a pseudo-terminal
    };

    Kind kind = Kind::kUnixSocket;
    std::string path{};       ///< of the socket or the terminal
    std::string size_path{};  ///< of a Unix socket: where sizes of our terminal are told
    uint16_t port = 0;

    /// For people.
    [[nodiscard]] std::string text() const;
};

/// `escape` ends it, if there is one (base/escape_key.h). Takes signals over, so: while the process
/// has one thread, and once. An error: there is nobody.
[[nodiscard]] Result<void> attach_terminal(const AttachmentPlace& place,
                                           std::optional<std::byte> escape);

}  // namespace outrigger
