// SPDX-License-Identifier: Apache-2.0
/// Frames of the guest that are about to go to a port, and what is done to those that the port does
/// not take as they are: finished and cut into a buffer of ours, whose chain goes back at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/virtq/descriptor_chain.h"

#include "devices/net/frame.h"
#include "devices/net/port.h"

namespace outrigger::net {

/// Thread-bound to the worker of the queues.
class TransmitBatch final {
  public:
    explicit TransmitBatch(const Offloads& taken)
        : taken_(taken),
          takes_all_(taken.checksum && taken.tcp4 && taken.tcp6 && taken.ecn && taken.udp4 &&
                     taken.udp6) {}

    /// For so many chains, whatever they have.
    [[nodiscard]] size_t room() const;

    [[nodiscard]] bool empty() const { return frames_.empty(); }

    /// Adds the frame of `chain`, which was popped from `queue`. `pieces` are the frame, without
    /// the header before it. A reason: it was dropped, and the chain is back.
    [[nodiscard]] std::optional<DropReason> add(DescriptorChain chain,
                                                uint16_t queue,
                                                const Frame& frame);

    /// Gives the port as much as it takes. False: some are left.
    [[nodiscard]] bool send_to(Port& port);

    /// Ends what waits of that queue: each chain goes back, answered, or, with `set_aside`, for
    /// whoever comes next. How many frames were lost.
    size_t remove(uint16_t queue, bool set_aside);

  private:
    /// One frame of `frames_`, in the same order. Without a chain its bytes are in `arena_`.
    struct Entry {
        std::optional<DescriptorChain> chain;
        uint16_t queue = 0;
        iovec piece{};
    };

    [[nodiscard]] std::optional<DropReason> add_finished(uint16_t queue, const Frame& frame);
    void add_own(uint16_t queue, std::span<std::byte> bytes, const FrameOffload& offload);
    void forget(size_t count);

    const Offloads taken_;
    const bool takes_all_;  // nothing is ever finished here
    std::vector<Frame> frames_;
    std::vector<Entry> entries_;
    size_t sent_ = 0;  // of frames_
    std::unique_ptr<std::byte[]> arena_;
    size_t arena_used_ = 0;
    std::unique_ptr<std::byte[]> whole_;  // a frame that is about to be cut
};

}  // namespace outrigger::net
