// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: a packed virtqueue over memory that the script writes.
#include <span>

#include "vhost-user-backend/base/log.h"

#include "tests/fuzz/ring_script.h"
#include "tests/fuzz/target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace outrigger::fuzz;
    outrigger::set_log_level(outrigger::LogLevel::kOff);
    static FuzzMemory memory;
    RingScript(memory, ScriptReader(std::span(data, size)), /*packed=*/true).run();
    return 0;
}
