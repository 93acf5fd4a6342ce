// SPDX-License-Identifier: Apache-2.0
/// Aligned memory for direct I/O on guest buffers that are not: a few buffers per queue, made when
/// first needed and kept.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <vector>

namespace outrigger::blk {

/// Thread-bound: queue worker.
class BouncePool final {
  public:
    static constexpr size_t kBuffersMax = 8;
    static constexpr size_t kBufferBytes = size_t{256} << 10;
    /// Covers every alignment that direct I/O asks for.
    static constexpr std::align_val_t kAlignment{65536};

    /// Empty when all are taken or the host has no memory.
    [[nodiscard]] std::span<std::byte> take() {
        if (free_count_ == 0 && made_ < kBuffersMax) {
            auto* const memory =
                static_cast<std::byte*>(::operator new(kBufferBytes, kAlignment, std::nothrow));
            if (memory == nullptr) {
                return {};
            }
            owned_[made_++].reset(memory);
            free_[free_count_++] = memory;
        }
        return free_count_ == 0 ? std::span<std::byte>()
                                : std::span(free_[--free_count_], kBufferBytes);
    }

    void give_back(std::span<std::byte> buffer) { free_[free_count_++] = buffer.data(); }

    /// Buffers that are out.
    [[nodiscard]] size_t taken() const { return made_ - free_count_; }

  private:
    struct Release {
        void operator()(std::byte* memory) const { ::operator delete(memory, kAlignment); }
    };

    std::array<std::unique_ptr<std::byte, Release>, kBuffersMax> owned_;
    std::array<std::byte*, kBuffersMax> free_{};
    size_t made_ = 0;
    size_t free_count_ = 0;
};

}  // namespace outrigger::blk
