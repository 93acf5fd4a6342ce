// SPDX-License-Identifier: Apache-2.0
// Callers that dial again: for a network whose connections may end when its daemon does, but where
// nobody may be left waiting, and where who dials again gets through. Linked statically, it runs in
// the guest and on the host.
//
//   calls serve PORT                      answers by TCP and UDP, IPv4 and IPv6, for ever
//   calls call SECONDS COUNT ADDRESS...   so many callers to each; udp:ADDRESS:PORT is called by
//                                         datagrams, all from one socket. What a line on its input
//                                         says "stop", it ends. Tells its numbers each second as
//                                         verifier.c does, with the connections that were lost.
//                                         Who waits for more than SECONDS is stuck
//
// A call is a number, and its answer a block of bytes that follow from it: long for every fourth
// call, so that the caller sends nothing for a while, and must be told that its connection is lost.
#include <array>
#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/guest/devices/vsock/address.h"

namespace outrigger::guest {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kShortBytes = 512;
constexpr size_t kLongBytes = size_t{1} << 20;
constexpr unsigned kLongEvery = 4;
/// A datagram or its answer may be lost, and is sent again after this.
constexpr int kDatagramWaitMs = 500;

size_t answer_bytes(uint64_t number) {
    return number % kLongEvery == 0 ? kLongBytes : kShortBytes;
}

uint64_t word_of(uint64_t number, size_t index) {
    uint64_t x = number * 0x9e37'79b9'7f4a'7c15 + index;
    x = (x ^ x >> 31) * 0x7fb5'd329'728e'a185;
    return x ^ x >> 29;
}

void fill_answer(std::vector<uint64_t>& words, uint64_t number, size_t bytes) {
    words.resize(bytes / sizeof(uint64_t));
    for (size_t i = 0; i < words.size(); ++i) {
        words[i] = word_of(number, i);
    }
}

bool receive_all(int fd, void* to, size_t count) {
    auto* at = static_cast<char*>(to);
    while (count > 0) {
        const ssize_t got = ::recv(fd, at, count, 0);
        if (got <= 0) {
            return false;
        }
        at += got;
        count -= static_cast<size_t>(got);
    }
    return true;
}

bool send_all(int fd, const void* from, size_t count) {
    const auto* at = static_cast<const char*>(from);
    while (count > 0) {
        const ssize_t taken = ::send(fd, at, count, MSG_NOSIGNAL);
        if (taken <= 0) {
            return false;
        }
        at += taken;
        count -= static_cast<size_t>(taken);
    }
    return true;
}

void answer_calls(int fd) {
    std::vector<uint64_t> words;
    uint64_t number = 0;
    while (receive_all(fd, &number, sizeof number)) {
        fill_answer(words, number, answer_bytes(number));
        if (!send_all(fd, words.data(), words.size() * sizeof words[0])) {
            break;
        }
    }
    ::close(fd);
}

void answer_datagrams(const Address& address) {
    const int fd = ::socket(AF_INET6, SOCK_DGRAM, 0);
    const sockaddr_in6 at = internet_address(address);
    if (::bind(fd, generic(at), sizeof at) != 0) {
        fail("bind");
    }
    std::vector<uint64_t> words;
    while (true) {
        uint64_t number = 0;
        sockaddr_storage sender{};
        socklen_t length = sizeof sender;
        // SAFETY: as in generic(); the kernel writes no more than `length`.
        auto* to = reinterpret_cast<sockaddr*>(&sender);
        if (::recvfrom(fd, &number, sizeof number, 0, to, &length) == sizeof number) {
            fill_answer(words, number, kShortBytes);
            words.insert(words.begin(), number);
            (void)::sendto(fd, words.data(), words.size() * sizeof words[0], 0, to, length);
        }
    }
}

int serve(unsigned port) {
    const Address address = parse("tcp-listen:" + std::to_string(port));
    const int listener = listen_at(address);
    std::thread([address] { answer_datagrams(address); }).detach();
    std::printf("ready\n");
    std::fflush(stdout);
    while (true) {
        if (const int fd = ::accept(listener, nullptr, nullptr); fd >= 0) {
            std::thread([fd] { answer_calls(fd); }).detach();
        }
    }
}

struct Caller {
    Address address;
    std::atomic<uint64_t> answered = 0;
    std::atomic<uint64_t> lost = 0;
    std::atomic<bool> done = false;
};

std::atomic<bool> stopping = false;
std::atomic<uint64_t> bad = 0;

void check_answer(const Caller& caller,
                  const std::vector<uint64_t>& words,
                  size_t from,
                  uint64_t number) {
    for (size_t i = from; i < words.size(); ++i) {
        if (words[i] != word_of(number, i - from)) {
            if (bad++ == 0) {
                std::printf("OUTRIGGER-COMPLAINT %s: call %" PRIu64 " got other bytes at %zu\n",
                            caller.address.path.c_str(),
                            number,
                            i * sizeof words[0]);
            }
            return;
        }
    }
}

/// One connection, until it is lost.
void call_over(Caller& caller, int fd, uint64_t& number) {
    std::vector<uint64_t> words;
    while (!stopping) {
        ++number;
        words.resize(answer_bytes(number) / sizeof words[0]);
        if (!send_all(fd, &number, sizeof number) ||
            !receive_all(fd, words.data(), words.size() * sizeof words[0])) {
            ++caller.lost;
            return;
        }
        check_answer(caller, words, 0, number);
        ++caller.answered;
        ::usleep(1000);
    }
}

void call_again_and_again(Caller& caller, uint64_t number) {
    while (!stopping) {
        const int fd = try_connect(caller.address);
        if (fd < 0) {
            ::usleep(50'000);
            continue;
        }
        call_over(caller, fd, number);
        ::close(fd);
    }
    caller.done = true;
}

/// From one socket all the time, so the guest's side of the way through the NAT stays the same.
void call_by_datagrams(Caller& caller, uint64_t number) {
    const int fd = ::socket(AF_INET6, SOCK_DGRAM, 0);
    const sockaddr_in6 to = internet_address(caller.address);
    std::vector<uint64_t> words;
    while (!stopping) {
        ++number;
        (void)::sendto(fd, &number, sizeof number, 0, generic(to), sizeof to);
        pollfd wait{.fd = fd, .events = POLLIN, .revents = 0};
        while (::poll(&wait, 1, kDatagramWaitMs) == 1) {
            words.resize(1 + kShortBytes / sizeof words[0]);
            const ssize_t got = ::recv(fd, words.data(), words.size() * sizeof words[0], 0);
            // An older one may come late, and the host may say that nobody is there.
            if (got == static_cast<ssize_t>(words.size() * sizeof words[0]) && words[0] == number) {
                check_answer(caller, words, 1, number);
                ++caller.answered;
                break;
            }
        }
        ::usleep(20'000);
    }
    ::close(fd);
    caller.done = true;
}

struct Numbers {
    uint64_t answered = 0;
    uint64_t lost = 0;
    uint64_t least = ~uint64_t{0};
};

void tell(const char* what,
          const std::deque<Caller>& callers,
          uint64_t stuck,
          uint64_t longest_ms) {
    Numbers numbers;
    for (const Caller& caller : callers) {
        numbers.answered += caller.answered;
        numbers.lost += caller.lost;
        numbers.least = std::min(numbers.least, caller.answered.load());
    }
    std::printf("OUTRIGGER-%s ops=%" PRIu64 " reads=%" PRIu64 " least=%" PRIu64 " lost=%" PRIu64
                " bad=%" PRIu64 " eio=0 stuck=%" PRIu64 " longest_ms=%" PRIu64
                " rng_bytes=0 rng_errors=0\n",
                what,
                numbers.answered,
                numbers.answered,
                numbers.least,
                numbers.lost,
                bad.load(),
                stuck,
                longest_ms);
    std::fflush(stdout);
}

/// Tells each second until all have ended, or one does not.
uint64_t watch(const std::deque<Caller>& callers, uint64_t stuck_ms) {
    struct Seen {
        uint64_t answered = 0;
        Clock::time_point since = Clock::now();
    };

    std::vector<Seen> seen(callers.size());
    uint64_t longest_ms = 0;
    uint64_t stuck_ever = 0;
    for (unsigned turn = 1;; ++turn) {
        ::usleep(10'000);
        uint64_t stuck = 0;
        bool all_done = true;
        for (size_t i = 0; i < seen.size(); ++i) {
            const auto now = Clock::now();
            if (callers[i].answered != seen[i].answered || callers[i].done) {
                seen[i] = {.answered = callers[i].answered, .since = now};
            }
            const auto silent = static_cast<uint64_t>(
                std::chrono::duration_cast<std::chrono::milliseconds>(now - seen[i].since).count());
            longest_ms = std::max(longest_ms, silent);
            stuck += silent > stuck_ms ? 1 : 0;
            all_done = all_done && callers[i].done;
        }
        stuck_ever = std::max(stuck_ever, stuck);
        if (turn % 100 == 0) {
            tell("TICK", callers, stuck_ever, longest_ms);
            longest_ms = 0;
        }
        if (all_done || (stuck > 0 && stopping)) {
            return stuck_ever;
        }
    }
}

int call(uint64_t stuck_s, size_t count, const std::vector<std::string>& addresses) {
    std::deque<Caller> callers;
    std::deque<std::thread> threads;
    uint64_t first = 0;
    for (const std::string& text : addresses) {
        for (size_t i = 0; i < count; ++i) {
            Caller& caller = callers.emplace_back();
            caller.address = parse(text);
            first += uint64_t{1} << 32;
            threads.emplace_back([&caller, first] {
                if (caller.address.kind == "udp") {
                    call_by_datagrams(caller, first);
                } else {
                    call_again_and_again(caller, first);
                }
            });
        }
    }
    std::thread([] {
        std::array<char, 256> line{};
        while (std::fgets(line.data(), line.size(), stdin) != nullptr) {
            if (std::string(line.data()).starts_with("stop")) {
                break;
            }
        }
        stopping = true;
    }).detach();
    const uint64_t stuck = watch(callers, stuck_s * 1000);
    tell("VERDICT", callers, stuck, 0);
    std::_Exit(stuck == 0 && bad == 0 ? 0 : 1);
}

}  // namespace
}  // namespace outrigger::guest

int main(int count, char** arguments) {
    using namespace outrigger::guest;
    ::signal(SIGPIPE, SIG_IGN);
    const std::string what = count > 1 ? arguments[1] : "";
    if (what == "serve" && count == 3) {
        return serve(static_cast<unsigned>(std::strtoul(arguments[2], nullptr, 10)));
    }
    if (what == "call" && count > 4) {
        return call(std::strtoul(arguments[2], nullptr, 10),
                    std::strtoul(arguments[3], nullptr, 10),
                    {arguments + 4, arguments + count});
    }
    std::fprintf(stderr, "calls: see the head of its source\n");
    return 2;
}
