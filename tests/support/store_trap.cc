// SPDX-License-Identifier: Apache-2.0
#include "tests/support/store_trap.h"

#if defined(__linux__) && defined(__x86_64__)

#include <bit>
#include <utility>

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::testing {
namespace {

constexpr greg_t kTrapFlag = 0x100;  // EFLAGS.TF: SIGTRAP behind the next instruction

/// What the handlers see; they run on the thread that set it.
struct Armed {
    std::vector<std::span<std::byte>> ranges;
    const std::function<void()>* before_store = nullptr;

    struct sigaction segv_before {};

    struct sigaction trap_before {};
};

Armed armed;

void protect(int protection) {
    for (const std::span<std::byte> range : armed.ranges) {
        OUTRIGGER_ASSERT(::mprotect(range.data(), range.size(), protection) == 0);
    }
}

bool is_watched(const void* address) {
    for (const std::span<std::byte> range : armed.ranges) {
        if (std::bit_cast<uintptr_t>(address) - std::bit_cast<uintptr_t>(range.data()) <
            range.size()) {
            return true;
        }
    }
    return false;
}

void on_fault(int /*signal*/, siginfo_t* info, void* context) {
    if (!is_watched(info->si_addr)) {
        // Not ours: the access is repeated on return, and ends the process as it would have.
        ::sigaction(SIGSEGV, &armed.segv_before, nullptr);
        return;
    }
    (*armed.before_store)();
    protect(PROT_READ | PROT_WRITE);
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] |= kTrapFlag;
}

void on_step(int /*signal*/, siginfo_t* /*info*/, void* context) {
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~kTrapFlag;
    protect(PROT_READ);
}

void handle(int signal_number, void (*handler)(int, siginfo_t*, void*), struct sigaction& before) {
    struct sigaction action {};

    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    OUTRIGGER_ASSERT(::sigaction(signal_number, &action, &before) == 0);
}

}  // namespace

StoreTrap::StoreTrap(std::vector<std::span<std::byte>> ranges,
                     const std::function<void()>& before_store) {
    OUTRIGGER_ASSERT(armed.before_store == nullptr);
    armed.ranges = std::move(ranges);
    armed.before_store = &before_store;
    handle(SIGSEGV, on_fault, armed.segv_before);
    handle(SIGTRAP, on_step, armed.trap_before);
    protect(PROT_READ);
}

StoreTrap::~StoreTrap() {
    protect(PROT_READ | PROT_WRITE);
    armed.before_store = nullptr;
    ::sigaction(SIGSEGV, &armed.segv_before, nullptr);
    ::sigaction(SIGTRAP, &armed.trap_before, nullptr);
}

}  // namespace outrigger::testing

#else

namespace outrigger::testing {

StoreTrap::StoreTrap(std::vector<std::span<std::byte>> /*ranges*/,
                     const std::function<void()>& /*before_store*/) {}

StoreTrap::~StoreTrap() = default;

}  // namespace outrigger::testing

#endif
