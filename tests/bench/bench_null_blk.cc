// SPDX-License-Identifier: Apache-2.0
/// Two vhost-user-blk servers side by side: the same user-space driver reads from one and the
/// other in turn, for many short rounds, because these machines' speed drifts. Prints requests a
/// second (best and median of the rounds), the server's processor time for a million requests, and
/// the ratio A/B of the medians. Not a test.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <linux/virtio_blk.h>
#include <unistd.h>

#include "vhost-user-backend/base/little_endian.h"

#include "tools/driver/bring_up.h"
#include "tools/driver/frontend.h"
#include "tools/driver/guest_memory.h"

namespace outrigger::bench {
namespace {

using std::chrono::steady_clock;

struct Options {
    std::string socket_a;
    std::string socket_b;
    std::optional<int> pid_a;
    std::optional<int> pid_b;
    uint32_t block_bytes = 4096;
    uint32_t depth = 32;
    uint32_t queues = 1;
    uint32_t rounds = 20;
    uint32_t round_ms = 250;
    bool packed = false;
    bool indirect = false;
    bool wait_for_calls = false;
};

constexpr std::string_view kUsage =
    "usage: bench-null-blk --a=SOCKET --b=SOCKET [--pid-a=PID] [--pid-b=PID] [--bs=4096]\n"
    "                      [--depth=32] [--queues=1] [--rounds=20] [--round-ms=250]\n"
    "                      [--packed] [--indirect] [--eventfd]\n"
    "4 KiB random reads from two vhost-user-blk servers in turn. --packed: packed rings where a\n"
    "server has them; --indirect: a table for each request; --eventfd: the driver sleeps until it\n"
    "is called, instead of looking at the used ring.\n";

[[noreturn]] void fail(const std::string& why) {
    std::fprintf(stderr, "bench-null-blk: %s\n", why.c_str());
    std::exit(1);
}

/// VIRTIO 1.3, 5.2.6.
struct RequestHeader {
    Le32 type;
    Le32 reserved;
    Le64 sector;
};

/// Processor time of a process so far, in seconds.
double cpu_seconds(int pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string text((std::istreambuf_iterator<char>(file)), {});
    // The name is in parentheses and may hold anything; 11 fields lie between it and utime.
    std::istringstream fields(text.substr(text.rfind(')') + 1));
    std::string skipped;
    for (int i = 0; i < 11; ++i) {
        fields >> skipped;
    }
    long user_ticks = 0;
    long system_ticks = 0;
    fields >> user_ticks >> system_ticks;
    return static_cast<double>(user_ticks + system_ticks) /
           static_cast<double>(::sysconf(_SC_CLK_TCK));
}

/// The driver's side of one server.
class Client final {
  public:
    Client(const std::string& socket, const Options& options)
        : options_(options),
          memory_(driver::GuestMemory::create(kMemoryBytes).value()),
          frontend_(connect(socket)) {
        const driver::BringUpOptions bring_up{
            .packed = options.packed,
            .indirect = options.indirect,
            .queue_count = static_cast<uint16_t>(options.queues),
            .queue_size = kQueueSize,
        };
        auto running = driver::bring_up(frontend_, memory_, bring_up);
        if (!running) {
            fail(socket + ": " + std::string(running.error().step) + " failed");
        }
        running_ = *std::move(running);
        const auto config = frontend_.get_config(0, sizeof(uint64_t));
        if (!config || config->size() != sizeof(uint64_t)) {
            fail(socket + ": cannot read the capacity");
        }
        Le64 capacity_sectors;
        std::ranges::copy(*config, std::as_writable_bytes(std::span(&capacity_sectors, 1)).begin());
        blocks_ = capacity_sectors.value() * 512 / options.block_bytes;
        for (size_t queue = 0; queue < running_.queues.size(); ++queue) {
            for (uint32_t slot = 0; slot < options.depth; ++slot) {
                requests_.push_back(make_request());
            }
        }
    }

    [[nodiscard]] bool packed() { return running_.queues[0].packed() != nullptr; }

