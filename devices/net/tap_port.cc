// SPDX-License-Identifier: Apache-2.0
#include "devices/net/tap_port.h"

#include <cerrno>
#include <chrono>
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

/// Of one queue, before others have their turn.
constexpr int kFramesInTurn = 16;

/// Of queues that are used, or no more, in a second; behind it twice as many as there are may
/// change at once. The kernel takes a lock of the whole host's for each.
constexpr uint64_t kChangesPerSecond = 100;

RateLimit::Clock::duration change_burst(size_t queue_count) {
    return std::chrono::milliseconds(1000 / kChangesPerSecond) * (2 * queue_count);
}

}  // namespace

Result<std::unique_ptr<TapPort>> TapPort::create(Tap tap) {
    std::vector<Queue> queues;
    queues.push_back({.fd = tap.fd.get(), .watch = OUTRIGGER_TRY(HostWatch::create())});
    for (const UniqueFd& other : tap.others) {
        queues.push_back({.fd = other.get(),
                          .watch = OUTRIGGER_TRY(HostWatch::create()),
                          .is_used = is_tap_queue_used(other.get())});
    }
    return std::unique_ptr<TapPort>(new TapPort(std::move(tap), std::move(queues)));
}

TapPort::TapPort(Tap tap, std::vector<Queue> queues)
    : tap_(std::move(tap)),
      queues_(std::move(queues)),
      changes_(kChangesPerSecond, change_burst(queues_.size())),
      buffer_(kVnetHeaderBytes + kFrameBytesMax + 1),  // so that one that is too long is told apart
      gathered_(kFrameBytesMax) {
    pieces_.reserve(kPiecesMax + 1);
    for (Queue& queue : queues_) {
        queue.is_wanted = queue.is_used;
        queue.watch.set_fd(queue.is_used ? queue.fd : -1);
    }
}

Offloads TapPort::takes() const {
    if (!tap_.has_header) {
        return {};
    }
    Offloads taken = kAllOffloads;
    taken.udp4 = taken.udp6 = tap_.cuts_datagrams;
    taken.fragments = tap_.makes_fragments;
    return taken;
}

void TapPort::set_guest(const Offloads& taken) {
    counters_.system_calls.add();
    set_tap_offloads(tap_, taken);
}

void TapPort::attach(EventLoop& loop, PortEvents& events) {
    loop_ = &loop;
    events_ = &events;
    for (Queue& queue : queues_) {
        queue.is_empty = false;
        queue.watch.attach(loop,
                           [this, &queue](HostWatch::Ready ready) { on_ready(queue, ready); });
    }
}

void TapPort::on_ready(Queue& queue, HostWatch::Ready ready) {
    if (ready.writable) {
        awaits_room_ = false;
        events_->on_room();
    }
    if (ready.readable) {
        queue.is_empty = false;
        // Otherwise somebody is taking frames, and comes to this queue.
        if (std::exchange(awaited_, false)) {
            events_->on_frames();
        }
    }
}

void TapPort::detach() {
    for (Queue& queue : queues_) {
        queue.watch.detach();
        queue.is_wanted = queue.is_used;
        queue.is_refused = false;  // the next guest may ask
    }
    following_.cancel();
    telling_of_room_.cancel();
    awaited_ = false;
    awaits_room_ = false;
    frame_.reset();
    loop_ = nullptr;
    events_ = nullptr;
}

/// The first is always used.
void TapPort::use_pair(uint16_t pair, bool is_used) {
    if (pair == 0 || pair >= queues_.size() || has_gone_) {
        return;
    }
    Queue& queue = queues_[pair];
    queue.is_wanted = is_used;
    if (queue.is_used == is_used) {
        queue.is_refused = false;
        return;
    }
    if (!queue.is_refused && !following_.is_pending()) {
        follow_wishes();
    }
}

void TapPort::follow_wishes() {
    for (Queue& queue : queues_) {
        if (has_gone_ || queue.is_used == queue.is_wanted || queue.is_refused) {
            continue;
        }
        const auto now = EventLoop::Clock::now();
        if (changes_.free_at() > now) {
            if (loop_ != nullptr) {
                following_.call_at(*loop_, changes_.free_at(), [this] { follow_wishes(); });
            }
            return;
        }
        changes_.take(1, now);
        change_use(queue);
    }
}

