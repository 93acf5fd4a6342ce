// SPDX-License-Identifier: Apache-2.0
/// How a front end's own end of a session is known among the descriptors that it sends.
///
/// Whoever holds the other end of a connection never sees it close. A front end that sent its own
/// end of a session, to this program or to another that serves it, and died, would keep its session
/// for ever. That end has the name of the session's socket as its peer's name. Descriptors that are
/// meant for a back end come from socketpair(), whose ends have no names.
#pragma once

namespace outrigger {

/// Is `fd` one end of a Unix connection whose other end has a name? Any descriptor, any thread.
[[nodiscard]] bool has_named_peer(int fd);

}  // namespace outrigger
