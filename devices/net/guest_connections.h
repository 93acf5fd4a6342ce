// SPDX-License-Identifier: Apache-2.0
/// The guest's connections of TCP, in memory that outlives the process. A process that goes on in
/// its place has none of them: libslirp cannot be given a connection. But it can have the guest
/// told: whoever gets a segment that does not fit answers with where it is, and the library answers
/// that with RST. So nobody waits for bytes that will never come.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "vhost-user-backend/base/mapping.h"

namespace outrigger::net {

/// Thread-bound. Frames are whole, and as the guest sees them.
class GuestConnections final {
  public:
    /// As many are noted; of more, those that said nothing for longest are forgotten.
    static constexpr size_t kConnectionsMax = 4096;
    static constexpr size_t kEntryBytes = 64;
    static constexpr size_t kKeptBytes = kConnectionsMax * kEntryBytes;

    /// `kept`: of kKeptBytes, as another process left it, or empty: then nothing is noted. It may
    /// say anything.
    explicit GuestConnections(Mapping kept);

    void note_sent(std::span<const std::byte> frame);
    void note_received(std::span<const std::byte> frame);

    /// Calls `send` with a segment to the guest for each connection of another process of which
    /// nobody has heard that it has ended; how many. A segment and its answer may be lost, so this
    /// is worth to be repeated.
    size_t ask(const std::function<void(std::span<const std::byte>)>& send) const;

  private:
    /// Addresses as packets have them; those of IPv4 are in the first four bytes.
    struct Entry {
        uint8_t network = 0;  ///< 4 or 6; 0: none
        uint8_t ended = 0;    ///< kEndedBy...
        std::array<std::byte, 6> guest_station{};
        std::array<std::byte, 6> router_station{};
        std::array<std::byte, 2> guest_port{};
        std::array<std::byte, 2> peer_port{};
        std::array<std::byte, 16> guest_address{};
        std::array<std::byte, 16> peer_address{};
        uint16_t is_of_another = 0;  ///< process
        uint32_t last_used = 0;
        uint64_t reserved2 = 0;
    };

    static_assert(sizeof(Entry) == kEntryBytes);

    struct Segment;

    void note(std::span<const std::byte> frame, bool from_guest);
    [[nodiscard]] Entry load(size_t index) const;
    void store(size_t index, const Entry& entry);

    Mapping kept_;
    uint32_t now_ = 0;  // counts segments
};

}  // namespace outrigger::net
