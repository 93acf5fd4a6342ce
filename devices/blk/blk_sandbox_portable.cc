// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_sandbox.h"

namespace outrigger::blk {
namespace {

/// What call_host() makes, on the threads of the threads engine.
constexpr SystemCallRule kSystemCalls[] = {
    {.name = "preadv"},
    {.name = "pwritev"},
    {.name = "fdatasync"},
};

}  // namespace

SandboxNeeds blk_sandbox_needs() {
    return {.system_calls = kSystemCalls};
}

}  // namespace outrigger::blk
