// SPDX-License-Identifier: Apache-2.0
/// Frames of the guest that are about to go to a port, and what is done to those that the port does
/// not take as they are: finished and cut into a buffer of ours, whose chain goes back at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/base/error.h"
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
                     taken.udp6 && taken.fragments) {}

    /// For so many chains, whatever they have.
    [[nodiscard]] size_t room() const;

    [[nodiscard]] bool empty() const { return frames_.empty(); }

    /// Adds the frame of `chain`, which was popped from `queue`. Its pieces are the frame, without
    /// the header before it. A reason: it was dropped, and the chain is back.
    ///
    /// Inlined, so that the frame is put together where it stays: copies of what was just stored
    /// field by field were a tenth of what a short frame costs.
    [[nodiscard, gnu::always_inline]] inline std::optional<DropReason> add(DescriptorChain&& chain,
                                                                           uint16_t queue,
                                                                           const Frame& frame) {
        OUTRIGGER_ASSERT(frames_.size() < kFramesMax);
        if (frames_.capacity() == 0) [[unlikely]] {
            reserve();
        }
        if (!frame.offload.is_done() && !is_taken_as_it_is(frame)) [[unlikely]] {
            return finish(std::move(chain), queue, frame);
        }
        frames_.emplace_back(frame);
        Entry& entry = entries_.emplace_back();
        entry.chain.emplace(std::move(chain));
        entry.queue = queue;
        return std::nullopt;
    }

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

    /// Frames that are collected for one call of the port.
    static constexpr size_t kFramesMax = 64;

    /// frames_ may point into entries_, which do not move.
    void reserve();
    [[nodiscard]] bool is_taken_as_it_is(const Frame& frame) const;
    [[nodiscard]] std::optional<DropReason> finish(DescriptorChain chain,
                                                   uint16_t queue,
                                                   const Frame& frame);
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
