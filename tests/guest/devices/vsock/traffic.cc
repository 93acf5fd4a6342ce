// SPDX-License-Identifier: Apache-2.0
// Both ends of the socket device's proof: it is linked statically and runs in the guest, where its
// sockets are of AF_VSOCK, and on the host, where they are Unix sockets.
//
//   traffic send ADDRESS CONNECTIONS BYTES   writes BYTES in all, in writes of 1 byte to 1 MiB,
//   closes
//                                            its direction, and compares the checksum that comes
//                                            back
//   traffic receive ADDRESS CONNECTIONS      reads each to its end, and sends the checksum back
//   traffic refused ADDRESS MS               connects five times, and must be refused, within so
//                                            long by the median
//   traffic echo ADDRESS ROUNDS              one byte there and back, and says how long it takes
//   traffic answer ADDRESS                   the other end of echo, one connection
//   traffic full ADDRESS                     listens, has room for one connection, and accepts none
//   traffic beside FULL OTHER MS             connects to FULL, so that calls have to wait, and must
//                                            connect to OTHER meanwhile, within so long
//   traffic inetd ADDRESS PROGRAM ARGUMENT.. runs it for each connection, which is its input and
//                                            output
//
// ADDRESS: see address.h. What it prints is one line, "ok ..." or "failed ...".
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/guest/devices/vsock/address.h"

namespace outrigger::guest {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point begun) {
    return std::chrono::duration<double, std::milli>(Clock::now() - begun).count();
}

struct Sum {
    uint64_t hash = 1469598103934665603U;
    uint64_t bytes = 0;

    void add(const char* data, size_t count) {
        // Eight at a time would be faster and depend on where reads are cut.
        for (size_t i = 0; i < count; ++i) {
            hash = (hash ^ static_cast<unsigned char>(data[i])) * 1099511628211U;
        }
        bytes += count;
    }
};

struct Random {
    uint64_t state;

    uint64_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state;
    }

    /// Small ones as often as large ones: 1 to `most`.
    size_t size(size_t most) {
        const unsigned bits = static_cast<unsigned>(next() % 21);
        return std::min(most, (size_t{1} << bits) + next() % (size_t{1} << bits));
    }
};

