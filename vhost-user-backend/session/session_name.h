// SPDX-License-Identifier: Apache-2.0
/// The names of the sockets that sessions are served on, by which the other ends of those sockets
/// are known.
///
/// Whoever holds the other end of a connection never sees it close. A front end that sent us its
/// own end, and died, would keep its session for ever. That end has our name as its peer's name.
#pragma once

#include <string>

namespace outrigger {

/// Notes the name of a session's socket for as long as the object lives. A socket without a name
/// (of a pair, which nobody named by platform::name_socket()) is not noted. Any thread.
class SessionName final {
  public:
    explicit SessionName(int socket);
    SessionName(const SessionName&) = delete;
    SessionName& operator=(const SessionName&) = delete;
    ~SessionName();

  private:
    std::string name_;
};

/// Is `fd` a front end's own end of a session of this process? Any descriptor, any thread.
[[nodiscard]] bool leads_to_session(int fd);

}  // namespace outrigger
