// SPDX-License-Identifier: Apache-2.0
/// A set of feature bits: virtio device features or vhost-user protocol features.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace outrigger {

class FeatureSet final {
  public:
    constexpr FeatureSet() = default;

    /// The set whose mask is `bits`.
    constexpr explicit FeatureSet(uint64_t bits) : bits_(bits) {}

    /// The set of the given bit numbers, each below 64.
    static constexpr FeatureSet of(std::initializer_list<unsigned> bit_numbers) {
        FeatureSet set;
        for (const unsigned bit : bit_numbers) {
            set = set.with(bit);
        }
        return set;
    }

    [[nodiscard]] constexpr uint64_t bits() const { return bits_; }

    [[nodiscard]] constexpr bool has(unsigned bit) const { return (bits_ >> bit & 1U) != 0; }

    [[nodiscard]] constexpr bool contains(FeatureSet other) const {
        return (other.bits_ & ~bits_) == 0;
    }

    [[nodiscard]] constexpr FeatureSet with(unsigned bit) const {
        return FeatureSet(bits_ | uint64_t{1} << bit);
    }

    [[nodiscard]] constexpr FeatureSet without(unsigned bit) const {
        return FeatureSet(bits_ & ~(uint64_t{1} << bit));
    }

    friend constexpr FeatureSet operator|(FeatureSet a, FeatureSet b) {
        return FeatureSet(a.bits_ | b.bits_);
    }

    friend constexpr FeatureSet operator&(FeatureSet a, FeatureSet b) {
        return FeatureSet(a.bits_ & b.bits_);
    }

    friend constexpr bool operator==(FeatureSet, FeatureSet) = default;

  private:
    uint64_t bits_ = 0;
};

}  // namespace outrigger
