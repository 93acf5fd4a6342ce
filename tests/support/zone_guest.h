// SPDX-License-Identifier: Apache-2.0
/// A driver of a disk with zones: requests one at a time, and appends with many in flight.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "devices/blk/blk_config.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {

using namespace outrigger::blk;

/// A descriptor of a zone report, in sectors: VIRTIO 1.3, 5.2.6.
struct ToldZone {
    uint64_t capacity = 0;
    uint64_t start = 0;
    uint64_t write_pointer = 0;
    int type = 0;
    int state = 0;
};

class ZoneGuest final {
  public:
    static constexpr uint32_t kDataBytesMax = uint32_t{1} << 20;

    explicit ZoneGuest(driver::Frontend connected,
                       uint16_t queue_count = 1,
                       FeatureSet protocol_features = {})
        : frontend_(std::move(connected)),
          memory_(driver::GuestMemory::create(uint64_t{32} << 20).value()) {
        auto up = driver::bring_up(
            frontend_,
            memory_,
            {.protocol_features = driver::kUsualProtocolFeatures | protocol_features,
             .indirect_segments_max = 130,
             .queue_count = queue_count});
        EXPECT_TRUE(up.has_value()) << up.error().step;
        running_ = *std::move(up);
        for (Slot& slot : slots_) {
            slot = {.header = memory_.allocate(16, 16).value(),
                    .data = memory_.allocate(kSlotBytes, 4096).value(),
                    .answer = memory_.allocate(9, 8).value()};
        }
        large_ = memory_.allocate(kDataBytesMax, 4096).value();
    }

    [[nodiscard]] BlkConfigSpace config() {
        const auto bytes = frontend_.get_config(0, sizeof(BlkConfigSpace)).value();
        BlkConfigSpace space;
        std::memcpy(&space, bytes.data(), sizeof space);
        return space;
    }

    [[nodiscard]] bool has_feature(unsigned bit) const {
        return running_.agreement.features.has(bit);
    }

    int write(uint64_t sector, std::span<const std::byte> data) {
        memory_.write(large_, data);
        return transact(VIRTIO_BLK_T_OUT, sector, data.size(), false);
    }

    int read(uint64_t sector, std::span<std::byte> data) {
        const int status = transact(VIRTIO_BLK_T_IN, sector, data.size(), true);
        memory_.read(large_, data);
        return status;
    }

    int flush() { return transact(VIRTIO_BLK_T_FLUSH, 0, 0, false); }

    /// kZoneOpenType and its like.
    int change(uint32_t type, uint64_t sector) { return transact(type, sector, 0, false); }

    /// As many zones as one report of `room` tells; nothing when it failed.
    [[nodiscard]] std::optional<std::vector<ToldZone>> report(uint64_t sector, size_t room) {
        const size_t bytes = 64 + room * 64;
        memory_.write(large_, std::vector<std::byte>(bytes, std::byte{0xee}));
        if (transact(kZoneReportType, sector, bytes, true) != VIRTIO_BLK_S_OK) {
            return std::nullopt;
        }
        std::vector<std::byte> answer(bytes);
        memory_.read(large_, answer);
        const auto number = [&](size_t at) {
            uint64_t value = 0;
            std::memcpy(&value, answer.data() + at, sizeof value);
            return value;
        };
        std::vector<ToldZone> zones(std::min<uint64_t>(number(0), room));
        for (size_t i = 0; i < zones.size(); ++i) {
            const size_t at = 64 + i * 64;
            zones[i] = {.capacity = number(at),
                        .start = number(at + 8),
                        .write_pointer = number(at + 16),
                        .type = std::to_integer<int>(answer[at + 24]),
                        .state = std::to_integer<int>(answer[at + 25])};
        }
        return zones;
    }

    struct Append {
        uint64_t zone_sector = 0;
        std::vector<std::byte> data{};
        int status = -1;                  ///< -1: not answered
        uint64_t sector = 0;              ///< where it is
        uint32_t type = kZoneAppendType;  ///< or a write, of which `zone_sector` is the place
    };

