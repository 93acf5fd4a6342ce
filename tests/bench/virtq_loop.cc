// SPDX-License-Identifier: Apache-2.0
/// How many requests a second one core moves through a ring: driver and device take turns in one
/// thread, so nothing but ring work is measured, on both sides. Prints a line for each kind of
/// ring. Not a test: `virtq-loop [milliseconds per line, default 500] [may-log]`; the last as with
/// a front end that knows live migration.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <vector>

#include "vhost-user-backend/virtq/virtqueue.h"

#include "tools/driver/driver_queue.h"
#include "tools/driver/guest_memory.h"

namespace outrigger::bench {
namespace {

using std::chrono::steady_clock;

constexpr uint16_t kRingSize = 256;
constexpr uint64_t kMemoryBytes = 16 << 20;
constexpr uint32_t kHeaderBytes = 16;

struct Kind {
    const char* name;
    bool packed;
    bool event_idx;
    driver::ChainLayout layout;
    unsigned depth;
    bool may_log;
};

/// The driver's memory as the framework sees it.
std::shared_ptr<const MemorySnapshot> snapshot_of(const driver::GuestMemory& memory) {
    std::vector<MemorySnapshot::RegionPointer> regions;
    for (const driver::RegionId id : memory.regions()) {
        const wire::MemoryRegion region = memory.description(id);
        const MemoryRegionLayout layout = {
            .guest_address = GuestAddr{region.guest_address},
            .size = region.size,
            .frontend_address = FrontendAddr{region.user_address},
            .mmap_offset = region.mmap_offset,
        };
        regions.push_back(
            std::make_shared<const MemoryRegion>(MemoryRegion::map(layout, memory.fd(id)).value()));
    }
    const size_t count = regions.size();
    return MemorySnapshot::create(std::move(regions), 1, count).value();
}

class Loop final {
  public:
    explicit Loop(const Kind& kind)
        : kind_(kind),
          memory_(driver::GuestMemory::create(kMemoryBytes).value()),
          driver_(driver::DriverQueue::create(memory_,
                                              {.packed = kind.packed,
                                               .ring = {.size = kRingSize,
                                                        .event_idx = kind.event_idx,
                                                        .indirect_segments_max = 2}})
                      .value()),
          buffers_(memory_.allocate(kRingSize * 64, 64).value()) {
        const wire::VringAddress areas = driver_.vring_address(memory_);
        const VirtqueueConfig config = {
            .size = kRingSize,
            .packed = kind.packed,
            .event_idx = kind.event_idx,
            .indirect = true,
            .may_log = kind.may_log,
            .descriptor_area = FrontendAddr{areas.descriptor},
            .driver_area = FrontendAddr{areas.available},
            .device_area = FrontendAddr{areas.used},
        };
        device_ =
            Virtqueue::create(config, VringBase{driver_.base()}, snapshot_of(memory_)).value();
    }

    /// One batch of `depth` requests there and back.
    void turn() {
        for (unsigned i = 0; i < kind_.depth; ++i) {
            const GuestAddr header = driver::offset_by(buffers_, i * 64);
            const std::array<driver::Segment, 2> segments = {{
                {.address = header, .length = kHeaderBytes, .device_writable = false},
                {.address = driver::offset_by(header, 32), .length = 1, .device_writable = true},
            }};
            check(driver_.try_add(segments, i, kind_.layout));
        }
        driver_.publish();
        kicks_ += driver_.kick_needed() ? 1U : 0U;
        if (timed_) {
            const auto begin = steady_clock::now();
            serve();
            device_time_ += steady_clock::now() - begin;
        } else {
            serve();
        }
        for (unsigned i = 0; i < kind_.depth; ++i) {
            check(driver_.poll_used().has_value());
        }
    }

    /// From now on the device's part of each turn is measured too; that takes time itself.
    void begin_timing() { timed_ = true; }

    [[nodiscard]] steady_clock::duration device_time() const { return device_time_; }

    [[nodiscard]] unsigned depth() const { return kind_.depth; }

  private:
    static void check(bool good) {
        if (!good) {
            std::fputs("virtq-loop: the ring does not work\n", stderr);
            std::exit(1);
        }
    }

    void serve() {
        device_->suppress_kicks();
        do {
            while (auto chain = device_->pop()) {
                ChainReader reader = chain->take_reader();
                ChainWriter writer = chain->take_writer();
                const auto header = reader.read_object<std::array<uint64_t, 2>>();
                check(header.has_value());
                header_sum_ += (*header)[0];
                const std::byte status{0};
                writer.write(std::span(&status, 1));
                chain->complete(1);
            }
            calls_ += device_->publish() ? 1U : 0U;
        } while (device_->enable_kicks());
    }

    Kind kind_;
    driver::GuestMemory memory_;
    driver::DriverQueue driver_;
    GuestAddr buffers_;
    std::unique_ptr<Virtqueue> device_;
    bool timed_ = false;
    steady_clock::duration device_time_{};
    uint64_t kicks_ = 0;
    uint64_t calls_ = 0;
    uint64_t header_sum_ = 0;
};

/// Turns in slices for `duration`; nanoseconds a request in the best slice, which is the one that
/// other programs on the machine disturbed least. `clock` reads the time that counts.
template <class Clock>
double best_slice_ns(Loop& loop, std::chrono::milliseconds duration, Clock clock) {
    constexpr int kTurns = 2000;
    double best = 1e9;
    const auto end = steady_clock::now() + duration;
    while (steady_clock::now() < end) {
        const std::chrono::duration<double, std::nano> before = clock();
        for (int i = 0; i < kTurns; ++i) {
            loop.turn();
        }
        const std::chrono::duration<double, std::nano> after = clock();
        best = std::min(best, (after - before).count() / kTurns / loop.depth());
    }
    return best;
}

void measure(const Kind& kind, std::chrono::milliseconds duration) {
    Loop loop(kind);
    const double both =
        best_slice_ns(loop, duration, [] { return steady_clock::now().time_since_epoch(); });
    loop.begin_timing();
    const double device = best_slice_ns(loop, duration, [&] { return loop.device_time(); });
    std::printf(
        "%-26s depth %3u  %6.2f M requests/s  %6.1f ns each, of which the device %5.1f ns\n",
        kind.name,
        kind.depth,
        1e3 / both,
        both,
        device);
}

int run(int argc, char** argv) {
    const std::chrono::milliseconds duration(argc > 1 ? std::atoi(argv[1]) : 500);
    const bool may_log = argc > 2 && std::string_view(argv[2]) == "may-log";
    using driver::ChainLayout;
    for (const unsigned depth : {1U, 32U}) {
        for (const Kind& kind : {
                 Kind{"split", false, false, ChainLayout::kDirect, depth, may_log},
                 Kind{"split event_idx", false, true, ChainLayout::kDirect, depth, may_log},
                 Kind{"split event_idx indirect",
                      false,
                      true,
                      ChainLayout::kIndirect,
                      depth,
                      may_log},
                 Kind{"packed", true, false, ChainLayout::kDirect, depth, may_log},
                 Kind{"packed event_idx", true, true, ChainLayout::kDirect, depth, may_log},
                 Kind{"packed event_idx indirect",
                      true,
                      true,
                      ChainLayout::kIndirect,
                      depth,
                      may_log},
             }) {
            measure(kind, duration);
        }
    }
    return 0;
}

}  // namespace
}  // namespace outrigger::bench

int main(int argc, char** argv) {
    return outrigger::bench::run(argc, argv);
}
