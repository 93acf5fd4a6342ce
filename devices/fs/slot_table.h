// SPDX-License-Identifier: Apache-2.0
/// A table whose entries are known to the guest by number: inodes and open files. A number names a
/// slot and the generation of what is in it, so one that the guest made up, or kept too long, finds
/// nothing and never somebody else's entry.
///
/// Lookups take no lock: a slot's one atomic word says whether it is alive, in which generation,
/// and how many threads use it now. What was retired goes when the last of them lets go.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/error.h"

namespace outrigger::fs {

/// Any thread. `Value` has `void clear()`, which is called when nobody uses an entry any more.
template <class Value>
class SlotTable final {
    struct Slot {
        std::atomic<uint64_t> word = 0;  // generation in the upper half, then alive, busy, pins
        Value value;
    };

  public:
    static constexpr uint32_t kSlotsMax = uint32_t{1} << 24;

    /// An entry in use, or nothing. Move-only.
    class Ref final {
      public:
        Ref() = default;

        Ref(Ref&& other) noexcept
            : table_(other.table_), slot_(std::exchange(other.slot_, nullptr)), id_(other.id_) {}

        Ref& operator=(Ref&& other) noexcept {
            if (this != &other) {
                release();
                table_ = other.table_;
                slot_ = std::exchange(other.slot_, nullptr);
                id_ = other.id_;
            }
            return *this;
        }

        Ref(const Ref&) = delete;
        Ref& operator=(const Ref&) = delete;

        ~Ref() { release(); }

        [[nodiscard]] explicit operator bool() const { return slot_ != nullptr; }

        [[nodiscard]] Value* operator->() const { return &slot_->value; }

        [[nodiscard]] Value& operator*() const { return slot_->value; }

        [[nodiscard]] uint64_t id() const { return id_; }

        void release() {
            if (slot_ != nullptr) {
                table_->unpin(index_of(id_), *std::exchange(slot_, nullptr));
            }
        }

      private:
        friend class SlotTable;

        Ref(SlotTable& table, Slot& slot, uint64_t id) : table_(&table), slot_(&slot), id_(id) {}

        SlotTable* table_ = nullptr;
        Slot* slot_ = nullptr;
        uint64_t id_ = 0;
    };

    SlotTable() = default;

    SlotTable(const SlotTable&) = delete;
    SlotTable& operator=(const SlotTable&) = delete;

    ~SlotTable() {
        for (const auto& place : groups_) {
            const std::unique_ptr<Group> group(place.load(std::memory_order_relaxed));
            if (group != nullptr) {
                for (const auto& chunk : group->chunks) {
                    delete chunk.load(std::memory_order_relaxed);
                }
            }
        }
    }

    [[nodiscard]] static uint32_t index_of(uint64_t id) { return static_cast<uint32_t>(id); }

    /// The entry with this number, if there is one.
    [[nodiscard]] Ref find(uint64_t id) {
        Slot* const slot = slot_at(index_of(id));
        if (slot == nullptr) {
            return {};
        }
        uint64_t word = slot->word.load(std::memory_order_relaxed);
        do {
            while ((word & kBusy) != 0) {
                std::this_thread::yield();
                word = slot->word.load(std::memory_order_relaxed);
            }
            if (!is_alive(word) || (word >> 32) != (id >> 32)) {
                return {};
            }
            // Acquire: pairs with the release in publish(), which makes the value visible.
        } while (!slot->word.compare_exchange_weak(
            word, word + 1, std::memory_order_acquire, std::memory_order_relaxed));
        return Ref(*this, *slot, id);
    }

    /// An entry that nobody finds before publish(); an empty Ref when the table is full.
    [[nodiscard]] Ref allocate() {
        const std::lock_guard lock(mutex_);
        if (free_.empty() && !holes_.empty()) {
            fill_hole();
        }
        if (!free_.empty()) {
            const uint32_t index = free_.back();
            free_.pop_back();
            Slot* const slot = slot_at(index);
            // Relaxed: whoever freed it did so under this lock, and nobody can find it.
            const uint64_t generation = slot->word.load(std::memory_order_relaxed) >> 32;
            slot->word.store((generation << 32) | 1, std::memory_order_relaxed);
            used_.fetch_add(1, std::memory_order_relaxed);
            return Ref(*this, *slot, (generation << 32) | index);
        }
        if (next_ == kSlotsMax) {
            return {};
        }
        const uint32_t index = next_++;
        const uint64_t generation = first_generation_;
        add_chunk(index);
        Slot* const slot = slot_at(index);
        slot->word.store((generation << 32) | 1, std::memory_order_relaxed);
        used_.fetch_add(1, std::memory_order_relaxed);
        return Ref(*this, *slot, (generation << 32) | index);
    }

