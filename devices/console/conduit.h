// SPDX-License-Identifier: Apache-2.0
/// The way of bytes between viewers and ports that a kill cannot lose or double: two pipes, one for
/// each direction, which the keeper has as well.
///
/// Whoever reads from a viewer and is killed before it has written down how much has lost it, and
/// one that writes to a viewer does not know how much that got. So bytes are moved between a viewer
/// and a pipe by splice(), which the kernel carries through, and what is in the pipe then says how
/// much it was: nobody else puts anything there or takes it. What we are at is noted before each
/// step, so the next process ends it.
///
/// Thread-bound: host thread, after the main thread has ended what was left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include <sys/types.h>

#include "vhost-user-backend/base/kept_record.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/device_keeper.h"

#include "devices/console/kept_viewers.h"
#include "devices/console/port_stream.h"

namespace outrigger::console {

class Conduit final {
  private:
    enum class Step : uint32_t { kNone, kTaking, kGiving };

    /// What we are at. Positions are absolute, so that ending it twice does no harm.
    struct Note {
        Step step = Step::kNone;
        uint32_t port = 0;
        uint64_t slot = 0;      // of the viewer that is given something
        uint64_t position = 0;  // of the first byte
        uint64_t count = 0;     // that went into the pipe; 0: that is not known yet
    };

  public:
    static constexpr size_t kNoteBytes = KeptValue<Note>::kBytes;

    /// Of one port.
    struct Port {
        PortStream* stream = nullptr;
        KeptViewers* viewers = nullptr;
    };

    /// `note` is of kNoteBytes, zeroed or as another process left it.
    [[nodiscard]] static Result<Conduit> open(DeviceKeeper& keeper, std::span<std::byte> note);

    /// Ends what the process before was at. `port` gives nullptrs for a number that is none.
    void end_what_was_left(const std::function<Port(uint32_t)>& port);

    // Both as read() and write() that do not wait. The descriptor does not, either.

    /// From a viewer to the end of a port's input; at most `bytes_max`, for which there is room.
    [[nodiscard]] ssize_t take(int fd, uint32_t port, PortStream& stream, size_t bytes_max);

    /// `bytes` are the port's output from `position` on; how far the viewer got is noted.
    [[nodiscard]] ssize_t give(int fd,
                               uint32_t port,
                               KeptViewers& viewers,
                               size_t slot,
                               uint64_t position,
                               std::span<const std::byte> bytes);

  private:
    struct Pipe {
        UniqueFd read_end{};
        UniqueFd write_end{};

        [[nodiscard]] size_t bytes() const;
        void empty() const;
    };

    Conduit(Pipe in, Pipe out, std::span<std::byte> note)
        : in_(std::move(in)), out_(std::move(out)), note_(note) {}

    [[nodiscard]] static Result<Pipe> open_pipe(DeviceKeeper& keeper, const char* name);
    bool pass_on(PortStream& stream, uint64_t position, size_t count);

    void done() { note_.store({}); }

    Pipe in_;
    Pipe out_;
    KeptValue<Note> note_;
};

}  // namespace outrigger::console
