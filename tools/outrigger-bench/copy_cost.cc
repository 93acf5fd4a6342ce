// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/copy_cost.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <thread>

#include <sys/mman.h>

#include "vhost-user-backend/base/platform.h"

#include "tools/driver/guest_memory.h"
#include "tools/outrigger-bench/backend.h"

namespace outrigger::bench {
namespace {

constexpr uint64_t kSourceBytesDefault = uint64_t{256} << 20;
/// Between two looks at the clock.
constexpr uint32_t kCopiesAtATime = 64;

/// Memory as a disk would have it: private, of huge pages where the host has them, and written.
class Source final {
  public:
    explicit Source(size_t size) : size_(size) {
        void* const mapped = ::mmap(nullptr,
                                    size,
                                    PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                                    -1,
                                    0);
        if (mapped != MAP_FAILED) {
            data_ = static_cast<std::byte*>(mapped);
            platform::set_huge_pages({data_, size_}, true);
            std::memset(data_, 0x5a, size_);
        }
    }

    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;

    ~Source() {
        if (data_ != nullptr) {
            ::munmap(data_, size_);
        }
    }

    [[nodiscard]] const std::byte* data() const { return data_; }

  private:
    std::byte* data_ = nullptr;
    const size_t size_;
};

OwnCost copy_blocks(const BenchPlan& plan,
                    const std::byte* source,
                    uint64_t blocks,
                    std::byte* buffers,
                    std::chrono::milliseconds duration) {
    constexpr std::chrono::milliseconds kSlice{1};
    OwnCost cost;
    uint64_t random = 0x9e3779b97f4a7c15;
    uint32_t buffer = 0;
    const driver::Deadline end = driver::after(duration);
    for (auto begin = driver::Clock::now(); begin < end;) {
        uint64_t copies = 0;
        std::chrono::duration<double> spent{};
        while (spent < kSlice) {
            for (uint32_t i = 0; i < kCopiesAtATime; ++i) {
                random ^= random << 13;  // xorshift64
                random ^= random >> 7;
                random ^= random << 17;
                std::memcpy(buffers + size_t{buffer} * plan.block_bytes,
                            source + random % blocks * plan.block_bytes,
                            plan.block_bytes);
                buffer = buffer + 1 == plan.depth ? 0 : buffer + 1;
            }
            copies += kCopiesAtATime;
            spent = driver::Clock::now() - begin;
        }
        cost.rate = std::max(cost.rate, static_cast<double>(copies) / spent.count());
        begin = driver::Clock::now();
    }
    cost.nanoseconds_per_request = 1e9 / cost.rate;
    return cost;
}

}  // namespace

Result<OwnCost> measure_copy(const BenchPlan& plan, std::chrono::milliseconds duration) {
    OUTRIGGER_ASSERT(plan.device_cpu.has_value());
    const uint64_t wanted = plan.area_bytes != 0 ? plan.area_bytes : kSourceBytesDefault;
    const uint64_t blocks = std::max<uint64_t>(wanted / plan.block_bytes, 1);
    OUTRIGGER_TRY(check_memory(blocks * plan.block_bytes, "to copy from, --size needs"));
    // Where a guest's buffers would be.
    const size_t buffer_bytes = size_t{plan.depth} * plan.block_bytes;
    const driver::GuestMemory memory = OUTRIGGER_TRY(driver::GuestMemory::create(buffer_bytes));
    const auto region = memory.description(memory.regions().front());
    std::byte* const buffers = memory.data(GuestAddr{region.guest_address}, buffer_bytes);
    Result<OwnCost> cost;
    std::jthread thread([&] {
        const auto placed = place_thread(*plan.device_cpu);
        if (!placed) {
            cost = failure(placed.error());
            return;
        }
        const Source source(blocks * plan.block_bytes);
        if (source.data() == nullptr) {
            cost = failure(error_from_errno("no memory to copy from"));
            return;
        }
        cost = copy_blocks(plan, source.data(), blocks, buffers, duration);
    });
    thread.join();
    return cost;
}

}  // namespace outrigger::bench
