// SPDX-License-Identifier: Apache-2.0
/// A disk without storage, to measure everything but the storage: reads end at once, writes go
/// nowhere.
#pragma once

#include <memory>

#include "devices/blk/image.h"

namespace outrigger::blk {

struct NullImageOptions {
    uint64_t size_bytes = 0;
    uint32_t block_bytes = 512;
    bool read_only = false;
    /// Fill the guest's buffers with zeroes. Otherwise reads leave what is in them, which costs
    /// nothing and shows the guest only its own memory.
    bool read_zeroes = false;
};

class NullImage final : public Image {
  public:
    explicit NullImage(const NullImageOptions& options);

    /// Any size will do.
    [[nodiscard]] Result<uint64_t> resize(std::optional<uint64_t> size_bytes) override;

    [[nodiscard]] const ImageProperties& properties() const override { return properties_; }

    [[nodiscard]] Result<std::unique_ptr<ImageQueue>> open_queue(Worker& worker,
                                                                 uint32_t requests_max) override;

  private:
    ImageProperties properties_;
    uint64_t size_bytes_;
    bool read_zeroes_;
};

}  // namespace outrigger::blk
