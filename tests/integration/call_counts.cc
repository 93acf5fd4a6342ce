// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/call_counts.h"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>

#include <dlfcn.h>
#include <pthread.h>

namespace outrigger::testing {
namespace {

std::atomic<bool> counting = false;
std::atomic<uint64_t> allocations = 0;
std::atomic<uint64_t> locks = 0;
/// Of the program itself, so that looking at it allocates nothing.
constinit thread_local bool is_counted = false;

// Relaxed: plain sums, which the test reads when the thread waits for it.

void count_allocation() {
    if (is_counted && counting.load(std::memory_order_relaxed)) {
        allocations.fetch_add(1, std::memory_order_relaxed);
    }
}

void count_lock() {
    if (is_counted && counting.load(std::memory_order_relaxed)) {
        locks.fetch_add(1, std::memory_order_relaxed);
    }
}

/// The C library's function of that name. No static local: its guard may lock.
template <class Function>
Function* next(std::atomic<Function*>& known, const char* name) {
    Function* function = known.load(std::memory_order_relaxed);
    if (function == nullptr) {
        // SAFETY: dlsym() gives functions as object pointers, which POSIX has be the same.
        // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
        function = reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
        known.store(function, std::memory_order_relaxed);
    }
    return function;
}

std::atomic<int (*)(pthread_mutex_t*)> mutex_lock = nullptr;
std::atomic<int (*)(pthread_mutex_t*)> mutex_trylock = nullptr;
std::atomic<int (*)(pthread_rwlock_t*)> read_lock = nullptr;
std::atomic<int (*)(pthread_rwlock_t*)> write_lock = nullptr;

}  // namespace

std::ostream& operator<<(std::ostream& out, const CallCounts& counts) {
    return out << counts.allocations << " allocations, " << counts.locks << " locks";
}

void count_this_thread() {
    is_counted = true;
}

void start_counting() {
    allocations.store(0, std::memory_order_relaxed);
    locks.store(0, std::memory_order_relaxed);
    counting.store(true, std::memory_order_relaxed);
}

CallCounts stop_counting() {
    counting.store(false, std::memory_order_relaxed);
    return {.allocations = allocations.load(std::memory_order_relaxed),
            .locks = locks.load(std::memory_order_relaxed)};
}

}  // namespace outrigger::testing

// --- In place of the C library's
// ------------------------------------------------------------------

// glibc's own names of what is replaced here; free() takes what they give.
extern "C" void* __libc_malloc(size_t bytes);                // NOLINT(bugprone-reserved-identifier)
extern "C" void* __libc_calloc(size_t count, size_t bytes);  // NOLINT(bugprone-reserved-identifier)
extern "C" void* __libc_realloc(void* memory,
                                size_t bytes);  // NOLINT(bugprone-reserved-identifier)
extern "C" void* __libc_memalign(size_t alignment,
                                 size_t bytes);  // NOLINT(bugprone-reserved-identifier)

using outrigger::testing::count_allocation;
using outrigger::testing::count_lock;
using outrigger::testing::next;

extern "C" void* malloc(size_t bytes) noexcept {
    count_allocation();
    return __libc_malloc(bytes);
}

extern "C" void* calloc(size_t count, size_t bytes) noexcept {
    count_allocation();
    return __libc_calloc(count, bytes);
}

extern "C" void* realloc(void* memory, size_t bytes) noexcept {
    count_allocation();
    return __libc_realloc(memory, bytes);
}

extern "C" void* aligned_alloc(size_t alignment, size_t bytes) noexcept {
    count_allocation();
    return __libc_memalign(alignment, bytes);
}

extern "C" int posix_memalign(void** memory, size_t alignment, size_t bytes) noexcept {
    count_allocation();
    *memory = __libc_memalign(alignment, bytes);
    return *memory != nullptr ? 0 : ENOMEM;
}

extern "C" int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
    count_lock();
    return next(outrigger::testing::mutex_lock, "pthread_mutex_lock")(mutex);
}

extern "C" int pthread_mutex_trylock(pthread_mutex_t* mutex) noexcept {
    count_lock();
    return next(outrigger::testing::mutex_trylock, "pthread_mutex_trylock")(mutex);
}

extern "C" int pthread_rwlock_rdlock(pthread_rwlock_t* lock) noexcept {
    count_lock();
    return next(outrigger::testing::read_lock, "pthread_rwlock_rdlock")(lock);
}

extern "C" int pthread_rwlock_wrlock(pthread_rwlock_t* lock) noexcept {
    count_lock();
    return next(outrigger::testing::write_lock, "pthread_rwlock_wrlock")(lock);
}
