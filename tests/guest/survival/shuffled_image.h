// SPDX-License-Identifier: Apache-2.0
/// An image in front of another one that answers requests in any order but theirs: each waits for a
/// random time, before it reaches the other image or after. And it notes which block of the guest's
/// verifier reached that one when.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "vhost-user-backend/base/result.h"

#include "devices/blk/image.h"
#include "tests/guest/survival/write_log.h"

namespace outrigger::testing {

class ShuffledImage final : public blk::Image {
  public:
    /// `log` may be null. A `delay_max` of zero delays nothing.
    ShuffledImage(std::unique_ptr<blk::Image> under,
                  std::unique_ptr<WriteLog> log,
                  std::chrono::microseconds delay_max)
        : under_(std::move(under)), log_(std::move(log)), delay_max_(delay_max) {}

    [[nodiscard]] const blk::ImageProperties& properties() const override {
        return under_->properties();
    }

    [[nodiscard]] Result<uint64_t> resize(std::optional<uint64_t> size_bytes) override {
        return under_->resize(size_bytes);
    }

    void rest() override { under_->rest(); }

    [[nodiscard]] Result<std::unique_ptr<blk::ImageQueue>> open_queue(
        Worker& worker, uint32_t requests_max) override;

  private:
    std::unique_ptr<blk::Image> under_;
    std::unique_ptr<WriteLog> log_;
    const std::chrono::microseconds delay_max_;
};

}  // namespace outrigger::testing
