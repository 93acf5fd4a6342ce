// SPDX-License-Identifier: Apache-2.0
#include "devices/net/stream_port.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/socket.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/platform.h"

#include "devices/net/packet_layout.h"

namespace outrigger::net {
namespace {

constexpr size_t kLengthBytes = 4;
constexpr size_t kReceiveBytes = 512 * 1024;
static_assert(kReceiveBytes >= 2 * (kStreamFrameBytesMax + kLengthBytes));

// What goes to the socket in one call. The kernel takes 1024 pieces (UIO_MAXIOV).
constexpr size_t kFramesMax = 64;
constexpr size_t kPiecesMax = 1024;

/// What a peer that sends nothing of use may cost before others have their turn.
constexpr int kTurnsMax = 256;

/// As other programs that speak this have it.
constexpr int kSocketBytes = 16 << 20;

}  // namespace

Result<std::unique_ptr<StreamPort>> StreamPort::create(PeerOptions options) {
    HostWatch peer_watch = OUTRIGGER_TRY(HostWatch::create());
    HostWatch listener_watch = OUTRIGGER_TRY(HostWatch::create());
    return std::unique_ptr<StreamPort>(
        new StreamPort(std::move(options), std::move(peer_watch), std::move(listener_watch)));
}

StreamPort::StreamPort(PeerOptions options, HostWatch peer_watch, HostWatch listener_watch)
    : options_(std::move(options)),
      peer_watch_(std::move(peer_watch)),
      listener_watch_(std::move(listener_watch)),
      received_(kReceiveBytes) {
    lengths_.reserve(kFramesMax);
    pieces_.reserve(kPiecesMax);
    if (options_.listener) {
        listener_watch_.set_fd(options_.listener->fd.get());
    }
}

void StreamPort::attach(EventLoop& loop, PortEvents& events) {
    loop_ = &loop;
    events_ = &events;
    peer_watch_.attach(loop, [this](HostWatch::Ready ready) { on_ready(ready); });
    listener_watch_.attach(loop, [this](HostWatch::Ready /*ready*/) { look_for_peer(); });
    if (!socket_.valid()) {
        look_for_peer();
    }
    if (!rest_.empty()) {
        await_rest();
    }
}

void StreamPort::detach() {
    retry_.cancel();
    telling_.cancel();
    peer_watch_.detach();
    listener_watch_.detach();
    awaited_ = false;
    wants_room_ = false;
    loop_ = nullptr;
    events_ = nullptr;
}

// --- The peer ----------------------------------------------------------------------------------

/// Also when nobody is there: then again later.
void StreamPort::look_for_peer() {
    UniqueFd found = options_.listener ? platform::accept_connection(options_.listener->fd.get())
                                       : connect_to_peer(options_.peer_path, SOCK_STREAM);
    if (found.valid()) {
        take_peer(std::move(found));
        return;
    }
    if (options_.listener) {
        listener_watch_.await_readable();
        return;
    }
    limiter_.log(LogLevel::kInfo,
                 "net: {}: nobody to connect to: {}",
                 options_.peer_path,
                 std::strerror(errno));
    look_again_later();
}

void StreamPort::look_again_later() {
    if (loop_ == nullptr) {
        return;
    }
    retry_.call_at(*loop_, EventLoop::Clock::now() + options_.retry, [this] {
        look_for_peer();
        // Frames that waited for the peer before go to this one, or nowhere.
        if (std::exchange(wants_room_, false)) {
            events_->on_room();
        }
    });
}

void StreamPort::await_room() {
    counters_.send_waits.add();
    wants_room_ = true;
    peer_watch_.await_writable();
}

/// The frame is taken, and nobody but us knows that it has not gone in full.
void StreamPort::await_rest() {
    counters_.send_waits.add();
    peer_watch_.await_writable();
}

void StreamPort::take_peer(UniqueFd socket) {
    enlarge_buffers(socket.get(), kSocketBytes);
    socket_ = std::move(socket);
    peer_watch_.set_fd(socket_.get());
    counters_.peers.add();
    log(LogLevel::kInfo, "net: a peer is connected ({})", platform::describe_peer(socket_.get()));
    if (awaited_) {
        peer_watch_.await_readable();
    }
}

/// What it sent in full still goes to the guest.
void StreamPort::lose_peer(std::string_view why) {
    limiter_.log(LogLevel::kInfo, "net: the peer has gone: {}", why);
    counters_.peers_lost.add();
    peer_watch_.set_fd(-1);
    socket_.reset();
    rest_.clear();
    rest_sent_ = 0;
    size_t whole_end = begin_;
    while (end_ - whole_end >= kLengthBytes) {
        const size_t bytes = read_be32(received_, whole_end);
        // A length that no frame has would end the connection of the next peer.
        if (bytes > kStreamFrameBytesMax || bytes > end_ - whole_end - kLengthBytes) {
            break;
        }
        whole_end += kLengthBytes + bytes;
    }
    end_ = whole_end;
    // Not at once: a peer that leaves again and again costs no more than one that stays away.
    look_again_later();
}

void StreamPort::on_ready(HostWatch::Ready ready) {
    if (ready.writable) {
        if (!send_rest() && socket_.valid()) {
            peer_watch_.await_writable();
        } else if (std::exchange(wants_room_, false)) {
            events_->on_room();
        }
    }
    if (ready.readable && std::exchange(awaited_, false)) {
        events_->on_frames();
    }
}

// --- To the host -------------------------------------------------------------------------------

size_t StreamPort::send(std::span<const Frame> frames) {
    const size_t taken = send_frames(frames);
    // The guest may send nothing more until its peer has all of this and answers.
    if (taken == frames.size() && !send_rest() && socket_.valid()) {
        await_rest();
    }
    return taken;
}

size_t StreamPort::send_frames(std::span<const Frame> frames) {
    size_t taken = 0;
    while (taken < frames.size()) {
        if (!socket_.valid()) {
            drop_all(frames.subspan(taken));
            return frames.size();
        }
        if (!send_rest()) {
            if (socket_.valid()) {
                await_room();
                return taken;
            }
            continue;
        }
        const size_t count = gather(frames.subspan(taken));
        if (count == 0) {
            // More pieces than the kernel takes at once.
            keep_rest(frames[taken], 0);
            ++taken;
            continue;
        }
        msghdr message{};
        message.msg_iov = pieces_.data();
        message.msg_iovlen = pieces_.size();
        counters_.system_calls.add();
        const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            taken += account(frames.subspan(taken, count), static_cast<size_t>(sent));
        } else if (errno == EFAULT) {
            // The front end truncated its memory: a copy of our own finds out, and breaks the ring.
            keep_rest(frames[taken], 0);
            ++taken;
        } else if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM) {
            await_room();
            return taken;
        } else if (errno != EINTR) {
            lose_peer(std::strerror(errno));
        }
    }
    return taken;
}

