// SPDX-License-Identifier: Apache-2.0
/// How many bytes a guest may be given: what the command line says, and what an operator says
/// later, which outlives the process.
#pragma once

#include <chrono>
#include <cstdint>

#include "vhost-user-backend/base/kept_record.h"
#include "vhost-user-backend/base/mapping.h"

namespace outrigger::rng {

struct EntropyLimit {
    static constexpr std::chrono::milliseconds kPeriodMax = std::chrono::hours(24);

    uint64_t bytes_max = 0;  ///< within each period; 0: as many as the driver asks for
    std::chrono::milliseconds period{65'536};

    [[nodiscard]] bool is_possible() const { return period.count() > 0 && period <= kPeriodMax; }

    friend bool operator==(const EntropyLimit&, const EntropyLimit&) = default;
};

/// Thread-bound: control thread.
class KeptLimit final {
  public:
    /// `kept`: of kKeptBytes, which outlive this process, or empty. What an operator has told
    /// another process with that command line (`given`) counts.
    KeptLimit(EntropyLimit given, Mapping kept);

    [[nodiscard]] const EntropyLimit& value() const { return value_; }

    /// Another process that goes on has it from now on, too.
    void change(const EntropyLimit& limit);

  private:
    struct Record {
        uint64_t given_bytes;
        uint64_t given_period;
        uint64_t bytes;
        uint64_t period;
    };

    using Kept = KeptValue<Record>;

  public:
    static constexpr size_t kKeptBytes = Kept::kBytes;

  private:
    const EntropyLimit given_;
    const Mapping kept_;
    EntropyLimit value_;
};

}  // namespace outrigger::rng
