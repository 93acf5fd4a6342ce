// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/driver_queue.h"

#include <array>
#include <cerrno>

#include <poll.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger::driver {
namespace {

/// read() that does not wait, also when the back end, which shares the open file, has taken
/// O_NONBLOCK off.
ssize_t read_without_waiting(int fd, std::span<std::byte> out) {
    const ssize_t count = platform::read_now(fd, out);
    if (count >= 0 || errno != ENOTSUP) {
        return count;
    }
    return wait_readable(fd, Deadline::min()) ? ::read(fd, out.data(), out.size()) : -1;
}

bool wait_and_drain(const Notifier& notifier, Deadline deadline) {
    if (!wait_readable(notifier.read_fd(), deadline)) {
        return false;
    }
    notifier.drain();
    return true;
}

}  // namespace

Result<DriverQueue> DriverQueue::create(GuestMemory& memory, const QueueOptions& options) {
    Notifier kick = OUTRIGGER_TRY(Notifier::create(options.notifier));
    Notifier call = OUTRIGGER_TRY(Notifier::create(options.notifier));
    Notifier error = OUTRIGGER_TRY(Notifier::create(options.notifier));
    DriverQueue queue(options.index, std::move(kick), std::move(call), std::move(error));
    if (options.packed) {
        queue.packed_ = OUTRIGGER_TRY(PackedRing::create(memory, options.ring, options.region));
    } else {
        queue.split_ = OUTRIGGER_TRY(SplitRing::create(memory, options.ring, options.region));
    }
    return queue;
}

bool DriverQueue::publish_and_kick() {
    publish();
    const bool needed = kick_needed();
    if (needed) {
        kick();
    }
    return needed;
}

WaitResult DriverQueue::wait_used(Deadline deadline) {
    while (!enable_calls()) {
        std::array<pollfd, 2> waited{{
            {.fd = call_.read_fd(), .events = POLLIN, .revents = 0},
            {.fd = error_.read_fd(), .events = POLLIN, .revents = 0},
        }};
        const int count = ::poll(waited.data(), waited.size(), milliseconds_until(deadline));
        if (count > 0 && (waited[1].revents & POLLIN) != 0) {
            error_.drain();
            return WaitResult::kRingError;
        }
        if (count > 0 && (waited[0].revents & POLLIN) != 0) {
            call_.drain();
        }
        if (count == 0 || (count < 0 && errno != EINTR)) {
            // No last look: a completion whose call did not come is what a test must see.
            return WaitResult::kTimeout;
        }
    }
    return WaitResult::kUsed;
}

std::optional<Completion> DriverQueue::transact(std::span<const Segment> segments,
                                                Deadline deadline,
                                                ChainLayout layout) {
    if (!try_add(segments, 0, layout)) {
        return std::nullopt;
    }
    publish_and_kick();
    if (wait_used(deadline) != WaitResult::kUsed) {
        return std::nullopt;
    }
    return poll_used();
}

bool DriverQueue::wait_error(Deadline deadline) {
    return wait_and_drain(error_, deadline);
}

bool DriverQueue::wait_call(Deadline deadline) {
    return wait_and_drain(call_, deadline);
}

uint64_t DriverQueue::take_calls() {
    // An eventfd gives its sum as one word, a pipe a word for each signal.
    std::array<uint64_t, 64> words{};
    uint64_t calls = 0;
    while (true) {
        const ssize_t count =
            read_without_waiting(call_.read_fd(), std::as_writable_bytes(std::span(words)));
        const size_t whole = count > 0 ? static_cast<size_t>(count) / sizeof words[0] : 0;
        for (size_t i = 0; i < whole; ++i) {
            calls += words[i];
        }
        if (whole < words.size()) {
            return calls;
        }
    }
}

void DriverQueue::reset() {
    split_ ? split_->reset() : packed_->reset();
    // Signals of the time before mean nothing for what comes.
    call_.drain();
    error_.drain();
}

wire::VringAddress DriverQueue::vring_address(const GuestMemory& memory,
                                              RingAddressKind kind) const {
    const auto named = [&](GuestAddr address) {
        return kind == RingAddressKind::kGuest
                   ? static_cast<uint64_t>(address)
                   : static_cast<uint64_t>(memory.user_address(address).value_or(FrontendAddr{0}));
    };
    const RingAddresses& areas = addresses();
    return {.index = index_,
            .flags = 0,
            .descriptor = named(areas.descriptor_area),
            .used = named(areas.device_area),
            .available = named(areas.driver_area),
            .log = 0};
}

Answer DriverQueue::start(Frontend& frontend, const GuestMemory& memory, RingAddressKind kind) {
    Answer answer = frontend.set_vring_num(index_, size());
    if (went_well(answer)) {
        answer = frontend.set_vring_base(index_, start_base());
    }
    if (went_well(answer)) {
        answer = frontend.set_vring_addr(vring_address(memory, kind));
    }
    if (went_well(answer)) {
        answer = frontend.set_vring_err(index_, error_fd());
    }
    if (went_well(answer)) {
        answer = frontend.set_vring_call(index_, call_fd());
    }
    if (went_well(answer)) {
        answer = frontend.set_vring_kick(index_, kick_fd());
    }
    return answer;
}

Frontend::Reply<uint32_t> DriverQueue::stop(Frontend& frontend) {
    const Answer answer = frontend.set_vring_enable(index_, 0);
    if (!went_well(answer)) {
        return failure(answer);
    }
    return frontend.get_vring_base(index_);
}

}  // namespace outrigger::driver
