// SPDX-License-Identifier: Apache-2.0
// Measures a vhost-user block back end with the user-space driver: requests per second of 4 KiB
// reads on one queue, in short slices, since neighbours on the machine disturb long ones.
#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "tools/driver/bring_up.h"

namespace outrigger::driver {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kDataBytes = 4096;
constexpr uint16_t kQueueSize = 256;
constexpr uint32_t kDiskBlocks = 1024;

struct Settings {
    std::string socket_path;
    uint32_t depth = 32;
    uint32_t slices = 12;
    std::chrono::milliseconds slice{250};
    bool packed = false;
    bool sleep = false;  // wait for calls, instead of looking all the time
};

/// One request's buffers: header, data, status. The sector changes with each use.
class Request {
  public:
    Request(GuestMemory& memory, uint32_t number)
        : header_(memory.allocate(16, 16).value()),
          data_(memory.allocate(kDataBytes, kDataBytes).value()),
          status_(memory.allocate(1, 1).value()),
          header_bytes_(memory.data(header_, 16)),
          status_byte_(memory.data(status_, 1)),
          block_(number * 7) {}

    [[nodiscard]] std::array<Segment, 3> prepare() {
        block_ = (block_ + 13) % kDiskBlocks;
        const uint64_t sector = uint64_t{block_} * (kDataBytes / 512);
        std::memset(header_bytes_, 0, 16);  // type 0: read
        std::memcpy(header_bytes_ + 8, &sector, sizeof sector);
        *status_byte_ = std::byte{0xff};
        return {{{header_, 16, false}, {data_, kDataBytes, true}, {status_, 1, true}}};
    }

    [[nodiscard]] bool ended_well() const { return *status_byte_ == std::byte{0}; }

  private:
    GuestAddr header_;
    GuestAddr data_;
    GuestAddr status_;
    std::byte* header_bytes_;
    std::byte* status_byte_;
    uint32_t block_;
};

[[noreturn]] void give_up(const std::string& why) {
    std::fprintf(stderr, "blk-rate: %s\n", why.c_str());
    std::exit(1);
}

/// Takes what completed and makes the requests available again; returns how many.
uint32_t turn_over(DriverQueue& queue, std::vector<Request>& requests) {
    uint32_t completed = 0;
    while (const auto used = queue.poll_used()) {
        Request& request = requests[used->token];
        if (!request.ended_well()) {
            give_up("a read failed");
        }
        if (!queue.try_add(request.prepare(), used->token, ChainLayout::kIndirect)) {
            give_up("the ring is full");
        }
        ++completed;
    }
    if (completed > 0) {
        queue.publish_and_kick();
    }
    return completed;
}

double measure_slice(DriverQueue& queue, std::vector<Request>& requests, const Settings& settings) {
    uint64_t completed = 0;
    const auto begin = Clock::now();
    const auto end = begin + settings.slice;
    auto now = begin;
    while (now < end) {
        if (settings.sleep &&
            queue.wait_used(after(std::chrono::seconds(10))) != WaitResult::kUsed) {
            give_up("no answer for ten seconds");
        }
        for (int i = 0; i < 64; ++i) {
            const uint32_t count = turn_over(queue, requests);
            completed += count;
            if (settings.sleep && count == 0) {
                break;
            }
        }
        now = Clock::now();
    }
    return static_cast<double>(completed) / std::chrono::duration<double>(now - begin).count();
}

void measure(const Settings& settings) {
    auto frontend = Frontend::connect(settings.socket_path, after(std::chrono::seconds(10)));
    if (!frontend) {
        give_up(frontend.error().message);
    }
    auto memory = GuestMemory::create(4 << 20).value();
    auto running = bring_up(*frontend,
                            memory,
                            {.packed = settings.packed,
                             .indirect_segments_max = 3,
                             .queue_count = 1,
                             .queue_size = kQueueSize});
    if (!running) {
        give_up(std::string(running.error().step) + ": " +
                std::string(describe(running.error().answer)));
    }
    DriverQueue& queue = running->queues[0];
    std::vector<Request> requests;
    for (uint32_t i = 0; i < settings.depth; ++i) {
        requests.emplace_back(memory, i);
        if (!queue.try_add(requests.back().prepare(), i, ChainLayout::kIndirect)) {
            give_up("the ring is full");
        }
    }
    if (!settings.sleep) {
        queue.suppress_calls();
    }
    queue.publish_and_kick();
    std::vector<double> rates;
    for (uint32_t i = 0; i < settings.slices; ++i) {
        rates.push_back(measure_slice(queue, requests, settings));
    }
    std::ranges::sort(rates);
    std::printf("%.0f %.0f\n", rates.back(), rates[rates.size() / 2]);
}

uint32_t number_of(std::string_view text, uint32_t most) {
    uint32_t value = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    if (result.ec != std::errc() || result.ptr != text.data() + text.size() || value == 0 ||
        value > most) {
        give_up("not a number in range: " + std::string(text));
    }
    return value;
}

}  // namespace
}  // namespace outrigger::driver

/// Prints the best and the median rate of the slices, in requests per second.
int main(int argc, char** argv) {
    using namespace outrigger::driver;
    Settings settings;
    for (int i = 1; i < argc; ++i) {
        const std::string_view argument(argv[i]);
        const auto value = argument.substr(std::min(argument.find('=') + 1, argument.size()));
        if (argument.starts_with("--depth=")) {
            settings.depth = number_of(value, 64);
        } else if (argument.starts_with("--slices=")) {
            settings.slices = number_of(value, 1000);
        } else if (argument == "--packed") {
            settings.packed = true;
        } else if (argument == "--sleep") {
            settings.sleep = true;
        } else if (!argument.starts_with("--") && settings.socket_path.empty()) {
            settings.socket_path = argument;
        } else {
            give_up("usage: blk-rate SOCKET [--depth=N] [--slices=N] [--packed] [--sleep]");
        }
    }
    measure(settings);
    return 0;
}
