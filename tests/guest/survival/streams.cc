// SPDX-License-Identifier: Apache-2.0
// Both ends of sockets that must outlive the daemon between them: linked statically, it runs in the
// guest and on the host.
//
//   streams lead SECONDS CONNECTIONS ADDRESS...  so many connections to each; what a line on its
//   input
//                                                says "stop", it ends, and all connections with it.
//                                                Tells its numbers each second as verifier.c does;
//                                                a connection on which nothing comes for SECONDS is
//                                                stuck
//   streams follow CONNECTIONS ADDRESS           the other end; prints "ok ..." or "failed ..."
//
// Both ends send blocks all the time, and know what each block of the other end must be: one that
// is lost, doubled, late, of another connection or changed shows. The last block says that it is.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <errno.h>
#include <linux/sockios.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/guest/devices/vsock/address.h"

namespace outrigger::guest {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMagic = 0x6f75'7472'6967'6765;
constexpr size_t kPayloadMax = 32'000;
constexpr size_t kTableBytes = 1 << 20;

struct BlockHeader {
    uint64_t magic;
    uint64_t connection;
    uint64_t sequence;
    uint32_t from_leader;
    uint32_t length;
    uint32_t is_last;
    uint32_t reserved;
};

uint64_t mix(uint64_t x) {
    x = (x ^ x >> 31) * 0x7fb5'd329'728e'a185;
    x = (x ^ x >> 27) * 0x81da'def4'bc2d'd44d;
    return x ^ x >> 33;
}

const std::vector<char>& table() {
    static const std::vector<char> bytes = [] {
        std::vector<char> made(kTableBytes + kPayloadMax);
        uint64_t state = 0;
        for (char& c : made) {
            c = static_cast<char>(mix(++state));
        }
        return made;
    }();
    return bytes;
}

/// What that end sends next: the header with `is_last` to be set, and its payload.
BlockHeader block_of(uint64_t connection, uint64_t sequence, bool from_leader) {
    const uint64_t number = mix(sequence * 2 + (from_leader ? 1 : 0) + connection * 0x1'0000'0001);
    return {.magic = kMagic,
            .connection = connection,
            .sequence = sequence,
            .from_leader = from_leader ? 1U : 0U,
            .length = static_cast<uint32_t>(number % (kPayloadMax + 1)),
            .is_last = 0,
            .reserved = 0};
}

const char* payload_of(const BlockHeader& header) {
    return table().data() + mix(header.sequence + header.connection * 977) % kTableBytes;
}

struct Stream {
    int fd = -1;
    bool packets = false;
    bool leads = false;
    std::atomic<uint64_t> connection = 0;  // a follower learns it
    std::atomic<uint64_t> received = 0;    // blocks
    std::atomic<uint64_t> sent = 0;
    std::atomic<uint64_t> bytes = 0;
    std::atomic<bool> known = false;
    std::atomic<bool> ends = false;  // its sender is to end
    std::atomic<bool> lost = false;  // it failed
    std::atomic<bool> done = false;
};

std::atomic<bool> stopping = false;
std::atomic<uint64_t> bad = 0;
std::atomic<uint64_t> broken = 0;

void complain(bool is_bad, const std::string& what, const Stream& stream) {
    static std::mutex mutex;
    const int error = errno;
    const std::lock_guard lock(mutex);
    if ((is_bad ? bad : broken)++ < 3) {
        std::printf("OUTRIGGER-COMPLAINT connection %" PRIu64 " after %" PRIu64
                    " blocks and %" PRIu64 " sent: %s%s%s\n",
                    stream.connection.load(),
                    stream.received.load(),
                    stream.sent.load(),
                    what.c_str(),
                    is_bad ? "" : ": ",
                    is_bad ? "" : std::strerror(error));
        std::fflush(stdout);
    }
}

bool send_all(int fd, const char* data, size_t count) {
    while (count > 0) {
        const ssize_t taken = ::send(fd, data, count, MSG_NOSIGNAL);
        if (taken <= 0) {
            return false;
        }
        data += taken;
        count -= static_cast<size_t>(taken);
    }
    return true;
}

/// Until the other side's system has all that was sent, and the end of it: a guest that is off by
/// then sends nothing again that was lost. Where a socket cannot tell (vsock before Linux 6.11)
/// not at all, and for 10 s at most, which is less than it takes to be called stuck.
void wait_until_taken(int fd) {
    constexpr int kSteps = 1000;
    constexpr useconds_t kStepUs = 10'000;
    int waiting = 0;
    for (int i = 0; i < kSteps && ::ioctl(fd, SIOCOUTQ, &waiting) == 0 && waiting > 0; ++i) {
        ::usleep(kStepUs);
    }
}

void send_blocks(Stream& stream) {
    while (!stream.known) {
        ::usleep(1000);
    }
    std::vector<char> buffer(sizeof(BlockHeader) + kPayloadMax);
    bool is_last = false;
    for (uint64_t sequence = 0; !is_last && !stream.lost; ++sequence) {
        BlockHeader header = block_of(stream.connection, sequence, stream.leads);
        is_last = stream.leads ? stopping.load() : stream.ends.load();
        header.is_last = is_last ? 1 : 0;
        std::memcpy(buffer.data(), &header, sizeof header);
        std::memcpy(buffer.data() + sizeof header, payload_of(header), header.length);
        if (!send_all(stream.fd, buffer.data(), sizeof header + header.length)) {
            if (!stream.lost.exchange(true)) {
                complain(false, "cannot send", stream);
            }
            return;
        }
        ++stream.sent;
    }
    (void)::shutdown(stream.fd, SHUT_WR);
    wait_until_taken(stream.fd);
}

/// So many bytes of a stream, or less before its end.
size_t receive_all(int fd, char* data, size_t count) {
    size_t have = 0;
    while (have < count) {
        const ssize_t got = ::recv(fd, data + have, count - have, 0);
        if (got <= 0) {
            break;
        }
        have += static_cast<size_t>(got);
    }
    return have;
}

enum class Received : uint8_t { kBlock, kLast, kFailure };

Received receive_block(Stream& stream, std::vector<char>& buffer) {
    BlockHeader header{};
    errno = 0;
    size_t have = 0;
    if (stream.packets) {
        const ssize_t count = ::recv(stream.fd, buffer.data(), buffer.size(), 0);
        have = count < 0 ? 0 : static_cast<size_t>(count);
    } else {
        have = receive_all(stream.fd, buffer.data(), sizeof header);
    }
    if (have < sizeof header) {
        complain(false, "ends before its last block", stream);
        return Received::kFailure;
    }
    std::memcpy(&header, buffer.data(), sizeof header);
    if (!stream.leads && !stream.known) {
        stream.connection = header.connection;
        stream.known = true;
    }
    BlockHeader expected = block_of(stream.connection, stream.received, !stream.leads);
    expected.is_last = header.is_last != 0 ? 1 : 0;
    if (std::memcmp(&header, &expected, sizeof header) != 0) {
        complain(true, "another block than the next one", stream);
        return Received::kFailure;
    }
    if (!stream.packets) {
        have += receive_all(stream.fd, buffer.data() + sizeof header, header.length);
    }
    if (have != sizeof header + header.length) {
        complain(false, "ends inside of a block", stream);
        return Received::kFailure;
    }
    if (std::memcmp(buffer.data() + sizeof header, payload_of(header), header.length) != 0) {
        complain(true, "other bytes than were sent", stream);
        return Received::kFailure;
    }
    ++stream.received;
    stream.bytes += have;
    return header.is_last != 0 ? Received::kLast : Received::kBlock;
}

void receive_blocks(Stream& stream) {
    std::vector<char> buffer(sizeof(BlockHeader) + kPayloadMax + 1);
    Received received = Received::kBlock;
    while (received == Received::kBlock) {
        received = receive_block(stream, buffer);
    }
    if (received == Received::kFailure) {
        stream.lost = true;
        stream.known = true;  // nobody waits for the first block
        return;
    }
    // A follower's sender ends now.
    stream.ends = true;
    char byte = 0;
    if (::recv(stream.fd, &byte, 1, 0) != 0) {
        complain(true, "goes on behind its last block", stream);
    }
}

class Streams final {
  public:
    void add(int fd, bool packets, bool leads) {
        Stream& stream = streams_.emplace_back();
        stream.fd = fd;
        stream.packets = packets;
        stream.leads = leads;
        stream.connection = streams_.size();
        stream.known = leads;
        threads_.emplace_back([&stream] { send_blocks(stream); });
        threads_.emplace_back([&stream] {
            receive_blocks(stream);
            stream.done = true;
        });
    }

