// SPDX-License-Identifier: Apache-2.0
// Front ends agree on the messages and not on their order. Each test replays one front end's, up to
// a request that is answered through the ring.
#include <gtest/gtest.h>

#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

using driver::AckPolicy;
using driver::DriverQueue;
using wire::ProtocolFeature;

constexpr FeatureSet kVersion1 = FeatureSet::of({driver::kVersion1Bit});
constexpr FeatureSet kProtocolFeatures = FeatureSet::of({wire::kProtocolFeaturesBit});
constexpr uint16_t kRingSize = 64;

class CallOrders : public SessionTest {
  protected:
    // Two rings in guest memory, nothing of them said yet.
    void make_rings(bool packed, bool event_idx) {
        for (uint16_t index = 0; index < 2; ++index) {
            queues().push_back(
                DriverQueue::create(memory_,
                                    {.index = index,
                                     .packed = packed,
                                     .ring = {.size = kRingSize, .event_idx = event_idx}})
                    .value());
        }
    }

    // Sends one message with NEED_REPLY, as a front end does that asks for some only.
    template <class Message>
    void acknowledged(Message send_message) {
        frontend().set_ack_policy(AckPolicy::kAlways);
        EXPECT_EQ(send_message(), Answer::kAccepted);
        frontend().set_ack_policy(AckPolicy::kNever);
    }

    static void unasked(Answer answer) { EXPECT_EQ(answer, Answer::kUnasked); }

    static void accepted(Answer answer) { EXPECT_EQ(answer, Answer::kAccepted); }

    void expect_both_rings_answer() {
        expect_echo(0);
        expect_echo(1);
    }
};

// QEMU 10: calls and errs before any memory; NUM, BASE, ADDR, KICK, CALL; stop and start again
// without sending the memory anew.
TEST_F(CallOrders, Qemu) {
    driver::Frontend& fe = frontend();
    fe.set_ack_policy(AckPolicy::kNever);
    const auto offer = fe.get_features().value();
    const auto protocol = fe.get_protocol_features().value();
    // It gives rings by its own addresses.
    unasked(fe.set_protocol_features(protocol.without(bit(ProtocolFeature::kGpaAddresses))));
    EXPECT_EQ(fe.get_queue_num().value(), 2U);
    EXPECT_EQ(fe.get_max_mem_slots().value(), 509U);
    unasked(fe.set_owner());
    EXPECT_EQ(fe.get_features().value(), offer);
    make_rings(false, true);
    for (const DriverQueue& ring : queues()) {
        unasked(fe.set_vring_call(ring.index(), ring.call_fd()));
        unasked(fe.set_vring_err(ring.index(), ring.error_fd()));
    }
    // Without a virtual IOMMU a front end keeps that bit from the back end.
    const FeatureSet features =
        offer.without(driver::kRingPackedBit).without(driver::kAccessPlatformBit);
    unasked(fe.set_features(features));
    for (const auto region : memory_.regions()) {
        acknowledged([&] { return fe.add_mem_reg(memory_, region); });
    }
    for (const DriverQueue& ring : queues()) {
        unasked(fe.set_vring_num(ring.index(), kRingSize));
        unasked(fe.set_vring_base(ring.index(), 0));
        unasked(fe.set_vring_addr(ring.vring_address(memory_)));
        unasked(fe.set_vring_kick(ring.index(), ring.kick_fd()));
        unasked(fe.set_vring_call(ring.index(), ring.call_fd()));
    }
    for (const DriverQueue& ring : queues()) {
        acknowledged([&] { return fe.set_vring_enable(ring.index(), 1); });
    }
    unasked(fe.set_status(15));
    EXPECT_EQ(fe.get_status().value(), 15U);
    expect_both_rings_answer();

    for (const DriverQueue& ring : queues()) {
        unasked(fe.set_vring_enable(ring.index(), 0));
    }
    for (DriverQueue& ring : queues()) {
        EXPECT_EQ(fe.get_vring_base(ring.index()).value(), ring.base());
    }
    unasked(fe.set_features(features));
    for (DriverQueue& ring : queues()) {
        unasked(fe.set_vring_num(ring.index(), kRingSize));
        unasked(fe.set_vring_base(ring.index(), ring.base()));
        unasked(fe.set_vring_addr(ring.vring_address(memory_)));
        unasked(fe.set_vring_kick(ring.index(), ring.kick_fd()));
        unasked(fe.set_vring_call(ring.index(), ring.call_fd()));
        unasked(fe.set_vring_enable(ring.index(), 1));
    }
    expect_both_rings_answer();
    EXPECT_EQ(counters().refused.total(), 0U);
}

