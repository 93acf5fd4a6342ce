// SPDX-License-Identifier: Apache-2.0
/// Where an overlay's metadata is read and written, blocking: a file, or what a test puts in its
/// place to cut the power.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "devices/blk/image_file.h"

namespace outrigger::blk {

/// All return 0 or an errno value. One thread at a time.
class LayerStore {
  public:
    LayerStore() = default;
    LayerStore(const LayerStore&) = delete;
    LayerStore& operator=(const LayerStore&) = delete;
    virtual ~LayerStore() = default;

    [[nodiscard]] virtual uint64_t size_bytes() const = 0;
    /// All of `out`, or an error; EIO behind the end.
    [[nodiscard]] virtual int read(uint64_t offset_bytes, std::span<std::byte> out) = 0;
    [[nodiscard]] virtual int write(uint64_t offset_bytes, std::span<const std::byte> in) = 0;
    /// What was written before, here and by the data's queues, is on stable storage.
    [[nodiscard]] virtual int sync() = 0;
};

class LayerFileStore final : public LayerStore {
  public:
    /// `fd` is an open file without O_DIRECT. `data`, when there is one, is the same file as the
    /// data's queues have it, and outlives this: a sync that failed for one failed for both.
    LayerFileStore(UniqueFd fd, uint64_t size_bytes, ImageFile* data)
        : fd_(std::move(fd)), size_bytes_(size_bytes), data_(data) {}

    [[nodiscard]] uint64_t size_bytes() const override { return size_bytes_; }

    [[nodiscard]] int read(uint64_t offset_bytes, std::span<std::byte> out) override;
    [[nodiscard]] int write(uint64_t offset_bytes, std::span<const std::byte> in) override;
    [[nodiscard]] int sync() override;

    /// Makes the range read as zeroes, by a hole where there can be one.
    [[nodiscard]] int zero(uint64_t offset_bytes, uint64_t length_bytes);

    /// Gives the range's space back where the system can do that in one step: whatever ends this
    /// process, the file keeps its size. What it holds then is undefined.
    [[nodiscard]] int give_back(uint64_t offset_bytes, uint64_t length_bytes);

    [[nodiscard]] int fd() const { return fd_.get(); }

  private:
    const UniqueFd fd_;
    const uint64_t size_bytes_;
    ImageFile* const data_;
};

}  // namespace outrigger::blk
