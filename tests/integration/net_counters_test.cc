// SPDX-License-Identifier: Apache-2.0
// What an operator is told of a network device.
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>

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

TEST(NetControlAlone, EndOfACaptureHasItsOwnCountersThoughAnotherBegins) {
    const std::unique_ptr<EventLoop> loop = create_event_loop(testing::loop_under_test()).value();
    const auto worker = Worker::start({.thread_name = "test-capture",
                                       .loop = testing::loop_under_test(),
                                       .cpu = std::nullopt})
                            .value();
    auto owned = std::make_unique<Capture>();
    Capture& capture = *owned;
    NetDevice device(
        NetOptions{}, std::make_unique<PlayedPort>(kAllOffloads), {}, std::move(owned));
    Worker* const workers[] = {worker.get()};
    device.control()->attach(*loop, workers);
    v1::Request start;
    (void)start.mutable_start_capture();
    v1::Request stop;
    (void)stop.mutable_stop_capture();
    // Each answer, or why there is none.
    const auto ask = [&](const v1::Request& request, std::optional<std::string>& said) {
        std::vector<UniqueFd> fds;
        if (request.has_start_capture()) {
            fds.emplace_back(::open(::testing::TempDir().c_str(), O_TMPFILE | O_RDWR, 0600));
        }
        device.control()->handle(
            request, std::move(fds), [&](const control::CommandResult& result) {
                said = result ? *result : "refused: " + result.error().message;
            });
    };
    const auto await = [&](const std::optional<std::string>& said) {
        for (int turn = 0; turn < 20 && !said; ++turn) {
            (void)loop->run_once(EventLoop::Clock::now() + std::chrono::seconds(1));
        }
        return said;
    };
    std::optional<std::string> begun;
    ask(start, begun);
    ASSERT_EQ(await(begun), "");
    std::string bytes = make_frame("captured");
    const iovec piece{.iov_base = bytes.data(), .iov_len = bytes.size()};
    capture.note({.pieces = std::span(&piece, 1), .bytes = bytes.size()},
                 Capture::Direction::kToGuest);
    std::optional<std::string> stopped;
    ask(stop, stopped);
    // As soon as the writer is done, and before the loop hears of it.
    std::optional<std::string> again;
    EXPECT_TRUE(eventually([&] {
        again.reset();
        ask(start, again);
        return !again;
    }));
    EXPECT_EQ(await(stopped), "1 frames were captured, and 0 dropped from the capture");
    EXPECT_EQ(await(again), "");
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
