// SPDX-License-Identifier: Apache-2.0
/// The guest's own network (--backend=user): a station in it that the test plays frame by frame,
/// and servers of the host.
#pragma once

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "devices/net/user_port.h"
#include "tests/integration/net_traps.h"

namespace outrigger::net {

inline constexpr uint8_t kSyn = 0x02;
inline constexpr uint8_t kAck = 0x10;
inline constexpr uint8_t kPush = 0x08;
inline constexpr uint8_t kFin = 0x01;
inline constexpr uint8_t kReset = 0x04;

inline const std::string kGuestMac("\x52\x54\0\0\0\x01", 6);
inline const std::string kBroadcast(6, '\xff');

inline std::string ip4(const char* text) {
    std::string bytes(4, '\0');
    EXPECT_EQ(::inet_pton(AF_INET, text, bytes.data()), 1);
    return bytes;
}

inline std::string ip6(const char* text) {
    std::string bytes(16, '\0');
    EXPECT_EQ(::inet_pton(AF_INET6, text, bytes.data()), 1);
    return bytes;
}

/// A socket of the host on its loopback address.
class LoopbackSocket final {
  public:
    LoopbackSocket(int family, int type) : fd_(::socket(family, type | SOCK_CLOEXEC, 0)) {
        EXPECT_TRUE(fd_.valid());
        sockaddr_storage address = loopback(family, 0);
        EXPECT_EQ(::bind(fd_.get(), generic(address), bytes_of(family)), 0) << std::strerror(errno);
        if (type == SOCK_STREAM) {
            EXPECT_EQ(::listen(fd_.get(), 4), 0);
        }
    }

    [[nodiscard]] uint16_t port() const {
        sockaddr_storage address{};
        socklen_t bytes = sizeof address;
        // SAFETY: the sockets API takes every address family by this one pointer type.
        EXPECT_EQ(::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&address), &bytes), 0);
        // Ports are in the same place in both families.
        sockaddr_in as_ip4{};
        std::memcpy(&as_ip4, &address, sizeof as_ip4);
        return ntohs(as_ip4.sin_port);
    }

    [[nodiscard]] UniqueFd accept() const {
        EXPECT_TRUE(readable(fd_.get()));
        return UniqueFd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    }

    /// The next datagram; answers go back to its sender.
    [[nodiscard]] std::string receive() {
        EXPECT_TRUE(readable(fd_.get()));
        std::string bytes(65536, '\0');
        sender_bytes_ = sizeof sender_;
        // SAFETY: as above.
        auto* const sender = reinterpret_cast<sockaddr*>(&sender_);
        const ssize_t count =
            ::recvfrom(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT, sender, &sender_bytes_);
        bytes.resize(count > 0 ? static_cast<size_t>(count) : 0);
        return bytes;
    }

    void answer(const std::string& bytes) const {
        EXPECT_EQ(
            ::sendto(fd_.get(), bytes.data(), bytes.size(), 0, generic(sender_), sender_bytes_),
            static_cast<ssize_t>(bytes.size()));
    }

    [[nodiscard]] bool connect(int family, uint16_t port) const {
        const sockaddr_storage address = loopback(family, port);
        return ::connect(fd_.get(), generic(address), bytes_of(family)) == 0;
    }

    [[nodiscard]] int fd() const { return fd_.get(); }

    static bool readable(int fd) {
        pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
        return ::poll(&entry, 1, 20'000) == 1;
    }

    static sockaddr_storage loopback(int family, uint16_t port) {
        sockaddr_storage storage{};
        if (family == AF_INET) {
            sockaddr_in address{};
            address.sin_family = AF_INET;
            address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            address.sin_port = htons(port);
            std::memcpy(&storage, &address, sizeof address);
        } else {
            sockaddr_in6 address{};
            address.sin6_family = AF_INET6;
            address.sin6_addr = in6addr_loopback;
            address.sin6_port = htons(port);
            std::memcpy(&storage, &address, sizeof address);
        }
        return storage;
    }

    static const sockaddr* generic(const sockaddr_storage& address) {
        // SAFETY: the sockets API takes every address family by this one pointer type.
        return reinterpret_cast<const sockaddr*>(&address);
    }

    static socklen_t bytes_of(int family) {
        return family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    }

  private:
    UniqueFd fd_;
    sockaddr_storage sender_{};
    socklen_t sender_bytes_ = 0;
};

inline std::string receive_all(int fd, size_t bytes) {
    std::string all;
    std::array<char, 65536> part;
    while (all.size() < bytes && LoopbackSocket::readable(fd)) {
        const ssize_t count = ::recv(fd, part.data(), part.size(), 0);
        if (count <= 0) {
            break;
        }
        all.append(part.data(), static_cast<size_t>(count));
    }
    return all;
}

class NetUserTest : public ::testing::TestWithParam<bool> {
  protected:
    NetUserTest() {
        options_.ip4 = parse_ip4_network("10.0.2.0/24");
        options_.ip6 = parse_ip6_network("fec0::/64");
        options_.host_loopback = true;
    }

    ~NetUserTest() override {
        guest_.reset();
        host_.reset();
        device_.reset();
    }

    void serve(uint16_t receive_buffers = 64, uint64_t features = ~uint64_t{0}) {
        device_ = std::make_unique<NetDevice>(NetOptions{}, UserPort::create(options_).value());
        host_ = std::make_unique<testing::SessionHost>(*device_, testing::SessionHostOptions{});
        guest_ = std::make_unique<NetGuest>(
            host_->connect(),
            NetGuestOptions{
                .packed = GetParam(), .receive_buffers = receive_buffers, .features = features});
        ASSERT_TRUE(guest_->is_up());
    }

