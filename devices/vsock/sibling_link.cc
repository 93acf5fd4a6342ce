// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/sibling_link.h"

#include <map>
#include <mutex>
#include <span>

#include "vhost-user-backend/base/platform.h"

namespace outrigger::vsock {
namespace {

struct Links {
    std::mutex mutex;  // what follows
    std::map<LinkId, std::weak_ptr<SiblingLink>> by_id;
};

Links& links() {
    static Links all;
    return all;
}

/// How far a count is behind another, of counts modulo 2^32 that are less than half of that apart.
bool is_behind(uint32_t count, uint32_t other) {
    return static_cast<int32_t>(other - count) > 0;
}

}  // namespace

LinkId first_link_id(uint64_t cid) {
    // Where the generator gives nothing, ids of this process may be those of the one before, whose
    // connections are few by then.
    LinkId id = cid << 32 | 1;
    (void)platform::read_kernel_entropy(std::as_writable_bytes(std::span(&id, 1)));
    return id;
}

std::shared_ptr<SiblingLink> SiblingLink::find(LinkId id) {
    const std::lock_guard lock(links().mutex);
    std::weak_ptr<SiblingLink>& known = links().by_id[id];
    std::shared_ptr<SiblingLink> found = known.lock();
    if (found == nullptr) {
        found = std::make_shared<SiblingLink>(id);
        known = found;
    }
    return found;
}

SiblingLink::~SiblingLink() {
    const std::lock_guard lock(links().mutex);
    const auto found = links().by_id.find(id_);
    if (found != links().by_id.end() && found->second.expired()) {
        links().by_id.erase(found);
    }
}

SiblingEnd::SiblingEnd(LinkId id, LinkSide side, uint64_t name, uint32_t taken) : side_(side) {
    if (id != kNoLink) {
        link_ = SiblingLink::find(id);
        mine().taken.store(taken, std::memory_order_relaxed);
        mine().name.store(name, std::memory_order_release);  // pairs with taken_there()
    }
}

// Each end stores its own word before it looks at the other's, in one order for all: so either the
// guest's count is seen by whoever asks, or the question by whoever counts.

bool SiblingEnd::tell_taken(uint32_t taken) {
    mine().taken.store(taken, std::memory_order_seq_cst);
    const uint64_t asked = theirs().asked.load(std::memory_order_seq_cst);
    return (asked & SiblingLink::kAsked) != 0 && !is_behind(taken, static_cast<uint32_t>(asked));
}

std::optional<uint32_t> SiblingEnd::taken_there() const {
    // The acquire pairs with the constructor of the other end, which stores `taken` before its
    // name; the rest is of that one order.
    if (theirs().name.load(std::memory_order_acquire) == 0) {
        return std::nullopt;
    }
    return theirs().taken.load(std::memory_order_seq_cst);
}

bool SiblingEnd::ask(uint32_t taken) {
    const uint64_t asked = SiblingLink::kAsked | taken;
    if (asked_ == asked) {
        return false;
    }
    asked_ = asked;
    // Pairs with tell_taken().
    mine().asked.store(asked, std::memory_order_seq_cst);
    return is_behind(theirs().taken.load(std::memory_order_seq_cst), taken);
}

void SiblingEnd::ask_nothing() {
    if (asked_ != 0) {
        asked_ = 0;
        mine().asked.store(0, std::memory_order_relaxed);
    }
}

bool SiblingEnd::is_waited_for() const {
    // Pairs with ask() of the other end.
    const uint64_t asked = theirs().asked.load(std::memory_order_seq_cst);
    return (asked & SiblingLink::kAsked) != 0 &&
           is_behind(mine().taken.load(std::memory_order_relaxed), static_cast<uint32_t>(asked));
}

std::optional<uint64_t> SiblingEnd::ring() {
    const uint64_t name = theirs().name.load(std::memory_order_relaxed);
    if (name == 0 || theirs().is_rung.exchange(true)) {
        return std::nullopt;
    }
    return name;
}

}  // namespace outrigger::vsock
