// SPDX-License-Identifier: Apache-2.0
/// Requests to a shared directory, as Linux makes them: data of a file that each queue has for
/// itself, or names and attributes of files that all queues share. VIRTIO 1.3, 5.11.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/outrigger-bench/block_book.h"
#include "tools/outrigger-bench/fuse_chain.h"
#include "tools/outrigger-bench/fuse_session.h"
#include "tools/outrigger-bench/workload.h"

namespace outrigger::bench {

class FsWorkload final : public Workload {
  public:
    /// The queue of high priority comes before all queues of requests.
    static constexpr uint16_t kFirstRing = 1;

    /// `session` null: there is no share, as with assume().
    FsWorkload(const BenchPlan& plan, uint16_t queue, std::shared_ptr<FuseSession> session);

    /// Opens what the plan asks for.
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
    /// What a slot's chain asks for.
    enum class Step : uint8_t {
        kIdle,
        kRead,
        kWrite,
        kGetattr,
        kLookup,
        kReadDirectory,
        kCreate,
        kFill,  ///< the file that was created
        kFlush,
        kRelease,
        kUnlink,
    };

    struct Slot {
        FuseChain chain;
        Step step = Step::kIdle;
        uint32_t block = 0;        ///< of kRead and kWrite
        uint32_t file = 0;         ///< of the session's files
        std::string name{};        ///< of the file that kCreate makes
        uint64_t node = 0;         ///< of that file, and its handle
        uint64_t handle = 0;       ///< or that of the directory
        uint64_t offset = 0;       ///< of kReadDirectory
        uint32_t entries = 0;      ///< that it has seen so far
        std::vector<bool> seen{};  ///< with --verify: which of the session's files
        bool flushes = true;       ///< the share wants to be told of closes
    };

    [[nodiscard]] bool is_data() const { return !asks_for_names(plan_.access); }

    [[nodiscard]] Step first_step();
    [[nodiscard]] uint64_t random();
    void ask(Slot& slot);
    void ask_for_data(Slot& slot);
    void ask_for_new_file(Slot& slot);
    [[nodiscard]] Verdict on_answer(Slot& slot, uint32_t length);
    [[nodiscard]] Verdict on_data(Slot& slot, uint32_t length);
    [[nodiscard]] Verdict on_attributes(Slot& slot);
    [[nodiscard]] Verdict on_entry(Slot& slot);
    [[nodiscard]] Verdict on_directory(Slot& slot, uint32_t length);
    [[nodiscard]] bool is_new_entry(Slot& slot,
                                    const fuse_direntplus& entry,
                                    std::string_view name) const;
    [[nodiscard]] Verdict on_new_file(Slot& slot);
    [[nodiscard]] Verdict on_error(Slot& slot, int error);
    [[nodiscard]] Verdict lie(const Slot& slot, std::string_view words);
    void complain(const Slot& slot, std::string_view words);
    [[nodiscard]] Verdict go_on(Slot& slot, Step step);

    const BenchPlan plan_;
    const uint16_t queue_;
    const std::shared_ptr<FuseSession> session_;
    bool assumed_ = false;
    ShareFile data_file_;
    uint64_t data_handle_ = 0;
    uint32_t block_count_ = 0;
    std::optional<BlockBook> book_;  // with --verify, of data
    std::vector<Slot> slots_;
    Phase phase_ = Phase::kLoad;
    uint32_t next_ = 0;  // block of sequential requests
    uint64_t compared_ = 0;
    uint64_t random_;
    std::string complaint_;
};

}  // namespace outrigger::bench
