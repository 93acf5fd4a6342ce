// SPDX-License-Identifier: Apache-2.0
// A tap with a queue for each pair of the guest's.
#include "tests/integration/net_tap_queues.h"

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "devices/net/tap_device.h"
#include "devices/net/tap_port.h"

namespace outrigger::testing {
namespace {

TEST_F(NetTapQueuesTest, EachPairHasAQueue) {
    serve_tap();
    expect_used(kPairs, 0);
    expect_flows_stay();
    ifreq queue = request();
    ASSERT_EQ(::ioctl(control_.get(), SIOCGIFTXQLEN, &queue), 0);
    EXPECT_EQ(queue.ifr_qlen, 10'000);
}

/// Eight devices of one program, each with as many as there may be: 512 taps' queues, and what
/// watches them.
TEST_F(NetTapQueuesTest, LowSoftLimitOfDescriptorsHasRoomForAllQueues) {
    constexpr size_t kMost = 64;
    constexpr size_t kDevices = 8;
    ChildProcess::Options options{.arguments = {"--sandbox=log", "--keeper=none"},
                                  .descriptors = {}};
    for (size_t i = 0; i < kDevices; ++i) {
        const std::string number = std::to_string(i);
        options.arguments.push_back("--device=socket-path=" + path("s" + number) +
                                    ",backend=tap,queue-pairs=64,tap=outrigger" + number);
    }
    {
        const SoftFileLimit low(64);
        daemon_ = std::make_unique<ChildProcess>(program_, options);
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
    }
    expect_used(kDevices, kDevices * (kMost - 1));
}

TEST_F(NetTapQueuesTest, TooFewDescriptorsForAllQueuesAreAnError) {
    ChildProcess child("/bin/sh",
                       {.arguments = {"-c",
                                      "ulimit -n 100 && exec \"$@\"",
                                      "limited",
                                      program_,
                                      "--socket-path=" + path("s"),
                                      "--keeper=none",
                                      "--backend=tap",
                                      "--queue-pairs=64",
                                      std::string("--tap=") + kTap},
                        .descriptors = {}});
    EXPECT_EQ(child.wait(), Ended{.status = 1});
    EXPECT_NE(child.complained().find("LimitNOFILE"), std::string::npos) << child.complained();
}

/// The limit of a service, or of a container, that cannot be raised.
TEST_F(NetTapQueuesTest, LowHardLimitOfDescriptorsIsEnoughForOnePair) {
    daemon_ = std::make_unique<ChildProcess>(
        "/bin/sh",
        ChildProcess::Options{.arguments = {"-c",
                                            "ulimit -n 256 && exec \"$@\"",
                                            "limited",
                                            program_,
                                            "--socket-path=" + path("s"),
                                            "--sandbox=log",
                                            "--keeper=none",
                                            "--backend=tap",
                                            std::string("--tap=") + kTap},
                              .descriptors = {}});
    connect_guest({});
    configure();
    EXPECT_EQ(daemon_->complained().find("descriptors"), std::string::npos)
        << daemon_->complained();
    ASSERT_TRUE(guest_->send(make_frame("out")));
    expect_good_end();
}

TEST_F(NetTapQueuesTest, GuestWithOnePairHasAllOnIt) {
    serve_tap({}, {});
    expect_used(1, kPairs - 1);
    for (uint16_t port = 0; port < 20; ++port) {
        ASSERT_TRUE(from_host("in", 0, static_cast<uint16_t>(kGuestPort + port))) << port;
    }
}

TEST_F(NetTapQueuesTest, Trap14QueuesOfPairsThatAreNotUsedAreGivenUp) {
    serve_tap();
    expect_flows_stay();
    enable(3, false);
    enable(2, false);
    expect_used(2, 2);
    for (uint16_t pair = 0; pair < kPairs; ++pair) {
        const std::string text = "still to flow " + std::to_string(pair);
        send_from_host(text, port_of(pair));
        EXPECT_TRUE(is_received(text, 2)) << text;
    }
    enable(2, true);
    enable(3, true);
    expect_used(kPairs, 0);
    expect_flows_stay();
}

TEST_F(NetTapQueuesTest, QueuesFollowTheDriversCommand) {
    serve_tap({}, {.queue_pairs = kPairs, .control_queue = true});
    const auto use = [&](char pairs) {
        const std::string command = std::string("\x04\0", 2) + pairs + std::string(1, '\0');
        return guest_->command(command) == std::optional<uint8_t>(0);
    };
    expect_used(1, kPairs - 1);
    ASSERT_TRUE(use(kPairs));
    expect_used(kPairs, 0);
    expect_flows_stay();
    ASSERT_TRUE(use(3));
    expect_used(3, 1);
    expect_flows_stay(3);
    ASSERT_TRUE(use(1));
    expect_used(1, 3);
    expect_flows_stay(1);
}

TEST_F(NetTapQueuesTest, QueuesOutliveAProcessThatIsKilled) {
    serve_tap({"--keeper=fork"});
    expect_flows_stay();
    enable(3, false);
    expect_used(3, 1);
    for (int round = 0; round < 3; ++round) {
        kill_worker();
        expect_flows_stay(3);
        expect_used(3, 1);
    }
    enable(3, true);
    expect_used(kPairs, 0);
    expect_flows_stay();
}

TEST_F(NetTapQueuesTest, TapThatIsDeletedIsMadeAnewWithAllItsQueues) {
    serve_tap({"--keeper=fork"});
    expect_flows_stay();
    delete_tap();
    kill_worker();
    // The guest's session goes on, so the keeper has heard what became of the tap before.
    expect_used(kPairs, 0);
    configure();
    expect_flows_stay();
    EXPECT_EQ(queues_of(daemon_->pid()), (Queues{.used = kPairs, .unused = 0}));
    const unsigned index = ::if_nametoindex(kTap);
    kill_worker();
    expect_flows_stay();
    EXPECT_EQ(::if_nametoindex(kTap), index);
}

TEST_F(NetTapQueuesTest, QueuesMayBeGiven) {
    std::vector<UniqueFd> queues;
    ChildProcess::Options options{.arguments = {"--socket-path=" + path("s"),
                                                "--sandbox=log",
                                                "--keeper=fork",
                                                "--backend=tap",
                                                "--queue-pairs=" + std::to_string(kPairs)},
                                  .descriptors = {}};
    for (int i = 0; i < kPairs; ++i) {
        const int number = 11 + i;
        queues.push_back(open_kernel_tap(IFF_VNET_HDR | IFF_MULTI_QUEUE));
        options.arguments.push_back("--tap-fd=" + std::to_string(number));
        options.descriptors.emplace_back(queues.back().get(), number);
    }
    // Somebody had given that one up.
    ifreq unused{};
    unused.ifr_flags = IFF_DETACH_QUEUE;
    ASSERT_EQ(::ioctl(queues[2].get(), TUNSETQUEUE, &unused), 0);
    daemon_ = std::make_unique<ChildProcess>(program_, options);
    queues.clear();
    connect_guest(kAllPairs);
    configure();
    expect_used(kPairs, 0);
    expect_flows_stay();
    kill_worker();
    expect_flows_stay();
    // Those that were given are nobody's any more.
    expect_used(kPairs, 0);
    EXPECT_EQ(queues_of(daemon_->pid()), (Queues{.used = kPairs, .unused = 0}));
}

TEST_F(NetTapQueuesTest, TapOfOneQueueServesAllPairs) {
    UniqueFd tap = open_kernel_tap(IFF_VNET_HDR);
    ASSERT_EQ(::ioctl(tap.get(), TUNSETPERSIST, 1), 0);
    tap.reset();
    serve_tap();
    EXPECT_TRUE(daemon_->wait_complained("has one queue"));
    expect_used(1, 0);
    expect_flows_stay();
}

TEST_F(NetTapQueuesTest, QueueThatIsSoAlreadyIsNotAskedForAgain) {
    net::Tap tap = net::open_tap(kTap, 2).value();
    const int second = tap.others.front().get();
    const auto port = net::TapPort::create(std::move(tap)).value();
    ASSERT_TRUE(net::use_tap_queue(second, false));
    port->use_pair(1, false);
    port->use_pair(1, false);
    ASSERT_TRUE(net::use_tap_queue(second, true));
    // It is believed to be given up.
    port->use_pair(1, true);
    port->use_pair(1, false);
    EXPECT_FALSE(net::is_tap_queue_used(second));
    EXPECT_EQ(port->counters().system_calls.value(), 3U);
}

/// What a port tells, to nobody.
class Unheard final : public net::PortEvents {
  public:
    void on_frames() override {}

    void on_room() override {}
};

// What a guest that flips its pairs has wished last holds in the end, though changes are few.
TEST_F(NetTapQueuesTest, LastWishOfAGuestThatFlipsItsPairsHolds) {
    net::Tap tap = net::open_tap(kTap, 2).value();
    const int second = tap.others.front().get();
    const auto port = net::TapPort::create(std::move(tap)).value();
    const std::unique_ptr<EventLoop> loop = create_event_loop(LoopKind::kAuto).value();
    Unheard unheard;
    port->attach(*loop, unheard);
    bool wish = true;
    for (int round = 0; round < 10; ++round) {
        // Until one is not followed at once.
        int flips = 0;
        do {
            wish = !wish;
            port->use_pair(1, wish);
        } while (net::is_tap_queue_used(second) == wish && ++flips < 1000);
        ASSERT_NE(net::is_tap_queue_used(second), wish);
        port->use_pair(1, !wish);
        port->use_pair(1, wish);
        EXPECT_TRUE(eventually([&] {
            (void)loop->run_once(EventLoop::Clock::now() + std::chrono::milliseconds(1));
            return net::is_tap_queue_used(second) == wish;
        }));
    }
    port->detach();
}

TEST_F(NetTapQueuesTest, DescriptorsThatAreNoQueuesAreRefused) {
    const auto refused = [&](const UniqueFd& first, const UniqueFd& second) {
        ChildProcess child(program_,
                           {.arguments = {"--socket-path=" + path("s"),
                                          "--backend=tap",
                                          "--queue-pairs=2",
                                          "--tap-fd=11",
                                          "--tap-fd=12"},
                            .descriptors = {{first.get(), 11}, {second.get(), 12}}});
        return child.wait() == Ended{.status = 1} &&
               child.complained().find("no queue of the tap") != std::string::npos;
    };
    const UniqueFd queue = open_kernel_tap(IFF_VNET_HDR | IFF_MULTI_QUEUE);
    EXPECT_TRUE(refused(queue, home_));
    UniqueFd other(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(refused(queue, other));
    ifreq another{};
    another.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
    ASSERT_EQ(::ioctl(other.get(), TUNSETIFF, &another), 0);
    EXPECT_TRUE(refused(queue, other));
}

TEST_F(NetTapQueuesTest, NumberOfDescriptorsIsThatOfPairs) {
    expect_refusal({"--backend=tap", "--queue-pairs=3", "--tap-fd=11", "--tap-fd=12"},
                   "one for each pair");
    expect_refusal({"--backend=tap", "--tap-fd=11", "--tap-fd=12"}, "one for each pair");
    expect_refusal({"--backend=tap", "--queue-pairs=2", "--tap-fd=11", "--tap-fd=11"}, "twice");
    expect_refusal({"--backend=tap", "--queue-pairs=2", "--tap-fd=0XB", "--tap-fd=11"}, "twice");
}

}  // namespace
}  // namespace outrigger::testing
