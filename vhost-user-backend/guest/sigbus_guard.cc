// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/sigbus_guard.h"

#include <array>
#include <bit>
#include <mutex>
#include <utility>

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger {
namespace sigbus_guard {

/// What the handler reads. A slot that nobody uses has start 0.
struct Slot {
    // Written last: release; read before and behind the size, in find().
    std::atomic<uintptr_t> start = 0;
    // Release: who reads the size of a slot's next range sees that its start is not the old one.
    std::atomic<size_t> size = 0;
    std::atomic<bool> lost = false;
    std::atomic<uint32_t> pages_replaced = 0;
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
std::atomic<uint32_t> pages_replaced = 0;  // of the ranges that there are
uintptr_t page_bytes = 0;                  // written before the handler is installed

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

/// Behind this many pages the rest of a region goes at once, so that a front end cannot raise a
/// signal for each page, nor cut the address space into pieces without end.
constexpr uint32_t kPagesReplacedMax = 256;
/// The same for all regions of the process, whose address space has a limit of its own: each page
/// makes two mappings more, of 65530 (vm.max_map_count).
constexpr uint32_t kPagesReplacedInAllMax = 4096;

bool map_zeroes(uintptr_t start, size_t size) {
    void* const at = std::bit_cast<void*>(start);
    return ::mmap(at,
                  size,
                  PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                  -1,
                  0) == at;
}

/// Only the page that was touched: whatever the kernel still has to read elsewhere in the region
/// for requests in flight must go on failing, or a disk would be filled with our zeroes.
bool replace_by_zeroes(const Found& range, uintptr_t address) {
    // Relaxed: a bound, and no order.
    const uint32_t of_range = range.slot->pages_replaced.fetch_add(1, std::memory_order_relaxed);
    const uint32_t of_all = pages_replaced.fetch_add(1, std::memory_order_relaxed);
    if (of_range < kPagesReplacedMax && of_all < kPagesReplacedInAllMax &&
        map_zeroes(address & ~(page_bytes - 1), page_bytes)) {
        return true;
    }
    // Also where a page cannot be replaced alone: in a huge one.
    return map_zeroes(range.start, range.size);
}

/// Several threads may come here for one region; it counts once.
void mark_lost(Slot& slot) {
    if (!slot.lost.exchange(true, std::memory_order_relaxed)) {
        // Release pairs with the acquire in lost_count(): who sees the count sees the mark.
        lost_regions.fetch_add(1, std::memory_order_release);
    }
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
    const auto address = std::bit_cast<uintptr_t>(info->si_addr);
    const Found range = find(address);
    if (range.slot == nullptr || !replace_by_zeroes(range, address)) {
        pass_on(signal_number, info, context);
        return;
    }
    mark_lost(*range.slot);
}

void install() {
    page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));

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

void look_for_loss(std::span<const iovec> buffers) {
    for (const iovec& buffer : buffers) {
        if (buffer.iov_len == 0) {
            continue;
        }
        auto* const last = static_cast<std::byte*>(buffer.iov_base) + buffer.iov_len - 1;
        const auto address = std::bit_cast<uintptr_t>(last);
        switch (platform::page_state(std::bit_cast<void*>(address & ~(page_bytes - 1)))) {
            case platform::PageState::kThere:
                break;
            case platform::PageState::kLost:
                if (const Found range = find(address); range.slot != nullptr) {
                    mark_lost(*range.slot);
                }
                break;
            case platform::PageState::kUnknown:
                // Volatile: it is the access that counts.
                (void)*static_cast<const volatile std::byte*>(last);
                break;
        }
    }
}

uint32_t lost_count() {
    // Acquire pairs with the release in mark_lost().
    return lost_regions.load(std::memory_order_acquire);
}

}  // namespace sigbus_guard

GuardedRange::GuardedRange(std::byte* data, size_t size) {
    static std::once_flag installed;
    std::call_once(installed, sigbus_guard::install);
    const std::lock_guard lock(sigbus_guard::registry);
    sigbus_guard::Slot& slot = sigbus_guard::take_free_slot();
    slot.lost.store(false, std::memory_order_relaxed);
    slot.pages_replaced.store(0, std::memory_order_relaxed);
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
        sigbus_guard::pages_replaced.fetch_sub(
            slot_->pages_replaced.load(std::memory_order_relaxed), std::memory_order_relaxed);
        // Comes before the release store of the next range's size, which find() acquires.
        slot_->start.store(0, std::memory_order_release);
    }
}

bool GuardedRange::lost() const {
    return slot_->lost.load(std::memory_order_relaxed);
}

}  // namespace outrigger
