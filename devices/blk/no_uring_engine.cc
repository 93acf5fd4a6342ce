// SPDX-License-Identifier: Apache-2.0
// In place of uring_engine.cc where the build has no io_uring.
#include "vhost-user-backend/base/error.h"

#include "devices/blk/uring_engine.h"

namespace outrigger::blk {

bool uring_engine_can_serve(Worker& /*worker*/) {
    return false;
}

std::span<const uint8_t> uring_engine_operations() {
    return {};
}

std::span<const uint8_t> fixed_memory_operations() {
    return {};
}

std::span<const SystemCallRule> fixed_memory_system_calls() {
    return {};
}

void raise_limit_of_fixed_memory() {}

std::unique_ptr<IoEngine> create_uring_engine(const UringEngineOptions& /*options*/,
                                              Worker& /*worker*/,
                                              IoEngine* /*helper*/) {
    abort_on_bug("this build has no io_uring", __FILE__, __LINE__);
}

}  // namespace outrigger::blk
