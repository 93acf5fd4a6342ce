// SPDX-License-Identifier: Apache-2.0
#include "tests/support/vsock_guest.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <gtest/gtest.h>

namespace outrigger::testing {
namespace {

constexpr uint64_t kMemoryBytes = 8 << 20;
constexpr uint32_t kTransmitBytes = 256 * 1024;
constexpr uint64_t kDeviceBits = 0xff'ffff;

std::optional<sockaddr_un> address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return std::nullopt;
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}

const sockaddr* generic(const sockaddr_un& address) {
    // SAFETY: the sockets API takes every address family by this one pointer type.
    return reinterpret_cast<const sockaddr*>(&address);
}

bool wait_for(int fd, short events) {
    pollfd entry{.fd = fd, .events = events, .revents = 0};
    const auto patience = std::chrono::duration_cast<std::chrono::milliseconds>(kPatience);
    return ::poll(&entry, 1, static_cast<int>(patience.count())) == 1;
}

}  // namespace

VsockGuest::VsockGuest(driver::Frontend frontend, const VsockGuestOptions& options)
    : credit(options.credit),
      options_(options),
      frontend_(std::move(frontend)),
      memory_(driver::GuestMemory::create(kMemoryBytes).value()) {
    auto running = driver::bring_up(
        frontend_,
        memory_,
        {.features =
             FeatureSet((driver::kUsualFeatures.bits() & ~kDeviceBits) | options.device_features),
         .packed = options.packed,
         .queue_count = options.queue_count});
    if (!running) {
        ADD_FAILURE() << running.error().step;
        return;
    }
    running_ = *std::move(running);
    is_up_ = true;
    transmit_ = memory_.allocate(kTransmitBytes, 16).value();
    for (size_t i = 0; i < options.receive_buffers; ++i) {
        buffers_.push_back(memory_.allocate(options.receive_bytes, 16).value());
        post(i);
    }
    (void)queue(0).publish_and_kick();
}

void VsockGuest::post(size_t buffer) {
    const driver::Segment segment{
        .address = buffers_.at(buffer), .length = options_.receive_bytes, .device_writable = true};
    EXPECT_TRUE(queue(0).try_add(std::span(&segment, 1), buffer));
}

void VsockGuest::post_buffers() {
    holds_ = false;
    for (const size_t buffer : std::exchange(held_, {})) {
        post(buffer);
    }
    (void)queue(0).publish_and_kick();
}

virtio_vsock_hdr VsockGuest::header(uint16_t op, uint32_t port, uint32_t peer_port) const {
    virtio_vsock_hdr made{};
    made.src_cid = options_.cid;
    made.dst_cid = 2;
    made.src_port = port;
    made.dst_port = peer_port;
    made.type = VIRTIO_VSOCK_TYPE_STREAM;
    made.op = op;
    made.buf_alloc = credit;
    made.fwd_cnt = forwarded;
    return made;
}

bool VsockGuest::send_raw(std::string_view bytes, std::span<const uint32_t> pieces) {
    memory_.write(transmit_, std::as_bytes(std::span(bytes)));
    std::vector<driver::Segment> segments;
    uint32_t begin = 0;
    const auto add = [&](uint32_t length) {
        segments.push_back({.address = driver::offset_by(transmit_, begin), .length = length});
        begin += length;
    };
    for (const uint32_t piece : pieces) {
        add(piece);
    }
    if (begin < bytes.size() || segments.empty()) {
        add(static_cast<uint32_t>(bytes.size()) - begin);
    }
    return queue(1).transact(segments, driver::after(kPatience)).has_value();
}

bool VsockGuest::send(const virtio_vsock_hdr& header,
                      std::string_view payload,
                      std::span<const uint32_t> pieces) {
    std::string bytes(sizeof header, '\0');
    std::memcpy(bytes.data(), &header, sizeof header);
    bytes += payload;
    return send_raw(bytes, pieces);
}

bool VsockGuest::send_op(
    uint16_t op, uint32_t port, uint32_t peer_port, uint16_t type, uint32_t flags) {
    virtio_vsock_hdr made = header(op, port, peer_port);
    made.type = type;
    made.flags = flags;
    return send(made);
}

bool VsockGuest::send_data(
    uint32_t port, uint32_t peer_port, std::string_view payload, uint16_t type, uint32_t flags) {
    virtio_vsock_hdr made = header(VIRTIO_VSOCK_OP_RW, port, peer_port);
    made.type = type;
    made.flags = flags;
    made.len = static_cast<uint32_t>(payload.size());
    return send(made, payload);
}

