// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/nbd/nbd_ledger.h"

#include <gtest/gtest.h>

#include "devices/blk/nbd/nbd_engine.h"

namespace outrigger::blk {
namespace {

/// Two connections of one disk.
class NbdLedgerTest : public ::testing::Test {
  protected:
    NbdLedgerTest() {
        ledger_.add(one_);
        ledger_.add(two_);
    }

    /// A flush that begins now and is answered on `account`: who else must flush?
    const NbdLedger::Account* flush_on(const NbdLedger::Account& account) {
        return ledger_.next_uncovered(account, nullptr);
    }

    // Nobody asks for them here.
    NbdPeer* const no_peer_ = nullptr;
    SyncMark lost_;
    NbdLedger ledger_{false, lost_};
    NbdLedger::Account one_{ledger_, no_peer_};
    NbdLedger::Account two_{ledger_, no_peer_};
};

TEST_F(NbdLedgerTest, FlushCoversWhatOthersWroteSinceItsConnectionWasMade) {
    one_.note_connected();
    two_.note_connected();
    two_.note_unstable_write();
    EXPECT_EQ(flush_on(one_), nullptr);
}

TEST_F(NbdLedgerTest, FlushDoesNotCoverWhatOthersWroteBeforeItsConnectionWasMade) {
    two_.note_connected();
    two_.note_unstable_write();
    one_.note_connected();
    EXPECT_EQ(flush_on(one_), &two_);
    EXPECT_EQ(ledger_.next_uncovered(one_, &two_), nullptr);
    two_.note_unstable_write();
    EXPECT_EQ(flush_on(one_), &two_);
}

TEST_F(NbdLedgerTest, OwnWritesNeedNoOtherConnection) {
    one_.note_connected();
    one_.note_unstable_write();
    EXPECT_EQ(flush_on(one_), nullptr);
}

TEST_F(NbdLedgerTest, WhatIsStableIsNotLostWithAnyConnection) {
    one_.note_connected();
    two_.note_connected();
    one_.note_unstable_write();
    two_.note_unstable_write();
    ledger_.note_stable(ledger_.now());
    EXPECT_FALSE(one_.note_lost_connection());
    EXPECT_FALSE(two_.note_lost_connection());
    EXPECT_FALSE(ledger_.may_lack_writes());
}

TEST_F(NbdLedgerTest, WriteThatWasAnsweredBehindTheBeginningOfAFlushIsNotStableByIt) {
    one_.note_connected();
    const NbdLedger::Moment began = ledger_.now();
    one_.note_unstable_write();
    ledger_.note_stable(began);
    EXPECT_TRUE(one_.note_lost_connection());
    EXPECT_TRUE(ledger_.may_lack_writes());
}

TEST_F(NbdLedgerTest, FlushThatBeganEarlierTakesNothingBack) {
    one_.note_connected();
    const NbdLedger::Moment began = ledger_.now();
    one_.note_unstable_write();
    ledger_.note_stable(ledger_.now());
    ledger_.note_stable(began);
    EXPECT_FALSE(one_.note_lost_connection());
}

TEST_F(NbdLedgerTest, FlushOfItsOwnMakesAConnectionsWritesStableBeforeAnybodyElseKnows) {
    one_.note_connected();
    one_.note_unstable_write();
    one_.note_flushed(one_.now());
    EXPECT_FALSE(one_.note_lost_connection());
}

TEST_F(NbdLedgerTest, FlushThatWasSentBeforeTheAnswerToAWriteDoesNotMakeItStable) {
    one_.note_connected();
    const NbdLedger::Moment sent = one_.now();
    one_.note_unstable_write();
    one_.note_flushed(sent);
    EXPECT_TRUE(one_.note_lost_connection());
}

TEST_F(NbdLedgerTest, LossIsNewsOnce) {
    one_.note_connected();
    two_.note_connected();
    one_.note_unstable_write();
    two_.note_unstable_write();
    EXPECT_TRUE(one_.note_lost_connection());
    EXPECT_FALSE(two_.note_lost_connection());
    EXPECT_EQ(one_.losses(), 1U);
}

TEST_F(NbdLedgerTest, ServerThatKeepsEverythingLosesNothing) {
    SyncMark lost;
    NbdLedger keeping(true, lost);
    NbdLedger::Account only(keeping, no_peer_);
    keeping.add(only);
    only.note_connected();
    only.note_unstable_write();
    EXPECT_FALSE(only.note_lost_connection());
    EXPECT_FALSE(keeping.may_lack_writes());
}

}  // namespace
}  // namespace outrigger::blk
