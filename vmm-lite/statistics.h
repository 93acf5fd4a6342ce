// SPDX-License-Identifier: Apache-2.0
/// What a machine cost: exits to this program by kind and by what they were for, and when each
/// phase of its start was reached. Always counted; --stats prints it.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vmm-lite/kvm/vcpu.h"

namespace outrigger::vmm {

enum class BootPhase : uint8_t {
    kConnected,         ///< every back end has answered
    kLoaded,            ///< the kernel is in the guest's memory
    kFirstInstruction,  ///< the first processor is about to run
    kInit,              ///< the guest says that its init runs: docs/boot.md
};
inline constexpr size_t kBootPhases = 4;
[[nodiscard]] std::string_view boot_phase_name(BootPhase phase);

/// Since the program started. Thread: any.
class BootPhases final {
  public:
    using Clock = std::chrono::steady_clock;

    explicit BootPhases(Clock::time_point start) : start_(start) {}

    /// The first time counts.
    void reach(BootPhase phase);
    [[nodiscard]] std::optional<std::chrono::microseconds> when(BootPhase phase) const;

  private:
    const Clock::time_point start_;
    mutable std::mutex mutex_;
    std::array<std::optional<std::chrono::microseconds>, kBootPhases> reached_{};
};

struct MachineStatistics {
    std::array<uint64_t, kExitKinds> exits{};  ///< all processors together
    /// What reads and writes were for: a name of a range of addresses and how many. Those that
    /// nothing answers are "nothing".
    std::vector<std::pair<std::string, uint64_t>> accesses{};
    std::array<std::optional<std::chrono::microseconds>, kBootPhases> phases{};
    std::string end{};         ///< describe(MachineEnd); empty while it runs
    std::string kernel_way{};  ///< "bzImage", "prepared", "prepared, from the cache"
    /// In the guest's memory; one that unpacks itself may still move itself.
    uint64_t kernel_address = 0;

    /// Without those that a signal of our own caused.
    [[nodiscard]] uint64_t guest_exits() const;
};

[[nodiscard]] std::string statistics_text(const MachineStatistics& statistics);
[[nodiscard]] std::string statistics_json(const MachineStatistics& statistics);

}  // namespace outrigger::vmm
