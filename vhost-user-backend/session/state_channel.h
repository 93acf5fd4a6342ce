// SPDX-License-Identifier: Apache-2.0
/// The descriptor over which a device's state travels: one end of a pipe, a stream socket, or a
/// file. The front end made it and may have kept a copy: whatever it does with that, only the
/// thread that transfers waits, and no flag of the open file is changed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/state/section.h"

namespace outrigger {

class StateChannel final {
  public:
    enum class Direction : uint8_t { kSave, kLoad };

    /// Nothing when `fd` cannot be a channel in this direction: no pipe, stream socket or regular
    /// file, not open for it, or both ends of a FIFO, whose end would never be seen. Does not wait.
    [[nodiscard]] static std::optional<StateChannel> adopt(UniqueFd fd, Direction direction);

    /// Writes all of it, and closes the descriptor, which tells the other side that this is the
    /// end; also when it fails. Waits for the other side, and returns soon when `stop` gets true.
    [[nodiscard]] Result<void, StateError> send(std::string_view bytes,
                                                const std::atomic<bool>& stop);

    /// Reads to the end, at most kStateBytesMax, and closes the descriptor. Waits likewise.
    [[nodiscard]] Result<std::string, StateError> receive(const std::atomic<bool>& stop);

  private:
    enum class Kind : uint8_t { kPipe, kSocket, kFile };

    StateChannel(UniqueFd fd, Kind kind) : fd_(std::move(fd)), kind_(kind) {}

    [[nodiscard]] Result<void, StateError> send_all(std::string_view bytes,
                                                    const std::atomic<bool>& stop) const;
    [[nodiscard]] Result<std::string, StateError> receive_all(const std::atomic<bool>& stop) const;
    [[nodiscard]] bool wait_for(short events, const std::atomic<bool>& stop) const;
    [[nodiscard]] ssize_t read_some(std::span<std::byte> out) const;
    [[nodiscard]] ssize_t write_some(std::span<const std::byte> bytes) const;

    UniqueFd fd_;
    Kind kind_;
};

}  // namespace outrigger
