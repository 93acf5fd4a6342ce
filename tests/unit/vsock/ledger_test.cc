// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/ledger.h"

#include <array>
#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::vsock {
namespace {

constexpr Ledger::Shape kShape{.connections_max = 4, .backlog_bytes = 64 * 1024};
constexpr size_t kPage = 4096;

class LedgerTest : public ::testing::Test {
  protected:
    LedgerTest() : file_(create_shared_memory("ledger", Ledger::bytes_for(kShape)).value()) {
        std::array<int, 2> ends{};
        EXPECT_EQ(
            ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()),
            0);
        ours_ = UniqueFd(ends[0]);
        theirs_ = UniqueFd(ends[1]);
    }

    [[nodiscard]] Ledger open() const {
        return std::move(Ledger::open(file_.get(), kShape).value().value());
    }

    /// What whoever else has the file sees there.
    [[nodiscard]] std::vector<uint64_t> first_page() const {
        std::vector<uint64_t> words(kPage / sizeof(uint64_t));
        EXPECT_EQ(::pread(file_.get(), words.data(), kPage, 0), static_cast<ssize_t>(kPage));
        return words;
    }

    void write_to_file(size_t offset, uint32_t value) const {
        EXPECT_EQ(::pwrite(file_.get(), &value, sizeof value, static_cast<off_t>(offset)),
                  static_cast<ssize_t>(sizeof value));
    }

    [[nodiscard]] ssize_t send(Ledger& ledger, std::string text) const {
        iovec piece{.iov_base = text.data(), .iov_len = text.size()};
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        return ledger.send(TransferKind::kDrain, 2, ours_.get(), message);
    }

    [[nodiscard]] ssize_t receive(Ledger& ledger, size_t room, int flags = 0) const {
        std::string text(room, '\0');
        iovec piece{.iov_base = text.data(), .iov_len = text.size()};
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        return ledger.receive(TransferKind::kLand, 2, ours_.get(), message, flags);
    }

    UniqueFd file_;
    UniqueFd ours_;
    UniqueFd theirs_;
};

// Whoever has the file may read and write it at any time: what a system call is to move must not
// come from there, and where our memory is must not be seen there.
TEST_F(LedgerTest, OfATransferItsFileHasNothingButHowMuchWasMoved) {
    Ledger ledger = open();
    ASSERT_EQ(send(ledger, "12345"), 5);
    std::vector<uint64_t> expected(kPage / sizeof(uint64_t));
    expected[0] = 5;
    EXPECT_TRUE(first_page() == expected);
    ASSERT_EQ(::send(theirs_.get(), "abc", 3, 0), 3);
    ASSERT_EQ(receive(ledger, 10), 3);
    expected[0] = 3;
    EXPECT_TRUE(first_page() == expected);
}

TEST_F(LedgerTest, WhatIsMovedIsNoMoreThanThereWasRoomFor) {
    Ledger ledger = open();
    ASSERT_EQ(::send(theirs_.get(), "abcdefgh", 8, 0), 8);
    EXPECT_EQ(receive(ledger, 3, MSG_TRUNC), 3);  // though the kernel says 8
}

// Between the kernel's writing and our reading, too.
TEST_F(LedgerTest, WhoeverWritesToItsFileMeanwhileMakesNothingMoreOfIt) {
    const pid_t child = ::fork();
    if (child == 0) {
        Ledger ledger = open();
        ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
        ::raise(SIGSTOP);
        ::_exit(static_cast<int>(send(ledger, "12345")));
    }
    int status = 0;
    int stops = 0;
    // Bounded: by the system calls that the child makes.
    while (::waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        write_to_file(0, 250);
        ++stops;
        ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
    }
    EXPECT_GE(stops, 3) << "not before and behind a system call";
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 5);
}

TEST_F(LedgerTest, AnotherProcessFindsWhatAnUncommittedTransferMoved) {
    {
        Ledger ledger = open();
        ConnectionRecord record{};
        record.peer_cid = kHostCid;
        record.backlog_end = 100;
        ledger.commit(2, record);
        ASSERT_EQ(send(ledger, "12345"), 5);
    }
    Ledger next = open();
    EXPECT_TRUE(next.goes_on());
    EXPECT_EQ(next.record(2).backlog_begin, 5U);
    EXPECT_EQ(next.record(2).forwarded, 5U);
    // Once.
    EXPECT_EQ(open().record(2).backlog_begin, 5U);
}

TEST_F(LedgerTest, RoomOfWhatWasSentToAnotherGuestIsForThatToSay) {
    {
        Ledger ledger = open();
        ConnectionRecord record{};
        record.peer_cid = kGuestCidMin;
        record.backlog_end = 100;
        ledger.commit(2, record);
        ASSERT_EQ(send(ledger, "12345"), 5);
    }
    const Ledger next = open();
    EXPECT_EQ(next.record(2).backlog_begin, 5U);
    EXPECT_EQ(next.record(2).forwarded, 0U);
}

TEST_F(LedgerTest, ATransferThatIsCommittedIsOver) {
    {
        Ledger ledger = open();
        ASSERT_EQ(send(ledger, "12345"), 5);
        ledger.commit();
    }
    EXPECT_EQ(open().record(2).backlog_begin, 0U);
}

TEST_F(LedgerTest, ATransferThatDidNotHappenChangesNothing) {
    {
        Ledger ledger = open();
        EXPECT_EQ(receive(ledger, 10), -1);
        EXPECT_EQ(errno, EAGAIN);
    }
    Ledger next = open();
    EXPECT_EQ(next.numbers().landed_slot, kNoSlot);
    EXPECT_EQ(next.numbers().landed_bytes, 0U);
}

TEST_F(LedgerTest, OneOfAnotherVersionOrShapeIsNotTakenUp) {
    (void)open();
    Ledger::Shape shape = kShape;
    shape.backlog_bytes /= 2;
    EXPECT_FALSE(Ledger::open(file_.get(), shape).value());
    shape = kShape;
    ++shape.guest_cid;
    EXPECT_FALSE(Ledger::open(file_.get(), shape).value());
    constexpr uint32_t kMagicAt = kPage;
    write_to_file(kMagicAt, 0x5653'4b01);  // the lower half: version 1
    EXPECT_FALSE(Ledger::open(file_.get(), kShape).value());
}

// Each word of the second page, where all that is not of one connection lies.
TEST_F(LedgerTest, WhateverItsFileSaysNumbersAreInRange) {
    constexpr size_t kBehindShape = kPage + 24;
    for (size_t at = kBehindShape; at < kPage + 512; at += sizeof(uint32_t)) {
        for (const uint32_t value : {~0U, 4U, 3U, 1U}) {
            const UniqueFd file = create_shared_memory("l", Ledger::bytes_for(kShape)).value();
            (void)Ledger::begin_anew(file.get(), kShape).value();
            ASSERT_EQ(::pwrite(file.get(), &value, sizeof value, static_cast<off_t>(at)), 4);
            const auto found = Ledger::open(file.get(), kShape).value();
            ASSERT_TRUE(found);
            const Numbers& numbers = found->numbers();
            EXPECT_TRUE(numbers.skip_slot < 4 || numbers.skip_slot == kNoSlot) << at;
            EXPECT_TRUE(numbers.landed_slot < 4 || numbers.landed_slot == kNoSlot) << at;
            EXPECT_LE(numbers.resets_end - numbers.resets_begin, kResetSlots) << at;
        }
    }
}

}  // namespace
}  // namespace outrigger::vsock
