// SPDX-License-Identifier: Apache-2.0
#include "devices/net/receive_queue.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "vhost-user-backend/base/error.h"

#include "devices/net/packet_layout.h"

namespace outrigger::net {
namespace {

/// Hands out the bytes of a frame from its start.
class FrameReader final {
  public:
    explicit FrameReader(const Frame& frame) : pieces_(frame.pieces) {}

    void write_to(ChainWriter& writer, size_t bytes) {
        while (bytes > 0) {
            const iovec& piece = pieces_.front();
            const size_t count = std::min(bytes, piece.iov_len - at_);
            // SAFETY: `count` bytes are left of the piece, which the port keeps as it is.
            (void)writer.write({static_cast<const std::byte*>(piece.iov_base) + at_, count});
            bytes -= count;
            at_ += count;
            if (at_ == piece.iov_len) {
                pieces_ = pieces_.subspan(1);
                at_ = 0;
            }
        }
    }

  private:
    std::span<const iovec> pieces_;
    size_t at_ = 0;
};

}  // namespace

void ReceiveQueue::start(Virtqueue& ring, const BufferFormat& format) {
    ring_ = &ring;
    format_ = format;
}

void ReceiveQueue::stop() {
    return_gathered();
    ring_ = nullptr;
}

void ReceiveQueue::suspend() {
    for (DescriptorChain& chain : std::exchange(gathered_, {})) {
        chain.set_aside();
    }
    room_ = 0;
    ring_ = nullptr;
}

void ReceiveQueue::return_gathered() {
    for (DescriptorChain& chain : gathered_) {
        chain.complete(0);
    }
    gathered_.clear();
    room_ = 0;
}

ReceiveQueue::Outcome ReceiveQueue::write(const Frame& frame) {
    if (!gathered_.empty()) [[unlikely]] {
        return gather_and_fill(frame);
    }
    std::optional<DescriptorChain> chain = ring_->pop();
    if (!chain) {
        return Outcome::kNoBuffer;
    }
    return write_first(*std::move(chain), frame);
}

ReceiveQueue::Written ReceiveQueue::write_all(std::span<const Frame> frames) {
    OUTRIGGER_ASSERT(frames.size() <= kTogether);
    if (!gathered_.empty()) [[unlikely]] {
        const Outcome outcome = write(frames.front());
        return {.count = outcome == Outcome::kWritten ? 1U : 0U, .outcome = outcome};
    }
    std::array<std::optional<DescriptorChain>, kTogether> chains;
    size_t count = 0;
    bool fits = true;
    while (fits && count < frames.size() && (chains[count] = ring_->pop())) {
        fits = chains[count]->writable_bytes() >= format_.header_bytes + frames[count].bytes;
        chains[count++]->prefetch_writable();
    }
    if (count == frames.size()) {
        ring_->prefetch(kTogether);  // not where the ring was found empty
    }
    const size_t whole = fits ? count : count - 1;
    for (size_t i = 0; i < whole; ++i) {
        write_whole(*chains[i], frames[i]);
    }
    is_served_ |= count > 0;
    if (!fits) {
        const Outcome outcome = write_first(*std::move(chains[whole]), frames[whole]);
        return {.count = outcome == Outcome::kWritten ? whole + 1 : whole, .outcome = outcome};
    }
    return {.count = whole,
            .outcome = whole < frames.size() ? Outcome::kNoBuffer : Outcome::kWritten};
}

/// Nothing was gathered, and `chain` is the next.
ReceiveQueue::Outcome ReceiveQueue::write_first(DescriptorChain chain, const Frame& frame) {
    is_served_ = true;
    if (chain.writable_bytes() >= format_.header_bytes + frame.bytes) [[likely]] {
        write_whole(chain, frame);
        return Outcome::kWritten;
    }
    if (chain.writable_bytes() < format_.header_bytes) {
        chain.complete(0);
        return Outcome::kBufferTooSmall;
    }
    room_ = chain.writable_bytes();
    gathered_.push_back(std::move(chain));
    return gather_and_fill(frame);
}

/// The frame fits.
void ReceiveQueue::write_whole(DescriptorChain& chain, const Frame& frame) const {
    ChainWriter writer = chain.take_writer();
    if (frame.offload.is_done()) [[likely]] {
        const bool is_valid = frame.offload.checksum_valid && format_.checksums;
        write_header(writer, is_valid ? kNothingLeftAndValid : kNothingLeft);
    } else {
        write_header(writer, make_header(frame, 1));
    }
    FrameReader(frame).write_to(writer, frame.bytes);
    chain.complete(static_cast<uint32_t>(format_.header_bytes + frame.bytes));
}

ReceiveQueue::Outcome ReceiveQueue::gather_and_fill(const Frame& frame) {
    const Outcome outcome = gather(format_.header_bytes + frame.bytes);
    if (outcome == Outcome::kWritten) {
        fill(frame);
    }
    return outcome;
}

/// There is a buffer at least.
ReceiveQueue::Outcome ReceiveQueue::gather(size_t bytes) {
    while (room_ < bytes) {
        // A ring full of buffers that are not enough will never have more.
        const size_t count_max = format_.merges ? ring_->size() : 1;
        if (gathered_.size() >= count_max) {
            // Those that merge serve shorter frames. Another one may have better ones behind it.
            if (!format_.merges) {
                return_gathered();
            }
            return Outcome::kBufferTooSmall;
        }
        std::optional<DescriptorChain> chain = ring_->pop_another();
        if (!chain) {
            return std::exchange(gives_up_, false) ? Outcome::kBufferTooSmall : Outcome::kNoBuffer;
        }
        is_served_ = true;
        room_ += chain->writable_bytes();
        gathered_.push_back(*std::move(chain));
    }
    return Outcome::kWritten;
}

VnetHeader ReceiveQueue::make_header(const Frame& frame, size_t buffer_count) const {
    FrameOffload offload = frame.offload;
    offload.checksum_valid &= format_.checksums;
    const size_t hint = offload.segmentation == Segmentation::kNone ? 0 : header_bytes_of(frame);
    return make_vnet_header(offload, hint, static_cast<uint16_t>(buffer_count));
}

/// How many bytes. Of a size that is known when this is compiled, where that is the usual one.
size_t ReceiveQueue::write_header(ChainWriter& writer, const VnetHeader& header) const {
    const auto bytes = std::as_bytes(std::span(&header, 1));
    if (format_.header_bytes == sizeof(header)) [[likely]] {
        return writer.write(bytes);
    }
    return writer.write(bytes.first(format_.header_bytes));
}

/// VIRTIO 1.3, 5.1.6.4: every buffer but the last is filled, and num_buffers is there always.
void ReceiveQueue::fill(const Frame& frame) {
    // What was gathered for another frame may be more than this one needs: the rest waits for the
    // next one.
    size_t count = 0;
    for (size_t left = format_.header_bytes + frame.bytes; left > 0; ++count) {
        left -= std::min<uint64_t>(left, gathered_[count].writable_bytes());
    }
    const VnetHeader header = make_header(frame, count);
    FrameReader reader(frame);
    size_t left = frame.bytes;
    for (size_t i = 0; i < count; ++i) {
        DescriptorChain& chain = gathered_[i];
        ChainWriter writer = chain.take_writer();
        size_t written = 0;
        if (i == 0) {
            written = write_header(writer, header);
        }
        const size_t bytes = std::min<uint64_t>(left, writer.remaining());
        reader.write_to(writer, bytes);
        left -= bytes;
        room_ -= chain.writable_bytes();
        chain.complete(static_cast<uint32_t>(written + bytes));
    }
    // The next frame's header is not cut to what is left.
    for (; count < gathered_.size() && gathered_[count].writable_bytes() < format_.header_bytes;
         ++count) {
        room_ -= gathered_[count].writable_bytes();
        gathered_[count].complete(0);
    }
    gathered_.erase(gathered_.begin(), gathered_.begin() + static_cast<ptrdiff_t>(count));
}

}  // namespace outrigger::net
