// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/keeper_message.h"

#include <array>
#include <string>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/wire/fd_passing.h"

namespace outrigger {
namespace {

TEST(KeeperMessage, FieldsAreWholeLines) {
    const KeeperMessage message{.text = "FDSTORE=1\nFDNAME=a=b\nEMPTY=\nXFDPOLL=2\nFDPOLL",
                                .fds = {}};
    EXPECT_EQ(message.field("FDSTORE"), "1");
    EXPECT_EQ(message.field("FDNAME"), "a=b");
    EXPECT_EQ(message.field("EMPTY"), "");
    EXPECT_EQ(message.field("FDPOLL"), "");
    EXPECT_EQ(message.field("FD"), "");
    EXPECT_EQ(KeeperMessage().field("FDNAME"), "");
}

TEST(KeeperMessage, NamesAreCounted) {
    EXPECT_EQ(split_names(""), std::vector<std::string>{});
    EXPECT_EQ(split_names("one"), std::vector<std::string>{"one"});
    EXPECT_EQ(split_names("one::three"), (std::vector<std::string>{"one", "", "three"}));
}

class KeeperChannelTest : public ::testing::Test {
  protected:
    KeeperChannelTest() {
        std::array<int, 2> ends{};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
        ours_.reset(ends[0]);
        theirs_.reset(ends[1]);
    }

    void send(const std::string& text, std::span<const int> fds = {}) const {
        EXPECT_EQ(wire::send_some(theirs_.get(), std::as_bytes(std::span(text)), {}, fds).status,
                  wire::SendStatus::kSent);
    }

    UniqueFd ours_;
    UniqueFd theirs_;
};

TEST_F(KeeperChannelTest, AMessageIsAPacketWithItsDescriptors) {
    const std::array fds{ours_.get(), theirs_.get()};
    send("one", fds);
    send("two");
    KeeperMessage message;
    ASSERT_TRUE(receive_keeper_message(ours_.get(), message, KeeperWait::kNever));
    EXPECT_EQ(message.text, "one");
    EXPECT_EQ(message.fds.size(), 2U);
    ASSERT_TRUE(receive_keeper_message(ours_.get(), message, KeeperWait::kWaits));
    EXPECT_EQ(message.text, "two");
    EXPECT_TRUE(message.fds.empty());
    EXPECT_FALSE(receive_keeper_message(ours_.get(), message, KeeperWait::kNever));
    EXPECT_EQ(errno, EAGAIN);
}

TEST_F(KeeperChannelTest, WhatIsTooLongIsNoMessageAndNotTheEnd) {
    send(std::string(kKeeperTextMax + 1, 'x'));
    send("next");
    KeeperMessage message;
    EXPECT_FALSE(receive_keeper_message(ours_.get(), message, KeeperWait::kNever));
    EXPECT_EQ(errno, EMSGSIZE);
    ASSERT_TRUE(receive_keeper_message(ours_.get(), message, KeeperWait::kNever));
    EXPECT_EQ(message.text, "next");
}

TEST_F(KeeperChannelTest, WhoDoesNotWaitIsToldThatNothingWasReadYet) {
    int sent = 0;
    while (send_keeper_message(ours_.get(), "said", {}, KeeperWait::kNever)) {
        ++sent;
    }
    EXPECT_EQ(errno, EAGAIN);
    EXPECT_GT(sent, 0);
    KeeperMessage message;
    for (int i = 0; i < sent; ++i) {
        ASSERT_TRUE(receive_keeper_message(theirs_.get(), message, KeeperWait::kNever));
    }
    EXPECT_TRUE(send_keeper_message(ours_.get(), "more", {}, KeeperWait::kNever));
    theirs_.reset();
    EXPECT_FALSE(send_keeper_message(ours_.get(), "gone", {}, KeeperWait::kNever));
    EXPECT_NE(errno, EAGAIN);
}

TEST_F(KeeperChannelTest, TheEndIsSeen) {
    theirs_.reset();
    KeeperMessage message;
    EXPECT_FALSE(receive_keeper_message(ours_.get(), message, KeeperWait::kWaits));
}

}  // namespace
}  // namespace outrigger