// cloud-hypervisor: all sizes first, ADDR before BASE, CALL before KICK, NEED_REPLY on everything.
TEST_F(CallOrders, CloudHypervisor) {
    driver::Frontend& fe = frontend();
    unasked(fe.set_owner());
    const auto offer = fe.get_features().value();
    const auto protocol = fe.get_protocol_features().value();
    // It gives rings by its own addresses.
    unasked(fe.set_protocol_features(protocol.without(bit(ProtocolFeature::kGpaAddresses))));
    EXPECT_EQ(fe.get_queue_num().value(), 2U);
    accepted(
        fe.set_features(offer.without(driver::kRingPackedBit).without(driver::kAccessPlatformBit)));
    make_rings(false, true);
    accepted(fe.set_mem_table(memory_));
    for (const DriverQueue& ring : queues()) {
        accepted(fe.set_vring_num(ring.index(), kRingSize));
    }
    for (const DriverQueue& ring : queues()) {
        accepted(fe.set_vring_addr(ring.vring_address(memory_)));
        accepted(fe.set_vring_base(ring.index(), 0));
        accepted(fe.set_vring_call(ring.index(), ring.call_fd()));
        accepted(fe.set_vring_kick(ring.index(), ring.kick_fd()));
    }
    for (const DriverQueue& ring : queues()) {
        accepted(fe.set_vring_enable(ring.index(), 1));
    }
    expect_both_rings_answer();
}

// crosvm: the owner first of all, never NEED_REPLY, and a base that fits 16 bits.
TEST_F(CallOrders, Crosvm) {
    driver::Frontend& fe = frontend();
    fe.set_ack_policy(AckPolicy::kNever);
    unasked(fe.set_owner());
    const auto offer = fe.get_features().value();
    unasked(fe.set_features(offer & (kVersion1 | kProtocolFeatures)));
    const auto protocol = fe.get_protocol_features().value();
    unasked(fe.set_protocol_features(protocol & FeatureSet::of({bit(ProtocolFeature::kConfig),
                                                                bit(ProtocolFeature::kMq),
                                                                bit(ProtocolFeature::kReplyAck)})));
    EXPECT_EQ(fe.get_queue_num().value(), 2U);
    EXPECT_EQ(fe.get_config(0, 8).value().size(), 8U);
    make_rings(false, false);
    unasked(fe.set_mem_table(memory_));
    for (const DriverQueue& ring : queues()) {
        unasked(fe.set_vring_num(ring.index(), kRingSize));
        unasked(fe.set_vring_addr(ring.vring_address(memory_)));
        unasked(fe.set_vring_base(ring.index(), 0));
        unasked(fe.set_vring_call(ring.index(), ring.call_fd()));
        unasked(fe.set_vring_kick(ring.index(), ring.kick_fd()));
        unasked(fe.set_vring_enable(ring.index(), 1));
    }
    expect_both_rings_answer();
    for (DriverQueue& ring : queues()) {
        EXPECT_EQ(fe.get_vring_base(ring.index()).value(), 1U);
    }
}

// Firecracker: of the protocol features CONFIG only, so there is no REPLY_ACK and no MQ.
TEST_F(CallOrders, Firecracker) {
    driver::Frontend& fe = frontend();
    unasked(fe.set_owner());
    const auto offer = fe.get_features().value();
    const auto wanted = kVersion1 | kProtocolFeatures | FeatureSet::of({driver::kEventIdxBit});
    ASSERT_TRUE(offer.contains(wanted));
    unasked(fe.set_features(wanted));
    EXPECT_TRUE(fe.get_protocol_features().value().has(bit(ProtocolFeature::kConfig)));
    unasked(fe.set_protocol_features(FeatureSet::of({bit(ProtocolFeature::kConfig)})));
    EXPECT_EQ(fe.get_config(0, 32).value().size(), 32U);
    make_rings(false, true);
    unasked(fe.set_mem_table(memory_));
    for (const DriverQueue& ring : queues()) {
        unasked(fe.set_vring_num(ring.index(), kRingSize));
    }
    for (const DriverQueue& ring : queues()) {
        unasked(fe.set_vring_addr(ring.vring_address(memory_)));
        unasked(fe.set_vring_base(ring.index(), 0));
        unasked(fe.set_vring_call(ring.index(), ring.call_fd()));
        unasked(fe.set_vring_kick(ring.index(), ring.kick_fd()));
        unasked(fe.set_vring_enable(ring.index(), 1));
    }
    expect_both_rings_answer();
}

