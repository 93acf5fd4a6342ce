// SPDX-License-Identifier: Apache-2.0
// Guests of one program that call one another.
#include "tests/integration/vsock_siblings.h"

#include <string>

namespace outrigger::vsock {
namespace {

TEST_P(VsockSiblingTest, AreKeptApartWithoutARule) {
    serve_both({}, {});
    expect_refused(EndReason::kNotAllowed);
    testing::give_others_a_moment();
    EXPECT_FALSE(other().receive_now());
}

TEST_P(VsockSiblingTest, OfOtherGroupsAreKeptApart) {
    serve_both({.groups = {"a", "b"}}, {.groups = {"c"}});
    expect_refused(EndReason::kNotAllowed);
}

TEST_P(VsockSiblingTest, OfOneGroupReachOneAnother) {
    serve_both({.groups = {"a", "b"}}, {.groups = {"b"}});
    open();
    expect_echo_between_guests();
}

TEST_P(VsockSiblingTest, RuleLetsThatCallerInAndNotTheOtherWay) {
    serve_both({}, {.callers = {{.cid = kCaller}}});
    open();
    expect_echo_between_guests();
    virtio_vsock_hdr header = to_caller(VIRTIO_VSOCK_OP_REQUEST);
    header.src_port = 1;
    ASSERT_TRUE(other().send(header));
    EXPECT_EQ(other().receive_op(), VIRTIO_VSOCK_OP_RST);
}

TEST_P(VsockSiblingTest, RuleOfAPortLetsInThere) {
    serve_both({}, {.callers = {{.cid = kCaller, .port = kPort}}});
    open();
}

TEST_P(VsockSiblingTest, RuleOfAPortLetsInNowhereElse) {
    serve_both({}, {.callers = {{.cid = kCaller, .port = kPort + 1}, {.cid = 9}}});
    expect_refused(EndReason::kNotAllowed);
}

TEST_P(VsockSiblingTest, OwnAddressCannotBeCalled) {
    options_.siblings = kGroupA;
    serve();
    virtio_vsock_hdr header = to_other(VIRTIO_VSOCK_OP_REQUEST);
    header.dst_cid = kCaller;
    ASSERT_TRUE(guest().send(header));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
}

TEST_P(VsockSiblingTest, GuestThatIsNotUpRefuses) {
    options_.siblings = kGroupA;
    serve();
    serve_other_device(kGroupA);
    expect_refused(EndReason::kSiblingDown);
}

TEST_P(VsockSiblingTest, CallLeftUnderRulesOfBeforeIsRefused) {
    serve();
    // Of the process before: the mailbox, with a call that its rules allowed.
    auto mailbox = Mailbox::create().value();
    auto ends = Sibling::make_ends(SocketType::kStream).value();
    {
        Mailbox same{.inbox = UniqueFd(::dup(mailbox.inbox.get())),
                     .outbox = UniqueFd(::dup(mailbox.outbox.get()))};
        const auto before = Sibling::create(kCalled, kGroupA, std::move(same)).value();
        ASSERT_TRUE(before->call(
            {.from_cid = kCaller,
             .from_port = kGuestPort,
             .to_port = kPort,
             .type = SocketType::kStream,
             .socket = std::move(ends.called)},
            [](int outbox, const msghdr& message) { return ::sendmsg(outbox, &message, 0); }));
    }
    Keeping keeping;
    keeping.mailbox = std::move(mailbox);
    serve_other_device({}, std::move(keeping));
    start_other_guest();
    const HostSocket caller(std::move(ends.caller));
    // Why, and the end.
    EXPECT_NE(caller.receive(1), "+");
    EXPECT_TRUE(caller.ends());
    EXPECT_EQ(other_device_->counters().ended.value(EndReason::kRuleWithdrawn), 1U);
    testing::give_others_a_moment();
    EXPECT_FALSE(other().receive_now());
}

TEST_P(VsockSiblingTest, RefusalOfTheCalledReachesTheCaller) {
    serve_both(kGroupA, kGroupA);
    ASSERT_TRUE(guest().send(to_other(VIRTIO_VSOCK_OP_REQUEST)));
    EXPECT_EQ(other().receive_op(), VIRTIO_VSOCK_OP_REQUEST);
    ASSERT_TRUE(other().send(to_caller(VIRTIO_VSOCK_OP_RST)));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kGuestRefused), 1U);
}

