// SPDX-License-Identifier: Apache-2.0
/// What a stream of bytes holds, by its position: so that whoever receives it knows what must come
/// without having seen what was sent. Each stream begins elsewhere in one long random text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace outrigger::bench {

class BytePattern final {
  public:
    /// view() gives no more than that at a time.
    static constexpr size_t kViewBytesMax = 1 << 20;

    BytePattern() : bytes_(kPeriodBytes + kViewBytesMax) {
        uint64_t random = 0x9e3779b97f4a7c15;
        for (size_t i = 0; i < bytes_.size(); ++i) {
            random ^= random << 13;  // Marsaglia: "Xorshift RNGs" (2003)
            random ^= random >> 7;
            random ^= random << 17;
            bytes_[i] =
                i < kPeriodBytes ? static_cast<std::byte>(random >> 32) : bytes_[i - kPeriodBytes];
        }
    }

    /// `length` bytes of a stream from `position` on, length <= kViewBytesMax.
    [[nodiscard]] std::span<const std::byte> view(uint32_t stream,
                                                  uint64_t position,
                                                  size_t length) const {
        const uint64_t begin = (position + uint64_t{stream} * kStreamStep) % kPeriodBytes;
        return std::span(bytes_).subspan(begin, length);
    }

    /// Is that what the stream holds there? Any length.
    [[nodiscard]] bool matches(uint32_t stream,
                               uint64_t position,
                               std::span<const std::byte> received) const {
        while (!received.empty()) {
            const size_t length = std::min(received.size(), kViewBytesMax);
            if (std::memcmp(received.data(), view(stream, position, length).data(), length) != 0) {
                return false;
            }
            position += length;
            received = received.subspan(length);
        }
        return true;
    }

  private:
    // A prime: what is lost or doubled is hardly ever a multiple of it.
    static constexpr size_t kPeriodBytes = 65521;
    static constexpr uint64_t kStreamStep = 977;

    std::vector<std::byte> bytes_;
};

}  // namespace outrigger::bench
