// SPDX-License-Identifier: Apache-2.0
/// The guest's end of streams of bytes, and what connects it with the host's: a socket device's
/// connections, a port of a console, or frames of a network. One class for each device type.
///
/// Bound to one thread at a time. Nothing here allocates while all goes well.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "tools/driver/driver_queue.h"

namespace outrigger::bench {

/// Told by a driver what has happened.
class StreamSink {
  public:
    StreamSink() = default;
    StreamSink(const StreamSink&) = delete;
    StreamSink& operator=(const StreamSink&) = delete;

    /// The guest has received that, and forgets it.
    virtual void on_received(uint32_t stream, std::span<const std::byte> bytes) = 0;

    /// A buffer with so many bytes, sent at that time, came back.
    virtual void on_returned(uint32_t bytes, driver::Deadline sent) = 0;

  protected:
    ~StreamSink() = default;
};

class StreamDriver {
  public:
    StreamDriver() = default;
    StreamDriver(const StreamDriver&) = delete;
    StreamDriver& operator=(const StreamDriver&) = delete;
    virtual ~StreamDriver() = default;

    /// The host's end of each stream, in blocking mode; the caller's from now on. A stream that
    /// nobody listens to has -1.
    [[nodiscard]] virtual std::vector<UniqueFd> take_host_ends() = 0;

    /// What stands in front of each block at the host's end; empty: blocks have no ends there.
    [[nodiscard]] virtual std::span<const std::byte> head_to_host() const { return {}; }

    [[nodiscard]] virtual std::span<const std::byte> head_to_guest() const { return {}; }

    /// Puts the beginning of `bytes`, which are not empty, into the ring for that stream: as much
    /// as fits in a buffer, and as the other side takes. How much that is; 0: nothing now.
    /// `copy`: the content matters. publish() follows.
    [[nodiscard]] virtual uint32_t try_send(uint32_t stream,
                                            std::span<const std::byte> bytes,
                                            bool copy,
                                            driver::Deadline now) = 0;

    /// Takes what the device has done. False: nothing. publish() follows.
    [[nodiscard]] virtual bool take(StreamSink& sink) = 0;

    /// How often that kicked.
    [[nodiscard]] virtual uint32_t publish() = 0;

    /// Buffers with data that the device has.
    [[nodiscard]] virtual uint32_t in_flight() const = 0;

    /// The rings that tell that there is something to take.
    [[nodiscard]] virtual std::span<driver::DriverQueue* const> queues() = 0;

    /// The device broke a stream off, or said what makes no sense. Empty: it did not.
    [[nodiscard]] virtual const std::string& complaint() const = 0;
};

}  // namespace outrigger::bench
