// SPDX-License-Identifier: Apache-2.0
#include "tests/fs/bridge_queue.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <thread>

#include <poll.h>
#include <unistd.h>

#include "tests/fs/fuse_protocol.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

/// Structures of answers are shorter than this; a longer answer says in its request how long.
constexpr uint32_t kStructureRoom = 512;

template <class T>
T argument(std::span<const std::byte> request) {
    T value{};
    if (request.size() >= sizeof(fuse_in_header) + sizeof value) {
        std::memcpy(&value, request.data() + sizeof(fuse_in_header), sizeof value);
    }
    return value;
}

fuse_in_header header_of(std::span<const std::byte> request) {
    fuse_in_header header{};
    std::memcpy(&header, request.data(), sizeof header);
    return header;
}

}  // namespace

uint32_t answer_room(std::span<const std::byte> request) {
    switch (header_of(request).opcode) {
        case FUSE_READ:
        case FUSE_READDIR:
        case FUSE_READDIRPLUS:
            return std::min(argument<fuse_read_in>(request).size, FuseQueue::kTransferBytesMax);
        case FUSE_GETXATTR:
        case FUSE_LISTXATTR: {
            const uint32_t size = argument<fuse_getxattr_in>(request).size;
            return size == 0 ? uint32_t{sizeof(fuse_getxattr_out)}
                             : std::min(size, FuseQueue::kTransferBytesMax);
        }
        case FUSE_READLINK:
            return 4095;
        case FUSE_IOCTL:
            return uint32_t{sizeof(fuse_ioctl_out)} +
                   std::min(argument<fuse_ioctl_in>(request).out_size,
                            FuseQueue::kTransferBytesMax);
        default:
            return kStructureRoom;
    }
}

// --- High priority -----------------------------------------------------------------------------

void BridgeHighPriority::reap() {
    while (const auto done = queue_.poll()) {
        queue_.give_back(done->slot);
    }
}

std::optional<size_t> BridgeHighPriority::copy_in(std::span<const std::byte> request) {
    reap();
    if (!queue_.has_free_slot()) {
        if (queue_.ring().wait_used(driver::after(kPatience)) != driver::WaitResult::kUsed) {
            return std::nullopt;
        }
        reap();
    }
    const auto slot = queue_.take_slot();
    if (slot) {
        std::ranges::copy(request, queue_.readable(*slot).begin());
    }
    return slot;
}

bool BridgeHighPriority::forget(std::span<const std::byte> request) {
    const std::lock_guard lock(mutex_);
    const auto slot = copy_in(request);
    const std::array parts = {static_cast<uint32_t>(request.size())};
    if (!slot || !queue_.submit(*slot, parts, {})) {
        return false;
    }
    queue_.ring().publish_and_kick();
    return true;
}

bool BridgeHighPriority::interrupt(std::span<const std::byte> request, int fuse_fd) {
    const std::lock_guard lock(mutex_);
    const auto slot = copy_in(request);
    const std::array readable = {static_cast<uint32_t>(request.size())};
    const std::array writable = {static_cast<uint32_t>(sizeof(fuse_out_header))};
    if (!slot || !queue_.submit(*slot, readable, writable)) {
        return false;
    }
    queue_.ring().publish_and_kick();
    const driver::Deadline deadline = driver::after(kPatience);
    while (queue_.ring().wait_used(deadline) == driver::WaitResult::kUsed) {
        const auto done = queue_.poll();
        if (!done) {
            return false;
        }
        queue_.give_back(done->slot);
        if (done->slot != *slot) {
            continue;
        }
        fuse_out_header answer{};
        std::memcpy(&answer, queue_.writable(*slot).data(), sizeof answer);
        // The kernel asks again after EAGAIN and never again after ENOSYS; others it does not know.
        if (done->length == sizeof answer && (answer.error == -EAGAIN || answer.error == -ENOSYS)) {
            const ssize_t written = ::write(fuse_fd, &answer, sizeof answer);
            return written >= 0 || errno == ENOENT || errno == ENODEV || errno == EINVAL;
        }
        return true;
    }
    return false;
}

// --- Requests ----------------------------------------------------------------------------------

bool BridgeQueue::submit(size_t slot, size_t bytes) {
    const auto request = queue_.readable(slot).first(bytes);
    const std::array readable = parts_of_request(request);
    const std::array writable = {static_cast<uint32_t>(sizeof(fuse_out_header)),
                                 answer_room(request)};
    return queue_.submit(slot, readable, writable);
}

