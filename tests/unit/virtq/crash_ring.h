// SPDX-License-Identifier: Apache-2.0
/// A ring of four with a driver, in memory that can be copied as it is at any moment: what tests of
/// crash points stop and go on from.
///
/// The driver is written from VIRTIO 1.3, 2.7 and 2.8, on raw memory, so that its state can be
/// copied together with it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/virtq/inflight_buffer.h"
#include "vhost-user-backend/virtq/outcome_buffer.h"
#include "vhost-user-backend/virtq/outcome_journal.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {

inline constexpr uint16_t kRingSize = 4;
inline constexpr size_t kPage = 4096;
inline constexpr uint64_t kData = kPage;  // buffers, in a page of their own
inline constexpr size_t kRingBytes = 256;
inline constexpr size_t kLogBytes = 192;  // whichever format
inline constexpr size_t kRecordBytes = 12;
inline constexpr size_t kOutcomeBytes = OutcomeJournal::bytes(kRingSize, kRecordBytes);
inline constexpr size_t kIdMax = 3;
inline constexpr size_t kAnswerBytes = 8;
inline constexpr size_t kBufferBytes = 32;  // of each request
inline constexpr uint64_t kEffects =
    kData + kBufferBytes * (kIdMax + 1);  // not the driver's: see Effects
inline constexpr size_t kDataBytes = kEffects - kData + 8 * (kIdMax + 1);

/// Requests that a driver may have out, by id: the first takes two descriptors.
inline constexpr std::array<uint16_t, 3> kIds = {0, 2, 3};

constexpr uint16_t descriptors_of(uint16_t id) {
    return id == 0 ? 2 : 1;
}

/// CrashMemory of one moment.
struct CrashMemory {
    std::array<std::byte, kRingBytes> ring;
    std::array<std::byte, kLogBytes> log;
    std::array<std::byte, kDataBytes> data;
    std::array<std::byte, kOutcomeBytes> outcomes;
};

/// Guest memory with a ring at address 0, an in-flight buffer of one queue, and where it is asked
/// for an outcome buffer.
class CrashWorld final {
  public:
    explicit CrashWorld(bool notes_outcomes = false) {
        UniqueFd file = create_shared_memory("crash-test", kPage).value();
        const InflightDescription description{
            .bytes = kLogBytes, .offset = 0, .queue_count = 1, .queue_size = kRingSize};
        buffer_ = InflightBuffer::map(std::move(file), description, 1).value();
        snapshot_ = memory_.snapshot();
        if (notes_outcomes) {
            outcomes_ = OutcomeBuffer::create(
                            {.queue_count = 1, .entries = kRingSize, .record_bytes = kRecordBytes})
                            .value();
        }
    }

    [[nodiscard]] std::byte* ring() const { return memory_.at(0); }

    [[nodiscard]] bool notes_outcomes() const { return outcomes_ != nullptr; }

    /// What requests have done to the host, by id: how often each was carried out.
    [[nodiscard]] std::byte* effect(uint16_t id) const {
        return memory_.at(kEffects + uint64_t{8} * id);
    }

    /// What the device has answered to a request.
    [[nodiscard]] uint64_t answer(uint16_t id) const {
        return get<uint64_t>(memory_.at(kData + kBufferBytes * id));
    }

    [[nodiscard]] CrashMemory copy() const {
        CrashMemory memory;
        std::memcpy(memory.ring.data(), ring(), kRingBytes);
        std::memcpy(memory.log.data(), buffer_->part(0).data(), kLogBytes);
        std::memcpy(memory.data.data(), memory_.at(kData), kDataBytes);
        if (outcomes_ != nullptr) {
            std::memcpy(memory.outcomes.data(), outcomes_->part(0).data(), kOutcomeBytes);
        }
        return memory;
    }

