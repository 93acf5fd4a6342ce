// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: a block device's queue. The script is the guest that asks and the host that
/// answers; every request must come back with a status, and nothing but what was offered be
/// touched.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/io/worker.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "devices/blk/blk_device.h"
#include "devices/blk/null_image.h"
#include "tests/fuzz/blk_host.h"
#include "tests/fuzz/blk_script.h"
#include "tests/fuzz/fuzz_memory.h"
#include "tests/fuzz/ring_script.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/target.h"

namespace outrigger::fuzz {
namespace {

constexpr size_t kOpsMax = 256;
constexpr size_t kSegmentsMax = 12;
constexpr size_t kRangesMax = 18;
constexpr uint32_t kDescriptorBytes = 16;
constexpr uint16_t kNext = 1;
constexpr uint16_t kWrite = 2;
constexpr uint16_t kIndirect = 4;
/// The ring and, behind it, a table of descriptors for each request. No buffer begins here: what
/// the device writes would become descriptors, and nobody could say what it may write then.
constexpr uint64_t kRingBytes = 0x1000;
constexpr uint64_t kTableBytes = kSegmentsMax * kDescriptorBytes;
constexpr size_t kTables = 16;
constexpr uint64_t kReservedBytes = kRingBytes + kTableBytes * kTables;

class BlkScript final {
  public:
    BlkScript(FuzzMemory& memory, Worker& worker, ScriptReader script)
        : memory_(memory), worker_(worker), script_(script), options_(script_.u8()) {}

    void run() {
        memory_.reset();
        size_ = kBlkRingSizes[script_.pick(kBlkRingSizeCount)];
        device_ = std::make_unique<blk::BlkDevice>(
            make_image(),
            blk::BlkDeviceOptions{
                .shape = {.discard = (options_ & BlkOptions::kNoDiscard) == 0},
                .serial = "fuzz",
                .write_back_at_reset = (options_ & BlkOptions::kWriteThrough) == 0});
        place_ring();
        start();
        for (size_t count = 0; count < kOpsMax && !script_.at_end(); ++count) {
            step(next_op<BlkOp>(script_));
        }
        stop();
        check_counts();
        device_.reset();
        if (host_) {
            host_->check();
        }
        memory_.check();
    }

  private:
    [[nodiscard]] std::unique_ptr<blk::Image> make_image() {
        if ((options_ & BlkOptions::kFile) != 0) {
            host_.emplace(worker_.loop(), options_);
            return std::make_unique<HostedImage>(*host_);
        }
        return std::make_unique<blk::NullImage>(blk::NullImageOptions{
            .size_bytes = kBlkImageBytes,
            .block_bytes = (options_ & BlkOptions::kLargeBlocks) != 0 ? 4096U : 512U,
            .read_only = (options_ & BlkOptions::kReadOnly) != 0,
            .read_zeroes = (options_ & BlkOptions::kReadZeroes) != 0});
    }

    void place_ring() {
        descriptors_ = FuzzMemory::guest_start(FuzzMemory::kHome);
        available_ = descriptors_ + uint64_t{kDescriptorBytes} * size_;
        used_ = (available_ + 6 + 2ULL * size_ + 3) & ~3ULL;
        OUTRIGGER_ASSERT(used_ + 6 + 8ULL * size_ <= descriptors_ + kRingBytes);
    }

    void start() {
        const auto at = [](uint64_t guest_address) {
            return FrontendAddr{FuzzMemory::frontend_address(guest_address)};
        };
        // Where the ring is not mapped now, the script has lost it for good.
        auto queue = Virtqueue::create({.size = size_,
                                        .indirect = true,
                                        .descriptor_area = at(descriptors_),
                                        .driver_area = at(available_),
                                        .device_area = at(used_)},
                                       VringBase{base_},
                                       memory_.snapshot(memory_.current()));
        if (!queue) {
            return;
        }
        queue_ = *std::move(queue);
        memory_.allow_writes(used_, 6 + 8ULL * size_);
        OUTRIGGER_ASSERT(device_->start_queue(QueueIndex{0}, *queue_, worker_).has_value());
    }

