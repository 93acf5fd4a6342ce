// SPDX-License-Identifier: Apache-2.0
/// Which writes a server has answered and may still lose with itself: those that no flush came
/// after. When a connection is lost with such writes, nobody knows whether the server behind the
/// next one has them, and a flush that it answers says nothing of them.
#pragma once

#include <atomic>
#include <cstdint>

#include "devices/blk/sync_mark.h"

namespace outrigger::blk {

class NbdPeer;

/// Of one image, over all its connections. Any thread.
class NbdLedger final {
  public:
    /// A place in the order of all that happens on the image's connections.
    using Moment = uint64_t;

    class Account;

    /// `server_keeps`: a server that comes back has all that it answered, so nothing is ever lost.
    /// `lost` is borrowed: it is set when writes may be lost.
    NbdLedger(bool server_keeps, SyncMark& lost) : server_keeps_(server_keeps), lost_(lost) {}

    NbdLedger(const NbdLedger&) = delete;
    NbdLedger& operator=(const NbdLedger&) = delete;
    ~NbdLedger() = default;

    /// Later than every moment before.
    [[nodiscard]] Moment now() { return clock_.fetch_add(1, std::memory_order_acq_rel) + 1; }

    /// `account` lives as long as the ledger is used.
    void add(Account& account);

    /// The connection of `flushed` has answered a flush. The next one, behind `after` (null: from
    /// the first), whose writes that need not cover; null when there is none. A server promises
    /// that a flush covers what it answered on other connections (CAN_MULTI_CONN), but when
    /// `flushed` was connected later than others wrote, those may have written to another server.
    /// Servers are taken to follow one another: several at a time behind one address, each with a
    /// cache of its own, must not promise it.
    [[nodiscard]] Account* next_uncovered(const Account& flushed, const Account* after) const;

    /// What was written before `moment` is on stable storage.
    void note_stable(Moment moment);

    /// The server went away before the image was opened, perhaps with writes that it had answered
    /// to a process that is no more.
    void note_earlier_loss() {
        if (!server_keeps_) {
            lost_.set();
        }
    }

    /// Writes may have been lost: from then on no flush can succeed.
    [[nodiscard]] bool may_lack_writes() const { return lost_.is_set(); }

  private:
    [[nodiscard]] bool is_stable(Moment moment) const {
        // Acquire: pairs with the release in note_stable().
        return moment <= stable_until_.load(std::memory_order_acquire);
    }

    const bool server_keeps_;
    SyncMark& lost_;
    std::atomic<Moment> clock_ = 0;
    std::atomic<Moment> stable_until_ = 0;
    std::atomic<Account*> first_ = nullptr;  // a list that only grows, at this end
};

/// Of one connection, which notes in it what happens. Others read it.
class NbdLedger::Account final {
  public:
    Account(NbdLedger& ledger, NbdPeer* peer) : ledger_(ledger), peer_(peer) {}

    Account(const Account&) = delete;
    Account& operator=(const Account&) = delete;
    ~Account() = default;

    [[nodiscard]] NbdPeer* peer() const { return peer_; }

    /// How often the connection was lost.
    [[nodiscard]] uint64_t losses() const {
        // Acquire: pairs with the release in note_lost_connection().
        return losses_.load(std::memory_order_acquire);
    }

    // The rest is thread-bound to the connection.

    void note_connected();

    /// It has answered a write, and not said that it is on stable storage.
    void note_unstable_write();

    /// What it sends now is behind all that it has answered.
    [[nodiscard]] Moment now() { return ledger_.now(); }

    /// It has answered a flush that was sent at `sent`, on this connection.
    void note_flushed(Moment sent);

    /// True: writes may have gone with it, and that is news.
    [[nodiscard]] bool note_lost_connection();

  private:
    friend class NbdLedger;

    [[nodiscard]] bool all_is_stable() const;

    NbdLedger& ledger_;
    NbdPeer* const peer_;
    Account* next_ = nullptr;  // constant behind add()
    std::atomic<Moment> connected_ = 0;
    std::atomic<Moment> first_unstable_ = 0;  // a write at this moment, or none before it
    std::atomic<Moment> last_unstable_ = 0;   // the last such write
    std::atomic<Moment> flushed_until_ = 0;   // by flushes of its own
    std::atomic<uint64_t> losses_ = 0;
};

}  // namespace outrigger::blk