/// What an earlier call left. False: there is still some, or the peer is lost.
bool StreamPort::send_rest() {
    while (rest_sent_ < rest_.size()) {
        counters_.system_calls.add();
        const ssize_t sent = ::send(socket_.get(),
                                    rest_.data() + rest_sent_,
                                    rest_.size() - rest_sent_,
                                    MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            rest_sent_ += static_cast<size_t>(sent);
        } else if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM) {
            return false;
        } else if (errno != EINTR) {
            lose_peer(std::strerror(errno));
            return false;
        }
    }
    rest_.clear();
    rest_sent_ = 0;
    return true;
}

/// As many frames as go into one call.
size_t StreamPort::gather(std::span<const Frame> frames) {
    pieces_.clear();
    lengths_.clear();
    size_t count = 0;
    for (const Frame& frame : frames.first(std::min(frames.size(), kFramesMax))) {
        if (pieces_.size() + 1 + frame.pieces.size() > kPiecesMax) {
            break;
        }
        auto& length = lengths_.emplace_back();
        write_be32(length, 0, static_cast<uint32_t>(frame.bytes));
        pieces_.push_back({.iov_base = length.data(), .iov_len = length.size()});
        pieces_.insert(pieces_.end(), frame.pieces.begin(), frame.pieces.end());
        ++count;
    }
    return count;
}

