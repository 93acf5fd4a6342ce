// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/session_facts.h"

#include <gtest/gtest.h>

namespace outrigger {
namespace {

SessionFacts some_facts() {
    return {.used = true,
            .features_refused = false,
            .device_is_reset = true,
            .log_is_incomplete = true,
            .rings = {RingPlaceKnown::kByItself, RingPlaceKnown::kWithoutMemory},
            .exchange = {.load_failed = true,
                         .ran_since_load = false,
                         .interrupted = true,
                         .outcome = false,
                         .loaded = std::nullopt,
                         .saved = DeviceState{.device_id = 2,
                                              .features = FeatureSet(uint64_t{1} << 32),
                                              .queues = {{.index = 1, .size = 256}}}}};
}

TEST(SessionFacts, AreReadAsTheyWereWritten) {
    const SessionFacts facts = some_facts();
    const auto read = SessionFacts::decode(facts.encode().value());
    ASSERT_TRUE(read);
    EXPECT_TRUE(read->used);
    EXPECT_FALSE(read->features_refused);
    EXPECT_TRUE(read->device_is_reset);
    EXPECT_TRUE(read->log_is_incomplete);
    EXPECT_EQ(read->rings, facts.rings);
    EXPECT_TRUE(read->exchange.load_failed);
    EXPECT_FALSE(read->exchange.ran_since_load);
    EXPECT_TRUE(read->exchange.interrupted);
    EXPECT_EQ(read->exchange.outcome, std::optional(false));
    EXPECT_FALSE(read->exchange.loaded);
    EXPECT_EQ(read->exchange.saved, facts.exchange.saved);
}

TEST(SessionFacts, OfNoTransferHaveNoOutcome) {
    const auto read = SessionFacts::decode(SessionFacts{}.encode().value());
    ASSERT_TRUE(read);
    EXPECT_FALSE(read->exchange.outcome);
    EXPECT_FALSE(read->exchange.saved);
}

TEST(SessionFacts, AnyBytesAreNoneAtMost) {
    const std::vector<std::byte> bytes = some_facts().encode().value();
    for (size_t length = 0; length < bytes.size(); ++length) {
        EXPECT_FALSE(SessionFacts::decode(std::span(bytes).first(length))) << length;
    }
    for (size_t at = 0; at < bytes.size(); ++at) {
        for (int bit = 0; bit < 8; ++bit) {
            std::vector<std::byte> flipped = bytes;
            flipped[at] ^= static_cast<std::byte>(1 << bit);
            (void)SessionFacts::decode(flipped);
        }
    }
}

}  // namespace
}  // namespace outrigger
