// SPDX-License-Identifier: Apache-2.0
/// Owner of one shared memory mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

class Mapping final {
  public:
    Mapping() = default;
    Mapping(Mapping&& other) noexcept;
    Mapping& operator=(Mapping&& other) noexcept;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping();

    /// Maps `length` bytes of `fd` from `offset`, shared, readable and writable. Neither need be
    /// page-aligned: the slack is kept inside. Fails when the file is shorter than the range.
    [[nodiscard]] static Result<Mapping> map_file(int fd, uint64_t offset, size_t length);

    /// The same, with a page of private memory right before data(); `offset` is page-aligned.
    [[nodiscard]] static Result<Mapping> map_file_behind_page(int fd,
                                                              uint64_t offset,
                                                              size_t length);

    [[nodiscard]] std::byte* data() const { return data_; }

    [[nodiscard]] size_t size() const { return size_; }

    /// The whole mapping, slack, a page before and the last page included; page-aligned.
    [[nodiscard]] std::span<std::byte> whole() const { return {map_base_, map_length_}; }

  private:
    void unmap();

    std::byte* map_base_ = nullptr;  // page-aligned
    size_t map_length_ = 0;
    std::byte* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace outrigger