    /// The host makes every call, so the queue drains at the latest then.
    void stop() {
        if (!queue_) {
            return;
        }
        bool drained = false;
        device_->stop_queue(QueueIndex{0}, [&drained] { drained = true; });
        answer_all();
        OUTRIGGER_ASSERT(drained && queue_->in_flight() == 0);
        (void)queue_->publish();
        popped_ += queue_->counters().chains_popped.value();
        OUTRIGGER_ASSERT(queue_->counters().chains_completed.value() ==
                         queue_->counters().chains_popped.value());
        base_ = queue_->base().raw;
        // What the device left to its worker: the end of its own queue.
        (void)worker_.turn();
        queue_.reset();
    }

    /// Every request that was popped was answered in one way, and one way only.
    void check_counts() const {
        const blk::BlkCounters& counters = device_->counters(QueueIndex{0});
        OUTRIGGER_ASSERT(counters.completed.total() + counters.failed.total() +
                             counters.refused.total() ==
                         popped_);
    }

    void step(BlkOp op) {
        switch (op) {
            case BlkOp::kRequest:
                return request();
            case BlkOp::kRanges:
                return ranges();
            case BlkOp::kBytes: {
                const uint64_t place = read_buffer_place();
                return memory_.store(place, script_.bytes(script_.pick(65)));
            }
            case BlkOp::kProcess:
                return process();
            case BlkOp::kAnswer: {
                const size_t which = script_.u8();
                const auto answer =
                    script_.pick_enum<BlkAnswer>(static_cast<size_t>(BlkAnswer::kCount));
                const uint16_t argument = script_.u16();
                if (host_) {
                    host_->answer(which, answer, argument);
                }
                return;
            }
            case BlkOp::kAnswerAll:
                return answer_all();
            case BlkOp::kNegotiate:
                device_->on_negotiated(FeatureSet(script_.u64()) & device_->offered_features());
                return;
            case BlkOp::kWriteConfig: {
                const uint32_t offset = script_.u8() % (blk::kBlkConfigBytes - 8U);
                const auto bytes = script_.bytes(script_.pick(9));
                (void)device_->write_config(ConfigOffset{offset}, std::as_bytes(bytes));
                return;
            }
            case BlkOp::kReadConfig: {
                const uint32_t offset = script_.u8();
                std::array<std::byte, blk::kBlkConfigBytes> out;
                const size_t count = script_.u8() % (blk::kBlkConfigBytes - offset);
                device_->read_config(ConfigOffset{offset}, std::span(out).first(count));
                return;
            }
            case BlkOp::kRestart:
            case BlkOp::kReset:
                stop();
                if (op == BlkOp::kReset) {
                    device_->reset();
                }
                return start();
            case BlkOp::kTruncate: {
                const uint64_t bytes = script_.u16();
                if (host_) {
                    host_->truncate(bytes);
                }
                return;
            }
            case BlkOp::kAdoptMemory: {
                const auto table = script_.pick_enum<FuzzMemory::Table>(
                    static_cast<size_t>(FuzzMemory::Table::kCount));
                // The ring would come back to other memory, whose contents are not its own.
                if (queue_ && table != FuzzMemory::Table::kMoved) {
                    memory_.select(table);
                    queue_->adopt_memory(memory_.snapshot(table));
                }
                return;
            }
            case BlkOp::kBreak:
                available_index_ = static_cast<uint16_t>(available_index_ + size_ + 1);
                memory_.store_object(available_ + 2, available_index_);
                return;
            case BlkOp::kCount:
                return;
        }
    }

    /// A place that a buffer may begin at.
    [[nodiscard]] uint64_t read_buffer_place() {
        const uint64_t place = FuzzMemory::read_place(script_);
        const uint64_t start = FuzzMemory::guest_start(FuzzMemory::kHome);
        // Also not just before: a buffer that is long enough reaches home from there.
        const bool reserved = place < start + kReservedBytes;
        return reserved ? start + kReservedBytes + place % 0x1000 : place;
    }

