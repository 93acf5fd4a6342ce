// SPDX-License-Identifier: Apache-2.0
/// A guest that keeps several queues of a small disk busy with random requests, and knows from a
/// model what it may read.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "tests/support/disk_model.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {

inline constexpr uint64_t kDiskBytes = uint64_t{8} << 20;
inline constexpr uint64_t kSectors = kDiskBytes / DiskModel::kSectorBytes;
inline constexpr uint64_t kBaseSectors = kSectors - 7;
inline constexpr uint64_t kClusterSectors = 8;

/// Requests never overlap while they are in flight: the disk is dealt out in blocks of three
/// sectors, which share clusters, and above its middle in runs of five clusters.
struct Place {
    uint64_t sector;
    uint64_t count;
};

inline constexpr uint64_t kSmallBlocks = kSectors / 2 / 3;
inline constexpr uint64_t kRunSectors = 5 * kClusterSectors;
inline constexpr uint64_t kBlocks = kSmallBlocks + kSectors / 2 / kRunSectors;

inline Place place_of(uint64_t block) {
    return block < kSmallBlocks
               ? Place{.sector = block * 3, .count = 3}
               : Place{.sector = kSectors / 2 + (block - kSmallBlocks) * kRunSectors,
                       .count = kRunSectors};
}

struct GuestOptions {
    bool packed = false;
    uint16_t queue_count = 3;
};

/// A guest that keeps its queues busy with random requests, and knows what it may read.
class LoadGuest final {
  public:
    LoadGuest(driver::Frontend connected, DiskModel& model, uint32_t seed, GuestOptions options)
        : model_(model), random_(seed), frontend_(std::move(connected)) {
        auto up = driver::bring_up(
            frontend_,
            memory_,
            {.packed = options.packed, .queue_count = options.queue_count, .queue_size = 64});
        if (!up) {
            throw std::runtime_error(std::string(up.error().step));
        }
        running_ = *std::move(up);
        slots_.resize(options.queue_count * kInFlight);
        for (Slot& slot : slots_) {
            slot.header = memory_.allocate(16, 16).value();
            slot.data = memory_.allocate(kDataBytes, 512).value();
            slot.status = memory_.allocate(1, 1).value();
        }
    }

    /// Submits until so many were answered, or the time has come, and then waits for those in
    /// flight when `drain` says so. False when the device stopped to answer.
    bool run(size_t answers, driver::Deadline until, bool drain) {
        const size_t goal = answered_ + answers;
        driver::Deadline patience = driver::after(kPatience);
        while (answered_ < goal && driver::Clock::now() < until) {
            submit_all();
            if (take_answers()) {
                patience = driver::after(kPatience);
            } else if (driver::Clock::now() > patience) {
                return false;
            }
        }
        while (drain && in_flight_ > 0) {
            (void)take_answers();
            if (driver::Clock::now() > patience) {
                return false;
            }
        }
        return true;
    }

    /// What was answered before the device went counts, too.
    void take_last_answers() {
        while (take_answers()) {
        }
    }

    /// The whole disk, nothing else in flight.
    [[nodiscard]] std::vector<std::byte> read_disk() {
        std::vector<std::byte> disk(kDiskBytes);
        constexpr uint64_t kStep = kDataBytes;
        Slot& slot = slots_[0];
        for (uint64_t at = 0; at < kDiskBytes; at += kStep) {
            const auto size = static_cast<uint32_t>(std::min(kStep, kDiskBytes - at));
            set_header(slot, VIRTIO_BLK_T_IN, at / 512);
            const std::array<driver::Segment, 3> chain{
                {{slot.header, 16, false}, {slot.data, size, true}, {slot.status, 1, true}}};
            EXPECT_TRUE(running_.queues[0].transact(chain, driver::after(kPatience)));
            EXPECT_EQ(status_of(slot), VIRTIO_BLK_S_OK);
            memory_.read(slot.data, std::span(disk).subspan(at, size));
        }
        return disk;
    }

    bool flush() {
        Slot& slot = slots_[0];
        set_header(slot, VIRTIO_BLK_T_FLUSH, 0);
        const std::array<driver::Segment, 2> chain{
            {{slot.header, 16, false}, {slot.status, 1, true}}};
        return running_.queues[0].transact(chain, driver::after(kPatience)).has_value() &&
               status_of(slot) == VIRTIO_BLK_S_OK;
    }

    [[nodiscard]] uint64_t mismatches() const { return mismatches_; }

    [[nodiscard]] uint64_t failures() const { return failures_; }

    [[nodiscard]] FeatureSet features() const { return running_.agreement.features; }

  private:
    static constexpr size_t kInFlight = 8;  // of each queue
    static constexpr uint64_t kDataBytes = kRunSectors * 512;
    static constexpr uint64_t kNone = ~uint64_t{0};

    struct Slot {
        GuestAddr header{};
        GuestAddr data{};
        GuestAddr status{};
        uint64_t block = kNone;  ///< in flight
        uint32_t type = 0;
        uint32_t bytes = 0;
        DiskModel::Change change{};
        DiskModel::Moment moment{};
    };

