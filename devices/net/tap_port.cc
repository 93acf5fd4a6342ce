// SPDX-License-Identifier: Apache-2.0
#include "devices/net/tap_port.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <unistd.h>

#include "devices/net/packet_layout.h"
#include "devices/net/vnet_header.h"

namespace outrigger::net {
namespace {

/// The kernel takes 1024 (UIO_MAXIOV), the header among them.
constexpr size_t kPiecesMax = 1000;

/// What frames that are dropped may cost before others have their turn.
constexpr int kTurnsMax = 64;

constexpr Offloads kAll = {
    .checksum = true, .tcp4 = true, .tcp6 = true, .ecn = true, .udp4 = true, .udp6 = true};

}  // namespace

Result<std::unique_ptr<TapPort>> TapPort::create(Tap tap) {
    HostWatch watch = OUTRIGGER_TRY(HostWatch::create());
    return std::unique_ptr<TapPort>(new TapPort(std::move(tap), std::move(watch)));
}

TapPort::TapPort(Tap tap, HostWatch watch)
    : tap_(std::move(tap)),
      watch_(std::move(watch)),
      buffer_(kVnetHeaderBytes + kFrameBytesMax + 1),  // so that one that is too long is told apart
      gathered_(kFrameBytesMax) {
    pieces_.reserve(kPiecesMax + 1);
    watch_.set_fd(tap_.fd.get());
}

Offloads TapPort::takes() const {
    if (!tap_.has_header) {
        return {};
    }
    Offloads taken = kAll;
    taken.udp4 = taken.udp6 = tap_.cuts_datagrams;
    return taken;
}

void TapPort::set_guest(const Offloads& taken) {
    counters_.system_calls.add();
    set_tap_offloads(tap_, taken);
}

void TapPort::attach(EventLoop& loop, PortEvents& events) {
    events_ = &events;
    watch_.attach(loop, [this](HostWatch::Ready ready) {
        if (ready.writable) {
            events_->on_room();
        }
        if (ready.readable && std::exchange(awaited_, false)) {
            events_->on_frames();
        }
    });
}

void TapPort::detach() {
    watch_.detach();
    awaited_ = false;
    frame_.reset();
    events_ = nullptr;
}

void TapPort::lose_tap() {
    if (!std::exchange(has_gone_, true)) {
        log(LogLevel::kError, "net: the tap {} has gone", tap_.name);
        counters_.peers_lost.add();
        watch_.set_fd(-1);
    }
}

// --- To the host -------------------------------------------------------------------------------

size_t TapPort::send(std::span<const Frame> frames) {
    for (size_t taken = 0; taken < frames.size(); ++taken) {
        if (send_one(frames[taken]) == Sent::kLater) {
            counters_.send_waits.add();
            watch_.await_writable();
            return taken;
        }
    }
    return frames.size();
}

TapPort::Sent TapPort::send_one(const Frame& frame) {
    if (has_gone_) {
        counters_.dropped.add(DropReason::kNoPeer);
        return Sent::kDone;
    }
    if (write_frame(frame) >= 0) {
        counters_.frames_sent.add();
        counters_.bytes_sent.add(frame.bytes);
        return Sent::kDone;
    }
    const int os_error = errno;
    switch (os_error) {
        case EAGAIN:
        case EINTR:
            return Sent::kLater;
        case EBADFD:
            lose_tap();
            counters_.dropped.add(DropReason::kNoPeer);
            return Sent::kDone;
        case EFAULT:
            // The front end truncated its memory: a copy of our own finds out, and breaks the ring.
            (void)copy_front(frame, gathered_);
            counters_.dropped.add(DropReason::kPeerRefused);
            return Sent::kDone;
        default:  // the interface is down, or the kernel does not like the frame
            limiter_.log(LogLevel::kInfo,
                         "net: the tap {} did not take a frame: {}",
                         tap_.name,
                         std::strerror(os_error));
            counters_.dropped.add(DropReason::kPeerRefused);
            return Sent::kDone;
    }
}

/// As writev(). What the guest writes meanwhile is judged by the kernel, which copies first.
ssize_t TapPort::write_frame(const Frame& frame) {
    VnetHeader header;
    pieces_.clear();
    if (tap_.has_header) {
        header = make_vnet_header(frame.offload, header_bytes_of(frame), 0);
        pieces_.push_back({.iov_base = &header, .iov_len = kVnetHeaderBytes});
    }
    if (frame.pieces.size() <= kPiecesMax) {
        pieces_.insert(pieces_.end(), frame.pieces.begin(), frame.pieces.end());
    } else {
        pieces_.push_back({.iov_base = gathered_.data(), .iov_len = copy_front(frame, gathered_)});
    }
    counters_.system_calls.add();
    return ::writev(tap_.fd.get(), pieces_.data(), static_cast<int>(pieces_.size()));
}

// --- From the host -----------------------------------------------------------------------------

std::optional<Frame> TapPort::next_frame() {
    for (int turn = 0; turn < kTurnsMax && !frame_; ++turn) {
        if (!receive()) {
            break;
        }
    }
    return frame_;
}

/// False: there is nothing, for now.
bool TapPort::receive() {
    if (has_gone_) {
        return false;
    }
    counters_.system_calls.add();
    const ssize_t count = ::read(tap_.fd.get(), buffer_.data(), buffer_.size());
    if (count <= 0) {
        if (count == 0 || errno == EBADFD) {
            lose_tap();
            return false;
        }
        return errno == EINTR;
    }
    auto bytes = std::span(buffer_).first(static_cast<size_t>(count));
    VnetHeader header;
    if (tap_.has_header) {
        if (bytes.size() < kVnetHeaderBytes) {
            counters_.dropped.add(DropReason::kNoHeader);
            return true;
        }
        std::memcpy(&header, bytes.data(), kVnetHeaderBytes);
        bytes = bytes.subspan(kVnetHeaderBytes);
    }
    auto offload = parse_vnet_header(header, bytes.size(), kAll);
    if (!offload) {
        counters_.dropped.add(offload.error());
        return true;
    }
    offload->checksum_valid = is_checksum_valid(header);
    front_ = {.iov_base = bytes.data(), .iov_len = bytes.size()};
    frame_ = Frame{
        .pieces = std::span(&front_, 1), .bytes = bytes.size(), .offload = *std::move(offload)};
    return true;
}

void TapPort::drop_frame() {
    counters_.frames_received.add();
    counters_.bytes_received.add(front_.iov_len);
    frame_.reset();
}

void TapPort::await_frames() {
    awaited_ = true;
    watch_.await_readable();
}

}  // namespace outrigger::net