BridgeQueue::Step BridgeQueue::take_request() {
    const auto slot = queue_.take_slot();
    if (!slot) {
        return Step::kNothing;
    }
    const std::span<std::byte> room = queue_.readable(*slot);
    const ssize_t count = ::read(fuse_fd_.get(), room.data(), room.size());
    if (count < 0) {
        const int reason = errno;
        queue_.give_back(*slot);
        // ENOENT: the request was taken back. ENODEV: unmounted.
        const bool again = reason == EAGAIN || reason == EINTR || reason == ENOENT;
        if (!again && reason != ENODEV) {
            std::fprintf(stderr, "bridge: reading a request: %s\n", std::strerror(reason));
            failed_ = true;
        }
        return again ? Step::kNothing : Step::kEnd;
    }
    const auto request = room.first(static_cast<size_t>(count));
    switch (header_of(request).opcode) {
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
            failed_ = !high_priority_.forget(request);
            queue_.give_back(*slot);
            break;
        case FUSE_INTERRUPT:
            // What it interrupts was asked before, and must be with the device before it.
            queue_.ring().publish_and_kick();
            failed_ = !high_priority_.interrupt(request, fuse_fd_.get());
            queue_.give_back(*slot);
            break;
        default:
            failed_ = !submit(*slot, request.size());
            break;
    }
    if (failed_) {
        std::fprintf(stderr,
                     "bridge: the device does not take opcode %u: %s\n",
                     header_of(request).opcode,
                     describe(queue_.ring().fault()).data());
    }
    return failed_ ? Step::kEnd : Step::kTaken;
}

bool BridgeQueue::answer_all() {
    while (const auto done = queue_.poll()) {
        fuse_out_header header{};
        const auto bytes = queue_.writable(done->slot);
        std::memcpy(&header, bytes.data(), sizeof header);
        // As Linux has it since 2025: lengths that differ are the device's fault.
        if (done->length < sizeof header || done->length > bytes.size() ||
            done->length != header.len) {
            std::fprintf(stderr,
                         "bridge: an answer of %u bytes says that it has %u\n",
                         done->length,
                         header.len);
            fuse_in_header request = header_of(queue_.readable(done->slot));
            header = {.len = sizeof header, .error = -EIO, .unique = request.unique};
            std::memcpy(bytes.data(), &header, sizeof header);
        }
        const ssize_t written = ::write(fuse_fd_.get(), bytes.data(), header.len);
        if (written < 0 && errno != ENOENT && errno != ENODEV) {
            const fuse_in_header request = header_of(queue_.readable(done->slot));
            std::fprintf(
                stderr,
                "bridge: the kernel refuses the answer to opcode %u, error %d, %u bytes: %s\n",
                request.opcode,
                header.error,
                header.len,
                std::strerror(errno));
            header = {.len = sizeof header, .error = -EIO, .unique = request.unique};
            (void)!::write(fuse_fd_.get(), &header, sizeof header);
        }
        queue_.give_back(done->slot);
    }
    return queue_.ring().fault() == driver::DeviceFault::kNone;
}

bool BridgeQueue::wait(int stop_fd) {
    if (queue_.ring().enable_calls()) {
        return true;
    }
    std::array<pollfd, 4> waited{{
        {.fd = queue_.ring().call_read_fd(), .events = POLLIN, .revents = 0},
        {.fd = queue_.ring().error_read_fd(), .events = POLLIN, .revents = 0},
        {.fd = stop_fd, .events = POLLIN, .revents = 0},
        {.fd = fuse_fd_.get(), .events = POLLIN, .revents = 0},
    }};
    const nfds_t count = queue_.has_free_slot() ? 4 : 3;
    if (::poll(waited.data(), count, -1) < 0) {
        return errno == EINTR;
    }
    if (waited[0].revents != 0) {
        (void)queue_.ring().take_calls();
    }
    if (waited[1].revents != 0) {
        std::fprintf(stderr, "bridge: the device finds its ring in error\n");
        failed_ = true;
        return false;
    }
    return waited[2].revents == 0;
}

void BridgeQueue::run(int stop_fd) {
    do {
        Step step = Step::kTaken;
        for (int taken = 0; taken < 16 && step == Step::kTaken; ++taken) {
            step = take_request();
        }
        queue_.ring().publish_and_kick();
        if (!answer_all()) {
            std::fprintf(stderr, "bridge: %s\n", describe(queue_.ring().fault()).data());
            failed_ = true;
        }
        if (failed_ || step == Step::kEnd) {
            return;
        }
    } while (wait(stop_fd));
}

}  // namespace outrigger::testing
