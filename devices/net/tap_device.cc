// SPDX-License-Identifier: Apache-2.0
#include "devices/net/tap_device.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"

#include "devices/net/vnet_header.h"

namespace outrigger::net {
namespace {

// Of newer kernels than the headers may be.
constexpr unsigned kCutsDatagrams4 = 0x20;  // TUN_F_USO4
constexpr unsigned kCutsDatagrams6 = 0x40;  // TUN_F_USO6

/// A tap of ours holds what a burst of full windows brings; the kernel's 1000 frames are too few.
constexpr int kSendQueueFrames = 10'000;

ifreq request_for(std::string_view name) {
    ifreq request{};
    std::memcpy(request.ifr_name, name.data(), std::min(name.size(), size_t{IFNAMSIZ - 1}));
    return request;
}

unsigned to_flags(const Offloads& offloads, bool cuts_datagrams, bool makes_fragments) {
    if (!offloads.checksum) {
        return 0;  // the kernel cuts nothing whose checksum it is to finish
    }
    unsigned flags = TUN_F_CSUM;
    flags |= offloads.tcp4 ? unsigned{TUN_F_TSO4} : 0;
    flags |= offloads.tcp6 ? unsigned{TUN_F_TSO6} : 0;
    flags |= offloads.ecn && (offloads.tcp4 || offloads.tcp6) ? unsigned{TUN_F_TSO_ECN} : 0;
    flags |= offloads.fragments && makes_fragments ? unsigned{TUN_F_UFO} : 0;
    // Kernels take both of these or none.
    if (cuts_datagrams && offloads.udp4 && offloads.udp6) {
        flags |= kCutsDatagrams4 | kCutsDatagrams6;
    }
    return flags;
}

/// With tun they are of the tap, with macvtap of each of its queues.
Result<void> set_headers(int fd, const std::string& name) {
    const int header_bytes = kVnetHeaderBytes;
    const int little_endian = 1;
    if (::ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) != 0 ||
        ::ioctl(fd, TUNSETVNETLE, &little_endian) != 0) {
        return failure(error_from_errno("cannot set the headers of the tap " + name));
    }
    return {};
}

/// With what is set as the state of the tap allows; frames are as the fields of `tap` say.
Result<Tap> prepare_tap(UniqueFd fd, const ifreq& request) {
    const auto flags = static_cast<unsigned short>(request.ifr_flags);
    Tap tap{.fd = std::move(fd), .name = request.ifr_name};
    tap.has_header = (flags & IFF_VNET_HDR) != 0;
    const int old = ::fcntl(tap.fd.get(), F_GETFL);
    if (old < 0 || ::fcntl(tap.fd.get(), F_SETFL, old | O_NONBLOCK) != 0) {
        return failure(error_from_errno("cannot use the tap " + tap.name));
    }
    if (!tap.has_header) {
        return tap;
    }
    OUTRIGGER_TRY(set_headers(tap.fd.get(), tap.name));
    const unsigned all = TUN_F_CSUM | kCutsDatagrams4 | kCutsDatagrams6;
    tap.cuts_datagrams = ::ioctl(tap.fd.get(), TUNSETOFFLOAD, all) == 0;
    // Linux takes such frames, and gives none since 4.14.
    tap.makes_fragments = ::ioctl(tap.fd.get(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_UFO) == 0;
    set_tap_offloads(tap, {});
    return tap;
}

/// Of a tap that ends with us, if we may.
void lengthen_send_queue(const std::string& name) {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request = request_for(name);
    request.ifr_qlen = kSendQueueFrames;
    if (socket.valid()) {
        (void)::ioctl(socket.get(), SIOCSIFTXQLEN, &request);
    }
}

/// One queue of it, or the first.
Result<UniqueFd> open_queue(const std::string& name, bool is_one_of_many) {
    UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (!fd.valid()) {
        return failure(error_from_errno("cannot open /dev/net/tun"));
    }
    ifreq request = request_for(name);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    request.ifr_flags |= static_cast<short>(is_one_of_many ? IFF_MULTI_QUEUE : 0);
    if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) {
        return failure(error_from_errno("cannot open the tap " + name));
    }
    return fd;
}

/// Of a tap that may have several.
Result<void> open_others(Tap& tap, uint16_t queue_count) {
    ifreq found{};
    if (::ioctl(tap.fd.get(), TUNGETIFF, &found) != 0 ||
        (static_cast<unsigned short>(found.ifr_flags) & IFF_MULTI_QUEUE) == 0) {
        return {};
    }
    while (tap.others.size() + 1 < queue_count) {
        tap.others.push_back(OUTRIGGER_TRY(open_queue(tap.name, true)));
    }
    return {};
}

void use_one_queue_without(const Result<void>& opened, Tap& tap) {
    if (!opened) {
        log(LogLevel::kWarning, "net: {}: it is used with one queue", opened.error().message);
        tap.others.clear();
    }
}

}  // namespace