/// It takes the kernel some milliseconds, in which nothing else on this thread is done; what waits
/// in a queue that is given up is lost.
void TapPort::change_use(Queue& queue) {
    const bool is_used = queue.is_wanted;
    counters_.system_calls.add();
    if (!is_used) {
        queue.watch.set_fd(-1);
    }
    // EINVAL: it is so already.
    if (use_tap_queue(queue.fd, is_used) || errno == EINVAL) {
        queue.is_used = is_used;
    } else {
        queue.is_refused = true;
        limiter_.log(LogLevel::kWarning,
                     "net: cannot change queue {} of the tap {}: {}",
                     &queue - queues_.data(),
                     tap_.name,
                     std::strerror(errno));
    }
    if (queue.is_used) {
        queue.watch.set_fd(queue.fd);
        queue.is_empty = false;
        if (awaited_) {
            queue.watch.await_readable();
        }
    }
    // It may have been what had no room.
    if (awaits_room_) {
        telling_of_room_.call_soon(*loop_, [this] { events_->on_room(); });
    }
}

void TapPort::lose_tap() {
    if (std::exchange(has_gone_, true)) {
        return;
    }
    log(LogLevel::kError, "net: the tap {} has gone", tap_.name);
    counters_.peers_lost.add();
    for (Queue& queue : queues_) {
        queue.watch.set_fd(-1);
    }
    // What waits for room is dropped now, and what comes behind it.
    if (std::exchange(awaits_room_, false) && loop_ != nullptr) {
        telling_of_room_.call_soon(*loop_, [this] { events_->on_room(); });
    }
}

// --- To the host -------------------------------------------------------------------------------

size_t TapPort::send(std::span<const Frame> frames) {
    for (size_t taken = 0; taken < frames.size(); ++taken) {
        if (send_one(frames[taken]) == Sent::kLater) {
            counters_.send_waits.add();
            awaits_room_ = true;
            queue_of(frames[taken]).watch.await_writable();
            return taken;
        }
    }
    return frames.size();
}

/// On queue N go the frames of pair N: by them the kernel steers what comes back.
TapPort::Queue& TapPort::queue_of(const Frame& frame) {
    const size_t pair = frame.from_pair;
    return pair < queues_.size() && queues_[pair].is_used ? queues_[pair] : queues_.front();
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
    return ::writev(queue_of(frame).fd, pieces_.data(), static_cast<int>(pieces_.size()));
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

/// That may have something: the last one for some frames, and then the others. Null: none.
TapPort::Queue* TapPort::next_queue() {
    const bool goes_on = turns_left_ > 0;
    turns_left_ -= goes_on ? 1 : 0;
    for (size_t i = goes_on ? 0 : 1; i <= queues_.size(); ++i) {
        Queue& queue = queues_[(turn_ + i) % queues_.size()];
        if (queue.is_used && !queue.is_empty) {
            if (i > 0) {
                turn_ = (turn_ + i) % queues_.size();
                turns_left_ = kFramesInTurn - 1;
            }
            return &queue;
        }
    }
    return nullptr;
}

/// False: there is nothing, for now.
bool TapPort::receive() {
    Queue* const queue = has_gone_ ? nullptr : next_queue();
    if (queue == nullptr) {
        return false;
    }
    counters_.system_calls.add();
    const ssize_t count = ::read(queue->fd, buffer_.data(), buffer_.size());
    if (count <= 0) {
        if (count == 0 || errno == EBADFD) {
            lose_tap();
            return false;
        }
        queue->is_empty = errno != EINTR;
        return true;
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
    auto offload = parse_vnet_header(header, bytes.size(), kAllOffloads);
    if (!offload) {
        counters_.dropped.add(offload.error());
        return true;
    }
    offload->checksum_valid = is_checksum_valid(header);
    front_ = {.iov_base = bytes.data(), .iov_len = bytes.size()};
    frame_ = Frame{
        .pieces = std::span(&front_, 1), .bytes = bytes.size(), .offload = *std::move(offload)};
    if (queues_.size() > 1) {
        frame_->to_pair = static_cast<uint16_t>(queue - queues_.data());
    }
    return true;
}

void TapPort::drop_frame() {
    counters_.frames_received.add();
    counters_.bytes_received.add(front_.iov_len);
    frame_.reset();
}

void TapPort::await_frames() {
    awaited_ = true;
    for (Queue& queue : queues_) {
        queue.watch.await_readable();
    }
}

}  // namespace outrigger::net