    void load(const CrashMemory& memory) const {
        std::memcpy(ring(), memory.ring.data(), kRingBytes);
        std::memcpy(buffer_->part(0).data(), memory.log.data(), kLogBytes);
        std::memcpy(memory_.at(kData), memory.data.data(), kDataBytes);
        if (outcomes_ != nullptr) {
            std::memcpy(outcomes_->part(0).data(), memory.outcomes.data(), kOutcomeBytes);
        }
    }

    /// As it was at first.
    const CrashWorld& forget() const {
        load({});
        return *this;
    }

    [[nodiscard]] std::unique_ptr<Virtqueue> start(const VirtqueueConfig& config,
                                                   uint32_t base) const {
        auto queue = Virtqueue::create(config,
                                       VringBase{base},
                                       snapshot_,
                                       {.buffer = buffer_, .queue = 0, .outcomes = outcomes_});
        return queue ? *std::move(queue) : nullptr;
    }

    /// What a device stores to.
    [[nodiscard]] std::vector<std::span<std::byte>> watched() const {
        std::vector<std::span<std::byte>> ranges{{ring(), kPage}, {buffer_->part(0).data(), kPage}};
        if (outcomes_ != nullptr) {
            ranges.emplace_back(memory_.at(kData), kPage);
            ranges.emplace_back(outcomes_->part(0).data(), kPage);
        }
        return ranges;
    }

  private:
    GuestMemory memory_{{{0, 2 * kPage}}};
    std::shared_ptr<const InflightBuffer> buffer_;
    std::shared_ptr<const OutcomeBuffer> outcomes_;
    std::shared_ptr<const MemorySnapshot> snapshot_;
};

/// A driver of either format, on the memory that it is given each time. Chains: see kIds.
class CrashDriver final {
  public:
    /// Both sides begin near the end of the ring or of the index, so that they wrap.
    CrashDriver(bool packed, std::byte* ring) : packed_(packed) {
        std::memset(ring, 0, kRingBytes);
        if (packed_) {
            next_ = kStart;
            used_ = kStart;
            for (uint16_t index = 0; index < kStart; ++index) {
                // Used in this lap, as far as the ring has come.
                write_packed(ring, index, 0, kAvailableBit | kUsedBit);
            }
            return;
        }
        put<uint16_t>(ring + kAvailable + 2, kSplitStart);
        put<uint16_t>(ring + kUsed + 2, kSplitStart);
        next_ = kSplitStart;
        used_ = kSplitStart;
        for (const uint16_t id : kIds) {
            write_split_chain(ring, id);
        }
    }

    [[nodiscard]] uint32_t start_base() const {
        constexpr uint32_t kHalf = kStart | 0x8000;
        return packed_ ? kHalf | kHalf << 16 : kSplitStart;
    }

    [[nodiscard]] static VirtqueueConfig config(bool packed) {
        const auto address = [](uint64_t at) {
            return FrontendAddr{at + GuestMemory::kFrontendShift};
        };
        return {.size = kRingSize,
                .packed = packed,
                .descriptor_area = address(0),
                .driver_area = address(packed ? kDriverEvent : kAvailable),
                .device_area = address(packed ? kDeviceEvent : kUsed)};
    }

    [[nodiscard]] bool can_add() const { return outstanding_.size() < kIds.size(); }

    /// Makes the first request that is not out available.
    void add(std::byte* ring) {
        for (const uint16_t id : kIds) {
            if (std::ranges::find(outstanding_, id) == outstanding_.end()) {
                packed_ ? add_packed(ring, id) : add_split(ring, id);
                outstanding_.push_back(id);
                ++submitted_.at(id);
                return;
            }
        }
    }

    /// Takes what the device has used. False: it used what it did not have.
    [[nodiscard]] bool collect(const std::byte* ring) {
        while (const auto id = packed_ ? used_packed(ring) : used_split(ring)) {
            const auto found = std::ranges::find(outstanding_, *id);
            if (found == outstanding_.end()) {
                return false;
            }
            outstanding_.erase(found);
        }
        return true;
    }

    /// How often it was made available.
    [[nodiscard]] uint64_t submitted(uint16_t id) const { return submitted_.at(id); }