    void set_header(const Slot& slot, uint32_t type, uint64_t sector) {
        std::array<std::byte, 16> header{};
        std::memcpy(header.data(), &type, sizeof type);
        std::memcpy(header.data() + 8, &sector, sizeof sector);
        memory_.write(slot.header, header);
        const std::byte unset{0xff};
        memory_.write(slot.status, std::span(&unset, 1));
    }

    [[nodiscard]] uint8_t status_of(const Slot& slot) {
        std::byte status{};
        memory_.read(slot.status, std::span(&status, 1));
        return std::to_integer<uint8_t>(status);
    }

    uint64_t free_block() {
        while (true) {
            const uint64_t block = random_() % 8 == 0
                                       ? kSmallBlocks + random_() % (kBlocks - kSmallBlocks)
                                       : random_() % kSmallBlocks;
            if (std::ranges::none_of(slots_,
                                     [&](const Slot& slot) { return slot.block == block; })) {
                return block;
            }
        }
    }

    void submit_all() {
        for (size_t i = 0; i < slots_.size(); ++i) {
            if (slots_[i].block == kNone) {
                submit(i);
            }
        }
        for (driver::DriverQueue& queue : running_.queues) {
            queue.publish_and_kick();
        }
    }

    void submit(size_t index) {
        Slot& slot = slots_[index];
        slot.block = free_block();
        const Place place = place_of(slot.block);
        slot.bytes = static_cast<uint32_t>(place.count * 512);
        const uint64_t what = random_() % 32;
        std::vector<driver::Segment> chain{{slot.header, 16, false}};
        if (what < 14) {
            slot.type = VIRTIO_BLK_T_OUT;
            std::vector<std::byte> bytes(slot.bytes);
            slot.change = model_.begin_change(place.sector, place.count, bytes);
            memory_.write(slot.data, bytes);
            chain.push_back({slot.data, slot.bytes, false});
        } else if (what < 26) {
            slot.type = VIRTIO_BLK_T_IN;
            // In two parts, of which neither is whole sectors.
            chain.push_back({slot.data, 700, true});
            chain.push_back({driver::offset_by(slot.data, 700), slot.bytes - 700, true});
        } else if (what < 31) {
            const bool whole_clusters = slot.block >= kSmallBlocks;
            slot.type = whole_clusters && can_discard() && what == 30 ? VIRTIO_BLK_T_DISCARD
                                                                      : VIRTIO_BLK_T_WRITE_ZEROES;
            const bool unmap = slot.type == VIRTIO_BLK_T_WRITE_ZEROES && what % 2 == 0;
            slot.change = model_.begin_change(place.sector, place.count, {});
            memory_.write(slot.data, range_bytes(place, unmap));
            chain.push_back({slot.data, 16, false});
        } else {
            slot.type = VIRTIO_BLK_T_FLUSH;
            slot.moment = model_.now();
        }
        chain.push_back({slot.status, 1, true});
        const bool has_sector = slot.type == VIRTIO_BLK_T_IN || slot.type == VIRTIO_BLK_T_OUT;
        set_header(slot, slot.type, has_sector ? place.sector : 0);
        EXPECT_TRUE(running_.queues[index / kInFlight].try_add(chain, index));
        ++in_flight_;
    }

    static std::vector<std::byte> range_bytes(const Place& place, bool unmap) {
        std::vector<std::byte> bytes(16);
        const auto count = static_cast<uint32_t>(place.count);
        const uint32_t flags = unmap ? 1 : 0;
        std::memcpy(bytes.data(), &place.sector, sizeof place.sector);
        std::memcpy(bytes.data() + 8, &count, sizeof count);
        std::memcpy(bytes.data() + 12, &flags, sizeof flags);
        return bytes;
    }

    [[nodiscard]] bool can_discard() const {
        return running_.agreement.features.has(VIRTIO_BLK_F_DISCARD);
    }

    bool take_answers() {
        bool any = false;
        for (driver::DriverQueue& queue : running_.queues) {
            while (const auto used = queue.poll_used()) {
                take_answer(slots_[used->token]);
                any = true;
            }
            EXPECT_EQ(queue.fault(), driver::DeviceFault::kNone);
        }
        return any;
    }

    void take_answer(Slot& slot) {
        ++answered_;
        --in_flight_;
        const Place place = place_of(slot.block);
        slot.block = kNone;
        if (status_of(slot) != VIRTIO_BLK_S_OK) {
            ++failures_;
            return;
        }
        if (slot.type == VIRTIO_BLK_T_IN) {
            std::vector<std::byte> bytes(slot.bytes);
            memory_.read(slot.data, bytes);
            mismatches_ += model_.holds_now(place.sector, bytes) ? 0U : 1U;
        } else if (slot.type == VIRTIO_BLK_T_FLUSH) {
            model_.end_flush(slot.moment);
        } else {
            model_.end_change(slot.change);
        }
    }

    DiskModel& model_;
    std::minstd_rand random_;
    driver::Frontend frontend_;
    driver::GuestMemory memory_ = driver::GuestMemory::create(8 << 20).value();
    driver::RunningDevice running_;
    std::vector<Slot> slots_;
    size_t answered_ = 0;
    size_t in_flight_ = 0;
    uint64_t mismatches_ = 0;
    uint64_t failures_ = 0;
};

}  // namespace outrigger::testing
