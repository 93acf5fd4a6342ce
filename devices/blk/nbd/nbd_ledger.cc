// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/nbd/nbd_ledger.h"

#include <algorithm>

namespace outrigger::blk {

void NbdLedger::add(Account& account) {
    account.next_ = first_.load(std::memory_order_relaxed);
    // Release: pairs with the acquire in next_uncovered().
    while (!first_.compare_exchange_weak(
        account.next_, &account, std::memory_order_release, std::memory_order_relaxed)) {
    }
}

NbdLedger::Account* NbdLedger::next_uncovered(const Account& flushed, const Account* after) const {
    // Acquire: pairs with the release in add().
    Account* account = after == nullptr ? first_.load(std::memory_order_acquire) : after->next_;
    // Each turn takes a connection, and there are no more of them than the disk has queues.
    for (; account != nullptr; account = account->next_) {
        // Acquire: these pair with the releases in note_unstable_write() and note_connected().
        const bool stable = account->all_is_stable();
        const Moment first = account->first_unstable_.load(std::memory_order_acquire);
        const Moment connected = flushed.connected_.load(std::memory_order_acquire);
        if (account != &flushed && !stable && connected >= first) {
            return account;
        }
    }
    return nullptr;
}

void NbdLedger::note_stable(Moment moment) {
    Moment until = stable_until_.load(std::memory_order_relaxed);
    // Release: pairs with the acquire in is_stable(). Ends when this or a later moment stands
    // there.
    while (until < moment &&
           !stable_until_.compare_exchange_weak(
               until, moment, std::memory_order_release, std::memory_order_relaxed)) {
    }
}

bool NbdLedger::Account::all_is_stable() const {
    // Acquire: these pair with the releases in note_unstable_write() and note_flushed().
    const Moment last = last_unstable_.load(std::memory_order_acquire);
    return last <= flushed_until_.load(std::memory_order_acquire) || ledger_.is_stable(last);
}

void NbdLedger::Account::note_flushed(Moment sent) {
    // Release: pairs with the acquire in all_is_stable(). Flushes may be answered in any order.
    flushed_until_.store(std::max(sent, flushed_until_.load(std::memory_order_relaxed)),
                         std::memory_order_release);
}

void NbdLedger::Account::note_connected() {
    // Release: pairs with the acquire in next_uncovered().
    connected_.store(ledger_.now(), std::memory_order_release);
}

void NbdLedger::Account::note_unstable_write() {
    const Moment moment = ledger_.now();
    if (all_is_stable()) {
        // Before the last one, by which others find it. Release: pairs with the acquire in
        // next_uncovered().
        first_unstable_.store(moment, std::memory_order_release);
    }
    // Release: as above.
    last_unstable_.store(moment, std::memory_order_release);
}

bool NbdLedger::Account::note_lost_connection() {
    // Release: pairs with the acquire in losses().
    losses_.fetch_add(1, std::memory_order_release);
    const bool all_stable = all_is_stable();
    last_unstable_.store(0, std::memory_order_release);
    return !all_stable && !ledger_.server_keeps_ && ledger_.lost_.set();
}

}  // namespace outrigger::blk
