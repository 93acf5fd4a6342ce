// SPDX-License-Identifier: Apache-2.0
/// outrigger-net on a tap of the kernel, in a network namespace of the test's own.
#pragma once

#include <array>
#include <cstring>
#include <optional>
#include <string>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/integration/net_daemon_test.h"

namespace outrigger::testing {

inline constexpr const char* kTap = "outrigger0";
inline constexpr uint16_t kHostPort = 5000;
inline constexpr uint16_t kGuestPort = 4000;
inline const std::string kGuestMac("\x02\0\0\0\0\x07", 6);

inline sockaddr_in address_of(const char* text, uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    EXPECT_EQ(::inet_pton(AF_INET, text, &address.sin_addr), 1);
    return address;
}

inline const sockaddr* generic(const sockaddr_in& address) {
    // SAFETY: the sockets API takes every address family by this one pointer type.
    return reinterpret_cast<const sockaddr*>(&address);
}

class NetTapDaemonTest : public NetDaemonTest {
  protected:
    void SetUp() override {
        home_ = UniqueFd(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
        const UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
        if (!tun.valid() || ::unshare(CLONE_NEWNET) != 0) {
            GTEST_SKIP() << "only root may make taps, where there is /dev/net/tun";
        }
        control_ = UniqueFd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        ASSERT_TRUE(control_.valid());
    }

    ~NetTapDaemonTest() override {
        if (home_.valid()) {
            EXPECT_EQ(::setns(home_.get(), CLONE_NEWNET), 0);
        }
    }

    [[nodiscard]] static ifreq request() {
        ifreq request{};
        std::strncpy(request.ifr_name, kTap, IFNAMSIZ - 1);
        return request;
    }

    /// 10.9.0.1 is the host, and 10.9.0.2 the guest.
    void configure() {
        ifreq own = request();
        const sockaddr_in address = address_of("10.9.0.1", 0);
        std::memcpy(&own.ifr_addr, &address, sizeof address);
        ASSERT_EQ(::ioctl(control_.get(), SIOCSIFADDR, &own), 0) << std::strerror(errno);
        const sockaddr_in mask = address_of("255.255.255.0", 0);
        std::memcpy(&own.ifr_netmask, &mask, sizeof mask);
        ASSERT_EQ(::ioctl(control_.get(), SIOCSIFNETMASK, &own), 0);
        ifreq up = request();
        up.ifr_flags = IFF_UP | IFF_RUNNING;
        ASSERT_EQ(::ioctl(control_.get(), SIOCSIFFLAGS, &up), 0);
        ifreq hardware = request();
        ASSERT_EQ(::ioctl(control_.get(), SIOCGIFHWADDR, &hardware), 0);
        host_mac_.assign(hardware.ifr_hwaddr.sa_data, 6);
        arpreq neighbour{};
        const sockaddr_in guest = address_of("10.9.0.2", 0);
        std::memcpy(&neighbour.arp_pa, &guest, sizeof guest);
        neighbour.arp_ha.sa_family = ARPHRD_ETHER;
        std::memcpy(neighbour.arp_ha.sa_data, kGuestMac.data(), kGuestMac.size());
        neighbour.arp_flags = ATF_COM | ATF_PERM;
        std::strncpy(neighbour.arp_dev, kTap, sizeof neighbour.arp_dev - 1);
        ASSERT_EQ(::ioctl(control_.get(), SIOCSARP, &neighbour), 0);
        host_ = UniqueFd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        const sockaddr_in bound = address_of("10.9.0.1", kHostPort);
        ASSERT_EQ(::bind(host_.get(), generic(bound), sizeof bound), 0) << std::strerror(errno);
    }

    void send_from_host(const std::string& text, uint16_t port = kGuestPort) const {
        const sockaddr_in guest = address_of("10.9.0.2", port);
        EXPECT_EQ(::sendto(host_.get(), text.data(), text.size(), 0, generic(guest), sizeof guest),
                  static_cast<ssize_t>(text.size()));
    }

    /// The kernel has more to say on a new link.
    static bool is_datagram(const NetFrame& frame, const std::string& text) {
        constexpr size_t kPayloadAt = 42;
        return frame.bytes.size() == kPayloadAt + text.size() &&
               frame.bytes.substr(kPayloadAt) == text;
    }

    /// The host's datagram, as the guest gets it.
    std::optional<NetFrame> from_host(const std::string& text,
                                      uint16_t pair = 0,
                                      uint16_t port = kGuestPort) {
        send_from_host(text, port);
        while (auto frame = guest_->receive(pair)) {
            if (is_datagram(*frame, text)) {
                return frame;
            }
        }
        return std::nullopt;
    }

    [[nodiscard]] std::string to_host(const std::string& text,
                                      bool is_partial,
                                      uint16_t pair = 0,
                                      uint16_t port = kGuestPort) {
        FrameOptions options{.udp = true, .source_port = port, .destination_port = kHostPort};
        options.source = std::string("\x0a\x09\0\x02", 4);
        options.destination = std::string("\x0a\x09\0\x01", 4);
        options.to_mac = host_mac_;
        options.partial_checksum = is_partial;
        virtio_net_hdr_v1 header{};
        if (is_partial) {
            header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
            header.csum_start = 34;
            header.csum_offset = 6;
        }
        EXPECT_TRUE(guest_->send(make_frame(text, options), header, {}, pair));
        pollfd entry{.fd = host_.get(), .events = POLLIN, .revents = 0};
        EXPECT_EQ(::poll(&entry, 1, 20'000), 1) << daemon_->complained();
        std::array<char, 256> bytes{};
        const ssize_t count = ::recv(host_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        return {bytes.data(), count > 0 ? static_cast<size_t>(count) : 0};
    }

    void expect_traffic() {
        const auto frame = from_host("question");
        ASSERT_TRUE(frame) << daemon_->complained();
        EXPECT_EQ(frame->header.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
        EXPECT_EQ(to_host("answer", true), "answer");
        EXPECT_EQ(to_host("whole", false), "whole");
    }

    void delete_tap() {
        struct {
            nlmsghdr header;
            ifinfomsg link;
        } message{};

        message.header.nlmsg_len = sizeof message;
        message.header.nlmsg_type = RTM_DELLINK;
        message.header.nlmsg_flags = NLM_F_REQUEST;
        message.link.ifi_index = static_cast<int>(::if_nametoindex(kTap));
        const UniqueFd netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
        ASSERT_EQ(::send(netlink.get(), &message, sizeof message, 0),
                  static_cast<ssize_t>(sizeof message));
        EXPECT_TRUE(eventually([] { return ::if_nametoindex(kTap) == 0; }));
    }

    UniqueFd home_;
    UniqueFd control_;
    UniqueFd host_;
    std::string host_mac_;
};

/// A tap of the kernel's, opened as one that makes it or as one of its queues; `flags`: beside
/// IFF_TAP and IFF_NO_PI.
inline UniqueFd open_kernel_tap(int flags, const char* name = kTap) {
    UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ifreq made{};
    std::strncpy(made.ifr_name, name, IFNAMSIZ - 1);
    made.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | flags);
    EXPECT_EQ(::ioctl(tap.get(), TUNSETIFF, &made), 0) << std::strerror(errno);
    return tap;
}

}  // namespace outrigger::testing