    /// In the order in which they were made available.
    [[nodiscard]] const std::vector<uint16_t>& outstanding() const { return outstanding_; }

  private:
    static constexpr uint16_t kStart = 3;
    static constexpr uint16_t kSplitStart = 0xfffe;
    static constexpr size_t kAvailable = 16 * kRingSize;
    static constexpr size_t kUsed = kAvailable + 16;
    static constexpr size_t kDriverEvent = 16 * kRingSize;
    static constexpr size_t kDeviceEvent = kDriverEvent + 4;

    void write_split_chain(std::byte* ring, uint16_t id) const {
        const uint64_t buffer = kData + kBufferBytes * id;
        SplitDescriptor descriptor{.address = buffer, .length = 8, .flags = kWrite};
        if (descriptors_of(id) == 2) {
            const SplitDescriptor first{.address = buffer + 8,
                                        .length = 8,
                                        .flags = kNext,
                                        .next = static_cast<uint16_t>(id + 1)};
            std::memcpy(ring + size_t{16} * id, &first, sizeof first);
            std::memcpy(ring + size_t{16} * (id + 1U), &descriptor, sizeof descriptor);
            return;
        }
        std::memcpy(ring + size_t{16} * id, &descriptor, sizeof descriptor);
    }

    void add_split(std::byte* ring, uint16_t id) {
        put<uint16_t>(ring + kAvailable + 4 + size_t{2} * (next_ % kRingSize), id);
        ++next_;
        put<uint16_t>(ring + kAvailable + 2, next_);
    }

    std::optional<uint16_t> used_split(const std::byte* ring) {
        if (get<uint16_t>(ring + kUsed + 2) == used_) {
            return std::nullopt;
        }
        const auto id = get<uint32_t>(ring + kUsed + 4 + size_t{8} * (used_ % kRingSize));
        ++used_;
        return static_cast<uint16_t>(id);
    }

    void add_packed(std::byte* ring, uint16_t id) {
        const uint16_t first = next_;
        const uint16_t lap = next_wrap_ ? kAvailableBit : kUsedBit;
        const bool two = descriptors_of(id) == 2;
        if (two) {
            advance(next_, next_wrap_, 1);
            write_packed(ring, next_, id, (next_wrap_ ? kAvailableBit : kUsedBit) | kWrite);
        }
        write_packed(ring, first, id, lap | (two ? kNext : kWrite));
        advance(next_, next_wrap_, 1);
    }

    static void write_packed(std::byte* ring, uint16_t index, uint16_t id, int flags) {
        std::byte* const at = ring + size_t{16} * index;
        put<uint64_t>(at, kData + kBufferBytes * id);
        put<uint32_t>(at + 8, 8);
        put<uint16_t>(at + 12, id);
        put<uint16_t>(at + 14, static_cast<uint16_t>(flags));
    }

    std::optional<uint16_t> used_packed(const std::byte* ring) {
        const std::byte* const at = ring + size_t{16} * used_;
        const auto flags = get<uint16_t>(at + 14);
        if (((flags & kAvailableBit) != 0) != used_wrap_ ||
            ((flags & kUsedBit) != 0) != used_wrap_) {
            return std::nullopt;
        }
        const auto id = get<uint16_t>(at + 12);
        advance(used_, used_wrap_, descriptors_of(id));
        return id;
    }

    static void advance(uint16_t& index, bool& wrap, uint16_t count) {
        index = static_cast<uint16_t>(index + count);
        if (index >= kRingSize) {
            index = static_cast<uint16_t>(index - kRingSize);
            wrap = !wrap;
        }
    }

    bool packed_;
    uint16_t next_ = 0;
    uint16_t used_ = 0;
    bool next_wrap_ = true;
    bool used_wrap_ = true;
    std::vector<uint16_t> outstanding_;
    std::array<uint64_t, kIdMax + 1> submitted_{};
};

}  // namespace outrigger::test