    NetGuest& guest() { return *guest_; }

    [[nodiscard]] const PortCounters& counters() const { return device_->port().counters(); }

    /// The next frame that is TCP or UDP and whose lengths and checksums are right. Questions for
    /// our address are answered on the way. What is not cut is counted, and its checksum finished.
    std::optional<testing::ReadFrame> receive() {
        while (const auto frame = guest().receive()) {
            std::string bytes = frame->bytes;
            if (frame->header.gso_type != VIRTIO_NET_HDR_GSO_NONE) {
                ++uncut_;
                EXPECT_EQ(frame->header.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
                EXPECT_GT(bytes.size(), size_t{frame->header.gso_size} + frame->header.hdr_len);
                finish_checksum_of(bytes, frame->header);
                return read_ip(bytes);
            }
            if (bytes.size() >= 42 && bytes.substr(12, 2) == "\x08\x06") {
                answer_arp(bytes);
            } else if (is_solicitation(bytes)) {
                answer_solicitation(bytes);
            } else if (auto read = read_ip(bytes)) {
                // A socket of the host has been asked, so its checksum is known to be right.
                EXPECT_EQ(frame->header.flags, VIRTIO_NET_HDR_F_DATA_VALID);
                return read;
            }
        }
        return std::nullopt;
    }

    /// VIRTIO 1.3, 5.1.6.4.2.
    static void finish_checksum_of(std::string& bytes, const virtio_net_hdr_v1& header) {
        uint32_t sum = 0;
        for (size_t i = header.csum_start; i < bytes.size(); ++i) {
            const uint32_t byte = static_cast<uint8_t>(bytes[i]);
            sum += (i - header.csum_start) % 2 == 0 ? byte << 8 : byte;
        }
        sum = (sum & 0xffff) + (sum >> 16);
        sum = ~((sum & 0xffff) + (sum >> 16));
        const size_t at = size_t{header.csum_start} + header.csum_offset;
        bytes.at(at) = static_cast<char>(sum >> 8 & 0xff);
        bytes.at(at + 1) = static_cast<char>(sum & 0xff);
    }

    static std::optional<testing::ReadFrame> read_ip(const std::string& bytes) {
        const bool is_ip4 = bytes.substr(12, 2) == std::string("\x08\0", 2);
        const bool is_ip6 =
            bytes.substr(12, 2) == "\x86\xdd" && (bytes[20] == 6 || bytes[20] == 17);
        return is_ip4 || is_ip6 ? read_frame(bytes) : std::nullopt;
    }

    void answer_arp(const std::string& request) {
        router_mac_ = request.substr(6, 6);
        std::string reply = router_mac_ + kGuestMac + std::string("\x08\x06", 2);
        reply += std::string("\0\x01\x08\0\x06\x04\0\x02", 8);
        reply += kGuestMac + request.substr(38, 4) + router_mac_ + request.substr(28, 4);
        EXPECT_TRUE(guest().send(reply));
    }

    static bool is_solicitation(const std::string& bytes) {
        return bytes.size() >= 78 && bytes.substr(12, 2) == "\x86\xdd" && bytes[20] == 58 &&
               bytes[54] == '\x87';
    }

    /// RFC 4861, 4.4.
    void answer_solicitation(const std::string& request) {
        const std::string target = request.substr(62, 16);
        const std::string asker = request.substr(22, 16);
        std::string icmp = std::string("\x88\0\0\0\x60\0\0\0", 8) + target;
        icmp += std::string("\x02\x01", 2) + kGuestMac;
        uint32_t sum = 58 + static_cast<uint32_t>(icmp.size());
        for (const std::string& part : {target, asker, icmp}) {
            for (size_t i = 0; i < part.size(); i += 2) {
                sum += static_cast<uint32_t>(static_cast<uint8_t>(part[i])) << 8 |
                       static_cast<uint8_t>(part[i + 1]);
            }
        }
        sum = (sum & 0xffff) + (sum >> 16);
        sum = ~((sum & 0xffff) + (sum >> 16));
        icmp[2] = static_cast<char>(sum >> 8 & 0xff);
        icmp[3] = static_cast<char>(sum & 0xff);
        std::string frame = request.substr(6, 6) + kGuestMac + "\x86\xdd";
        frame += std::string("\x60\0\0\0\0", 5) + static_cast<char>(icmp.size());
        frame += "\x3a\xff" + target + asker + icmp;
        EXPECT_TRUE(guest().send(frame));
    }

    /// From a station of that network to the one with that address.
    [[nodiscard]] FrameOptions to(const std::string& destination, uint16_t port, bool udp) const {
        FrameOptions options{.ip6 = destination.size() == 16, .udp = udp};
        options.source = options.ip6 ? ip6("fec0::15") : ip4("10.0.2.15");
        options.destination = destination;
        options.destination_port = port;
        options.to_mac = router_mac_;
        return options;
    }

    /// A server of the host sends much to the guest, which takes and acknowledges it.
    void expect_download(bool six);
    void expect_forwarded(const std::string& rule_end, const std::string& address);

    UserOptions options_;
    size_t uncut_ = 0;  ///< frames that came so
    std::string router_mac_{"\x52\x55\x0a\0\x02\x02", 6};
    std::unique_ptr<NetDevice> device_;
    std::unique_ptr<testing::SessionHost> host_;
    std::unique_ptr<NetGuest> guest_;
};

}  // namespace outrigger::net
