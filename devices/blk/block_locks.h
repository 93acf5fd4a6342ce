// SPDX-License-Identifier: Apache-2.0
/// Keeps writes apart that meet in one block of the host: where the guest's blocks are smaller than
/// what the host can write at a time, a write becomes read, change, write, and nothing else may
/// write to that block in between, from whatever queue. Made only for such disks.
///
/// The image is divided into stretches, each of which has one of a fixed number of slots: a
/// readers-writer lock of one word. Writes of whole blocks share a slot, which costs them one
/// atomic instruction; those of parts have it alone. Whoever finds a slot taken waits in its line,
/// first come first served, without blocking a thread.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace outrigger::blk {

/// Any thread, but each holder on its own.
class BlockLocks final {
  public:
    /// A range that its owner wants or has. Stays in place until it is unlocked.
    class Holder {
      public:
        Holder(const Holder&) = delete;
        Holder& operator=(const Holder&) = delete;

        /// lock() returned false, and by now the whole range is held. Called once, on the thread
        /// of whoever unlocked, inside its unlock(): only hand on the news.
        virtual void on_locked() = 0;

        // Of BlockLocks, between lock() and unlock().
        Holder* next_in_line = nullptr;
        uint32_t first_slot = 0;  // of the range, which may wrap around the end of the table
        uint32_t slot_count = 0;  // 0: holds nothing
        uint32_t next_slot = 0;   // all slots of the range below this one are held
        bool exclusive = false;

      protected:
        Holder() = default;
        ~Holder() = default;
    };

    static constexpr uint64_t kStretchBytes = uint64_t{128} << 10;
    static constexpr uint32_t kSlots = 256;

    BlockLocks() = default;
    BlockLocks(const BlockLocks&) = delete;
    BlockLocks& operator=(const BlockLocks&) = delete;

    /// True: `holder` has the range, shared or for itself. False: it waits for on_locked().
    /// `length_bytes` > 0.
    [[nodiscard]] bool lock(Holder& holder,
                            uint64_t offset_bytes,
                            uint64_t length_bytes,
                            bool exclusive);

    /// Gives back what is held, if anything is. Not while the holder waits.
    void unlock(Holder& holder);

  private:
    struct Slot {
        std::atomic<uint32_t> state = 0;  // kExclusive, kLine, and the number that share it
        Holder* first_in_line = nullptr;  // guarded by mutex_
        Holder* last_in_line = nullptr;   // guarded by mutex_
    };

    static constexpr uint32_t kExclusive = 1U << 31;
    static constexpr uint32_t kLine = 1U << 30;  ///< somebody waits: nobody goes past

    [[nodiscard]] static bool covers(const Holder& holder, uint32_t slot);
    /// Goes on from holder.next_slot_. False: it stands in a line now.
    [[nodiscard]] bool lock_rest(Holder& holder);
    [[nodiscard]] static bool try_take(Slot& slot, bool exclusive);
    /// False: the slot was free by then, and is held.
    [[nodiscard]] bool stand_in_line(Slot& slot, Holder& holder);
    void release(Slot& slot, bool exclusive);
    /// Lets in whoever is first in line, and those behind that fit; returns them as a list.
    [[nodiscard]] static Holder* admit(Slot& slot);

    std::array<Slot, kSlots> slots_;
    std::mutex mutex_;  // of the lines: taken only where somebody waits
};

}  // namespace outrigger::blk