bool is_interface_name(std::string_view name) {
    // The kernel fills in what looks like a format.
    return !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
           std::ranges::all_of(name, [](char each) {
               return each > ' ' && each < 0x7f && each != '/' && each != ':' && each != '%';
           });
}

Result<Tap> open_tap(const std::string& name, uint16_t queue_count) {
    // A tap that is there has one queue or may have several, and is opened as what it is.
    const bool is_many = queue_count > 1;
    auto fd = open_queue(name, is_many);
    if (!fd && fd.error().os_error == EINVAL) {
        fd = open_queue(name, !is_many);
    }
    if (!fd) {
        return failure(fd.error());
    }
    ifreq found = request_for(name);
    if (::ioctl(fd->get(), TUNGETIFF, &found) != 0) {
        return failure(error_from_errno("cannot examine the tap " + name));
    }
    const auto flags = static_cast<unsigned short>(found.ifr_flags);
    if ((flags & IFF_PERSIST) == 0) {
        lengthen_send_queue(name);
    }
    Tap tap = OUTRIGGER_TRY(prepare_tap(*std::move(fd), found));
    const auto opened = open_others(tap, queue_count);
    if (!opened && opened.error().os_error == EMFILE) {
        return failure(opened.error());  // a limit of ours, not what this tap is like
    }
    use_one_queue_without(opened, tap);
    return tap;
}

void open_tap_queues(Tap& tap, uint16_t queue_count) {
    use_one_queue_without(open_others(tap, queue_count), tap);
}

Result<Tap> take_tap(UniqueFd fd) {
    ifreq request{};
    if (::ioctl(fd.get(), TUNGETIFF, &request) != 0) {
        return failure(error_from_errno("the descriptor is no tap's"));
    }
    const auto flags = static_cast<unsigned short>(request.ifr_flags);
    if ((flags & IFF_TAP) == 0 || (flags & IFF_NO_PI) == 0) {
        return failure(Error{.message = "the descriptor is no tap's with IFF_TAP and IFF_NO_PI"});
    }
    return prepare_tap(std::move(fd), request);
}

Result<void> add_tap_queue(Tap& tap, UniqueFd fd) {
    ifreq request{};
    if (::ioctl(fd.get(), TUNGETIFF, &request) != 0) {
        return failure(error_from_errno("the descriptor is no queue of the tap " + tap.name));
    }
    const auto flags = static_cast<unsigned short>(request.ifr_flags);
    if (tap.name != request.ifr_name || (flags & IFF_MULTI_QUEUE) == 0) {
        return failure(Error{.message = "the descriptor is no queue of the tap " + tap.name});
    }
    const bool has_header = (flags & IFF_VNET_HDR) != 0;
    if (has_header != tap.has_header || (flags & IFF_NO_PI) == 0) {
        return failure(Error{.message = "the queues of the tap " + tap.name +
                                        " differ in IFF_VNET_HDR or IFF_NO_PI"});
    }
    if (has_header) {
        OUTRIGGER_TRY(set_headers(fd.get(), tap.name));
    }
    const int old = ::fcntl(fd.get(), F_GETFL);
    if (old < 0 || ::fcntl(fd.get(), F_SETFL, old | O_NONBLOCK) != 0) {
        return failure(error_from_errno("cannot use a queue of the tap " + tap.name));
    }
    tap.others.push_back(std::move(fd));
    return {};
}

bool is_tap_queue_used(int fd) {
    ifreq request{};
    return ::ioctl(fd, TUNGETIFF, &request) == 0 &&
           (static_cast<unsigned short>(request.ifr_flags) & IFF_DETACH_QUEUE) == 0;
}

bool use_tap_queue(int fd, bool is_used) {
    ifreq request{};
    request.ifr_flags = static_cast<short>(is_used ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE);
    return ::ioctl(fd, TUNSETQUEUE, &request) == 0;
}

void set_tap_offloads(const Tap& tap, const Offloads& offloads) {
    const unsigned flags = to_flags(offloads, tap.cuts_datagrams, tap.makes_fragments);
    if (tap.has_header) {
        (void)::ioctl(tap.fd.get(), TUNSETOFFLOAD, flags);
    }
}

}  // namespace outrigger::net
