// SPDX-License-Identifier: Apache-2.0
#include "tests/support/disk_guest.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <utility>

#include <linux/virtio_blk.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

/// No multiple of anything that a device may count in.
constexpr uint32_t kSegmentBytes = 9001;

/// Of the driver's queues.
constexpr uint16_t kRingSize = 256;

bool is_read(const DiskRequest& request) {
    return request.type == VIRTIO_BLK_T_IN || request.type == VIRTIO_BLK_T_GET_ID;
}

}  // namespace

DiskGuest::DiskGuest(driver::Frontend connected, const Options& options)
    : frontend_(std::move(connected)) {
    const uint64_t slot_bytes = uint64_t{kDataBytesMax} + 8192;
    memory_ = driver::GuestMemory::create((uint64_t{4} << 20) +
                                          slot_bytes * options.in_flight_max * options.queue_count)
                  .value();
    driver::BringUpOptions bring_up{
        .indirect_segments_max = 130, .queue_count = options.queue_count, .queue_size = kRingSize};
    if (options.inflight_queues > 0) {
        bring_up.protocol_features =
            bring_up.protocol_features.with(bit(wire::ProtocolFeature::kInflightShmfd));
    }
    auto up = driver::bring_up(frontend_, memory_, bring_up);
    EXPECT_TRUE(up.has_value()) << up.error().step;
    running_ = *std::move(up);
    if (options.inflight_queues > 0) {
        note_in_flight(options.inflight_queues);
    }
    slots_.resize(options.queue_count);
    free_slots_.resize(options.queue_count);
    for (size_t queue = 0; queue < options.queue_count; ++queue) {
        for (size_t i = 0; i < options.in_flight_max; ++i) {
            slots_[queue].push_back({.header = memory_.allocate(16, 16).value(),
                                     .data = memory_.allocate(kDataBytesMax, 4096).value(),
                                     .status = memory_.allocate(1, 1).value()});
            free_slots_[queue].push_back(i);
        }
    }
}

void DiskGuest::note_in_flight(uint16_t queue_count) {
    for (driver::DriverQueue& queue : running_.queues) {
        EXPECT_TRUE(queue.stop(frontend_));
    }
    auto region = frontend_.get_inflight_fd(queue_count, kRingSize);
    EXPECT_TRUE(region);
    inflight_ = *std::move(region);
    for (driver::DriverQueue& queue : running_.queues) {
        EXPECT_EQ(queue.start(frontend_, memory_), driver::Answer::kAccepted);
        EXPECT_EQ(frontend_.set_vring_enable(queue.index(), true), driver::Answer::kAccepted);
    }
}

namespace {

/// The field `index` of the available or the used ring, VIRTIO 1.3, 2.7.6 and 2.7.8.
uint16_t index_of(const driver::GuestMemory& memory, uint64_t ring) {
    std::byte* const index = memory.data(GuestAddr{ring + 2}, sizeof(uint16_t));
    // SAFETY: rings are aligned, and their memory is mapped as long as it is the guest's.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(index)).load();
}

wire::VringAddress areas_of(const driver::GuestMemory& memory, const driver::DriverQueue& queue) {
    return queue.vring_address(memory, driver::RingAddressKind::kGuest);
}

}  // namespace

size_t DiskGuest::outstanding() const {
    size_t count = 0;
    for (const driver::DriverQueue& queue : running_.queues) {
        const wire::VringAddress areas = areas_of(memory_, queue);
        count += static_cast<uint16_t>(index_of(memory_, areas.available) -
                                       index_of(memory_, areas.used));
    }
    return count;
}

/// "Inflight I/O tracking", QueueRegionSplit.
size_t DiskGuest::noted_in_flight() const {
    constexpr size_t kUsedIndex = 14;
    constexpr size_t kEntries = 16;
    constexpr size_t kEntryBytes = 16;
    std::array<std::byte, kEntries + kRingSize * kEntryBytes> region{};
    EXPECT_EQ(::pread(inflight_.fd.get(),
                      region.data(),
                      region.size(),
                      static_cast<off_t>(inflight_.description.mmap_offset)),
              static_cast<ssize_t>(region.size()));
    uint16_t used = 0;
    std::memcpy(&used, region.data() + kUsedIndex, sizeof used);
    if (used != index_of(memory_, areas_of(memory_, running_.queues[0]).used)) {
        return 0;  // what it has answered last is noted still
    }
    size_t count = 0;
    for (size_t i = 0; i < kRingSize; ++i) {
        if (region[kEntries + i * kEntryBytes] == std::byte{1}) {
            ++count;
        }
    }
    return count;
}