    void join() {
        for (std::thread& thread : threads_) {
            thread.join();
        }
    }

    [[nodiscard]] std::deque<Stream>& all() { return streams_; }

  private:
    std::deque<Stream> streams_;
    std::vector<std::thread> threads_;
};

struct Numbers {
    uint64_t blocks = 0;
    uint64_t bytes = 0;
    uint64_t least = ~uint64_t{0};
};

Numbers numbers_of(Streams& streams) {
    Numbers numbers;
    for (const Stream& stream : streams.all()) {
        numbers.blocks += stream.received;
        numbers.bytes += stream.bytes;
        numbers.least = std::min(numbers.least, stream.received.load());
    }
    return numbers;
}

/// In the words of verifier.c, which the host knows.
void tell(const char* what, const Numbers& numbers, uint64_t stuck, uint64_t longest_ms) {
    std::printf("OUTRIGGER-%s ops=%" PRIu64 " reads=%" PRIu64 " least=%" PRIu64 " bytes=%" PRIu64
                " bad=%" PRIu64 " eio=%" PRIu64 " stuck=%" PRIu64 " longest_ms=%" PRIu64
                " rng_bytes=0 rng_errors=0\n",
                what,
                numbers.blocks,
                numbers.blocks,
                numbers.least,
                numbers.bytes,
                bad.load(),
                broken.load(),
                stuck,
                longest_ms);
    std::fflush(stdout);
}

/// Tells each second until all is over; how many connections are stuck in the end.
uint64_t watch(Streams& streams, uint64_t stuck_ms) {
    struct Seen {
        uint64_t received = 0;
        Clock::time_point since = Clock::now();
    };

    std::vector<Seen> seen(streams.all().size());
    uint64_t longest_ms = 0;
    for (unsigned turn = 1;; ++turn) {
        ::usleep(10'000);
        uint64_t stuck = 0;
        bool all_done = true;
        for (size_t i = 0; i < seen.size(); ++i) {
            const Stream& stream = streams.all()[i];
            const auto now = Clock::now();
            if (stream.received != seen[i].received || stream.done) {
                seen[i] = {.received = stream.received, .since = now};
            }
            const auto silent = static_cast<uint64_t>(
                std::chrono::duration_cast<std::chrono::milliseconds>(now - seen[i].since).count());
            longest_ms = std::max(longest_ms, silent);
            stuck += silent > stuck_ms ? 1 : 0;
            all_done = all_done && stream.done;
        }
        if (turn % 100 == 0) {
            tell("TICK", numbers_of(streams), stuck, longest_ms);
            longest_ms = 0;
        }
        if (all_done || (stuck > 0 && stopping) || bad + broken > 0) {
            return stuck;
        }
    }
}

/// Whoever listens may not be there yet.
int connect_patiently(const Address& address) {
    for (int tries = 0; tries < 600; ++tries) {
        const int fd = try_connect(address);
        if (fd >= 0) {
            return fd;
        }
        ::usleep(100'000);
    }
    return -1;
}

int open_next(const Address& address, int listener) {
    const int fd =
        listener >= 0 ? ::accept(listener, nullptr, nullptr) : connect_patiently(address);
    if (fd < 0) {
        fail("connection");
    }
    return fd;
}

int listener_of(const Address& address) {
    return address.kind.ends_with("listen") ? listen_at(address) : -1;
}

int lead(uint64_t stuck_s, size_t connections, const std::vector<Address>& addresses) {
    Streams streams;
    for (const Address& address : addresses) {
        const int listener = listener_of(address);
        for (size_t i = 0; i < connections; ++i) {
            streams.add(open_next(address, listener), address.packets, true);
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
    const uint64_t stuck = watch(streams, stuck_s * 1000);
    const bool good = stuck == 0 && bad == 0 && broken == 0;
    tell("VERDICT", numbers_of(streams), stuck, 0);
    if (good) {
        streams.join();
    }
    // Threads of a connection that failed may wait for ever.
    std::_Exit(good ? 0 : 1);
}

int follow(size_t connections, const Address& address) {
    Streams streams;
    const int listener = listener_of(address);
    for (size_t i = 0; i < connections; ++i) {
        streams.add(open_next(address, listener), address.packets, false);
    }
    for (const Stream& stream : streams.all()) {
        while (!stream.done && bad + broken == 0) {
            ::usleep(10'000);
        }
    }
    if (bad + broken > 0) {
        std::printf(
            "failed %" PRIu64 " wrong, %" PRIu64 " broken off\n", bad.load(), broken.load());
        std::fflush(stdout);
        std::_Exit(1);
    }
    streams.join();
    const Numbers numbers = numbers_of(streams);
    std::printf(
        "ok %" PRIu64 " blocks of %" PRIu64 " bytes in all\n", numbers.blocks, numbers.bytes);
    return 0;
}

}  // namespace
}  // namespace outrigger::guest

int main(int count, char** arguments) {
    using namespace outrigger::guest;
    ::signal(SIGPIPE, SIG_IGN);
    const std::string what = count > 1 ? arguments[1] : "";
    if (what == "lead" && count > 4) {
        std::vector<Address> addresses;
        for (int i = 4; i < count; ++i) {
            addresses.push_back(parse(arguments[i]));
        }
        return lead(std::strtoul(arguments[2], nullptr, 10),
                    std::strtoul(arguments[3], nullptr, 10),
                    addresses);
    }
    if (what == "follow" && count == 4) {
        return follow(std::strtoul(arguments[2], nullptr, 10), parse(arguments[3]));
    }
    std::fprintf(stderr, "streams: see the head of its source\n");
    return 2;
}
