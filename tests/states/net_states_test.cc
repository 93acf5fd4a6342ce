// SPDX-License-Identifier: Apache-2.0
// As states_test.cc, of the network device.
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include <gtest/gtest.h>

#include "vhost-user-backend/state/device_state.h"

#include "devices/net/net_state.h"
#include "tests/states/net_samples.h"

namespace outrigger::testing {
namespace {

std::string read(const std::string& name) {
    const char* const folder = std::getenv("OUTRIGGER_STATES");
    EXPECT_NE(folder, nullptr) << "OUTRIGGER_STATES names the folder of the kept states";
    std::ifstream file(std::string(folder != nullptr ? folder : "") + "/" + name, std::ios::binary);
    EXPECT_TRUE(file) << name;
    return {std::istreambuf_iterator<char>(file), {}};
}

TEST(KeptNetStates, AreWhatThisVersionWrites) {
    for (const auto& [name, bytes] : sample_net_states()) {
        EXPECT_EQ(read(name), bytes) << name << ": see docs/state.md before you change it";
    }
}

TEST(KeptNetStates, OfVersion1AreLoaded) {
    const std::string bytes = read("v1/net.state");
    const auto state = parse_state(std::as_bytes(std::span(bytes)));
    ASSERT_TRUE(state) << state.error().message;
    EXPECT_EQ(state->device_id, 1U);
    const auto known = select_sections(state->sections, net::kNetSections);
    ASSERT_TRUE(known) << known.error().message;
    const auto read = net::read_net_state(known->sections);
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->shown.mtu, 1500);
    EXPECT_EQ(read->shown.queue_pairs, 2);
    EXPECT_EQ(net::read_station(read->shown.mac, 0), 0x5254'0000'0001U);
    EXPECT_EQ(read->settings.pairs(), 2);
    EXPECT_FALSE(read->settings.wants_all());
    EXPECT_EQ(read->port.stations.size(), 2U);
}

}  // namespace
}  // namespace outrigger::testing