TEST_P(VsockSiblingTest, Trap17GuestWithoutRoomForAnotherConnectionRefusesAtOnce) {
    serve_both(kGroupA, kGroupA, {.device_features = 7});
    // As many as the other device may have, of programs of the host that are let in or wait.
    std::vector<HostSocket> programs;
    for (size_t i = 0; i < kOthersMax; ++i) {
        programs.push_back(HostSocket::connect_to(folder_ / "other", SOCK_STREAM));
        programs.back().send("CONNECT " + std::to_string(100 + i) + "\n");
        ASSERT_EQ(other().receive_op(), VIRTIO_VSOCK_OP_REQUEST);
    }
    expect_refused(EndReason::kTooManyConnections);
    EXPECT_EQ(other_device_->counters().ended.value(EndReason::kTooManyConnections), 1U);
}

TEST_P(VsockSiblingTest, SilentProgramsDoNotKeepOtherGuestsFromCalling) {
    serve_both(kGroupA, kGroupA);
    std::vector<HostSocket> silent;
    for (size_t i = 0; i < VsockEngine::kGreetingsMax + 8; ++i) {
        silent.push_back(HostSocket::connect_to(folder_ / "other", SOCK_STREAM));
    }
    EXPECT_TRUE(eventually([&] {
        return other_device_->counters().connections.value() == VsockEngine::kGreetingsMax;
    }));
    open();
    expect_echo_between_guests();
}

TEST_P(VsockSiblingTest, CallerIsToldThatTheTypeIsNotTaken) {
    serve_both(kGroupA, kGroupA, {.device_features = 1});  // STREAM
    ASSERT_TRUE(guest().send(to_other(VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_TYPE_SEQPACKET)));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kTypeNotNegotiated), 1U);
    EXPECT_EQ(ended(EndReason::kGuestRefused), 0U);
}

TEST_P(VsockSiblingTest, PacketsAreCutToTheBuffersOfTheReceiver) {
    serve_both(kGroupA, kGroupA, {.receive_bytes = 100});
    open();
    const std::string text(30'000, 'x');
    virtio_vsock_hdr header = to_other(VIRTIO_VSOCK_OP_RW);
    header.len = static_cast<uint32_t>(text.size());
    ASSERT_TRUE(guest().send(header, text));
    EXPECT_EQ(other().receive_bytes(text.size()), text);
}

TEST_P(VsockSiblingTest, MessagesKeepTheirBounds) {
    serve_both(kGroupA, kGroupA, {.receive_bytes = 100});
    open(VIRTIO_VSOCK_TYPE_SEQPACKET);
    for (const std::string& text : {std::string("one"), std::string(200, 'x'), std::string()}) {
        send_message(text, VIRTIO_VSOCK_SEQ_EOM);
        expect_message(text, VIRTIO_VSOCK_SEQ_EOM);
    }
}

TEST_P(VsockSiblingTest, EndsOfRecordsArriveWithTheirMessages) {
    serve_both(kGroupA, kGroupA, {.receive_bytes = 100});
    open(VIRTIO_VSOCK_TYPE_SEQPACKET);
    constexpr uint32_t kRecord = VIRTIO_VSOCK_SEQ_EOM | VIRTIO_VSOCK_SEQ_EOR;
    for (const std::string& text : {std::string("one"), std::string(200, 'x'), std::string()}) {
        send_message(text, VIRTIO_VSOCK_SEQ_EOM);
        send_message(text, kRecord);
        expect_message(text, VIRTIO_VSOCK_SEQ_EOM);
        expect_message(text, kRecord);
    }
}

TEST_P(VsockSiblingTest, EndOfOneDirectionLeavesTheOther) {
    serve_both(kGroupA, kGroupA);
    open();
    virtio_vsock_hdr header = to_other(VIRTIO_VSOCK_OP_SHUTDOWN);
    header.flags = VIRTIO_VSOCK_SHUTDOWN_SEND;
    ASSERT_TRUE(guest().send(header));
    const auto end = other().receive_event();
    ASSERT_TRUE(end);
    EXPECT_EQ(end->op(), VIRTIO_VSOCK_OP_SHUTDOWN);
    EXPECT_EQ(end->header.flags, static_cast<uint32_t>(VIRTIO_VSOCK_SHUTDOWN_SEND));
    header = to_caller(VIRTIO_VSOCK_OP_RW);
    header.len = 4;
    ASSERT_TRUE(other().send(header, "more"));
    EXPECT_EQ(guest().receive_bytes(4), "more");
}

TEST_P(VsockSiblingTest, GuestThatLeavesEndsItsConnections) {
    serve_both(kGroupA, kGroupA);
    open();
    other_guest_.reset();
    const uint16_t op = guest().receive_op();
    EXPECT_TRUE(op == VIRTIO_VSOCK_OP_SHUTDOWN || op == VIRTIO_VSOCK_OP_RST) << op;
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockSiblingTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::vsock