    void request() {
        struct [[gnu::packed]] Header {
            uint32_t type;
            uint32_t reserved;
            uint64_t sector;
        };

        const uint8_t short_type = script_.u8();
        const uint32_t type = short_type == kBlkAnyType ? script_.u32() : short_type;
        const uint16_t short_sector = script_.u16();
        const uint64_t sector = short_sector == kBlkAnySector ? script_.u64() : short_sector;
        const size_t count = 1 + script_.pick(kSegmentsMax);
        const uint16_t slot = static_cast<uint16_t>(requests_ % std::min<size_t>(kTables, size_));
        const uint64_t table =
            FuzzMemory::guest_start(FuzzMemory::kHome) + kRingBytes + slot * kTableBytes;
        for (size_t i = 0; i < count; ++i) {
            const uint8_t bits = script_.u8();
            ScriptDescriptor descriptor;
            descriptor.address = read_buffer_place();
            descriptor.length = script_.u16();
            descriptor.flags = (bits & BlkSegment::kWritable) != 0 ? kWrite : uint16_t{0};
            descriptor.link = static_cast<uint16_t>(i + 1);
            if (i + 1 < count) {
                descriptor.flags |= kNext;
            }
            if ((bits & BlkSegment::kHeader) != 0) {
                memory_.store_object(descriptor.address,
                                     Header{.type = type, .reserved = 0, .sector = sector});
            }
            if ((descriptor.flags & kWrite) != 0) {
                memory_.allow_range(descriptor.address, descriptor.length);
            }
            memory_.store(table + i * kDescriptorBytes, descriptor.split());
        }
        const ScriptDescriptor head = {.address = table,
                                       .length = static_cast<uint32_t>(count * kDescriptorBytes),
                                       .flags = kIndirect,
                                       .link = 0};
        memory_.store(descriptors_ + uint64_t{kDescriptorBytes} * slot, head.split());
        memory_.store_object(available_ + 4 + 2ULL * (available_index_ % size_), slot);
        ++available_index_;
        ++requests_;
        memory_.store_object(available_ + 2, available_index_);
    }

    void ranges() {
        struct [[gnu::packed]] Range {
            uint64_t sector;
            uint32_t sectors;
            uint32_t flags;
        };

        uint64_t place = read_buffer_place();
        const size_t count = script_.pick(kRangesMax + 1);
        for (size_t i = 0; i < count; ++i, place += sizeof(Range)) {
            const uint64_t sector = script_.u16();
            const uint32_t sectors = script_.u16();
            memory_.store_object(
                place, Range{.sector = sector, .sectors = sectors, .flags = script_.u8()});
        }
    }

    void process() {
        if (!queue_) {
            return;
        }
        // Bounded: a ring gives no more than was made available, and then there is nothing.
        while (device_->process_queue(QueueIndex{0}) == QueueProgress::kMore) {
        }
        (void)queue_->take_processing_request();
        (void)queue_->publish();
    }

    void answer_all() {
        if (!host_) {
            return;
        }
        // Bounded: each call ends, and each makes progress on a request.
        while (host_->waiting() > 0) {
            host_->answer(0, BlkAnswer::kDone, 0);
        }
    }

    FuzzMemory& memory_;
    Worker& worker_;
    ScriptReader script_;
    const uint8_t options_;
    std::optional<BlkHost> host_;
    std::unique_ptr<blk::BlkDevice> device_;
    std::unique_ptr<Virtqueue> queue_;
    uint16_t size_ = 0;
    uint32_t base_ = 0;
    uint64_t descriptors_ = 0;
    uint64_t available_ = 0;
    uint64_t used_ = 0;
    uint16_t available_index_ = 0;
    size_t requests_ = 0;
    uint64_t popped_ = 0;
};

}  // namespace
}  // namespace outrigger::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace outrigger;
    set_log_level(LogLevel::kOff);
    static fuzz::FuzzMemory memory;
    // Of its own the device needs no more than the loop, for the ends of its queues, and for pauses
    // that no script comes to.
    static const auto worker = Worker::create_threadless(LoopKind::kAsio).value();
    fuzz::BlkScript(memory, *worker, fuzz::ScriptReader(std::span(data, size))).run();
    return 0;
}