    /// The entry is complete: from here on find() finds it.
    void publish(Ref& entry) {
        // Release: pairs with the acquire in find().
        entry.slot_->word.fetch_or(kAlive, std::memory_order_release);
    }

    /// Nobody finds the entry any more. False when it had been retired before.
    bool retire(Ref& entry) {
        return (entry.slot_->word.fetch_and(~kAlive, std::memory_order_relaxed) & kAlive) != 0;
    }

    /// The newest generation that any number has had.
    [[nodiscard]] uint32_t newest_generation() const {
        const std::lock_guard lock(mutex_);
        return newest_generation_;
    }

    /// An entry with the number that it has elsewhere, for a table in which nobody looks anything
    /// up yet; empty when there is no such number, or it is taken. `slots_max` bounds the memory
    /// that numbers which somebody made up can cost, as does that each costs that of a few.
    [[nodiscard]] Ref restore(uint64_t id, uint32_t slots_max) {
        const std::lock_guard lock(mutex_);
        const uint32_t index = index_of(id);
        if (index == 0 || index >= std::min(slots_max, kSlotsMax)) {
            return {};
        }
        add_chunk(index);
        Slot* const slot = slot_at(index);
        if ((slot->word.load(std::memory_order_relaxed) & (kAlive | kPins)) != 0) {
            return {};
        }
        slot->word.store((id >> 32 << 32) | 1, std::memory_order_relaxed);
        next_ = std::max(next_, index + 1);
        used_.fetch_add(1, std::memory_order_relaxed);
        return Ref(*this, *slot, id);
    }

    /// Behind the last restore(): numbers that are given out from now on are newer than `newest`
    /// and than all that were restored.
    void finish_restoring(uint32_t newest) {
        const std::lock_guard lock(mutex_);
        free_.clear();
        holes_.clear();
        for (uint32_t index = 1; index < next_; ++index) {
            const Slot* const slot = slot_at(index);
            if (slot == nullptr) {
                index = last_of_gap(index);
                continue;
            }
            const uint64_t word = slot->word.load(std::memory_order_relaxed);
            newest = std::max(newest, static_cast<uint32_t>(word >> 32));
        }
        newest_generation_ = newest + 1;
        first_generation_ = newest_generation_;
        for (uint32_t index = 1; index < next_; ++index) {
            Slot* const slot = slot_at(index);
            if (slot == nullptr) {
                holes_.push_back(index / kChunkSlots);
                index = last_of(index, kChunkSlots);
            } else if ((slot->word.load(std::memory_order_relaxed) & (kAlive | kPins)) == 0) {
                free_slot(*slot, index);
            }
        }
    }

    /// Calls `each(Ref&)` for every entry that can be found, in the order of their slots. Entries
    /// that come or go meanwhile may be among them or not.
    template <class Each>
    void for_each(Each each) {
        uint32_t end = 0;
        {
            const std::lock_guard lock(mutex_);
            end = next_;
        }
        for (uint32_t index = 1; index < end; ++index) {
            Slot* const slot = slot_at(index);
            if (slot == nullptr) {
                index = last_of_gap(index);
                continue;
            }
            const uint64_t word = slot->word.load(std::memory_order_relaxed);
            if (Ref entry = is_alive(word) ? find((word >> 32 << 32) | index) : Ref()) {
                each(entry);
            }
        }
    }

    /// Calls `work(Value&)` while nobody uses the entry with this number, and nobody can begin to:
    /// whoever looks for it waits, so let it be short. Returns what that returns; false when the
    /// entry is in use, and true when there is none.
    template <class Work>
    [[nodiscard]] bool while_unused(uint64_t id, Work work) {
        Slot* const slot = slot_at(index_of(id));
        uint64_t idle = (id >> 32 << 32) | kAlive;
        // Acquire: pairs with the release in unpin(): what users did is done.
        if (slot == nullptr ||
            !slot->word.compare_exchange_strong(idle, idle | kBusy, std::memory_order_acquire)) {
            // Nobody has the number any more, or somebody uses it.
            return slot == nullptr || !is_alive(idle) || (idle >> 32) != (id >> 32);
        }
        const bool outcome = work(slot->value);
        // Release: pairs with the acquire in find().
        slot->word.fetch_and(~kBusy, std::memory_order_release);
        return outcome;
    }

    /// Of an entry that is known to exist, and not to go meanwhile.
    [[nodiscard]] Value& value_at(uint32_t index) { return slot_at(index)->value; }

    /// The number of that entry.
    [[nodiscard]] uint64_t id_at(uint32_t index) {
        return (slot_at(index)->word.load(std::memory_order_relaxed) >> 32 << 32) | index;
    }

    /// Entries that exist, whether or not somebody finds them.
    [[nodiscard]] size_t size() const { return used_.load(std::memory_order_relaxed); }

