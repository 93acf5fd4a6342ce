// SPDX-License-Identifier: Apache-2.0
// outrigger-net on a macvtap of the kernel: a tap whose other end is an interface of the host's,
// and not the host. That interface is one end of a pair, and the host is at the other one.
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/veth.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "tests/integration/net_tap_daemon.h"

namespace outrigger::testing {
namespace {

constexpr const char* kLower = "outrigger1";
constexpr const char* kMacvtap = "outrigger2";

template <typename T>
std::string_view bytes_of(const T& value) {
    // SAFETY: the bytes of one object, which lives as long as the caller uses them.
    return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// One, with its length before it and padded behind.
std::string attribute(uint16_t type, std::string_view value) {
    const rtattr head{.rta_len = static_cast<unsigned short>(RTA_LENGTH(value.size())),
                      .rta_type = type};
    std::string bytes(bytes_of(head));
    bytes += value;
    bytes.resize(RTA_ALIGN(bytes.size()));
    return bytes;
}

std::string named(const char* name) {
    return attribute(IFLA_IFNAME, std::string_view(name, std::strlen(name) + 1));
}

std::string of_kind(std::string_view kind, const std::string& details) {
    return attribute(IFLA_LINKINFO,
                     attribute(IFLA_INFO_KIND, kind) + attribute(IFLA_INFO_DATA, details));
}

/// 0, or why not.
int make_link(const std::string& attributes) {
    nlmsghdr head{};
    head.nlmsg_type = RTM_NEWLINK;
    head.nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK;
    head.nlmsg_len = static_cast<uint32_t>(sizeof head + sizeof(ifinfomsg) + attributes.size());
    std::string message(bytes_of(head));
    message += bytes_of(ifinfomsg{});
    message += attributes;
    const UniqueFd netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));

    struct {
        nlmsghdr head;
        nlmsgerr error;
    } answer{};

    if (::send(netlink.get(), message.data(), message.size(), 0) < 0 ||
        ::recv(netlink.get(), &answer, sizeof answer, 0) < static_cast<ssize_t>(sizeof answer)) {
        return EIO;
    }
    return -answer.error.error;
}

class NetMacvtapTest : public NetTapDaemonTest {
  protected:
    void SetUp() override {
        NetTapDaemonTest::SetUp();
        if (IsSkipped()) {
            return;
        }
        const std::string peer =
            attribute(VETH_INFO_PEER, std::string(bytes_of(ifinfomsg{})) + named(kLower));
        ASSERT_EQ(make_link(named(kTap) + of_kind("veth", peer)), 0);
        const uint32_t lower = ::if_nametoindex(kLower);
        const uint32_t mode = MACVLAN_MODE_BRIDGE;
        const int made =
            make_link(named(kMacvtap) + attribute(IFLA_LINK, bytes_of(lower)) +
                      attribute(IFLA_ADDRESS, kGuestMac) +
                      of_kind("macvtap", attribute(IFLA_MACVLAN_MODE, bytes_of(mode))));
        if (made == EOPNOTSUPP) {
            GTEST_SKIP() << "this kernel has no macvtap";
        }
        ASSERT_EQ(made, 0) << std::strerror(made);
        for (const char* const name : {kLower, kMacvtap}) {
            ifreq up{};
            std::strncpy(up.ifr_name, name, IFNAMSIZ - 1);
            up.ifr_flags = IFF_UP | IFF_RUNNING;
            ASSERT_EQ(::ioctl(control_.get(), SIOCSIFFLAGS, &up), 0);
        }
        configure();
        ASSERT_NO_FATAL_FAILURE(make_node());
    }