    /// Requests completed within `duration`, per second.
    double measure(std::chrono::milliseconds duration) {
        for (auto& queue : running_.queues) {
            if (!options_.wait_for_calls) {
                queue.suppress_calls();
            }
        }
        uint64_t completed = 0;
        const auto start = steady_clock::now();
        const auto end = start + duration;
        for (size_t queue = 0; queue < running_.queues.size(); ++queue) {
            for (uint32_t slot = 0; slot < options_.depth; ++slot) {
                submit(queue, slot);
            }
            running_.queues[queue].publish_and_kick();
        }
        uint64_t outstanding = uint64_t{options_.depth} * running_.queues.size();
        bool open = true;
        while (outstanding > 0) {
            uint64_t found = 0;
            for (size_t queue = 0; queue < running_.queues.size(); ++queue) {
                found += turn(queue, open, outstanding);
            }
            completed += found;
            if (found == 0 || (completed & 0x3f) == 0) {
                open = open && steady_clock::now() < end;
            }
            if (found == 0 && options_.wait_for_calls) {
                (void)running_.queues[0].wait_used(driver::after(std::chrono::seconds(5)));
            }
        }
        const std::chrono::duration<double> took = steady_clock::now() - start;
        return static_cast<double>(completed) / took.count();
    }

  private:
    static constexpr uint64_t kMemoryBytes = uint64_t{256} << 20;
    static constexpr uint16_t kQueueSize = 256;

    struct Request {
        std::array<driver::Segment, 3> segments;
    };

    static driver::Frontend connect(const std::string& socket) {
        auto frontend = driver::Frontend::connect(socket, driver::after(std::chrono::seconds(10)));
        if (!frontend) {
            fail(frontend.error().message);
        }
        return *std::move(frontend);
    }

    Request make_request() {
        const GuestAddr header = memory_.allocate(sizeof(RequestHeader), 64).value();
        const GuestAddr data = memory_.allocate(options_.block_bytes, 4096).value();
        const GuestAddr status = memory_.allocate(1, 64).value();
        return {.segments = {
                    {{.address = header, .length = sizeof(RequestHeader), .device_writable = false},
                     {.address = data, .length = options_.block_bytes, .device_writable = true},
                     {.address = status, .length = 1, .device_writable = true}}}};
    }

    void submit(size_t queue, uint32_t slot) {
        const Request& request = requests_[queue * options_.depth + slot];
        // xorshift: which block is read does not matter, that it changes does.
        random_ ^= random_ << 13;
        random_ ^= random_ >> 7;
        random_ ^= random_ << 17;
        const RequestHeader header{
            .type = Le32(VIRTIO_BLK_T_IN),
            .reserved = {},
            .sector = Le64(random_ % blocks_ * (options_.block_bytes / 512))};
        memory_.write(request.segments[0].address, std::as_bytes(std::span(&header, 1)));
        const auto layout =
            options_.indirect ? driver::ChainLayout::kIndirect : driver::ChainLayout::kDirect;
        if (!running_.queues[queue].try_add(request.segments, slot, layout)) {
            fail("the ring is full: use a smaller depth");
        }
    }

    /// Takes what is there, and asks for as much again while the round is open.
    uint64_t turn(size_t queue, bool open, uint64_t& outstanding) {
        uint64_t found = 0;
        while (const auto completion = running_.queues[queue].poll_used()) {
            ++found;
            if (open) {
                submit(queue, static_cast<uint32_t>(completion->token));
            } else {
                --outstanding;
            }
        }
        if (found > 0 && open) {
            running_.queues[queue].publish_and_kick();
        }
        return found;
    }

