// SPDX-License-Identifier: Apache-2.0
/// Which chains are in flight, in the order in which they were made available: what a driver must
/// remember to understand a device that uses chains in order and tells of a batch by its last one.
/// VIRTIO 1.3, 2.7.9 and 2.8.9.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace outrigger::driver {

/// Thread-bound. Allocates in resize() only.
class ChainOrder final {
  public:
    /// Room for as many chains as the ring has entries.
    void resize(uint16_t size) { ids_.resize(size); }

    void clear() { oldest_ = count_ = batch_ = 0; }

    void append(uint16_t id) { ids_[(oldest_ + count_++) % ids_.size()] = id; }

    /// How many chains were used, from the oldest on, when the device names `last`; nullopt when
    /// that one is not in flight.
    [[nodiscard]] std::optional<uint32_t> count_through(uint16_t last) const {
        for (uint32_t i = 0; i < count_; ++i) {
            if (ids_[(oldest_ + i) % ids_.size()] == last) {
                return i + 1;
            }
        }
        return std::nullopt;
    }

    /// The oldest `count` chains were used: take_used() gives them one by one.
    void begin_batch(uint32_t count) { batch_ = count; }

    /// Chains of the batch that were not taken yet.
    [[nodiscard]] uint32_t batch() const { return batch_; }

    [[nodiscard]] uint16_t take_used() {
        const uint16_t id = ids_[oldest_];
        oldest_ = static_cast<uint32_t>((oldest_ + 1) % ids_.size());
        --count_;
        --batch_;
        return id;
    }

  private:
    std::vector<uint16_t> ids_;
    uint32_t oldest_ = 0;
    uint32_t count_ = 0;
    uint32_t batch_ = 0;
};

}  // namespace outrigger::driver
