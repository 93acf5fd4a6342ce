// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/helper_thread.h"

#include <atomic>
#include <system_error>
#include <utility>

#include <pthread.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger {
namespace {

std::atomic<void (*)()> helper_entry = nullptr;

}  // namespace

Result<std::thread> start_helper_thread(const std::string& name,
                                        std::move_only_function<void()> body) {
    try {
        const BlockedSignals inherited;
        return std::thread([name, body = std::move(body)]() mutable {
            platform::name_this_thread(name);
            // Pairs with the release in set_helper_thread_entry(): what the entry uses is complete.
            if (void (*const entry)() = helper_entry.load(std::memory_order_acquire)) {
                entry();
            }
            body();
        });
    } catch (const std::system_error& refused) {
        return failure(error_from_code("cannot start the thread " + name, refused.code().value()));
    }
}

void set_helper_thread_entry(void (*entry)()) {
    // Pairs with the acquire at the start of each thread.
    helper_entry.store(entry, std::memory_order_release);
}

BlockedSignals::BlockedSignals() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS}) {
        sigdelset(&blocked, own);
    }
    ::pthread_sigmask(SIG_SETMASK, &blocked, &before_);
}

BlockedSignals::~BlockedSignals() {
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

}  // namespace outrigger