  private:
    static constexpr uint64_t kAlive = uint64_t{1} << 31;
    static constexpr uint64_t kBusy = uint64_t{1} << 30;  // while_unused() runs
    static constexpr uint64_t kPins = kBusy - 1;
    /// Few, so that numbers which lie far apart, as somebody may have made them up, or as a guest
    /// has left that forgot most, cost little more than others.
    static constexpr uint32_t kChunkSlots = 16;

    struct Chunk {
        std::array<Slot, kChunkSlots> slots;
    };

    /// Where the chunks of so many slots are, made with the first of them: a table has room for
    /// millions, and takes memory for what is in it.
    static constexpr uint32_t kGroupSlots = uint32_t{1} << 14;

    struct Group {
        std::array<std::atomic<Chunk*>, kGroupSlots / kChunkSlots> chunks = {};
    };

    [[nodiscard]] static uint32_t last_of(uint32_t index, uint32_t slots) {
        return index / slots * slots + (slots - 1);
    }

    /// The last slot behind this one of which is known that it has no memory, either.
    [[nodiscard]] uint32_t last_of_gap(uint32_t index) const {
        return last_of(index, group_of(index) == nullptr ? kGroupSlots : kChunkSlots);
    }

    void free_slot(Slot& slot, uint32_t index) {
        slot.word.store(uint64_t{first_generation_} << 32, std::memory_order_relaxed);
        free_.push_back(index);
    }

    /// Slots that restore() has passed over get memory when they are needed.
    void fill_hole() {
        const uint32_t begin = holes_.back() * kChunkSlots;
        holes_.pop_back();
        if (!add_chunk(begin)) {
            return;
        }
        for (uint32_t index = std::max(begin, 1U); index < begin + kChunkSlots; ++index) {
            free_slot(*slot_at(index), index);
        }
    }

    [[nodiscard]] Group* group_of(uint32_t index) const {
        // Acquire: pairs with the release in add_chunk().
        return groups_[index / kGroupSlots].load(std::memory_order_acquire);
    }

    [[nodiscard]] static std::atomic<Chunk*>& chunk_of(Group& group, uint32_t index) {
        return group.chunks[index % kGroupSlots / kChunkSlots];
    }

    /// Memory for the slot, and those around it. False: there was some.
    bool add_chunk(uint32_t index) {
        Group* group = group_of(index);
        if (group == nullptr) {
            group = new Group;
            // Release: pairs with the acquire in group_of().
            groups_[index / kGroupSlots].store(group, std::memory_order_release);
        }
        auto& chunk = chunk_of(*group, index);
        if (chunk.load(std::memory_order_relaxed) != nullptr) {
            return false;
        }
        // Release: pairs with the acquire in slot_at().
        chunk.store(new Chunk, std::memory_order_release);
        return true;
    }

    [[nodiscard]] static bool is_alive(uint64_t word) { return (word & kAlive) != 0; }

    [[nodiscard]] Slot* slot_at(uint32_t index) {
        if (index >= kSlotsMax) {
            return nullptr;
        }
        Group* const group = group_of(index);
        if (group == nullptr) {
            return nullptr;
        }
        // Acquire: pairs with the release in add_chunk().
        Chunk* const chunk = chunk_of(*group, index).load(std::memory_order_acquire);
        return chunk == nullptr ? nullptr : &chunk->slots[index % kChunkSlots];
    }

    void unpin(uint32_t index, Slot& slot) {
        // Release: what was done with the value is done; acquire: for whoever is the last, all that
        // others did. Pairs with itself.
        const uint64_t before = slot.word.fetch_sub(1, std::memory_order_acq_rel);
        if ((before & (kAlive | kPins)) != 1) {
            return;
        }
        slot.value.clear();
        const std::lock_guard lock(mutex_);
        // A number is never used again, but for one that lies 2^32 entries of this slot back.
        const uint64_t generation = (before >> 32) + 1;
        slot.word.store(generation << 32, std::memory_order_relaxed);
        newest_generation_ = std::max(newest_generation_, static_cast<uint32_t>(generation));
        free_.push_back(index);
        used_.fetch_sub(1, std::memory_order_relaxed);
    }

    std::array<std::atomic<Group*>, kSlotsMax / kGroupSlots> groups_ = {};
    mutable std::mutex mutex_;     // what follows
    std::vector<uint32_t> free_;   // slots that were used before
    std::vector<uint32_t> holes_;  // chunks below next_ that have no memory
    uint32_t newest_generation_ = 0;
    uint32_t first_generation_ = 0;  // of a slot that was never used
    uint32_t next_ = 1;              // slot 0 stays empty: the guest knows nothing by the number 0
    std::atomic<size_t> used_ = 0;   // changed with the mutex, read without
};

}  // namespace outrigger::fs
