// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/siblings.h"

#include <utility>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"

#include "devices/vsock/vsock_engine.h"

namespace outrigger::vsock {
namespace {

TEST(CallerRule, IsACidOrACidAndAPort) {
    const auto any = parse_caller_rule("4");
    ASSERT_TRUE(any);
    EXPECT_EQ(any->cid, 4U);
    EXPECT_FALSE(any->port);
    const auto one = parse_caller_rule("4294967294:0");
    ASSERT_TRUE(one);
    EXPECT_EQ(one->cid, 4294967294U);
    EXPECT_EQ(one->port, 0U);
}

TEST(CallerRule, AnythingElseIsNone) {
    for (const char* text :
         {"", ":", "4:", ":22", "4:x", "x", "2", "4294967295", "4:4294967296", "4:22:1", " 4"}) {
        EXPECT_FALSE(parse_caller_rule(text)) << text;
    }
}

/// Its driver is up: only the process is another.
TEST(Sibling, ThatGoesOnCanBeCalledBeforeItsQueuesRunAgain) {
    VsockOptions options;
    options.guest_cid = 9;
    options.connections_max = 4;
    const Ledger::Shape shape = VsockEngine::ledger_shape(options);
    const UniqueFd file = create_shared_memory("ledger", Ledger::bytes_for(shape)).value();
    const auto serve = [&] {
        return VsockEngine::create(
                   options, {}, {.ledger = Ledger::open(file.get(), shape).value().value()})
            .value();
    };
    {
        const auto first = serve();
        EXPECT_FALSE(Sibling::find(options.guest_cid)->is_up());
    }
    const auto next = serve();
    EXPECT_TRUE(Sibling::find(options.guest_cid)->is_up());
    next->forget_guest();
    EXPECT_FALSE(Sibling::find(options.guest_cid)->is_up());
}

}  // namespace
}  // namespace outrigger::vsock
