// SPDX-License-Identifier: Apache-2.0
/// Requests to an entropy device. VIRTIO 1.3, 5.4.
#pragma once

#include <string>
#include <vector>

#include "tools/outrigger-bench/workload.h"

namespace outrigger::bench {

class RngWorkload final : public Workload {
  public:
    explicit RngWorkload(const BenchPlan& plan) : bytes_(plan.block_bytes) {}

    Result<void> learn(driver::Frontend& /*frontend*/,
                       const driver::Agreement& /*agreement*/) override {
        return {};
    }

    void assume() override { assumed_ = true; }

    [[nodiscard]] uint64_t slot_bytes() const override { return uint64_t{bytes_} + kAlignment; }

    Result<void> allocate(driver::GuestMemory& memory, uint32_t slots) override;

    Result<bool> enter(Phase phase) override { return phase == Phase::kLoad; }

    std::span<const driver::Segment> begin(uint32_t slot) override {
        return std::span(&buffers_[slot], 1);
    }

    Verdict finish(uint32_t slot, const driver::Completion& completion) override;

    [[nodiscard]] const std::string& complaint() const override { return complaint_; }

  private:
    static constexpr uint64_t kAlignment = 64;

    uint32_t bytes_;
    bool assumed_ = false;
    std::vector<driver::Segment> buffers_;
    std::string complaint_;
};

}  // namespace outrigger::bench