void send_one(const Address& address, size_t index, size_t bytes) {
    const int fd = try_connect(address);
    if (fd < 0) {
        fail("connect");
    }
    Random random{.state = index * 7919 + 12345};
    std::vector<char> data(size_t{1} << 20);
    for (char& c : data) {
        c = static_cast<char>(random.next());
    }
    Sum sum;
    const size_t most = address.packets ? size_t{60'000} : data.size();
    while (sum.bytes < bytes) {
        const size_t count = std::min(bytes - sum.bytes, random.size(most));
        const size_t from = random.next() % (data.size() - count + 1);
        for (size_t sent = 0; sent < count;) {
            const ssize_t taken = ::send(fd, data.data() + from + sent, count - sent, MSG_NOSIGNAL);
            if (taken <= 0) {
                fail("send");
            }
            sent += static_cast<size_t>(taken);
        }
        sum.add(data.data() + from, count);
    }
    if (::shutdown(fd, SHUT_WR) != 0) {
        fail("shutdown");
    }
    Sum other;
    if (::recv(fd, &other, sizeof other, MSG_WAITALL) != static_cast<ssize_t>(sizeof other)) {
        fail("the checksum did not come back behind our end");
    }
    if (other.hash != sum.hash || other.bytes != sum.bytes) {
        errno = EIO;
        fail("checksum of " + std::to_string(sum.bytes) + " bytes, the other end has " +
             std::to_string(other.bytes));
    }
    char byte = 0;
    if (::recv(fd, &byte, 1, 0) != 0) {
        fail("the other end did not end");
    }
    ::close(fd);
}

void receive_one(int fd) {
    std::vector<char> data(size_t{1} << 17);
    Sum sum;
    while (true) {
        const ssize_t count = ::recv(fd, data.data(), data.size(), 0);
        if (count < 0) {
            fail("receive");
        }
        if (count == 0) {
            break;
        }
        sum.add(data.data(), static_cast<size_t>(count));
    }
    // The other direction works still.
    if (::send(fd, &sum, sizeof sum, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof sum)) {
        fail("send the checksum back");
    }
    ::close(fd);
}

void send_all(const Address& address, size_t connections, size_t bytes) {
    const auto begun = Clock::now();
    std::vector<std::thread> threads;
    for (size_t i = 0; i < connections; ++i) {
        threads.emplace_back([&, i] { send_one(address, i, bytes / connections); });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
    std::printf("ok %zu bytes over %zu connections at %.1f MiB/s\n",
                bytes / connections * connections,
                connections,
                static_cast<double>(bytes) / 1048576.0 / seconds);
}

void receive_all(const Address& address, size_t connections) {
    const int listener = listen_at(address);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < connections; ++i) {
        const int fd = ::accept(listener, nullptr, nullptr);
        if (fd < 0) {
            fail("accept");
        }
        threads.emplace_back([fd] { receive_one(fd); });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    std::printf("ok %zu connections\n", connections);
}

/// Each of several connections, because one may have met a processor that was busy.
void expect_refusal(const Address& address, double ms_max) {
    std::array<double, 5> times{};
    for (double& ms : times) {
        const auto begun = Clock::now();
        const int fd = try_connect(address);
        const int error = errno;
        ms = ms_since(begun);
        if (fd >= 0 || (error != ECONNREFUSED && error != ECONNRESET)) {
            std::printf(
                "failed %s after %.1f ms\n", fd < 0 ? std::strerror(error) : "connected", ms);
            return;
        }
    }
    std::ranges::sort(times);
    const double median = times[times.size() / 2];
    std::printf("%s refused after %.1f ms, the median of %.1f to %.1f ms\n",
                median < ms_max ? "ok" : "failed",
                median,
                times.front(),
                times.back());
}

void echo(const Address& address, size_t rounds) {
    const int fd = try_connect(address);
    if (fd < 0) {
        fail("connect");
    }
    const auto begun = Clock::now();
    for (size_t i = 0; i < rounds; ++i) {
        char byte = static_cast<char>(i);
        const char sent = byte;
        if (::send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || ::recv(fd, &byte, 1, 0) != 1 ||
            byte != sent) {
            fail("echo");
        }
    }
    const double us = std::chrono::duration<double, std::micro>(Clock::now() - begun).count();
    std::printf("ok %zu bytes came back, one at a time, in %.0f us each\n",
                rounds,
                us / static_cast<double>(rounds));
}

void answer(const Address& address) {
    const int fd = ::accept(listen_at(address), nullptr, nullptr);
    char byte = 0;
    while (::recv(fd, &byte, 1, 0) == 1) {
        if (::send(fd, &byte, 1, MSG_NOSIGNAL) != 1) {
            fail("answer");
        }
    }
    std::printf("ok\n");
}

void be_full(const Address& address) {
    (void)listen_at(address, 0);
    while (true) {
        ::pause();
    }
}

void connect_beside(const Address& full, const Address& other, double ms_max) {
    // The first finds room.
    constexpr int kCalls = 5;
    std::atomic<int> waiting = 0;
    std::vector<std::thread> callers;
    for (int i = 0; i < kCalls; ++i) {
        callers.emplace_back([&] {
            ++waiting;
            (void)try_connect(full);
            --waiting;
        });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    const auto begun = Clock::now();
    const int fd = try_connect(other);
    const double ms = ms_since(begun);
    const int waited = waiting;
    const bool good = fd >= 0 && ms < ms_max && waited > 1;
    std::printf("%s %s after %.1f ms, while %d calls of the full port waited\n",
                good ? "ok" : "failed",
                fd >= 0 ? "connected" : std::strerror(errno),
                ms,
                waited);
    for (std::thread& caller : callers) {
        caller.join();
    }
}

[[noreturn]] void run_for_each(const Address& address, char** command) {
    const int listener = listen_at(address);
    ::signal(SIGCHLD, SIG_IGN);
    while (true) {
        const int fd = ::accept(listener, nullptr, nullptr);
        if (fd < 0) {
            fail("accept");
        }
        if (::fork() == 0) {
            ::signal(SIGCHLD, SIG_DFL);
            ::dup2(fd, STDIN_FILENO);
            ::dup2(fd, STDOUT_FILENO);
            ::close(fd);
            ::close(listener);
            ::execv(command[0], command);
            ::_exit(127);
        }
        ::close(fd);
    }
}

}  // namespace
}  // namespace outrigger::guest

int main(int count, char** arguments) {
    using namespace outrigger::guest;
    ::signal(SIGPIPE, SIG_IGN);
    const std::string what = count > 2 ? arguments[1] : "";
    const auto number = [&](int index) {
        return count > index ? std::strtoul(arguments[index], nullptr, 10) : 0;
    };
    if (what == "send" && number(3) > 0) {
        send_all(parse(arguments[2]), number(3), number(4));
    } else if (what == "receive") {
        receive_all(parse(arguments[2]), number(3));
    } else if (what == "refused") {
        expect_refusal(parse(arguments[2]), static_cast<double>(number(3)));
    } else if (what == "echo" && number(3) > 0) {
        echo(parse(arguments[2]), number(3));
    } else if (what == "answer") {
        answer(parse(arguments[2]));
    } else if (what == "full") {
        be_full(parse(arguments[2]));
    } else if (what == "beside" && number(4) > 0) {
        connect_beside(parse(arguments[2]), parse(arguments[3]), static_cast<double>(number(4)));
    } else if (what == "inetd" && count > 3) {
        run_for_each(parse(arguments[2]), arguments + 3);
    } else {
        std::fprintf(stderr, "traffic: see the head of its source\n");
        return 2;
    }
    return 0;
}