std::optional<VsockPacket> VsockGuest::receive_now() {
    const auto used = queue(0).poll_used();
    if (!used) {
        return std::nullopt;
    }
    VsockPacket packet;
    std::string bytes(used->length, '\0');
    memory_.read(buffers_.at(used->token), std::as_writable_bytes(std::span(bytes)));
    if (bytes.size() < sizeof packet.header) {
        ADD_FAILURE() << "a packet of " << bytes.size() << " bytes";
        return std::nullopt;
    }
    std::memcpy(&packet.header, bytes.data(), sizeof packet.header);
    packet.payload = bytes.substr(sizeof packet.header);
    EXPECT_EQ(packet.header.len, packet.payload.size());
    EXPECT_EQ(packet.header.dst_cid, options_.cid);
    if (holds_) {
        held_.push_back(used->token);
    } else {
        post(used->token);
        (void)queue(0).publish_and_kick();
    }
    return packet;
}

std::optional<VsockPacket> VsockGuest::receive() {
    if (auto packet = receive_now()) {
        return packet;
    }
    if (queue(0).wait_used(driver::after(kPatience)) != driver::WaitResult::kUsed) {
        return std::nullopt;
    }
    return receive_now();
}

std::optional<VsockPacket> VsockGuest::receive_event() {
    while (auto packet = receive()) {
        if (packet->op() != VIRTIO_VSOCK_OP_CREDIT_UPDATE &&
            packet->op() != VIRTIO_VSOCK_OP_CREDIT_REQUEST) {
            return packet;
        }
    }
    return std::nullopt;
}

uint16_t VsockGuest::receive_op() {
    const auto packet = receive_event();
    return packet ? packet->op() : uint16_t{0};
}

std::string VsockGuest::receive_bytes(size_t bytes) {
    std::string all;
    while (all.size() < bytes) {
        const auto packet = receive_event();
        if (!packet || packet->op() != VIRTIO_VSOCK_OP_RW) {
            return all;
        }
        all += packet->payload;
        forwarded += packet->header.len;
        if (forwarded % (credit / 2) < packet->header.len) {
            EXPECT_TRUE(send_op(VIRTIO_VSOCK_OP_CREDIT_UPDATE,
                                packet->header.dst_port,
                                packet->header.src_port,
                                packet->header.type));
        }
    }
    return all;
}

// --- The host ----------------------------------------------------------------------------------

HostSocket HostSocket::listen_at(const std::string& path, int type, int backlog) {
    const auto address = address_of(path);
    UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    EXPECT_TRUE(address && ::bind(fd.get(), generic(*address), sizeof *address) == 0 &&
                ::listen(fd.get(), backlog) == 0)
        << path;
    return HostSocket(std::move(fd));
}

HostSocket HostSocket::connect_to(const std::string& path, int type) {
    const auto address = address_of(path);
    UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    EXPECT_TRUE(address && ::connect(fd.get(), generic(*address), sizeof *address) == 0) << path;
    return HostSocket(std::move(fd));
}

HostSocket HostSocket::accept() const {
    if (!wait_for(fd_.get(), POLLIN)) {
        return HostSocket(UniqueFd());
    }
    return HostSocket(UniqueFd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
}

void HostSocket::send(std::string_view text) const {
    EXPECT_EQ(::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
}

void HostSocket::send_descriptor(std::string_view text, int fd) const {
    std::string copy(text);
    iovec piece{.iov_base = copy.data(), .iov_len = copy.size()};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof fd)> control{};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    EXPECT_EQ(::sendmsg(fd_.get(), &message, MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
}

std::string HostSocket::receive(size_t bytes) const {
    std::string all(bytes, '\0');
    size_t have = 0;
    while (have < bytes && wait_for(fd_.get(), POLLIN)) {
        const ssize_t count = ::recv(fd_.get(), all.data() + have, bytes - have, 0);
        if (count <= 0) {
            break;
        }
        have += static_cast<size_t>(count);
        int type = 0;
        socklen_t size = sizeof type;
        if (::getsockopt(fd_.get(), SOL_SOCKET, SO_TYPE, &type, &size) == 0 &&
            type == SOCK_SEQPACKET) {
            break;
        }
    }
    all.resize(have);
    return all;
}

bool HostSocket::ends() const {
    char byte = 0;
    return wait_for(fd_.get(), POLLIN) && ::recv(fd_.get(), &byte, 1, 0) == 0;
}

bool HostSocket::has_news() const {
    pollfd entry{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    return ::poll(&entry, 1, 0) == 1;
}

void HostSocket::shut_down(int how) const {
    EXPECT_EQ(::shutdown(fd_.get(), how), 0);
}

}  // namespace outrigger::testing
