// SPDX-License-Identifier: Apache-2.0
// A tap with a queue for each pair of the guest's.
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/syscall.h>

#include "vhost-user-backend/daemon/device_keeper.h"

#include "devices/net/kept_tap.h"
#include "devices/net/tap_port.h"
#include "tests/integration/net_tap_daemon.h"

namespace outrigger::testing {
namespace {

constexpr uint16_t kPairs = 4;

class NetTapQueuesTest : public NetTapDaemonTest {
  protected:
    /// Of those that a process has open: that the kernel uses, and that it does not.
    struct Queues {
        size_t used = 0;
        size_t unused = 0;

        friend bool operator==(const Queues&, const Queues&) = default;
    };

    [[nodiscard]] static Queues queues_of(pid_t process) {
        Queues queues;
        const UniqueFd other(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
        std::error_code gone;
        const std::filesystem::path folder = "/proc/" + std::to_string(process) + "/fd";
        for (const auto& entry : std::filesystem::directory_iterator(folder, gone)) {
            const int number = std::stoi(entry.path().filename());
            const UniqueFd copy(
                static_cast<int>(::syscall(SYS_pidfd_getfd, other.get(), number, 0)));
            ifreq found{};
            if (copy.valid() && ::ioctl(copy.get(), TUNGETIFF, &found) == 0) {
                const bool is_used = (found.ifr_flags & IFF_DETACH_QUEUE) == 0;
                ++(is_used ? queues.used : queues.unused);
            }
        }
        return queues;
    }

    /// Of the process that serves, by and by.
    void expect_used(size_t used, size_t unused) const {
        const Queues wanted{.used = used, .unused = unused};
        const auto serving = [&] {
            const pid_t child = daemon_->first_child();
            return child > 0 ? child : daemon_->pid();
        };
        EXPECT_TRUE(eventually([&] { return queues_of(serving()) == wanted; }))
            << queues_of(serving()).used << " used, " << queues_of(serving()).unused << " not";
    }

    static uint16_t port_of(uint16_t pair) { return static_cast<uint16_t>(kGuestPort + pair); }

    /// What comes back for a flow comes where the guest has sent it.
    void expect_flows_stay(uint16_t pairs = kPairs) {
        for (uint16_t pair = 0; pair < pairs; ++pair) {
            const std::string text = "of pair " + std::to_string(pair);
            ASSERT_EQ(to_host(text, true, pair, port_of(pair)), text);
        }
        for (uint16_t pair = 0; pair < pairs; ++pair) {
            const std::string text = "to pair " + std::to_string(pair);
            ASSERT_TRUE(from_host(text, pair, port_of(pair))) << pair << daemon_->complained();
        }
    }

    /// On any of these pairs.
    [[nodiscard]] bool is_received(const std::string& text, uint16_t pairs) {
        return eventually([&] {
            for (uint16_t pair = 0; pair < pairs; ++pair) {
                while (const auto frame = guest_->receive_now(pair)) {
                    if (is_datagram(*frame, text)) {
                        return true;
                    }
                }
            }
            return false;
        });
    }

    void enable(uint16_t pair, bool is_enabled) {
        for (const uint32_t ring : {2U * pair, 2U * pair + 1}) {
            ASSERT_EQ(guest_->frontend().set_vring_enable(ring, is_enabled),
                      driver::Answer::kAccepted);
        }
    }

    /// As a name, which makes it.
    void serve_tap(std::vector<std::string> more = {}, const NetGuestOptions& guest = kAllPairs) {
        more.insert(more.end(),
                    {"--backend=tap",
                     std::string("--tap=") + kTap,
                     "--queue-pairs=" + std::to_string(kPairs)});
        serve(std::move(more), guest);
        configure();
    }

    static constexpr NetGuestOptions kAllPairs{.queue_pairs = kPairs};
};

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
                                      "ulimit -n 300 && exec \"$@\"",
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

/// Keeps what it is given for whoever comes next, behind settle().
class PlayedKeeper final : public DeviceKeeper {
  public:
    [[nodiscard]] bool goes_on() const override { return true; }

    [[nodiscard]] bool can_hand_back() const override { return false; }

