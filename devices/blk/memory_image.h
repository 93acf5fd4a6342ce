// SPDX-License-Identifier: Apache-2.0
/// A disk in the memory of the process, gone with it. Requests are answered at once, by copying on
/// the queue's worker.
#pragma once

#include <cstdint>
#include <memory>

#include "devices/blk/image.h"
#include "devices/blk/memory_store.h"

namespace outrigger::blk {

struct MemoryImageOptions {
    uint64_t size_bytes = 0;  ///< a multiple of block_bytes
    uint32_t block_bytes = 512;
    bool read_only = false;
    bool huge_pages = true;  ///< where the host has some to spare
};

class MemoryImage final : public Image {
  public:
    [[nodiscard]] static Result<std::unique_ptr<MemoryImage>> create(
        const MemoryImageOptions& options);

    [[nodiscard]] const ImageProperties& properties() const override { return properties_; }

    [[nodiscard]] Result<uint64_t> resize(std::optional<uint64_t> size_bytes) override;

    [[nodiscard]] Result<std::unique_ptr<ImageQueue>> open_queue(Worker& worker,
                                                                 uint32_t requests_max) override;

  private:
    MemoryImage(const MemoryImageOptions& options, std::unique_ptr<MemoryStore> store);

    ImageProperties properties_;
    uint64_t size_bytes_;
    std::unique_ptr<MemoryStore> store_;
};

}  // namespace outrigger::blk
