// SPDX-License-Identifier: Apache-2.0
/// Requests to a disk. VIRTIO 1.3, 5.2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/outrigger-bench/block_book.h"
#include "tools/outrigger-bench/workload.h"

namespace outrigger::bench {

class BlkWorkload final : public Workload {
  public:
    BlkWorkload(const BenchPlan& plan, uint16_t queue);

    Result<void> learn(driver::Frontend& frontend, const driver::Agreement& agreement) override;
    void assume() override;
    [[nodiscard]] uint64_t slot_bytes() const override;
    Result<void> allocate(driver::GuestMemory& memory, uint32_t slots) override;
    Result<bool> enter(Phase phase) override;
    std::span<const driver::Segment> begin(uint32_t slot) override;
    Verdict finish(uint32_t slot, const driver::Completion& completion) override;

    [[nodiscard]] const std::string& complaint() const override { return complaint_; }

    [[nodiscard]] uint64_t compared() const override { return compared_; }

    Result<void> close() override;

  private:
    enum class Operation : uint8_t { kRead, kWrite, kFlush };

    struct Slot {
        std::array<driver::Segment, 3> transfer;  // header, data, status
        std::array<driver::Segment, 2> flush;     // header, status
        std::byte* header = nullptr;
        std::byte* data = nullptr;
        std::byte* status = nullptr;
        Operation operation = Operation::kRead;
        uint32_t block = 0;
        uint64_t flush_began = 0;
    };

    [[nodiscard]] Result<void> set_area(uint64_t capacity_bytes);
    [[nodiscard]] Result<void> open_book(uint32_t slots);
    [[nodiscard]] std::string state_path() const;
    [[nodiscard]] std::string place_of(uint32_t block) const;
    [[nodiscard]] bool takes_more();
    [[nodiscard]] uint64_t random();
    [[nodiscard]] Operation next_operation();
    [[nodiscard]] uint32_t next_block();
    [[nodiscard]] bool writes() const;
    [[nodiscard]] Result<void> choose_cache(driver::Frontend& frontend,
                                            const driver::Agreement& agreement) const;
    [[nodiscard]] Verdict check_read(const Slot& slot);
    void complain(const Slot& slot, uint8_t status);

    /// Is what is read compared with an earlier run's book?
    [[nodiscard]] bool is_recovering() const { return recovering_ && phase_ == Phase::kPrepare; }

    [[nodiscard]] std::span<std::byte> data_of(const Slot& slot) const {
        return {slot.data, plan_.block_bytes};
    }

    const BenchPlan plan_;
    const uint16_t queue_;
    uint64_t first_block_ = 0;  // of this queue's area; blocks are counted from there
    uint32_t block_count_ = 0;
    std::vector<Slot> slots_;
    std::optional<BlockBook> book_;  // with --verify
    bool recovering_ = false;        // the book is an earlier run's, and not yet compared
    bool flushes_ = false;           // the disk has flushes
    bool flush_due_ = false;         // at the end of the phase, for the book's file
    uint32_t in_flight_ = 0;
    Phase phase_ = Phase::kLoad;
    uint32_t next_ = 0;  // block of sequential requests
    uint32_t since_flush_ = 0;
    uint64_t compared_ = 0;
    uint64_t random_;
    std::string complaint_;
};

}  // namespace outrigger::bench
