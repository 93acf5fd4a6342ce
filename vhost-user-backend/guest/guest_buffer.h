// SPDX-License-Identifier: Apache-2.0
/// A checked, contiguous range of guest memory. The guest may write it at any time, so the bytes
/// are copied or handed to the kernel as an iovec, and never read through a reference.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include <sys/uio.h>

namespace outrigger {

class GuestBuffer final {
  public:
    GuestBuffer() = default;

    GuestBuffer(std::byte* data, size_t size) : data_(data), size_(size) {}

    explicit GuestBuffer(const iovec& range)
        : data_(static_cast<std::byte*>(range.iov_base)), size_(range.iov_len) {}

    [[nodiscard]] size_t size() const { return size_; }

    [[nodiscard]] bool empty() const { return size_ == 0; }

    [[nodiscard]] iovec as_iovec() const { return {.iov_base = data_, .iov_len = size_}; }

    /// Copies min(size(), in.size()) bytes from `in`; returns how many.
    size_t copy_from(std::span<const std::byte> in) const {
        const size_t count = std::min(size_, in.size());
        if (count > 0) {
            std::memcpy(data_, in.data(), count);
        }
        return count;
    }

  private:
    std::byte* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace outrigger
