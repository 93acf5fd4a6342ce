// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/credit.h"

#include <gtest/gtest.h>

namespace outrigger::vsock {
namespace {

TEST(SendCredit, IsTheBufferLessWhatIsInIt) {
    SendCredit credit;
    EXPECT_EQ(credit.available(), 0U);
    credit.update(100, 0);
    credit.note_sent(30);
    EXPECT_EQ(credit.available(), 70U);
    credit.update(100, 20);
    EXPECT_EQ(credit.available(), 90U);
}

TEST(SendCredit, OfABufferThatShrankBelowWhatIsInItIsNothing) {
    SendCredit credit;
    credit.update(100, 0);
    credit.note_sent(100);
    credit.update(99, 0);
    EXPECT_EQ(credit.available(), 0U);
}

TEST(SendCredit, OfAGuestThatTookMoreThanItGotIsNothing) {
    SendCredit credit;
    credit.update(100, 1);
    EXPECT_EQ(credit.available(), 0U);
}

TEST(SendCredit, CountsWrap) {
    SendCredit credit;
    credit.update(100, 0xffff'fff0);
    credit.note_sent(0xffff'fff8);
    EXPECT_EQ(credit.available(), 92U);
    credit.note_sent(16);
    EXPECT_EQ(credit.available(), 76U);
    credit.update(100, 8);
    EXPECT_EQ(credit.available(), 100U);
}

TEST(ReceiveWindow, AdmitsWhatItSaysAndNotAByteMore) {
    ReceiveWindow window(100, 100);
    EXPECT_TRUE(window.admit(60));
    EXPECT_FALSE(window.admit(41));
    EXPECT_TRUE(window.admit(40));
    EXPECT_FALSE(window.admit(1));
    EXPECT_TRUE(window.admit(0));
    window.note_written(10);
    window.free_written();
    EXPECT_FALSE(window.admit(11));
    EXPECT_TRUE(window.admit(10));
}

TEST(ReceiveWindow, TellsWhenHalfOfItIsFreeAndNotKnown) {
    ReceiveWindow window(100, 100);
    ASSERT_TRUE(window.admit(100));
    window.note_written(49);
    window.free_written();
    EXPECT_FALSE(window.should_tell(1000));
    window.note_written(1);
    window.free_written();
    EXPECT_TRUE(window.should_tell(1000));
    window.note_told();
    EXPECT_FALSE(window.should_tell(1000));
    EXPECT_EQ(window.forwarded(), 50U);
}

TEST(ReceiveWindow, TellsWhenHalfOfTheGuestsBufferIsFreeWhereThatIsSmaller) {
    ReceiveWindow window(100, 100);
    ASSERT_TRUE(window.admit(100));
    window.note_written(9);
    window.free_written();
    EXPECT_FALSE(window.should_tell(20));
    window.note_written(1);
    window.free_written();
    EXPECT_TRUE(window.should_tell(20));
    EXPECT_TRUE(window.should_tell(0));
    window.note_told();
    EXPECT_FALSE(window.should_tell(0));
}

TEST(ReceiveWindow, GrowsUpToItsLimit) {
    ReceiveWindow window(100, 350);
    window.grow();
    EXPECT_EQ(window.bytes(), 200U);
    window.grow();
    EXPECT_EQ(window.bytes(), 350U);
    window.grow();
    EXPECT_EQ(window.bytes(), 350U);
}

TEST(ReceiveWindow, IsFreeOfWhatTheOtherEndHasTakenAndOfNothingElse) {
    ReceiveWindow window(100, 100);
    ASSERT_TRUE(window.admit(80));
    window.note_written(60);
    EXPECT_FALSE(window.admits(21));
    window.free_taken(50);
    EXPECT_TRUE(window.admits(70));
    EXPECT_FALSE(window.admits(71));
    window.free_taken(40);
    EXPECT_EQ(window.forwarded(), 50U) << "it cannot have taken less than before";
    window.free_taken(70);
    EXPECT_EQ(window.forwarded(), 60U) << "it cannot have taken what has not left";
}

TEST(ReceiveWindow, CountsWrap) {
    ReceiveWindow window(0x8000'0000, 0x8000'0000);
    for (int i = 0; i < 5; ++i) {
        ASSERT_TRUE(window.admit(0x7fff'ffff));
        window.note_written(0x7fff'ffff);
        window.free_written();
    }
    EXPECT_TRUE(window.admit(0x8000'0000));
    EXPECT_FALSE(window.admit(1));
}

TEST(ReceiveWindow, LimitHoldsForTheWindowAndItsGrowth) {
    ReceiveWindow large(1000, 4000);
    large.limit(1500);
    EXPECT_EQ(large.bytes(), 1000U);
    large.grow();
    EXPECT_EQ(large.bytes(), 1500U);
    ReceiveWindow small(1000, 4000);
    small.limit(999);
    EXPECT_EQ(small.bytes(), 999U);
    small.limit(4000);  // and stays
    small.grow();
    EXPECT_EQ(small.bytes(), 999U);
}

}  // namespace
}  // namespace outrigger::vsock
