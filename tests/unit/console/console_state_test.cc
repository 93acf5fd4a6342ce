// SPDX-License-Identifier: Apache-2.0
#include "devices/console/console_state.h"

#include <gtest/gtest.h>

namespace outrigger::console {
namespace {

ConsoleState example() {
    ConsoleState state;
    state.control.multiport = true;
    state.control.driver_ready = true;
    state.control.ports = {{.told = true, .ready = true, .guest_open = true, .size = {80, 24}},
                           {.plugged = false}};
    state.control.pending = {std::vector<std::byte>(8), std::vector<std::byte>(12)};
    state.streams = {{.name = "a", .saved = {.output = std::vector<std::byte>(5), .input = {}}},
                     {.name = "b", .saved = {.output = {}, .input = std::vector<std::byte>(7)}}};
    return state;
}

TEST(ConsoleState, IsReadAsItWasWritten) {
    const auto state = read_console_state(write_console_state(example()));
    ASSERT_TRUE(state) << state.error().message;
    EXPECT_TRUE(state->control.multiport);
    EXPECT_TRUE(state->control.driver_ready);
    EXPECT_TRUE(state->control.ports[0].guest_open);
    EXPECT_EQ(state->control.ports[0].size, (TerminalSize{.columns = 80, .rows = 24}));
    EXPECT_FALSE(state->control.ports[1].plugged);
    EXPECT_EQ(state->control.pending.size(), 2U);
    EXPECT_EQ(state->streams[0].saved.output.size(), 5U);
    EXPECT_EQ(state->streams[1].saved.input.size(), 7U);
    EXPECT_EQ(state->streams[1].name, "b");
}

TEST(ConsoleState, EveryStateThatIsCutShortIsRefused) {
    const auto whole = write_console_state(example());
    for (size_t section = 0; section < whole.size(); ++section) {
        for (size_t bytes = 0; bytes < whole[section].bytes.size(); ++bytes) {
            auto cut = whole;
            cut[section].bytes.resize(bytes);
            EXPECT_FALSE(read_console_state(cut)) << section << " " << bytes;
        }
    }
}

TEST(ConsoleState, BytesThatFollowAreRefused) {
    for (size_t section = 0; section < 2; ++section) {
        auto state = write_console_state(example());
        state[section].bytes.push_back(std::byte{});
        EXPECT_FALSE(read_console_state(state));
    }
}

TEST(ConsoleState, ASectionThatIsMissingIsRefused) {
    for (size_t section = 0; section < 2; ++section) {
        auto state = write_console_state(example());
        state.erase(state.begin() + static_cast<ptrdiff_t>(section));
        EXPECT_FALSE(read_console_state(state));
    }
}

TEST(ConsoleState, NumbersThatCannotBeAreRefused) {
    // No port, 32 ports, and a message for a port that is not there.
    for (const unsigned ports : {0U, 32U, 255U}) {
        auto state = write_console_state(example());
        state[0].bytes[1] = static_cast<std::byte>(ports);
        EXPECT_FALSE(read_console_state(state)) << ports;
    }
    auto example_state = example();
    example_state.control.pending[0][0] = std::byte{2};
    EXPECT_FALSE(read_console_state(write_console_state(example_state)));
    example_state = example();
    example_state.control.pending[0].resize(7);
    EXPECT_FALSE(read_console_state(write_console_state(example_state)));
    example_state = example();
    example_state.streams[0].saved.input.resize(PortStream::kInputBytes + 1);
    EXPECT_FALSE(read_console_state(write_console_state(example_state)));
}

}  // namespace
}  // namespace outrigger::console