    /// All of them, over the queues in turn, as many in flight as there are slots. False when one
    /// was not answered.
    [[nodiscard]] bool append(std::span<Append> appends) {
        size_t next = 0;
        size_t ended = 0;
        std::vector<size_t> free_slots;
        for (size_t i = 0; i < kSlots; ++i) {
            free_slots.push_back(i);
        }
        const auto deadline = driver::after(kPatience);
        while (ended < appends.size()) {
            while (next < appends.size() && !free_slots.empty()) {
                submit(appends[next++], free_slots.back());
                free_slots.pop_back();
            }
            for (auto& queue : running_.queues) {
                queue.publish_and_kick();
            }
            for (auto& queue : running_.queues) {
                if (queue.in_flight() == 0) {
                    continue;
                }
                if (queue.wait_used(deadline) != driver::WaitResult::kUsed) {
                    return false;
                }
                while (const auto used = queue.poll_used()) {
                    finish(static_cast<size_t>(used->token));
                    free_slots.push_back(static_cast<size_t>(used->token));
                    ++ended;
                }
            }
        }
        return true;
    }

    [[nodiscard]] driver::Frontend& frontend() { return frontend_; }

    [[nodiscard]] driver::DriverQueue& queue(size_t index) { return running_.queues[index]; }

    /// Starts a queue that was stopped.
    [[nodiscard]] bool start_queue(size_t index) {
        return running_.queues[index].start(frontend_, memory_) == driver::Answer::kAccepted &&
               frontend_.set_vring_enable(static_cast<uint32_t>(index), 1) ==
                   driver::Answer::kAccepted;
    }

    /// One append, on the first queue. It is not waited for.
    void begin_append(Append& append) {
        submit(append, 0);
        running_.queues[0].publish_and_kick();
    }

    /// Its answer. False when none came.
    [[nodiscard]] bool end_append() {
        auto& queue = running_.queues[0];
        if (queue.wait_used(driver::after(kPatience)) != driver::WaitResult::kUsed ||
            !queue.poll_used()) {
            return false;
        }
        finish(0);
        return true;
    }

  private:
    static constexpr size_t kSlots = 16;
    static constexpr uint32_t kSlotBytes = 65536;

    struct Slot {
        GuestAddr header{};
        GuestAddr data{};
        GuestAddr answer{};  // the sector and the status
        Append* append = nullptr;
    };

    void write_header(GuestAddr at, uint32_t type, uint64_t sector) {
        std::array<std::byte, 16> header{};
        std::memcpy(header.data(), &type, sizeof type);
        std::memcpy(header.data() + 8, &sector, sizeof sector);
        memory_.write(at, header);
    }

    /// With data in `large_`. The status; -1 without an answer.
    int transact(uint32_t type, uint64_t sector, size_t bytes, bool reads) {
        Slot& slot = slots_[0];
        write_header(slot.header, type, sector);
        std::vector<driver::Segment> segments{{slot.header, 16, false}};
        if (bytes > 0) {
            segments.push_back({large_, static_cast<uint32_t>(bytes), reads});
        }
        segments.push_back({slot.answer, 1, true});
        if (!running_.queues[0].transact(segments, driver::after(kPatience))) {
            return -1;
        }
        std::byte status{};
        memory_.read(slot.answer, std::span(&status, 1));
        return std::to_integer<int>(status);
    }

    void submit(Append& append, size_t index) {
        Slot& slot = slots_[index];
        slot.append = &append;
        ASSERT_LE(append.data.size(), kSlotBytes);
        write_header(slot.header, append.type, append.zone_sector);
        memory_.write(slot.data, append.data);
        const std::array<driver::Segment, 3> segments{
            {{slot.header, 16, false},
             {slot.data, static_cast<uint32_t>(append.data.size()), false},
             {slot.answer, 9, true}}};
        EXPECT_TRUE(running_.queues[index % running_.queues.size()].try_add(segments, index));
    }

    void finish(size_t index) {
        Slot& slot = slots_[index];
        std::array<std::byte, 9> answer{};
        memory_.read(slot.answer, answer);
        std::memcpy(&slot.append->sector, answer.data(), sizeof slot.append->sector);
        slot.append->status = std::to_integer<int>(answer[8]);
    }

    driver::Frontend frontend_;
    driver::GuestMemory memory_;
    driver::RunningDevice running_;
    std::array<Slot, kSlots> slots_{};
    GuestAddr large_{};
};

}  // namespace outrigger::testing
