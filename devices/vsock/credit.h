// SPDX-License-Identifier: Apache-2.0
/// How many bytes of a connection may be under way in each direction. VIRTIO 1.3, 5.10.6.3.
///
/// Pure. All counts are of one connection, begin at 0 and are modulo 2^32.
#pragma once

#include <algorithm>
#include <cstdint>

namespace outrigger::vsock {

/// What the guest lets us send. Every packet of the connection brings its word.
class SendCredit final {
  public:
    void update(uint32_t buffer_bytes, uint32_t forwarded_bytes) {
        buffer_bytes_ = buffer_bytes;
        forwarded_ = forwarded_bytes;
    }

    void note_sent(uint32_t bytes) { sent_ += bytes; }

    /// Bytes that may be sent now. A guest that makes its buffer smaller than what is in it, or
    /// claims to have taken more than it got, leaves none: the difference is clamped.
    [[nodiscard]] uint32_t available() const {
        const uint32_t in_buffer = sent_ - forwarded_;
        return buffer_bytes_ > in_buffer ? buffer_bytes_ - in_buffer : 0;
    }

    /// All that the guest's buffer can ever hold at once.
    [[nodiscard]] uint32_t buffer_bytes() const { return buffer_bytes_; }

    [[nodiscard]] uint32_t forwarded() const { return forwarded_; }

    [[nodiscard]] uint32_t sent() const { return sent_; }

    /// As another process left it.
    void restore(uint32_t buffer_bytes, uint32_t forwarded, uint32_t sent) {
        update(buffer_bytes, forwarded);
        sent_ = sent;
    }

  private:
    uint32_t buffer_bytes_ = 0;
    uint32_t forwarded_ = 0;
    uint32_t sent_ = 0;
};

/// What we let the guest send: the room that is advertised to it, and how much of that is known to
/// be free again (`forwarded`): what the host's socket has, or, of a connection with another guest,
/// what that guest has taken out of its buffer.
class ReceiveWindow final {
  public:
    /// `bytes_max`: how far the window may grow.
    ReceiveWindow(uint32_t bytes, uint32_t bytes_max) : bytes_(bytes), bytes_max_(bytes_max) {}

    [[nodiscard]] uint32_t bytes() const { return bytes_; }

    [[nodiscard]] uint32_t forwarded() const { return forwarded_; }

    [[nodiscard]] uint32_t received() const { return received_; }

    /// What the guest knows of forwarded().
    [[nodiscard]] uint32_t told() const { return told_; }

    [[nodiscard]] bool admits(uint32_t bytes) const {
        return bytes <= bytes_ - (received_ - forwarded_);
    }

    /// Takes `bytes` of the guest's in. False, and nothing taken: it has sent more than it may.
    [[nodiscard]] bool admit(uint32_t bytes) {
        if (!admits(bytes)) {
            return false;
        }
        received_ += bytes;
        return true;
    }

    /// Bytes that have left for the other end, or were dropped.
    [[nodiscard]] uint32_t written() const { return written_; }

    /// `bytes` is all that there may be of it from now on. Before the guest is told of more.
    void limit(uint32_t bytes) {
        bytes_max_ = std::min(bytes_max_, bytes);
        bytes_ = std::min(bytes_, bytes_max_);
    }

    /// So much, within the limit, before the guest is told of any.
    void begin_with(uint32_t bytes) { bytes_ = std::min(bytes, bytes_max_); }

    /// So many of them have reached the host's socket.
    void note_written(uint32_t bytes) { written_ += bytes; }

    /// Their room is free when they have.
    void free_written() { forwarded_ = written_; }

    /// Their room is free when the other end has taken them out of its own, which it says of so
    /// many. Anything else than what has left for it and was not known to be free changes nothing.
    void free_taken(uint32_t taken) {
        const uint32_t more = taken - forwarded_;
        if (more < kHalfOfCounts) {
            forwarded_ += std::min(more, written_ - forwarded_);
        }
    }

    /// The guest is being told now: bytes() and forwarded().
    void note_told() { told_ = forwarded_; }

    /// Is there room that the guest does not know of?
    [[nodiscard]] bool has_news() const { return forwarded_ != told_; }

    /// Should the guest be told, though nobody asked? When half of what it uses of the window is
    /// free and it does not know, so that it never comes to wait for room that there is. Linux has
    /// no more under way than its own buffer for the connection would hold (`guest_buffer_bytes`),
    /// whatever the window is.
    [[nodiscard]] bool should_tell(uint32_t guest_buffer_bytes) const {
        return forwarded_ - told_ >= worth_telling(guest_buffer_bytes);
    }

    [[nodiscard]] uint32_t worth_telling(uint32_t guest_buffer_bytes) const {
        return std::max(1U, std::min(bytes_, guest_buffer_bytes) / 2);
    }

    /// The host takes all as fast as it comes: twice the window from now on, up to the limit.
    void grow() {
        bytes_ = std::min(bytes_max_, bytes_ > bytes_max_ / 2 ? bytes_max_ : bytes_ * 2);
    }

    /// At least so much, up to the limit. True: that is more than it was.
    bool grow_to(uint32_t bytes) {
        const uint32_t before = bytes_;
        bytes_ = std::max(bytes_, std::min(bytes, bytes_max_));
        return bytes_ != before;
    }

    struct Counts {
        uint32_t received = 0;
        uint32_t written = 0;
        uint32_t forwarded = 0;
        uint32_t told = 0;
    };

    /// As another process left it. False, and nothing changes: it cannot be.
    [[nodiscard]] bool restore(uint32_t bytes, const Counts& counts) {
        if (bytes > bytes_max_ || counts.received - counts.forwarded > bytes ||
            counts.received - counts.written > counts.received - counts.forwarded) {
            return false;
        }
        bytes_ = bytes;
        received_ = counts.received;
        written_ = counts.written;
        forwarded_ = counts.forwarded;
        told_ = counts.told;
        return true;
    }

  private:
    static constexpr uint32_t kHalfOfCounts = uint32_t{1} << 31;

    uint32_t bytes_;
    uint32_t bytes_max_;
    uint32_t received_ = 0;
    uint32_t written_ = 0;
    uint32_t forwarded_ = 0;
    uint32_t told_ = 0;
};

}  // namespace outrigger::vsock
