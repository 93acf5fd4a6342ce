// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/sigbus_guard.h"

#include <array>
#include <bit>
#include <mutex>
#include <utility>

#include <signal.h>
#include <sys/mman.h>

namespace outrigger {
namespace sigbus_guard {

/// What the handler reads. A slot that nobody uses has start 0.
struct Slot {
    // Written last: release; read before and behind the size, in find().
    std::atomic<uintptr_t> start = 0;
    // Release: who reads the size of a slot's next range sees that its start is not the old one.
    std::atomic<size_t> size = 0;
    std::atomic<bool> lost = false;
};

namespace {

/// Slots are never freed, so that the handler can walk them at any time.
struct Block {
    std::array<Slot, 64> slots;
    std::atomic<Block*> next = nullptr;  // release when appended, acquire in find()
};

static_assert(std::atomic<uintptr_t>::is_always_lock_free);
static_assert(std::atomic<bool>::is_always_lock_free);

Block first_block;
std::atomic<uint32_t> lost_regions = 0;

struct sigaction handler_before {};

/// The slot of a range and what it said at one moment: slots of other ranges may change meanwhile.
struct Found {
    Slot* slot = nullptr;
    uintptr_t start = 0;
    size_t size = 0;
};

Found find(uintptr_t address) {
    // `next` pairs with the release store in take_free_slot().
    for (Block* block = &first_block; block != nullptr;
         block = block->next.load(std::memory_order_acquire)) {
        for (Slot& slot : block->slots) {
            // Both pair with the release stores in GuardedRange().
            const uintptr_t start = slot.start.load(std::memory_order_acquire);
            const size_t size = slot.size.load(std::memory_order_acquire);
            // The start of one range with the size of its successor would hit a third one.
            const bool same_range = slot.start.load(std::memory_order_relaxed) == start;
            if (start != 0 && same_range && address - start < size) {
                return {.slot = &slot, .start = start, .size = size};
            }
        }
    }
    return {};
}

/// The whole region at once: its guest cannot go on anyway, and a page at a time would let a front
/// end raise a signal for each.
bool replace_by_zeroes(const Found& range) {
    void* const start = std::bit_cast<void*>(range.start);
    return ::mmap(start,
                  range.size,
                  PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                  -1,
                  0) == start;
}

void pass_on(int signal_number, siginfo_t* info, void* context) {
    if ((handler_before.sa_flags & SA_SIGINFO) != 0 && handler_before.sa_sigaction != nullptr) {
        handler_before.sa_sigaction(signal_number, info, context);
        return;
    }

    // Not ours: the access is repeated on return, and ends the process as it would have.
    struct sigaction by_default {};

    by_default.sa_handler = SIG_DFL;
    ::sigaction(SIGBUS, &by_default, nullptr);
}

/// Async-signal-safe: atomics and two system calls. The fault is the thread's own, and a region
/// that a thread touches is not being unmapped.
void on_sigbus(int signal_number, siginfo_t* info, void* context) {
    const Found range = find(std::bit_cast<uintptr_t>(info->si_addr));
    if (range.slot == nullptr || !replace_by_zeroes(range)) {
        pass_on(signal_number, info, context);
        return;
    }
    // Several threads may come here for one region; it counts once.
    if (!range.slot->lost.exchange(true, std::memory_order_relaxed)) {
        // Release pairs with the acquire in lost_count(): who sees the count sees the mark.
        lost_regions.fetch_add(1, std::memory_order_release);
    }
}

void install() {
    struct sigaction action {};

    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    ::sigaction(SIGBUS, &action, &handler_before);
}

std::mutex registry;  // writers of `start`, from zero and back, and of `next`

Slot& take_free_slot() {
    Block* last = &first_block;
    for (Block* block = &first_block; block != nullptr; block = block->next.load()) {
        for (Slot& slot : block->slots) {
            if (slot.start.load(std::memory_order_relaxed) == 0) {
                return slot;
            }
        }
        last = block;
    }
    auto* const fresh = new Block;  // leaked on purpose, see Block
    last->next.store(fresh, std::memory_order_release);
    return fresh->slots[0];
}

}  // namespace

void touch(std::span<const iovec> buffers) {
    for (const iovec& buffer : buffers) {
        if (buffer.iov_len > 0) {
            // Volatile: it is the access that counts.
            (void)static_cast<const volatile std::byte*>(buffer.iov_base)[buffer.iov_len - 1];
        }
    }
}

uint32_t lost_count() {
    // Acquire pairs with the release in on_sigbus().
    return lost_regions.load(std::memory_order_acquire);
}

}  // namespace sigbus_guard

GuardedRange::GuardedRange(std::byte* data, size_t size) {
    static std::once_flag installed;
    std::call_once(installed, sigbus_guard::install);
    const std::lock_guard lock(sigbus_guard::registry);
    sigbus_guard::Slot& slot = sigbus_guard::take_free_slot();
    slot.lost.store(false, std::memory_order_relaxed);
    // Both pair with the acquire loads in find().
    slot.size.store(size, std::memory_order_release);
    slot.start.store(std::bit_cast<uintptr_t>(data), std::memory_order_release);
    slot_ = &slot;
}

GuardedRange::GuardedRange(GuardedRange&& other) noexcept
    : slot_(std::exchange(other.slot_, nullptr)) {}

GuardedRange::~GuardedRange() {
    if (slot_ != nullptr) {
        const std::lock_guard lock(sigbus_guard::registry);
        // Comes before the release store of the next range's size, which find() acquires.
        slot_->start.store(0, std::memory_order_release);
    }
}

bool GuardedRange::lost() const {
    return slot_->lost.load(std::memory_order_relaxed);
}

}  // namespace outrigger
