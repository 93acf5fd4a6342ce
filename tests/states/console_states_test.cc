// SPDX-License-Identifier: Apache-2.0
// As states_test.cc, of the console.
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include <gtest/gtest.h>

#include "vhost-user-backend/state/device_state.h"

#include "devices/console/console_state.h"
#include "tests/states/console_samples.h"

namespace outrigger::testing {
namespace {

std::string read(const std::string& name) {
    const char* const folder = std::getenv("OUTRIGGER_STATES");
    EXPECT_NE(folder, nullptr) << "OUTRIGGER_STATES names the folder of the kept states";
    std::ifstream file(std::string(folder != nullptr ? folder : "") + "/" + name, std::ios::binary);
    EXPECT_TRUE(file) << name;
    return {std::istreambuf_iterator<char>(file), {}};
}

TEST(KeptConsoleStates, AreWhatThisVersionWrites) {
    for (const auto& [name, bytes] : sample_console_states()) {
        EXPECT_EQ(read(name), bytes) << name << ": see docs/state.md before you change it";
    }
}

TEST(KeptConsoleStates, OfVersion1AreLoaded) {
    const std::string bytes = read("v1/console.state");
    const auto state = parse_state(std::as_bytes(std::span(bytes)));
    ASSERT_TRUE(state) << state.error().message;
    const auto device = sample_console();
    ASSERT_EQ(state->device_id, device->identity().virtio_id);
    const auto known = select_sections(state->sections, device->state_sections());
    ASSERT_TRUE(known) << known.error().message;
    const auto loaded = device->load_state(known->sections);
    ASSERT_TRUE(loaded) << loaded.error().message;
    const auto now = console::read_console_state(device->save_state().value()).value();
    EXPECT_TRUE(now.control.multiport);
    EXPECT_TRUE(now.control.ports[0].guest_open);
    EXPECT_FALSE(now.control.ports[1].plugged);
    EXPECT_EQ(now.control.pending.size(), 1U);
    EXPECT_EQ(now.streams[0].saved.input.size(), std::string("typed and not read").size());
    EXPECT_EQ(now.streams[0].saved.output.size(), std::string("login: ").size());
}

}  // namespace
}  // namespace outrigger::testing