/// Of frames that were gathered `bytes` are sent: how many frames that takes care of.
size_t StreamPort::account(std::span<const Frame> frames, size_t bytes) {
    size_t taken = 0;
    for (const Frame& frame : frames) {
        const size_t whole = kLengthBytes + frame.bytes;
        if (bytes == 0) {
            break;
        }
        ++taken;
        counters_.frames_sent.add();
        counters_.bytes_sent.add(frame.bytes);
        if (bytes < whole) {
            keep_rest(frame, bytes);
            break;
        }
        bytes -= whole;
    }
    return taken;
}

void StreamPort::keep_rest(const Frame& frame, size_t sent) {
    rest_.resize(kLengthBytes + frame.bytes);
    write_be32(rest_, 0, static_cast<uint32_t>(frame.bytes));
    (void)copy_front(frame, std::span(rest_).subspan(kLengthBytes));
    rest_sent_ = sent;
}

void StreamPort::drop_all(std::span<const Frame> frames) {
    counters_.dropped.add(DropReason::kNoPeer, frames.size());
}

// --- From the host -----------------------------------------------------------------------------

std::optional<Frame> StreamPort::next_frame() {
    // Each turn takes a frame off, or receives some of one.
    for (int turn = 0; turn < kTurnsMax; ++turn) {
        const auto bytes = whole_frame();
        if (!bytes) {
            if (!receive()) {
                return std::nullopt;
            }
            continue;
        }
        if (*bytes < kEthernetHeaderBytes || *bytes > kFrameBytesMax) {
            counters_.dropped.add(*bytes < kEthernetHeaderBytes ? DropReason::kRunt
                                                                : DropReason::kGiant);
            begin_ += kLengthBytes + *bytes;
            continue;
        }
        front_ = {.iov_base = received_.data() + begin_ + kLengthBytes, .iov_len = *bytes};
        return Frame{.pieces = std::span(&front_, 1), .bytes = *bytes};
    }
    stopped_early_ = true;
    return std::nullopt;
}

std::optional<size_t> StreamPort::whole_frame() {
    if (end_ - begin_ < kLengthBytes) {
        return std::nullopt;
    }
    const size_t bytes = read_be32(received_, begin_);
    if (bytes > kStreamFrameBytesMax) {
        // Nobody knows where the next one begins.
        counters_.dropped.add(DropReason::kGiant);
        end_ = begin_;
        lose_peer("it sent a length that no frame has");
        return std::nullopt;
    }
    return bytes <= end_ - begin_ - kLengthBytes ? std::optional<size_t>(bytes) : std::nullopt;
}

/// False: there is nothing, for now.
bool StreamPort::receive() {
    if (!socket_.valid()) {
        return false;
    }
    if (begin_ > 0) {
        std::memmove(received_.data(), received_.data() + begin_, end_ - begin_);
        end_ -= std::exchange(begin_, 0);
    }
    counters_.system_calls.add();
    const ssize_t count =
        ::recv(socket_.get(), received_.data() + end_, received_.size() - end_, MSG_DONTWAIT);
    if (count > 0) {
        end_ += static_cast<size_t>(count);
        return true;
    }
    if (count == 0) {
        lose_peer("it closed the connection");
    } else if (errno != EAGAIN && errno != EINTR) {
        lose_peer(std::strerror(errno));
    }
    return false;
}

void StreamPort::drop_frame() {
    counters_.frames_received.add();
    counters_.bytes_received.add(front_.iov_len);
    begin_ += kLengthBytes + front_.iov_len;
}

void StreamPort::await_frames() {
    awaited_ = true;
    if (std::exchange(stopped_early_, false)) {
        telling_.call_soon(*loop_, [this] { on_ready({.readable = true}); });
    }
    if (socket_.valid()) {
        peer_watch_.await_readable();
    }
}

}  // namespace outrigger::net
