// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/kept_connections.h"

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"

namespace outrigger::vsock {
namespace {

constexpr size_t kSlots = 4;

constexpr ConnectionKey kOne{.peer_cid = 2, .peer_port = 10, .guest_port = 20};
constexpr ConnectionKey kOther{
    .peer_cid = 9, .peer_port = 11, .guest_port = 21, .type = SocketType::kSeqpacket};

TEST(KeptConnections, AreThereForTheNextProcess) {
    const UniqueFd fd = create_shared_memory("kept", KeptConnections::bytes_for(kSlots)).value();
    auto first = KeptConnections::open(fd.get(), kSlots).value();
    EXPECT_TRUE(first.keys().empty());
    first.note(0, kOne);
    first.note(kSlots - 1, kOther);
    auto second = KeptConnections::open(fd.get(), kSlots).value();
    EXPECT_EQ(second.keys(), (std::vector{kOne, kOther}));
    first.forget(0);
    EXPECT_EQ(second.keys(), std::vector{kOther});
}

TEST(KeptConnections, WhatCannotBeOneIsLeftOut) {
    const UniqueFd fd = create_shared_memory("kept", KeptConnections::bytes_for(kSlots)).value();
    auto kept = KeptConnections::open(fd.get(), kSlots).value();
    kept.note(1, {.peer_cid = 2, .peer_port = 1, .guest_port = 1, .type = SocketType{7}});
    EXPECT_TRUE(kept.keys().empty());
}

}  // namespace
}  // namespace outrigger::vsock
