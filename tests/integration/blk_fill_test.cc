// SPDX-License-Identifier: Apache-2.0
// An operator and the fill of an overlay.
#include <cstdint>
#include <string>
#include <vector>

#include "tests/integration/blk_control.h"

namespace outrigger::testing {
namespace {

class BlkFill : public BlkControlTest {
  protected:
    void SetUp() override {
        BlkControlTest::SetUp();
        backing_.fill(0, kDiskBytes, 0x37);
    }

    void start_overlay(const std::vector<std::string>& more = {}) {
        // Not where tests' sockets are: layers want a real file system.
        layer_.emplace(0);
        std::filesystem::remove(layer_->path());
        std::vector<std::string> arguments{"--overlay=" + layer_->path(), "--overlay-create"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        start(arguments);
    }

    [[nodiscard]] v1::Reply fill(const std::function<void(v1::Fill&)>& set) const {
        return ask([&](v1::Request& request) { set(*request.mutable_fill()); });
    }

    std::optional<TemporaryImage> layer_;
};

TEST_F(BlkFill, IsStartedPacedStoppedAndEnds) {
    start_overlay();
    ControlGuest guest = connect();
    EXPECT_FALSE(block().fill().running());
    EXPECT_EQ(block().fill().clusters_total() * block().fill().cluster_bytes(), kDiskBytes);
    EXPECT_TRUE(fill([](v1::Fill& command) {
                    command.set_run(true);
                    command.set_bytes_per_second(8 << 20);
                }).has_done());
    EXPECT_EQ(block().fill().bytes_per_second(), 8U << 20);
    EXPECT_TRUE(eventually([&] { return block().fill().clusters_done() > 0; }));
    EXPECT_TRUE(block().fill().running());
    EXPECT_TRUE(fill([](v1::Fill& command) { command.set_run(false); }).has_done());
    EXPECT_FALSE(block().fill().running());
    EXPECT_FALSE(block().fill().complete());
    // The rate alone does not start it.
    EXPECT_TRUE(fill([](v1::Fill& command) { command.set_bytes_per_second(0); }).has_done());
    EXPECT_FALSE(block().fill().running());
    EXPECT_EQ(block().fill().bytes_per_second(), 0U);
    EXPECT_TRUE(fill([](v1::Fill& command) { command.set_run(true); }).has_done());
    EXPECT_TRUE(eventually([&] { return block().fill().complete(); }));
    EXPECT_EQ(block().fill().clusters_done(), block().fill().clusters_total());
    EXPECT_NE(
        fill([](v1::Fill& command) { command.set_run(true); }).done().note().find("taken over"),
        std::string::npos);
    EXPECT_EQ(guest.read_byte(kDiskBytes - 4096), 0x37);
}

TEST_F(BlkFill, WaitsForTheFirstFrontEnd) {
    start_overlay();
    EXPECT_TRUE(fill([](v1::Fill& command) { command.set_run(true); }).has_done());
    EXPECT_TRUE(block().fill().running());
    EXPECT_EQ(block().fill().clusters_done(), 0U);
    const ControlGuest guest = connect();
    EXPECT_TRUE(eventually([&] { return block().fill().complete(); }));
}

TEST_F(BlkFill, WhatHasNoFillRefuses) {
    start();
    EXPECT_FALSE(block().has_fill());
    EXPECT_EQ(fill([](v1::Fill& command) { command.set_run(true); }).error().code(),
              v1::Error::INVALID);
}

TEST_F(BlkFill, CommandThatSaysNothingChangesNothing) {
    start_overlay({"--overlay-fill-rate=1M"});
    EXPECT_EQ(fill([](v1::Fill&) {}).error().code(), v1::Error::INVALID);
    EXPECT_EQ(block().fill().bytes_per_second(), 1U << 20);
    EXPECT_FALSE(block().fill().running());
}

TEST_F(BlkFill, OutriggerctlStartsItAndShowsHowFarItIs) {
    const char* const program = std::getenv("OUTRIGGER_CTL_PROGRAM");
    ASSERT_NE(program, nullptr) << "names the program under test";
    start_overlay();
    const ControlGuest guest = connect();
    ChildProcess begin(program,
                       {.arguments = {"fill", "start", "--rate=0", "--socket=" + control_path()}});
    EXPECT_EQ(begin.wait(), (Ended{.status = 0})) << begin.complained();
    EXPECT_TRUE(eventually([&] { return block().fill().complete(); }));
    ChildProcess show(program, {.arguments = {"show", "--socket=" + control_path()}});
    EXPECT_EQ(show.wait(), (Ended{.status = 0}));
    EXPECT_NE(show.printed().find("  fill               complete"), std::string::npos)
        << show.printed();
}

}  // namespace
}  // namespace outrigger::testing
