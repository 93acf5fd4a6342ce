// SPDX-License-Identifier: Apache-2.0
/// One ring of buffers for frames that go to the guest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "vhost-user-backend/virtq/virtqueue.h"

#include "devices/net/frame.h"
#include "devices/net/vnet_header.h"

namespace outrigger::net {

/// How frames lie in the guest's buffers.
struct BufferFormat {
    bool merges = false;  ///< a frame may go over several buffers
    size_t header_bytes = 12;
    bool checksums = false;  ///< the driver wants to hear of those that are right
};

/// Buffers that were popped for a frame for which they are not enough yet stay popped until more
/// come, or a shorter frame does: nothing can be given back to a ring that runs, but empty, which
/// drivers take for a bad frame. Thread-bound to the worker of the queue.
class ReceiveQueue final {
  public:
    enum class Outcome : uint8_t {
        kWritten,
        kNoBuffer,        ///< the ring has not enough, for now
        kBufferTooSmall,  ///< the frame was dropped: what there is will never be enough
    };

    void start(Virtqueue& ring, const BufferFormat& format);

    /// All buffers go back; nothing is used until start().
    void stop();
    /// The same, but they go back as if they had never been popped.
    void suspend();

    /// Does the driver want to hear of checksums that are right, from now on?
    void use_checksums(bool wanted) { format_.checksums = wanted; }

    [[nodiscard]] bool is_running() const { return ring_ != nullptr; }

    [[nodiscard]] Virtqueue& ring() { return *ring_; }

    /// Can it be tried with that frame now?
    [[nodiscard]] bool is_ready_for(const Frame& frame) const {
        return ring_ != nullptr && ring_->is_enabled() && !ring_->is_ending() &&
               (ring_->has_available() || room_ >= format_.header_bytes + frame.bytes);
    }

    [[nodiscard]] bool has_gathered() const { return !gathered_.empty(); }

    /// Did the driver give a buffer since this was asked last?
    [[nodiscard]] bool take_served() { return std::exchange(is_served_, false); }

    /// The next frame for which there is not enough is dropped, and does not wait.
    void set_gives_up(bool gives_up) { gives_up_ = gives_up; }

    /// Gives buffers back that wait for more, empty.
    void return_gathered();

    [[nodiscard]] Outcome write(const Frame& frame);

    struct Written {
        size_t count = 0;                     ///< of the first frames
        Outcome outcome = Outcome::kWritten;  ///< if another: of the frame behind these
    };

    /// One at least and kTogether at most: as many of the first as it comes to, or tells why the
    /// next one is not written. All buffers are fetched before the first is written, so that the
    /// cache misses of one do not wait for those of another.
    [[nodiscard]] Written write_all(std::span<const Frame> frames);

    static constexpr size_t kTogether = 8;

  private:
    [[nodiscard]] Outcome write_first(DescriptorChain chain, const Frame& frame);
    void write_whole(DescriptorChain& chain, const Frame& frame) const;
    [[nodiscard]] Outcome gather_and_fill(const Frame& frame);
    [[nodiscard]] Outcome gather(size_t bytes);
    void fill(const Frame& frame);
    [[nodiscard]] VnetHeader make_header(const Frame& frame, size_t buffer_count) const;
    size_t write_header(ChainWriter& writer, const VnetHeader& header) const;

    Virtqueue* ring_ = nullptr;
    BufferFormat format_;
    std::vector<DescriptorChain> gathered_;
    uint64_t room_ = 0;  // in gathered_
    bool is_served_ = false;
    bool gives_up_ = false;
};

}  // namespace outrigger::net