    [[nodiscard]] Result<UniqueFd> keep(std::string_view /*name*/, size_t /*bytes*/) override {
        return failure(Error{.message = "no memory"});
    }

    [[nodiscard]] UniqueFd take(std::string_view name) override {
        const auto found = given_.extract(std::string(name));
        return found.empty() ? UniqueFd() : std::move(found.mapped());
    }

    [[nodiscard]] bool keep_open(std::string_view name, int fd) override {
        EXPECT_FALSE(given_.contains(name)) << name;
        return kept_.emplace(name, copy_of(fd)).second;
    }

    void forget(std::string_view name) override {
        given_.erase(std::string(name));
        kept_.erase(std::string(name));
    }

    /// The process serves: what it has not taken goes. Whoever comes next is given the rest.
    void settle() {
        for (const auto& [name, fd] : given_) {
            kept_.erase(name);
        }
        given_.clear();
        for (const auto& [name, fd] : kept_) {
            given_.emplace(name, copy_of(fd.get()));
        }
    }

    [[nodiscard]] size_t count() const { return kept_.size(); }

  private:
    static UniqueFd copy_of(int fd) { return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

    std::map<std::string, UniqueFd, std::less<>> given_;
    std::map<std::string, UniqueFd, std::less<>> kept_;
};

TEST_F(NetTapQueuesTest, KeptTapHasAQueueForPairsThatAreNew) {
    PlayedKeeper keeper;
    for (const uint16_t pairs : {uint16_t{2}, uint16_t{4}}) {
        const net::TapWish wish{.key = "tap", .name = kTap, .queue_count = pairs};
        const auto tap = net::open_wished_tap(wish, &keeper);
        ASSERT_TRUE(tap) << tap.error().message;
        keeper.settle();
        EXPECT_EQ(tap->others.size() + 1, pairs);
        EXPECT_EQ(keeper.count(), pairs);
        EXPECT_TRUE(net::is_tap_queue_used(tap->fd.get()));
        for (const UniqueFd& other : tap->others) {
            EXPECT_FALSE(net::is_tap_queue_used(other.get()));
        }
    }
}

TEST_F(NetTapQueuesTest, KeptTapOfOneQueueServesAllPairs) {
    PlayedKeeper keeper;
    for (const uint16_t pairs : {uint16_t{1}, uint16_t{4}}) {
        const net::TapWish wish{.key = "tap", .name = kTap, .queue_count = pairs};
        const auto tap = net::open_wished_tap(wish, &keeper);
        ASSERT_TRUE(tap) << tap.error().message;
        keeper.settle();
        EXPECT_TRUE(tap->others.empty());
        EXPECT_EQ(keeper.count(), 1U);
    }
}

TEST_F(NetTapQueuesTest, QueuesOfATapThatIsMadeAnewAreKept) {
    PlayedKeeper keeper;
    const net::TapWish wish{.key = "tap", .name = kTap, .queue_count = kPairs};
    ASSERT_TRUE(net::open_wished_tap(wish, &keeper));
    keeper.settle();
    delete_tap();
    ASSERT_TRUE(net::open_wished_tap(wish, &keeper));
    keeper.settle();
    EXPECT_EQ(keeper.count(), kPairs);
    // And of a tap that is made anew for fewer pairs, so many.
    delete_tap();
    ASSERT_TRUE(net::open_wished_tap({.key = "tap", .name = kTap, .queue_count = 2}, &keeper));
    keeper.settle();
    EXPECT_EQ(keeper.count(), 2U);
}

TEST_F(NetTapQueuesTest, QueueThatIsSoAlreadyIsNotAskedForAgain) {
    net::Tap tap = net::open_tap(kTap, 2).value();
    const int second = tap.others.front().get();
    const auto port = net::TapPort::create(std::move(tap)).value();
    ASSERT_TRUE(net::use_tap_queue(second, false));
    port->use_pair(1, false);
    ASSERT_TRUE(net::use_tap_queue(second, true));
    // It is believed to be given up.
    port->use_pair(1, true);
    port->use_pair(1, false);
    EXPECT_FALSE(net::is_tap_queue_used(second));
    EXPECT_EQ(port->counters().system_calls.value(), 3U);
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
