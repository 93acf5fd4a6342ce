// SPDX-License-Identifier: Apache-2.0
/// An NBD URI, taken apart. The NBD project's doc/uri.md. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "vhost-user-backend/base/result.h"

namespace outrigger::blk {

struct NbdUri {
    std::string text;           ///< as it was given, for messages
    bool tls = false;           ///< nbds
    std::string socket_path{};  ///< nbd+unix; empty: TCP
    std::string host{};         ///< a name or an address; brackets taken off
    uint16_t port = 10809;
    std::string export_name{};   ///< empty: the server's default
    std::string tls_user{};      ///< of the pre-shared key; empty: libnbd's default
    std::string tls_psk_file{};  ///< nbds: the file of the key; empty: certificates
    /// nbds: the directory of ca-cert.pem, client-cert.pem and client-key.pem; empty: a key.
    std::string tls_certificates{};
};

/// Forms that are served: nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, and with the
/// key in tls-psk-file=PATH nbds:// and nbds+unix://; nbds://ADDRESS with tls-certificates=DIR.
/// Errors say what is wrong and with which URI.
[[nodiscard]] Result<NbdUri> parse_nbd_uri(std::string_view text);

}  // namespace outrigger::blk
