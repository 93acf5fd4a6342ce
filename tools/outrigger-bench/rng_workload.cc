// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/rng_workload.h"

#include <fmt/core.h>

namespace outrigger::bench {

Result<void> RngWorkload::allocate(driver::GuestMemory& memory, uint32_t slots) {
    for (uint32_t slot = 0; slot < slots; ++slot) {
        const GuestAddr buffer = OUTRIGGER_TRY(memory.allocate(bytes_, kAlignment));
        buffers_.push_back({.address = buffer, .length = bytes_, .device_writable = true});
    }
    return {};
}

Verdict RngWorkload::finish(uint32_t /*slot*/, const driver::Completion& completion) {
    // 5.4.6.2: at least one byte, and no more than there is room for.
    if (assumed_ || (completion.length > 0 && completion.length <= bytes_)) {
        return Verdict::kGood;
    }
    if (complaint_.empty()) {
        complaint_ = fmt::format(
            "a request for {} random bytes came back with {}", bytes_, completion.length);
    }
    return Verdict::kFailed;
}

}  // namespace outrigger::bench
