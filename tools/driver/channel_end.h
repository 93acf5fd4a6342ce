// SPDX-License-Identifier: Apache-2.0
/// The front end's end of the back-end channel: takes what the back end asks and answers it, as it
/// should or as it should not.
///
/// Thread-bound.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/message_codec.h"

#include "tools/driver/frontend.h"

namespace outrigger::driver {

class ChannelEnd final {
  public:
    template <class T>
    using Reply = Result<T, Answer>;

    /// Makes a channel and gives its other end to the back end: SET_BACKEND_REQ_FD. With
    /// `send_bytes` the back end can send about as much before somebody reads; 0: the system's.
    [[nodiscard]] static Reply<ChannelEnd> open(Frontend& frontend, int send_bytes = 0);

    void set_time_limit(std::chrono::milliseconds limit) { time_limit_ = limit; }

    /// The next request of the back end, whatever it says.
    [[nodiscard]] Reply<wire::Message> receive();

    /// Answers `request`: 0 is success. `fd` (borrowed): -1 for none.
    Answer reply(const wire::Message& request, uint64_t value, int fd = -1);

    /// Sends a header and a payload that need not fit each other. kUnasked when all was sent.
    Answer send(const wire::Header& header,
                std::span<const std::byte> payload = {},
                std::span<const int> fds = {});

    /// Is anything there to read now, an end of stream included?
    [[nodiscard]] bool has_input() const;

    /// True when the back end closes its end within the time limit. What it sent before is dropped.
    [[nodiscard]] bool wait_closed();

    [[nodiscard]] int socket() const { return socket_.get(); }

    void close() { socket_.reset(); }

  private:
    explicit ChannelEnd(UniqueFd socket)
        : socket_(std::move(socket)),
          stream_(socket_.get(), wire::MessageStream::Expect::kRequests) {}

    UniqueFd socket_;
    wire::MessageStream stream_;
    std::chrono::milliseconds time_limit_{5000};
};

}  // namespace outrigger::driver
