// SPDX-License-Identifier: Apache-2.0
#include "tests/support/access_trap.h"

#if defined(__linux__) && defined(__x86_64__)

#include <array>
#include <bit>
#include <cstring>

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::testing {
namespace {

constexpr size_t kAccessesMax = 4096;
constexpr greg_t kTrapFlag = 0x100;   // EFLAGS.TF: SIGTRAP behind the next instruction
constexpr greg_t kFaultWasWrite = 2;  // bit of the page fault's error code

/// What the handlers see; they run on the thread that set it.
struct Armed {
    std::byte* start = nullptr;
    size_t size = 0;
    Flip flip;
    std::array<TrappedAccess, kAccessesMax> accesses;
    size_t count = 0;
    bool overflow = false;

    struct sigaction segv_before {};

    struct sigaction trap_before {};
};

Armed armed;

void protect(int protection) {
    OUTRIGGER_ASSERT(::mprotect(armed.start, armed.size, protection) == 0);
}

void on_fault(int /*signal*/, siginfo_t* info, void* context) {
    auto* const machine = static_cast<ucontext_t*>(context);
    const size_t offset =
        std::bit_cast<uintptr_t>(info->si_addr) - std::bit_cast<uintptr_t>(armed.start);
    if (armed.start == nullptr || offset >= armed.size) {
        // Not ours: the access is repeated on return, and ends the process as it would have.
        ::sigaction(SIGSEGV, &armed.segv_before, nullptr);
        return;
    }
    if (armed.count == kAccessesMax) {
        armed.overflow = true;
    } else {
        armed.accesses[armed.count++] = {
            .offset = offset,
            .is_write = (machine->uc_mcontext.gregs[REG_ERR] & kFaultWasWrite) != 0};
    }
    protect(PROT_READ | PROT_WRITE);
    machine->uc_mcontext.gregs[REG_EFL] |= kTrapFlag;
}

void on_step(int /*signal*/, siginfo_t* /*info*/, void* context) {
    auto* const machine = static_cast<ucontext_t*>(context);
    machine->uc_mcontext.gregs[REG_EFL] &= ~kTrapFlag;
    if (armed.flip.field != nullptr && armed.count == armed.flip.after_accesses) {
        std::memcpy(armed.flip.field, &armed.flip.value, armed.flip.bytes);
    }
    protect(PROT_NONE);
}

void handle(int signal_number, void (*handler)(int, siginfo_t*, void*), struct sigaction& before) {
    struct sigaction action {};

    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    OUTRIGGER_ASSERT(::sigaction(signal_number, &action, &before) == 0);
}

}  // namespace

AccessTrap::AccessTrap(std::span<std::byte> range, const Flip& flip) {
    OUTRIGGER_ASSERT(armed.start == nullptr);
    armed.flip = flip;
    armed.count = 0;
    armed.overflow = false;
    handle(SIGSEGV, on_fault, armed.segv_before);
    handle(SIGTRAP, on_step, armed.trap_before);
    armed.size = range.size();
    armed.start = range.data();
    protect(PROT_NONE);
}

AccessTrap::~AccessTrap() {
    if (armed.start != nullptr) {
        (void)finish();
    }
}

std::vector<TrappedAccess> AccessTrap::finish() {
    protect(PROT_READ | PROT_WRITE);
    armed.start = nullptr;
    ::sigaction(SIGSEGV, &armed.segv_before, nullptr);
    ::sigaction(SIGTRAP, &armed.trap_before, nullptr);
    OUTRIGGER_ASSERT(!armed.overflow);
    return {armed.accesses.begin(),
            armed.accesses.begin() + static_cast<std::ptrdiff_t>(armed.count)};
}

}  // namespace outrigger::testing

#else

namespace outrigger::testing {

AccessTrap::AccessTrap(std::span<std::byte> /*range*/, const Flip& /*flip*/) {}

AccessTrap::~AccessTrap() = default;

std::vector<TrappedAccess> AccessTrap::finish() {
    return {};
}

}  // namespace outrigger::testing

#endif