// libkrun: features and protocol features before the owner, memory before SET_FEATURES.
TEST_F(CallOrders, Libkrun) {
    driver::Frontend& fe = frontend();
    const auto offer = fe.get_features().value();
    const auto protocol = fe.get_protocol_features().value();
    unasked(fe.set_protocol_features(
        protocol & FeatureSet::of({bit(ProtocolFeature::kMq), bit(ProtocolFeature::kConfig)})));
    unasked(fe.set_owner());
    EXPECT_EQ(fe.get_queue_num().value(), 2U);
    make_rings(false, false);
    unasked(fe.set_mem_table(memory_));
    unasked(fe.set_features(offer & (kVersion1 | kProtocolFeatures)));
    for (const DriverQueue& ring : queues()) {
        unasked(fe.set_vring_num(ring.index(), kRingSize));
        unasked(fe.set_vring_addr(ring.vring_address(memory_)));
        unasked(fe.set_vring_base(ring.index(), 0));
        unasked(fe.set_vring_call(ring.index(), ring.call_fd()));
        unasked(fe.set_vring_kick(ring.index(), ring.kick_fd()));
        unasked(fe.set_vring_enable(ring.index(), 1));
    }
    expect_both_rings_answer();
}

// DPDK virtio-user: calls at once, the status byte, KICK last, and the base of a fresh packed ring
// without its upper half (0x00008000).
TEST_F(CallOrders, DpdkVirtioUserWithPackedRings) {
    driver::Frontend& fe = frontend();
    unasked(fe.set_owner());
    const auto offer = fe.get_features().value();
    const auto protocol = fe.get_protocol_features().value();
    unasked(fe.set_protocol_features(protocol & FeatureSet::of({bit(ProtocolFeature::kMq),
                                                                bit(ProtocolFeature::kReplyAck),
                                                                bit(ProtocolFeature::kStatus)})));
    EXPECT_EQ(fe.get_queue_num().value(), 2U);
    accepted(fe.set_status(0));
    accepted(fe.set_status(1));
    accepted(fe.set_status(3));
    accepted(
        fe.set_features(offer & (kVersion1 | kProtocolFeatures |
                                 FeatureSet::of({driver::kRingPackedBit, driver::kEventIdxBit}))));
    accepted(fe.set_status(11));
    EXPECT_EQ(fe.get_status().value(), 11U);
    make_rings(true, true);
    for (const DriverQueue& ring : queues()) {
        accepted(fe.set_vring_call(ring.index(), ring.call_fd()));
    }
    accepted(fe.set_mem_table(memory_));
    for (const DriverQueue& ring : queues()) {
        accepted(fe.set_vring_num(ring.index(), kRingSize));
        accepted(fe.set_vring_base(ring.index(), 0x8000));
        accepted(fe.set_vring_addr(ring.vring_address(memory_)));
        accepted(fe.set_vring_kick(ring.index(), ring.kick_fd()));
    }
    for (const DriverQueue& ring : queues()) {
        accepted(fe.set_vring_enable(ring.index(), 1));
    }
    accepted(fe.set_status(15));
    expect_both_rings_answer();
}

// Front ends before QEMU 7.2 do not take VHOST_USER_F_PROTOCOL_FEATURES for some devices: rings are
// enabled from the start then ("Ring states").
TEST_F(CallOrders, WithoutProtocolFeaturesRingsAreEnabledFromTheStart) {
    driver::Frontend& fe = frontend();
    unasked(fe.set_owner());
    (void)fe.get_features().value();
    unasked(fe.set_features(kVersion1));
    make_rings(false, false);
    unasked(fe.set_mem_table(memory_));
    for (const DriverQueue& ring : queues()) {
        unasked(fe.set_vring_num(ring.index(), kRingSize));
        unasked(fe.set_vring_base(ring.index(), 0));
        unasked(fe.set_vring_addr(ring.vring_address(memory_)));
        unasked(fe.set_vring_kick(ring.index(), ring.kick_fd()));
        unasked(fe.set_vring_call(ring.index(), ring.call_fd()));
    }
    expect_both_rings_answer();
}

// No front end is known to do it, and the specification does not forbid it.
TEST_F(CallOrders, MemoryLastOfAll) {
    driver::Frontend& fe = frontend();
    negotiate();
    make_rings(false, true);
    for (const DriverQueue& ring : queues()) {
        accepted(fe.set_vring_num(ring.index(), kRingSize));
        accepted(fe.set_vring_addr(ring.vring_address(memory_)));
        accepted(fe.set_vring_kick(ring.index(), ring.kick_fd()));
        accepted(fe.set_vring_call(ring.index(), ring.call_fd()));
        accepted(fe.set_vring_enable(ring.index(), 1));
    }
    accepted(fe.set_mem_table(memory_));
    expect_both_rings_answer();
}

}  // namespace
}  // namespace outrigger::testing
