// SPDX-License-Identifier: Apache-2.0
/// What the devices at both ends of a connection between guests tell one another beside its
/// sockets, so that a guest has room again when the other guest has taken its bytes, and not when
/// a socket has: how much each guest has taken, and what the other one waits for.
///
/// Nothing here outlives the process: each device has its part in its ledger, and says it again
/// when it finds its link by the id that both ledgers have.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

namespace outrigger::vsock {

/// Of a connection between two guests, never used again. kNoLink: there is none.
using LinkId = uint64_t;
inline constexpr LinkId kNoLink = 0;

/// A device's first in this process; others follow. Before workers run, whose sandbox has no way to
/// the generator.
[[nodiscard]] LinkId first_link_id(uint64_t cid);

enum class LinkSide : uint8_t { kCaller, kCalled };

/// What both ends share. Any thread.
class SiblingLink final {
  public:
    struct End {
        /// Of its guest: bytes of the connection that it has taken out of its buffer, as it says.
        std::atomic<uint32_t> taken = 0;
        /// All that its guest's buffer for the connection can hold.
        std::atomic<uint32_t> room = 0;
        /// Its guest receives no more.
        std::atomic<bool> is_deaf = false;
        /// What it waits for: kAsked, and how much the other guest is to have taken.
        std::atomic<uint64_t> asked = 0;
        /// How its device names the connection; 0: it has not come yet.
        std::atomic<uint64_t> name = 0;
        /// It was rung for, and has not looked yet.
        std::atomic<bool> is_rung = false;
    };

    static constexpr uint64_t kAsked = uint64_t{1} << 32;

    explicit SiblingLink(LinkId id) : id_(id) {}

    SiblingLink(const SiblingLink&) = delete;
    SiblingLink& operator=(const SiblingLink&) = delete;
    ~SiblingLink();

    /// That of both ends which name this id.
    [[nodiscard]] static std::shared_ptr<SiblingLink> find(LinkId id);

    [[nodiscard]] End& end(LinkSide side) { return ends_[static_cast<size_t>(side)]; }

  private:
    const LinkId id_;
    std::array<End, 2> ends_;
};

/// One end of a link, as a connection has it. Thread-bound: the queues' worker.
class SiblingEnd final {
  public:
    SiblingEnd() = default;

    /// `taken`: what the guest here has taken so far.
    SiblingEnd(LinkId id, LinkSide side, uint64_t name, uint32_t taken);

    [[nodiscard]] bool valid() const { return link_ != nullptr; }

    /// The guest here has taken so much. True: that is what the other end waits for, and it is to
    /// be rung for.
    [[nodiscard]] bool tell_taken(uint32_t taken);

    /// True: that is news, and the other end is to be rung for.
    [[nodiscard]] bool tell_room(uint32_t bytes) {
        return mine().room.exchange(bytes, std::memory_order_relaxed) != bytes;
    }

    /// The guest here receives no more; the other end is to be rung for.
    void tell_deaf() { mine().is_deaf.store(true, std::memory_order_relaxed); }

    /// Nothing: the other end has not come yet.
    [[nodiscard]] std::optional<uint32_t> taken_there() const;

    [[nodiscard]] uint32_t room_there() const {
        return theirs().room.load(std::memory_order_relaxed);
    }

    [[nodiscard]] bool is_deaf_there() const {
        return theirs().is_deaf.load(std::memory_order_relaxed);
    }

    /// This end waits until the other guest has taken so much. True: that is news, and the other
    /// end is to be rung for. taken_there() is to be looked at behind this, once more.
    [[nodiscard]] bool ask(uint32_t taken);
    void ask_nothing();

    /// Does the other end wait for more than the guest here is known to have taken?
    [[nodiscard]] bool is_waited_for() const;

    /// How the other end's device names the connection, if it is to be told that there is news;
    /// nothing while it was told and has not looked, or is not there.
    [[nodiscard]] std::optional<uint64_t> ring();

    /// Nobody was there to be told.
    void take_back_ring() { theirs().is_rung.store(false, std::memory_order_relaxed); }

    /// Whoever rang for this end was heard. Before it looks.
    void hear() { (void)mine().is_rung.exchange(false); }

  private:
    [[nodiscard]] SiblingLink::End& mine() const { return link_->end(side_); }

    [[nodiscard]] SiblingLink::End& theirs() const {
        return link_->end(side_ == LinkSide::kCaller ? LinkSide::kCalled : LinkSide::kCaller);
    }

    std::shared_ptr<SiblingLink> link_;
    LinkSide side_ = LinkSide::kCaller;
    uint64_t asked_ = 0;  // mine().asked, as it was stored last
};

}  // namespace outrigger::vsock