    /// As udev would: its number is in the sysfs of this network namespace, which a child mounts.
    void make_node() {
        const std::string index = std::to_string(::if_nametoindex(kMacvtap));
        const std::string where =
            std::string("/sys/class/net/") + kMacvtap + "/macvtap/tap" + index + "/dev";
        int ends[2] = {-1, -1};
        ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
        const UniqueFd out(ends[0]);
        UniqueFd in(ends[1]);
        const pid_t child = ::fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            char text[32];
            ssize_t count = -1;
            if (::unshare(CLONE_NEWNS) == 0 &&
                ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                ::mount("none", "/sys", "sysfs", 0, nullptr) == 0) {
                count = ::read(::open(where.c_str(), O_RDONLY | O_CLOEXEC), text, sizeof text);
            }
            ::_exit(count > 0 && ::write(in.get(), text, static_cast<size_t>(count)) == count ? 0
                                                                                              : 1);
        }
        in.reset();
        int status = -1;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        ASSERT_EQ(status, 0);
        std::string number(32, '\0');
        ASSERT_GT(::read(out.get(), number.data(), number.size()), 0);
        const size_t colon = number.find(':');
        ASSERT_NE(colon, std::string::npos);
        const auto device = ::makedev(static_cast<unsigned>(std::atoi(number.c_str())),
                                      static_cast<unsigned>(std::atoi(number.c_str() + colon + 1)));
        ASSERT_EQ(::mknod(path("node").c_str(), S_IFCHR | 0600, device), 0) << std::strerror(errno);
    }

    /// Each time another queue of it.
    [[nodiscard]] UniqueFd open_queue(int flags = 0) const {
        UniqueFd queue(::open(path("node").c_str(), O_RDWR | O_CLOEXEC));
        ifreq request{};
        std::strncpy(request.ifr_name, kMacvtap, IFNAMSIZ - 1);
        request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags);
        EXPECT_EQ(::ioctl(queue.get(), TUNSETIFF, &request), 0) << std::strerror(errno);
        return queue;
    }

    void start_with(const UniqueFd& queue, const std::string& pairs) {
        daemon_ = std::make_unique<ChildProcess>(
            program_,
            ChildProcess::Options{.arguments = {"--socket-path=" + path("s"),
                                                "--sandbox=log",
                                                "--keeper=fork",
                                                "--backend=tap",
                                                "--queue-pairs=" + pairs,
                                                "--tap-fd=9"},
                                  .descriptors = {{queue.get(), 9}}});
    }
};

TEST_F(NetMacvtapTest, ServesAGuestAlsoBehindAKill) {
    UniqueFd queue = open_queue();
    start_with(queue, "1");
    queue.reset();
    connect_guest({});
    expect_traffic();
    kill_worker();
    expect_traffic();
}

TEST_F(NetMacvtapTest, OneQueueServesAllPairs) {
    UniqueFd queue = open_queue();
    start_with(queue, "4");
    queue.reset();
    EXPECT_TRUE(daemon_->wait_complained("has one queue"));
    connect_guest({.queue_pairs = 4});
    for (uint16_t pair = 0; pair < 4; ++pair) {
        const std::string text = "of pair " + std::to_string(pair);
        const auto port = static_cast<uint16_t>(kGuestPort + pair);
        ASSERT_EQ(to_host(text, true, pair, port), text);
        ASSERT_TRUE(from_host("to " + text, pair, port)) << pair;
    }
}

TEST_F(NetMacvtapTest, SeveralQueuesAreRefusedAndUsableBehindIt) {
    UniqueFd first = open_queue(IFF_MULTI_QUEUE);
    const UniqueFd second = open_queue(IFF_MULTI_QUEUE);
    ChildProcess child(program_,
                       {.arguments = {"--socket-path=" + path("s"),
                                      "--backend=tap",
                                      "--queue-pairs=2",
                                      "--tap-fd=9",
                                      "--tap-fd=10"},
                        .descriptors = {{first.get(), 9}, {second.get(), 10}}});
    EXPECT_EQ(child.wait(), Ended{.status = 1});
    EXPECT_NE(child.complained().find("give one"), std::string::npos) << child.complained();
    first.reset();
    start_with(second, "1");
    connect_guest({});
    expect_traffic();
}

}  // namespace
}  // namespace outrigger::testing
