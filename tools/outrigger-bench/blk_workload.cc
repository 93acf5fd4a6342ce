// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/blk_workload.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <random>
#include <system_error>
#include <utility>

#include <linux/virtio_blk.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/little_endian.h"

#include "tools/driver/shared_access.h"

namespace outrigger::bench {
namespace {

constexpr uint32_t kSectorBytes = 512;
/// Of GET_CONFIG: up to blk_size.
constexpr uint32_t kConfigBytes = 24;
constexpr size_t kBlkSizeOffset = 20;
constexpr uint32_t kWritebackOffset = 32;
constexpr uint64_t kVerifiedBytes = 64 << 20;
constexpr uint64_t kAssumedBytes = 1 << 30;
constexpr uint64_t kLineBytes = 64;
constexpr uint64_t kPageBytes = 4096;
constexpr uint8_t kNoStatus = 0xff;

/// VIRTIO 1.3, 5.2.6.
struct RequestHeader {
    Le32 type;
    Le32 reserved;
    Le64 sector;
};

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

template <class T>
T field(std::span<const std::byte> config, size_t offset) {
    LittleEndian<T> value;
    std::memcpy(&value, config.data() + offset, sizeof value);
    return value.value();
}

}  // namespace

BlkWorkload::BlkWorkload(const BenchPlan& plan, uint16_t queue)
    : plan_(plan), queue_(queue), random_(88172645463325252 * (2 * uint64_t{queue} + 1)) {}

bool BlkWorkload::writes() const {
    return plan_.verify || plan_.access == Access::kWrite || plan_.access == Access::kRandWrite ||
           plan_.access == Access::kRandRw;
}

Result<void> BlkWorkload::learn(driver::Frontend& frontend, const driver::Agreement& agreement) {
    const auto config = frontend.get_config(0, kConfigBytes);
    if (!config || config->size() != kConfigBytes) {
        return refuse("the capacity of the disk cannot be read");
    }
    if (writes() && agreement.features.has(VIRTIO_BLK_F_RO)) {
        return refuse("the disk is read-only");
    }
    const bool must_flush = plan_.access == Access::kFlush || plan_.flush_every != 0;
    flushes_ = agreement.features.has(VIRTIO_BLK_F_FLUSH);
    if (must_flush && !flushes_) {
        return refuse("the disk does not offer FLUSH");
    }
    if (agreement.features.has(VIRTIO_BLK_F_BLK_SIZE)) {
        const auto block_bytes = field<uint32_t>(*config, kBlkSizeOffset);
        if (block_bytes != 0 && plan_.block_bytes % block_bytes != 0) {
            return refuse(
                fmt::format("--bs must be a multiple of the disk's blocks, {} bytes", block_bytes));
        }
    }
    OUTRIGGER_TRY(choose_cache(frontend, agreement));
    const auto sectors = field<uint64_t>(*config, 0);
    return set_area(std::min(sectors, UINT64_MAX / kSectorBytes) * kSectorBytes);
}

Result<void> BlkWorkload::choose_cache(driver::Frontend& frontend,
                                       const driver::Agreement& agreement) const {
    if (plan_.write_cache == WriteCache::kAsItIs || queue_ != 0) {
        return {};
    }
    if (!agreement.features.has(VIRTIO_BLK_F_CONFIG_WCE)) {
        return refuse("the disk does not let --write-cache choose");
    }
    const std::byte writeback{plan_.write_cache == WriteCache::kWriteback};
    if (!driver::went_well(frontend.set_config(kWritebackOffset, std::span(&writeback, 1)))) {
        return refuse("the disk refuses what --write-cache says");
    }
    return {};
}

Result<void> BlkWorkload::set_area(uint64_t capacity_bytes) {
    if (plan_.area_bytes > capacity_bytes) {
        return refuse(fmt::format(
            "--size is {} bytes and the disk has {}", plan_.area_bytes, capacity_bytes));
    }
    uint64_t area_bytes = plan_.area_bytes;
    if (area_bytes == 0) {
        area_bytes = plan_.verify ? std::min(capacity_bytes, kVerifiedBytes) : capacity_bytes;
    }
    uint64_t blocks = area_bytes / plan_.block_bytes;
    if (plan_.verify) {
        // Each queue knows what its own blocks hold, and nobody else may write there.
        blocks /= plan_.queues;
        first_block_ = blocks * queue_;
    }
    if (blocks == 0) {
        return refuse("the area is smaller than one block of --bs for each queue");
    }
    // More blocks than have a number: the others are left alone.
    block_count_ = static_cast<uint32_t>(std::min<uint64_t>(blocks, UINT32_MAX));
    if (!plan_.verify) {
        next_ = static_cast<uint32_t>(uint64_t{block_count_} * queue_ / plan_.queues);
    }
    return {};
}

void BlkWorkload::assume() {
    flushes_ = true;
    OUTRIGGER_ASSERT(set_area(std::max(kAssumedBytes, plan_.area_bytes)).has_value());
}

uint64_t BlkWorkload::slot_bytes() const {
    return 2 * kLineBytes + plan_.block_bytes + 2 * kPageBytes;
}

Result<void> BlkWorkload::allocate(driver::GuestMemory& memory, uint32_t slots) {
    if (plan_.verify) {
        OUTRIGGER_TRY(open_book(slots));
    }
    for (uint32_t i = 0; i < slots; ++i) {
        const GuestAddr header = OUTRIGGER_TRY(memory.allocate(sizeof(RequestHeader), kLineBytes));
        // Lines of their own: the device writes the status while we write the next header.
        const GuestAddr status = OUTRIGGER_TRY(memory.allocate(kLineBytes, kLineBytes));
        const GuestAddr data = OUTRIGGER_TRY(memory.allocate(plan_.block_bytes, kPageBytes));
        const driver::Segment first{header, sizeof(RequestHeader), false};
        const driver::Segment last{status, 1, true};
        slots_.push_back({.transfer = {{first, {data, plan_.block_bytes, true}, last}},
                          .flush = {{first, last}},
                          .header = memory.data(header, sizeof(RequestHeader)),
                          .data = memory.data(data, plan_.block_bytes),
                          .status = memory.data(status, 1)});
        std::memset(slots_.back().data, 'o', plan_.block_bytes);
    }
    return {};
}

std::string BlkWorkload::state_path() const {
    return plan_.queues == 1 ? plan_.verify_state
                             : fmt::format("{}.{}", plan_.verify_state, queue_);
}

Result<void> BlkWorkload::open_book(uint32_t slots) {
    if (block_count_ < slots) {
        return refuse(
            fmt::format("--verify needs a block for each of {} requests in flight, and "
                        "the area has {}",
                        slots,
                        block_count_));
    }
    recovering_ = !plan_.verify_state.empty() && std::filesystem::exists(state_path());
    if (recovering_) {
        book_.emplace(
            OUTRIGGER_TRY(BlockBook::load(state_path(), block_count_, plan_.block_bytes)));
    } else {
        std::random_device source;
        book_.emplace(block_count_, plan_.block_bytes, uint64_t{source()} << 32 | source());
    }
    return {};
}

Result<void> BlkWorkload::close() {
    if (!book_ || plan_.verify_state.empty()) {
        return {};
    }
    return book_->save(state_path());
}

Result<bool> BlkWorkload::enter(Phase phase) {
    if (phase_ == Phase::kPrepare && phase != Phase::kPrepare && recovering_) {
        // From now on the disk changes: who ends us at once must not leave a book that lies.
        std::error_code error;
        std::filesystem::remove(state_path(), error);
        if (error) {
            return failure(error_from_code("cannot remove " + state_path(), error.value()));
        }
        recovering_ = false;
    }
    phase_ = phase;
    if (phase != Phase::kLoad) {
        next_ = 0;  // every block of the area once
        flush_due_ = flushes_ && !plan_.verify_state.empty();
    }
    return phase == Phase::kLoad || book_.has_value();
}

uint64_t BlkWorkload::random() {
    // Marsaglia: "Xorshift RNGs" (2003).
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_;
}

BlkWorkload::Operation BlkWorkload::next_operation() {
    if (phase_ != Phase::kLoad && next_ >= block_count_) {
        return Operation::kFlush;
    }
    if (phase_ == Phase::kCheck || is_recovering()) {
        return Operation::kRead;
    }
    if (phase_ == Phase::kPrepare) {
        return Operation::kWrite;
    }
    if (plan_.flush_every != 0 && ++since_flush_ >= plan_.flush_every) {
        since_flush_ = 0;
        return Operation::kFlush;
    }
    const Access access = plan_.access;
    if (access == Access::kRandRw) {
        return random() % 100 < plan_.read_percent ? Operation::kRead : Operation::kWrite;
    }
    if (access == Access::kWrite || access == Access::kRandWrite) {
        return Operation::kWrite;
    }
    return access == Access::kFlush ? Operation::kFlush : Operation::kRead;
}

uint32_t BlkWorkload::next_block() {
    uint32_t block = next_ < block_count_ ? next_ : 0;
    const bool sequential =
        phase_ != Phase::kLoad || plan_.access == Access::kRead || plan_.access == Access::kWrite;
    if (sequential) {
        next_ = block + 1;
    } else {
        block = static_cast<uint32_t>((random() >> 32) * block_count_ >> 32);
    }
    return book_ ? book_->take(block) : block;
}

/// Has the phase, in which every block is used once, one more request?
bool BlkWorkload::takes_more() {
    if (phase_ == Phase::kLoad || next_ < block_count_) {
        return true;
    }
    // Behind all others, so that what they have written is safe: the last that comes back asks.
    return in_flight_ == 0 && std::exchange(flush_due_, false);
}

std::span<const driver::Segment> BlkWorkload::begin(uint32_t number) {
    if (!takes_more()) {
        return {};
    }
    ++in_flight_;
    Slot& slot = slots_[number];
    slot.operation = next_operation();
    uint32_t type = VIRTIO_BLK_T_IN;
    uint64_t sector = 0;
    if (slot.operation == Operation::kFlush) {
        type = VIRTIO_BLK_T_FLUSH;
        slot.flush_began = book_ ? book_->flush_begins() : 0;
    } else {
        slot.block = next_block();
        sector = (first_block_ + slot.block) * (plan_.block_bytes / kSectorBytes);
        slot.transfer[1].device_writable = slot.operation == Operation::kRead;
        if (slot.operation == Operation::kWrite) {
            type = VIRTIO_BLK_T_OUT;
            if (book_) {
                book_->stamp(slot.block, data_of(slot));
            }
        } else if (book_) {
            // A back end that says it has read and has not must not find the last read's data.
            std::memset(slot.data, 0, sizeof(uint64_t));
        }
    }
    const RequestHeader header{.type = Le32(type), .reserved = {}, .sector = Le64(sector)};
    std::memcpy(slot.header, &header, sizeof header);
    // Relaxed: published with the ring.
    driver::store_le<uint8_t>(slot.status, kNoStatus, std::memory_order_relaxed);
    return slot.operation == Operation::kFlush ? std::span<const driver::Segment>(slot.flush)
                                               : std::span<const driver::Segment>(slot.transfer);
}

Verdict BlkWorkload::finish(uint32_t number, const driver::Completion& /*completion*/) {
    const Slot& slot = slots_[number];
    --in_flight_;
    // Relaxed: the ring's used index was acquired behind it.
    const auto status = driver::load_le<uint8_t>(slot.status, std::memory_order_relaxed);
    const bool good = status == VIRTIO_BLK_S_OK;
    Verdict verdict = good ? Verdict::kGood : Verdict::kFailed;
    if (!good) {
        complain(slot, status);
    }
    if (!book_) {
        return verdict;
    }
    if (slot.operation == Operation::kFlush) {
        if (good) {
            book_->flush_succeeded(slot.flush_began);
        }
        return verdict;
    }
    if (good && slot.operation == Operation::kRead) {
        verdict = check_read(slot);
    }
    if (slot.operation == Operation::kWrite) {
        book_->write_ended(slot.block, good);
        return verdict;
    }
    if (!good && is_recovering()) {
        book_->forget(slot.block);
    }
    book_->read_ended(slot.block);
    return verdict;
}

Verdict BlkWorkload::check_read(const Slot& slot) {
    const BlockFinding finding = is_recovering() ? book_->check_recovered(slot.block, data_of(slot))
                                                 : book_->check(slot.block, data_of(slot));
    ++compared_;
    if (finding == BlockFinding::kGood) {
        return Verdict::kGood;
    }
    complaint_ = place_of(slot.block) + book_->describe(slot.block, finding, data_of(slot));
    return Verdict::kWrong;
}

/// Blocks are counted within a queue's own area: says where that is.
std::string BlkWorkload::place_of(uint32_t block) const {
    const uint64_t byte = (first_block_ + block) * plan_.block_bytes;
    return fmt::format("queue {}, byte {}: ", queue_, byte);
}

void BlkWorkload::complain(const Slot& slot, uint8_t status) {
    if (!complaint_.empty()) {
        return;
    }
    constexpr std::array<std::string_view, 3> kNames = {"read", "write", "flush"};
    const std::string_view name = kNames[static_cast<size_t>(slot.operation)];
    const std::string_view what = status == VIRTIO_BLK_S_IOERR    ? "an I/O error"
                                  : status == VIRTIO_BLK_S_UNSUPP ? "unsupported"
                                                                  : "no valid status";
    complaint_ =
        slot.operation == Operation::kFlush
            ? fmt::format("{}: {}", name, what)
            : fmt::format("{}{} of block {}: {}", place_of(slot.block), name, slot.block, what);
}

}  // namespace outrigger::bench
