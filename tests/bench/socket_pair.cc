// SPDX-License-Identifier: Apache-2.0
/// How many bytes a second Unix stream sockets carry between two processors, without a guest, rings
/// or a back end: what no device that ends in such sockets can surpass. Not a test:
/// `socket-pair WRITE READ CONNECTIONS SENDER-CPU READER-CPU MILLISECONDS` writes blocks of WRITE
/// bytes and reads up to READ at a time, and prints one line of JSON.
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string_view>
#include <thread>
#include <vector>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tools/outrigger-bench/backend.h"

namespace outrigger::bench {
namespace {

/// As outrigger-vsock asks for; the kernel may give less.
constexpr int kSendBufferBytes = 1 << 20;
/// Blocks for one socket before it is the turn of the next.
constexpr int kBlocksAtATime = 16;
constexpr int kPollMilliseconds = 10;

struct Plan {
    size_t write_bytes = 0;
    size_t read_bytes = 0;
    size_t connections = 0;
    int sender_cpu = 0;
    int reader_cpu = 0;
    std::chrono::milliseconds duration{};
};

struct End {
    std::vector<UniqueFd> sockets;
    uint64_t bytes = 0;
    double processor_seconds = 0;
};

[[noreturn]] void give_up(const char* what) {
    std::fprintf(stderr, "socket-pair: %s\n", what);
    std::exit(1);
}

double processor_seconds() {
    timespec time{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

/// Moves bytes at all sockets in turn, and sleeps when none takes or has any.
template <class Move>
void pump(End& end, int cpu, short events, const std::atomic<bool>& stop, Move move) {
    if (!place_thread(cpu)) {
        give_up("there is no such processor");
    }
    std::vector<pollfd> waiting;
    for (const UniqueFd& socket : end.sockets) {
        waiting.push_back({.fd = socket.get(), .events = events, .revents = 0});
    }
    const double begin = processor_seconds();
    // Relaxed: nothing but the end depends on it, and joining orders the rest.
    while (!stop.load(std::memory_order_relaxed)) {
        bool moved = false;
        for (const UniqueFd& socket : end.sockets) {
            for (int i = 0; i < kBlocksAtATime; ++i) {
                const ssize_t bytes = move(socket.get());
                if (bytes <= 0) {
                    if (bytes == 0 || (errno != EAGAIN && errno != EINTR)) {
                        give_up("a socket was lost");
                    }
                    break;
                }
                end.bytes += static_cast<uint64_t>(bytes);
                moved = true;
            }
        }
        if (!moved) {
            ::poll(waiting.data(), waiting.size(), kPollMilliseconds);
        }
    }
    end.processor_seconds = processor_seconds() - begin;
}

int measure(const Plan& plan) {
    End sender;
    End reader;
    for (size_t i = 0; i < plan.connections; ++i) {
        std::array<int, 2> pair{};
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair.data()) !=
            0) {
            give_up("cannot create a pair of sockets");
        }
        sender.sockets.emplace_back(pair[0]);
        reader.sockets.emplace_back(pair[1]);
        (void)::setsockopt(
            pair[0], SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof kSendBufferBytes);
    }
    std::atomic<bool> stop{false};
    const auto begin = std::chrono::steady_clock::now();
    std::jthread sending([&] {
        const std::vector<char> block(plan.write_bytes, 'x');
        pump(sender, plan.sender_cpu, POLLOUT, stop, [&](int socket) {
            return ::write(socket, block.data(), block.size());
        });
    });
    std::jthread reading([&] {
        std::vector<char> buffer(plan.read_bytes);
        pump(reader, plan.reader_cpu, POLLIN, stop, [&](int socket) {
            return ::read(socket, buffer.data(), buffer.size());
        });
    });
    std::this_thread::sleep_for(plan.duration);
    stop.store(true, std::memory_order_relaxed);
    sending.join();
    reading.join();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    if (reader.bytes == 0) {
        give_up("nothing arrived");
    }
    const auto for_a_gib = [](const End& end) {
        return end.processor_seconds / static_cast<double>(end.bytes) * (1 << 30);
    };
    std::printf(
        "{\"bytes_per_second\": %.0f, \"sender_cpu_seconds_per_gib\": %.4f, "
        "\"reader_cpu_seconds_per_gib\": %.4f}\n",
        static_cast<double>(reader.bytes) / time.count(),
        for_a_gib(sender),
        for_a_gib(reader));
    return 0;
}

int run(int argc, char** argv) {
    std::array<int, 6> values{};
    if (argc != 1 + static_cast<int>(values.size())) {
        give_up("usage: socket-pair WRITE READ CONNECTIONS SENDER-CPU READER-CPU MILLISECONDS");
    }
    for (size_t i = 0; i < values.size(); ++i) {
        const std::string_view text = argv[i + 1];
        const auto [rest, error] =
            std::from_chars(text.data(), text.data() + text.size(), values[i]);
        const bool is_cpu = i == 3 || i == 4;
        if (error != std::errc{} || rest != text.data() + text.size() ||
            values[i] < (is_cpu ? 0 : 1)) {
            give_up("all are whole numbers, and but for the processors above 0");
        }
    }
    return measure({.write_bytes = static_cast<size_t>(values[0]),
                    .read_bytes = static_cast<size_t>(values[1]),
                    .connections = static_cast<size_t>(values[2]),
                    .sender_cpu = values[3],
                    .reader_cpu = values[4],
                    .duration = std::chrono::milliseconds(values[5])});
}

}  // namespace
}  // namespace outrigger::bench

int main(int argc, char** argv) {
    return outrigger::bench::run(argc, argv);
}