    const Options& options_;
    driver::GuestMemory memory_;
    driver::Frontend frontend_;
    driver::RunningDevice running_;
    std::vector<Request> requests_;
    uint64_t blocks_ = 1;
    uint64_t random_ = 88172645463325252;
};

struct Server {
    const char* label;
    std::string socket;
    std::optional<int> pid;
    std::vector<double> rates;
    double cpu = 0;
    double requests = 0;
};

double median(std::vector<double> values) {
    std::ranges::sort(values);
    return values[values.size() / 2];
}

void run_round(Client& client, Server& server, const Options& options) {
    const double before = server.pid ? cpu_seconds(*server.pid) : 0;
    const auto start = steady_clock::now();
    const double rate = client.measure(std::chrono::milliseconds(options.round_ms));
    const std::chrono::duration<double> took = steady_clock::now() - start;
    server.rates.push_back(rate);
    server.requests += rate * took.count();
    server.cpu += server.pid ? cpu_seconds(*server.pid) - before : 0;
}

void print(const Server& server) {
    std::printf("%s  best %6.3f M/s  median %6.3f M/s",
                server.label,
                std::ranges::max(server.rates) / 1e6,
                median(server.rates) / 1e6);
    if (server.pid) {
        std::printf("  cpu %6.3f s a million requests", server.cpu / (server.requests / 1e6));
    }
    std::printf("  (%s)\n", server.socket.c_str());
}

uint32_t number(std::string_view text, std::string_view option) {
    char* end = nullptr;
    const std::string copy(text);
    const unsigned long value = std::strtoul(copy.c_str(), &end, 10);
    if (copy.empty() || *end != '\0' || value == 0 || value > 1'000'000'000) {
        fail(std::string(option) + " takes a number above 0");
    }
    return static_cast<uint32_t>(value);
}

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view argument = argv[i];
        const size_t equals = argument.find('=');
        const std::string_view name = argument.substr(0, equals);
        const std::string_view value =
            equals == std::string_view::npos ? std::string_view{} : argument.substr(equals + 1);
        if (name == "--a") {
            options.socket_a = value;
        } else if (name == "--b") {
            options.socket_b = value;
        } else if (name == "--pid-a") {
            options.pid_a = static_cast<int>(number(value, name));
        } else if (name == "--pid-b") {
            options.pid_b = static_cast<int>(number(value, name));
        } else if (name == "--bs") {
            options.block_bytes = number(value, name);
        } else if (name == "--depth") {
            options.depth = number(value, name);
        } else if (name == "--queues") {
            options.queues = number(value, name);
        } else if (name == "--rounds") {
            options.rounds = number(value, name);
        } else if (name == "--round-ms") {
            options.round_ms = number(value, name);
        } else if (name == "--packed") {
            options.packed = true;
        } else if (name == "--indirect") {
            options.indirect = true;
        } else if (name == "--eventfd") {
            options.wait_for_calls = true;
        } else {
            std::fputs(kUsage.data(), name == "--help" ? stdout : stderr);
            std::exit(name == "--help" ? 0 : 2);
        }
    }
    if (options.socket_a.empty() || options.socket_b.empty()) {
        std::fputs(kUsage.data(), stderr);
        std::exit(2);
    }
    return options;
}

void run(const Options& options) {
    Server a{.label = "A", .socket = options.socket_a, .pid = options.pid_a, .rates = {}};
    Server b{.label = "B", .socket = options.socket_b, .pid = options.pid_b, .rates = {}};
    Client client_a(a.socket, options);
    Client client_b(b.socket, options);
    // One round each that does not count: page tables, caches, the clock of the processor.
    (void)client_a.measure(std::chrono::milliseconds(options.round_ms));
    (void)client_b.measure(std::chrono::milliseconds(options.round_ms));
    std::vector<double> ratios;
    for (uint32_t round = 0; round < options.rounds; ++round) {
        run_round(client_a, a, options);
        run_round(client_b, b, options);
        ratios.push_back(a.rates.back() / b.rates.back());
    }
    std::printf("reads of %u bytes, depth %u, %u queue(s), rings: A %s, B %s, %u rounds of %u ms\n",
                options.block_bytes,
                options.depth,
                options.queues,
                client_a.packed() ? "packed" : "split",
                client_b.packed() ? "packed" : "split",
                options.rounds,
                options.round_ms);
    print(a);
    print(b);
    std::printf("ratio A/B  median of the rounds %.2f  of the medians %.2f\n",
                median(ratios),
                median(a.rates) / median(b.rates));
}

}  // namespace
}  // namespace outrigger::bench

int main(int argc, char** argv) {
    outrigger::bench::run(outrigger::bench::parse(argc, argv));
    return 0;
}