uint64_t DiskGuest::disk_bytes() {
    uint64_t sectors = 0;
    std::memcpy(&sectors, config(sizeof sectors).data(), sizeof sectors);
    return sectors * 512;
}

void DiskGuest::submit(size_t queue_index, size_t slot_index, DiskRequest& request) {
    Slot& slot = slots_[queue_index][slot_index];
    slot.request = &request;
    request.status = -1;
    std::array<std::byte, 16> header{};
    const bool ranges =
        request.type == VIRTIO_BLK_T_DISCARD || request.type == VIRTIO_BLK_T_WRITE_ZEROES;
    const uint64_t sector = ranges ? 0 : request.offset_bytes / 512;
    std::memcpy(header.data(), &request.type, sizeof request.type);
    std::memcpy(header.data() + 8, &sector, sizeof sector);
    memory_.write(slot.header, header);
    const bool reads = is_read(request);
    ASSERT_LE(request.data.size(), kDataBytesMax);
    // What is to be read must not be there already.
    if (!request.data.empty()) {
        memory_.write(
            slot.data,
            reads ? std::vector<std::byte>(request.data.size(), std::byte{0xee}) : request.data);
    }
    std::vector<driver::Segment> segments{{slot.header, 16, false}};
    for (uint32_t at = 0; at < request.data.size();) {
        const uint32_t length =
            std::min(kSegmentBytes, static_cast<uint32_t>(request.data.size()) - at);
        segments.push_back({GuestAddr{static_cast<uint64_t>(slot.data) + at}, length, reads});
        at += length;
    }
    segments.push_back({slot.status, 1, true});
    EXPECT_TRUE(
        running_.queues[queue_index].try_add(segments, slot_index, driver::ChainLayout::kIndirect));
}

size_t DiskGuest::take_answers(size_t queue_index) {
    size_t count = 0;
    while (const auto used = running_.queues[queue_index].poll_used()) {
        const auto index = static_cast<size_t>(used->token);
        Slot& slot = slots_[queue_index][index];
        std::byte status{};
        memory_.read(slot.status, std::span(&status, 1));
        slot.request->status = std::to_integer<int>(status);
        if (is_read(*slot.request)) {
            memory_.read(slot.data, slot.request->data);
        }
        free_slots_[queue_index].push_back(index);
        ++count;
    }
    return count;
}

bool DiskGuest::run(std::span<DiskRequest> requests) {
    return run(requests, kPatience);
}

bool DiskGuest::run(std::span<DiskRequest> requests, std::chrono::seconds patience) {
    size_t next = 0;
    size_t answered = 0;
    const auto deadline = driver::after(patience);
    while (answered < requests.size()) {
        for (size_t queue = 0; queue < slots_.size(); ++queue) {
            while (next < requests.size() && !free_slots_[queue].empty()) {
                const size_t slot = free_slots_[queue].back();
                free_slots_[queue].pop_back();
                submit(queue, slot, requests[next++]);
            }
            running_.queues[queue].publish_and_kick();
        }
        // One at a time is waited for: each has its turn, because all are given work in turn.
        for (size_t queue = 0; queue < slots_.size(); ++queue) {
            if (running_.queues[queue].in_flight() == 0) {
                continue;
            }
            if (running_.queues[queue].wait_used(deadline) != driver::WaitResult::kUsed) {
                return false;
            }
            answered += take_answers(queue);
        }
    }
    return true;
}

int DiskGuest::run_one(DiskRequest& request) {
    return run(std::span(&request, 1)) ? request.status : -1;
}

std::vector<std::byte> DiskGuest::read_all(uint32_t step_bytes) {
    const uint64_t size = disk_bytes();
    std::vector<DiskRequest> requests;
    for (uint64_t at = 0; at < size; at += step_bytes) {
        requests.push_back(
            {.type = VIRTIO_BLK_T_IN,
             .offset_bytes = at,
             .data = std::vector<std::byte>(std::min<uint64_t>(step_bytes, size - at))});
    }
    EXPECT_TRUE(run(requests));
    std::vector<std::byte> all;
    for (const DiskRequest& request : requests) {
        EXPECT_EQ(request.status, VIRTIO_BLK_S_OK) << "at byte " << request.offset_bytes;
        all.insert(all.end(), request.data.begin(), request.data.end());
    }
    return all;
}

}  // namespace outrigger::testing
