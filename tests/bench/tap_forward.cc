// SPDX-License-Identifier: Apache-2.0
/// What TCP of the kernel is sent through, between two network namespaces. Not a test: tap-speed
/// starts it.
///
/// `tap-forward plain A B` reads frames from one tap and writes them to the other, one system call
/// each, headers and unfinished segments included: nothing that ends in a tap can do less.
/// `tap-forward rings A SOCKET [packed]` is a guest: frames of the tap go to the vhost-user back
/// end, and what the back end has for the guest to the tap.
///
/// It makes the taps in the namespace that it is in, says "ready", and serves them wherever they
/// are moved to until it is killed.
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tools/driver/bring_up.h"

namespace outrigger::bench {
namespace {

constexpr int kHeaderBytes = 12;  // struct virtio_net_hdr_v1, for taps and rings alike
constexpr size_t kFrameBytesMax = 65'536 + 64;
constexpr int kTurn = 64;  // frames of one side before it is the other's turn
constexpr uint16_t kRingSize = 1024;
constexpr size_t kSendBuffers = 256;
constexpr uint32_t kReceiveBytes = 4096;  // as large as Linux's largest
constexpr size_t kPiecesMax = 32;
constexpr uint64_t kMemoryBytes = 64 << 20;
constexpr size_t kBufferCountAt = 10;  // in the header
constexpr std::chrono::seconds kPatience{10};

[[noreturn]] void give_up(std::string_view what) {
    std::fprintf(stderr,
                 "tap-forward: %.*s: %s\n",
                 static_cast<int>(what.size()),
                 what.data(),
                 std::strerror(errno));
    std::exit(1);
}

/// That takes unfinished checksums and segments of TCP.
UniqueFd make_tap(std::string_view name) {
    UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    ifreq request{};
    std::memcpy(request.ifr_name, name.data(), std::min(name.size(), size_t{IFNAMSIZ - 1}));
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    const int header_bytes = kHeaderBytes;
    if (tap.get() < 0 || ::ioctl(tap.get(), TUNSETIFF, &request) != 0 ||
        ::ioctl(tap.get(), TUNSETVNETHDRSZ, &header_bytes) != 0 ||
        ::ioctl(tap.get(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) != 0) {
        give_up("cannot make a tap");
    }
    return tap;
}

void say_ready() {
    std::puts("ready");
    std::fflush(stdout);
}

/// Up to kTurn frames. True: there may be more.
bool forward(int from, int to, std::vector<char>& buffer) {
    for (int i = 0; i < kTurn; ++i) {
        const ssize_t bytes = ::read(from, buffer.data(), buffer.size());
        if (bytes < 0 && errno == EAGAIN) {
            return false;
        }
        // One that is not up takes nothing yet: a cable without an end.
        if (bytes > 0 && ::write(to, buffer.data(), static_cast<size_t>(bytes)) < 0 &&
            errno != EIO && errno != EAGAIN) {
            give_up("cannot write to a tap");
        }
    }
    return true;
}

[[noreturn]] void forward_plainly(std::string_view first, std::string_view second) {
    const UniqueFd a = make_tap(first);
    const UniqueFd b = make_tap(second);
    say_ready();
    std::vector<char> buffer(kHeaderBytes + kFrameBytesMax);
    while (true) {
        const bool more = forward(a.get(), b.get(), buffer);
        if (forward(b.get(), a.get(), buffer) || more) {
            continue;
        }
        std::array<pollfd, 2> waited{{{.fd = a.get(), .events = POLLIN, .revents = 0},
                                      {.fd = b.get(), .events = POLLIN, .revents = 0}}};
        ::poll(waited.data(), waited.size(), -1);
    }
}

/// A guest whose network stack is that of the tap's namespace.
class TapGuest final {
  public:
    TapGuest(UniqueFd tap, const char* socket, bool packed)
        : tap_(std::move(tap)), memory_(driver::GuestMemory::create(kMemoryBytes).value()) {
        auto frontend = driver::Frontend::connect(socket, driver::after(kPatience));
        if (!frontend) {
            give_up("cannot connect to the back end");
        }
        frontend_.emplace(*std::move(frontend));
        auto running = driver::bring_up(
            *frontend_, memory_, {.packed = packed, .queue_count = 2, .queue_size = kRingSize});
        if (!running) {
            give_up(running.error().step);
        }
        running_ = *std::move(running);
        for (size_t i = 0; i < kSendBuffers; ++i) {
            send_buffers_.push_back(memory_.allocate(kHeaderBytes + kFrameBytesMax, 16).value());
            free_.push_back(i);
        }
        for (size_t i = 0; i < kRingSize; ++i) {
            receive_buffers_.push_back(memory_.allocate(kReceiveBytes, 16).value());
            post(i);
        }
        (void)receive_queue().publish_and_kick();
    }

    [[noreturn]] void serve() {
        transmit_queue().suppress_calls();
        while (true) {
            const bool sends = send();
            if (receive() || sends) {
                continue;
            }
            // Sent buffers are taken back with the next frames; a call for them is of use only
            // when there are none left.
            if (receive_queue().enable_calls() ||
                (free_.empty() && transmit_queue().enable_calls())) {
                continue;
            }
            const auto reads = static_cast<short>(free_.empty() ? 0 : POLLIN);
            std::array<pollfd, 3> waited{
                {{.fd = tap_.get(), .events = reads, .revents = 0},
                 {.fd = receive_queue().call_read_fd(), .events = POLLIN, .revents = 0},
                 {.fd = transmit_queue().call_read_fd(), .events = POLLIN, .revents = 0}}};
            ::poll(waited.data(), waited.size(), -1);
            (void)receive_queue().take_calls();
            (void)transmit_queue().take_calls();
            receive_queue().suppress_calls();
            transmit_queue().suppress_calls();
        }
    }

  private:
    driver::DriverQueue& receive_queue() { return running_.queues[0]; }

    driver::DriverQueue& transmit_queue() { return running_.queues[1]; }

    void post(size_t buffer) {
        const driver::Segment segment{
            .address = receive_buffers_[buffer], .length = kReceiveBytes, .device_writable = true};
        if (!receive_queue().try_add(std::span(&segment, 1), buffer)) {
            give_up("no room in the receive ring");
        }
    }

    /// Frames of the tap to the back end. True: there may be more.
    bool send() {
        while (const auto sent = transmit_queue().poll_used()) {
            free_.push_back(sent->token);
        }
        bool more = true;
        int frames = 0;
        for (; frames < kTurn && !free_.empty(); ++frames) {
            const size_t buffer = free_.back();
            const GuestAddr address = send_buffers_[buffer];
            const ssize_t bytes = ::read(tap_.get(),
                                         memory_.data(address, kHeaderBytes + kFrameBytesMax),
                                         kHeaderBytes + kFrameBytesMax);
            if (bytes <= 0) {
                more = false;
                break;
            }
            const driver::Segment segment{.address = address,
                                          .length = static_cast<uint32_t>(bytes)};
            if (!transmit_queue().try_add(std::span(&segment, 1), buffer)) {
                break;
            }
            free_.pop_back();
        }
        if (frames > 0) {
            (void)transmit_queue().publish_and_kick();
        }
        return more && !free_.empty();
    }

    /// Frames of the back end to the tap. True: there may be more.
    bool receive() {
        int frames = 0;
        for (; frames < kTurn; ++frames) {
            const auto first = receive_queue().poll_used();
            if (!first) {
                break;
            }
            std::array<iovec, kPiecesMax> pieces{};
            std::array<size_t, kPiecesMax> buffers{};
            uint16_t count = 0;
            std::memcpy(
                &count,
                memory_.data(receive_buffers_[first->token], kReceiveBytes) + kBufferCountAt,
                sizeof count);
            if (count == 0 || count > kPiecesMax) {
                give_up("a frame of no buffers, or of too many");
            }
            auto used = first;
            for (size_t i = 0; i < count; ++i) {
                // The device publishes all buffers of a frame at once: VIRTIO 1.3, 5.1.6.4.
                used = i == 0 ? used : receive_queue().poll_used();
                if (!used || used->length > kReceiveBytes) {
                    give_up("a frame without all of its buffers");
                }
                buffers.at(i) = used->token;
                pieces.at(i) = {
                    .iov_base = memory_.data(receive_buffers_[used->token], kReceiveBytes),
                    .iov_len = used->length};
            }
            if (::writev(tap_.get(), pieces.data(), count) < 0 && errno != EIO && errno != EAGAIN) {
                give_up("cannot write to the tap");
            }
            for (size_t i = 0; i < count; ++i) {
                post(buffers.at(i));
            }
        }
        if (frames > 0) {
            (void)receive_queue().publish_and_kick();
        }
        return frames == kTurn;
    }

    UniqueFd tap_;
    driver::GuestMemory memory_;
    std::optional<driver::Frontend> frontend_;
    driver::RunningDevice running_;
    std::vector<GuestAddr> send_buffers_;
    std::vector<GuestAddr> receive_buffers_;
    std::vector<size_t> free_;
};

int run(int argc, char** argv) {
    const std::string_view way = argc > 1 ? argv[1] : "";
    if (way == "plain" && argc == 4) {
        forward_plainly(argv[2], argv[3]);
    }
    const bool packed = argc == 5 && std::string_view(argv[4]) == "packed";
    if (way == "rings" && (argc == 4 || packed)) {
        TapGuest guest(make_tap(argv[2]), argv[3], packed);
        say_ready();
        guest.serve();
    }
    std::fputs("usage: tap-forward plain TAP TAP | rings TAP SOCKET [packed]\n", stderr);
    return 2;
}

}  // namespace
}  // namespace outrigger::bench

int main(int argc, char** argv) {
    return outrigger::bench::run(argc, argv);
}
