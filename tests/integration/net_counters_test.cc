// SPDX-License-Identifier: Apache-2.0
// What an operator is told of a network device.
#include <map>
#include <string>

#include <outrigger_control.pb.h>

#include "tests/integration/net_traps.h"

namespace outrigger::net {
namespace {

namespace v1 = control::v1;

class NetCountersTest : public NetTest {
  protected:
    [[nodiscard]] v1::NetworkDevice told() {
        v1::Device device;
        device_->control()->describe(device);
        return device.network();
    }

    static std::map<std::string, uint64_t> drops_of(const v1::NetworkFlow& flow) {
        std::map<std::string, uint64_t> drops;
        for (const v1::NetworkDrops& each : flow.drops()) {
            drops[each.reason()] = each.frames();
        }
        return drops;
    }
};

TEST_P(NetCountersTest, TellWhatPassedAndWhatWasDropped) {
    serve({}, {.mtu = 1500, .backend = "played"});
    EXPECT_EQ(told().backend(), "played");
    EXPECT_EQ(told().queue_pairs(), 1U);
    EXPECT_EQ(told().from_guest().drops_size(), 0);
    expect_traffic();
    ASSERT_TRUE(guest().send_raw("short"));
    ASSERT_TRUE(guest().send("runt"));
    ASSERT_TRUE(guest().send("runt"));
    port().give(make_frame(make_payload(2000)));
    expect_traffic();
    const v1::NetworkDevice now = told();
    EXPECT_EQ(now.from_guest().frames(), 2U);
    EXPECT_EQ(now.from_guest().bytes(), 2 * make_frame("ping").size());
    EXPECT_EQ(now.to_guest().frames(), 2U);
    EXPECT_EQ(now.to_guest().bytes(), 2 * make_frame("pong").size());
    EXPECT_EQ(drops_of(now.from_guest()),
              (std::map<std::string, uint64_t>{{"no-header", 1}, {"runt", 2}}));
    EXPECT_EQ(drops_of(now.to_guest()), (std::map<std::string, uint64_t>{{"over-mtu", 1}}));
}

TEST_P(NetCountersTest, DeviceHasNoCommandsOfAnOperator) {
    serve();
    std::string said;
    device_->control()->handle(v1::Request(), {}, [&](const control::CommandResult& result) {
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().refusal, control::Refusal::kUnknown);
        said = result.error().message;
    });
    EXPECT_FALSE(said.empty());
}

INSTANTIATE_TEST_SUITE_P(Rings, NetCountersTest, ::testing::Bool(), [](const auto& row) {
    return row.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::net
