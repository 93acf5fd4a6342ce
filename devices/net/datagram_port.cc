// SPDX-License-Identifier: Apache-2.0
#include "devices/net/datagram_port.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/control/printable_text.h"

namespace outrigger::net {
namespace {

/// Datagrams of one system call.
constexpr size_t kBatch = 16;
constexpr size_t kSlotBytes = kFrameBytesMax + 1;  // so that one that is too long is told apart

/// In place of the length of a datagram that somebody else sent.
constexpr size_t kStrangers = SIZE_MAX;

/// What a peer that sends nothing of use may cost before others have their turn.
constexpr int kTurnsMax = 256;

/// As other programs that speak this have it.
constexpr int kSocketBytes = 7 << 20;

constexpr std::string_view kVfkitGreeting = "VFKT";

std::string_view name_of(const sockaddr_un& address, socklen_t bytes) {
    // Of a name that fills the structure the kernel counts a NUL that it has no room for.
    const size_t there = std::min<size_t>(bytes, sizeof address);
    return {address.sun_path, there - std::min(there, offsetof(sockaddr_un, sun_path))};
}

/// For the log. A path ends with a zero; a name without a file begins with one, which is written
/// as @.
std::string readable(std::string_view name) {
    if (!name.starts_with('\0')) {
        return control::printable(name.substr(0, name.find('\0')));
    }
    std::string text = control::printable(name);
    text.front() = '@';
    return text;
}

}  // namespace

Result<std::unique_ptr<DatagramPort>> DatagramPort::create(PeerOptions options) {
    UniqueFd socket;
    if (!options.listener) {
        socket = open_nameless_datagrams();
        if (!socket.valid()) {
            return failure(error_from_errno("cannot create a socket"));
        }
    }
    HostWatch watch = OUTRIGGER_TRY(HostWatch::create());
    return std::unique_ptr<DatagramPort>(
        new DatagramPort(std::move(options), std::move(socket), std::move(watch)));
}

DatagramPort::DatagramPort(PeerOptions options, UniqueFd socket, HostWatch watch)
    : options_(std::move(options)),
      own_socket_(std::move(socket)),
      socket_(options_.listener ? options_.listener->fd.get() : own_socket_.get()),
      watch_(std::move(watch)),
      buffer_(kBatch * kSlotBytes),
      pieces_(kBatch),
      messages_(kBatch),
      senders_(kBatch) {
    enlarge_buffers(socket_, kSocketBytes);
    watch_.set_fd(socket_);
    if (options_.listener && options_.peer_path.empty()) {
        go_on_with_peer();
    }
}

void DatagramPort::attach(EventLoop& loop, PortEvents& events) {
    loop_ = &loop;
    events_ = &events;
    watch_.attach(loop, [this](HostWatch::Ready ready) { on_ready(ready); });
    if (!has_peer_) {
        look_for_peer();
    }
}

void DatagramPort::detach() {
    retry_.cancel();
    telling_.cancel();
    watch_.detach();
    awaited_ = false;
    loop_ = nullptr;
    events_ = nullptr;
}

void DatagramPort::on_ready(HostWatch::Ready ready) {
    if (ready.writable) {
        events_->on_room();
    }
    if (ready.readable && std::exchange(awaited_, false)) {
        events_->on_frames();
    }
}

// --- The peer ----------------------------------------------------------------------------------

void DatagramPort::look_for_peer() {
    if (options_.peer_path.empty()) {
        return;  // it comes by itself
    }
    if (connect_datagrams(socket_, options_.peer_path)) {
        greet_peer();
        return;
    }
    limiter_.log(LogLevel::kInfo,
                 "net: {}: nobody to send to: {}",
                 options_.peer_path,
                 std::strerror(errno));
    look_again_later();
}

/// Of a socket that was passed to us: whom the process before has answered. If it is there still,
/// what it has sent meanwhile counts; the kernel throws that away where it is told another one.
void DatagramPort::go_on_with_peer() {
    sockaddr_un peer{};
    socklen_t bytes = sizeof peer;
    // SAFETY: the sockets API takes every address family by this one pointer type; the length goes
    // with it.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    auto* const address = reinterpret_cast<sockaddr*>(&peer);
    if (::getpeername(socket_, address, &bytes) != 0) {
        return;
    }
    const std::string_view name = name_of(peer, bytes);
    // The kernel counts a zero behind a path that fills all of it.
    bytes = std::min<socklen_t>(bytes, sizeof peer);
    if (name.empty() || ::connect(socket_, address, bytes) != 0) {
        disconnect_datagrams(socket_);
        return;
    }
    learned_ = name;
    greet_peer();
}

void DatagramPort::look_again_later() {
    if (loop_ != nullptr) {
        retry_.call_at(
            *loop_, EventLoop::Clock::now() + options_.retry, [this] { look_for_peer(); });
    }
}

void DatagramPort::greet_peer() {
    has_peer_ = true;
    counters_.peers.add();
    log(LogLevel::kInfo, "net: there is a peer");
    if (options_.vfkit) {
        (void)::send(
            socket_, kVfkitGreeting.data(), kVfkitGreeting.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
}

void DatagramPort::lose_peer(std::string_view why) {
    if (!std::exchange(has_peer_, false)) {
        return;
    }
    limiter_.log(LogLevel::kInfo, "net: the peer has gone: {}", why);
    counters_.peers_lost.add();
    learned_.clear();
    disconnect_datagrams(socket_);
    if (!options_.peer_path.empty()) {
        look_again_later();
    }
}

/// Whoever sends a datagram while there is no peer is it from then on; one without a name cannot be
/// answered. The kernel keeps others away when it knows, but not those that were here before.
bool DatagramPort::is_of_peer(const sockaddr_un& from, socklen_t bytes) {
    if (!options_.peer_path.empty()) {
        return true;
    }
    const std::string_view name = name_of(from, bytes);
    if (has_peer_) {
        return name == learned_;
    }
    if (name.empty()) {
        return true;
    }
    // SAFETY: the sockets API takes every address family by this one pointer type; the length goes
    // with it.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    const auto* const address = reinterpret_cast<const sockaddr*>(&from);
    if (::connect(socket_, address, std::min<socklen_t>(bytes, sizeof from)) != 0) {
        // Its file has gone, say, or is where the sandbox shows us nothing.
        const int os_error = errno;
        const std::string_view advice =
            os_error == ENOENT ? ": if it is there, it is in another folder than our socket, and "
                                 "the sandbox hides it: give --peer, or have its socket in ours"
                               : "";
        limiter_.log(LogLevel::kWarning,
                     "net: a peer at {} cannot be answered: {}{}",
                     readable(name),
                     std::strerror(os_error),
                     advice);
        return true;
    }
    learned_ = name;
    greet_peer();
    return true;
}

// --- To the host -------------------------------------------------------------------------------

size_t DatagramPort::send(std::span<const Frame> frames) {
    size_t taken = 0;
    while (taken < frames.size()) {
        if (!has_peer_) {
            counters_.dropped.add(DropReason::kNoPeer, frames.size() - taken);
            return frames.size();
        }
        int os_error = 0;
        taken += send_some(frames.subspan(taken), os_error);
        switch (os_error) {
            case 0:
            case EINTR:
                break;
            case EAGAIN:
            case ENOBUFS:
            case ENOMEM:
                counters_.send_waits.add();
                watch_.await_writable();
                return taken;
            case ECONNREFUSED:
            case ECONNRESET:
            case ENOTCONN:
            case ENOENT:
                lose_peer(std::strerror(os_error));
                break;
            default:  // errors of one datagram: too long, say, or memory that was truncated
                counters_.dropped.add(DropReason::kPeerRefused);
                ++taken;
                break;
        }
    }
    return taken;
}

/// How many are sent, and why not more.
size_t DatagramPort::send_some(std::span<const Frame> frames, int& os_error) {
    const auto batch = frames.first(std::min(frames.size(), kBatch));
    for (size_t i = 0; i < batch.size(); ++i) {
        msghdr& message = messages_[i].msg_hdr;
        message = {};
        // SAFETY: sendmmsg() does not write through msg_iov; its type serves recvmmsg(), too.
        message.msg_iov = const_cast<iovec*>(batch[i].pieces.data());
        message.msg_iovlen = batch[i].pieces.size();
    }
    counters_.system_calls.add();
    const int sent = ::sendmmsg(socket_,
                                messages_.data(),
                                static_cast<unsigned>(batch.size()),
                                MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
        os_error = errno;
        return 0;
    }
    for (const Frame& frame : batch.first(static_cast<size_t>(sent))) {
        counters_.frames_sent.add();
        counters_.bytes_sent.add(frame.bytes);
    }
    return static_cast<size_t>(sent);
}

// --- From the host -----------------------------------------------------------------------------

std::optional<Frame> DatagramPort::next_frame() {
    // Each turn takes a frame off, or receives some.
    for (int turn = 0; turn < kTurnsMax; ++turn) {
        if (next_ == lengths_.size()) {
            if (!receive()) {
                return std::nullopt;
            }
            continue;
        }
        const size_t bytes = lengths_[next_];
        if (bytes >= kEthernetHeaderBytes && bytes <= kFrameBytesMax) {
            pieces_[0] = {.iov_base = buffer_.data() + next_ * kSlotBytes, .iov_len = bytes};
            return Frame{.pieces = std::span(pieces_).first(1), .bytes = bytes};
        }
        // What vfkit says first is no frame either.
        counters_.dropped.add(bytes == kStrangers      ? DropReason::kNoPeer
                              : bytes > kFrameBytesMax ? DropReason::kGiant
                                                       : DropReason::kRunt);
        ++next_;
    }
    stopped_early_ = true;
    return std::nullopt;
}

/// False: there is nothing, for now.
bool DatagramPort::receive() {
    lengths_.clear();
    next_ = 0;
    for (size_t i = 0; i < kBatch; ++i) {
        pieces_[i] = {.iov_base = buffer_.data() + i * kSlotBytes, .iov_len = kSlotBytes};
        msghdr& message = messages_[i].msg_hdr;
        message = {};
        message.msg_iov = &pieces_[i];
        message.msg_iovlen = 1;
        message.msg_name = &senders_[i];
        message.msg_namelen = sizeof senders_[i];
    }
    counters_.system_calls.add();
    const int count = ::recvmmsg(socket_, messages_.data(), kBatch, MSG_DONTWAIT, nullptr);
    if (count < 0) {
        if (errno == ECONNRESET || errno == ECONNREFUSED) {
            lose_peer(std::strerror(errno));
            return true;  // others may have sent meanwhile
        }
        return false;
    }
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
        const bool is_wanted = is_of_peer(senders_[i], messages_[i].msg_hdr.msg_namelen);
        lengths_.push_back(is_wanted ? messages_[i].msg_len : kStrangers);
    }
    return count > 0;
}

void DatagramPort::drop_frame() {
    counters_.frames_received.add();
    counters_.bytes_received.add(lengths_[next_]);
    ++next_;
}

void DatagramPort::await_frames() {
    awaited_ = true;
    if (std::exchange(stopped_early_, false)) {
        telling_.call_soon(*loop_, [this] { on_ready({.readable = true}); });
    }
    watch_.await_readable();
}

}  // namespace outrigger::net
