// SPDX-License-Identifier: Apache-2.0
/// The fixture of the tests of device state.
#pragma once

#include <span>
#include <string>

#include <gtest/gtest.h>

#include "vhost-user-backend/state/device_state.h"

#include "tests/support/session_test.h"
#include "tests/support/state_pipe.h"

namespace outrigger::testing {

class DeviceStateTest : public SessionTest {
  protected:
    static constexpr FeatureSet kProtocolFeatures =
        driver::kUsualProtocolFeatures.with(bit(wire::ProtocolFeature::kDeviceState));

    using SessionTest::SessionTest;

    [[nodiscard]] static driver::BringUpOptions with_state() {
        return {.protocol_features = kProtocolFeatures};
    }

    /// What a front end must say before it may load a state, and nothing more.
    static void take_protocol_features(driver::Frontend& frontend) {
        EXPECT_TRUE(frontend.get_features());
        EXPECT_TRUE(frontend.get_protocol_features());
        EXPECT_EQ(frontend.set_protocol_features(kProtocolFeatures), Answer::kUnasked);
    }

    void start_again() {
        ASSERT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
        ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    }

    [[nodiscard]] static DeviceState parsed(const std::string& bytes) {
        auto state = parse_state(std::as_bytes(std::span(bytes)));
        EXPECT_TRUE(state) << state.error().message;
        return std::move(state).value_or(DeviceState());
    }
};

}  // namespace outrigger::testing
