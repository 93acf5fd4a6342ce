// SPDX-License-Identifier: Apache-2.0
// A tap that another process of the device has left to its keeper.
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vhost-user-backend/daemon/device_keeper.h"

#include "devices/net/kept_tap.h"
#include "tests/integration/net_tap_queues.h"

namespace outrigger::testing {
namespace {

constexpr const char* kOtherTap = "outrigger1";

class NetKeptTapTest : public NetTapQueuesTest {
  protected:
    /// A file of one device, with these lines.
    void write_config(const std::string& lines) const {
        std::ofstream(path("c")) << "[net]\nsocket-path = " + path("s") + "\n" + lines + "\n";
    }

    void serve_config(const std::string& lines) {
        write_config(lines);
        serve_file({});
    }

    /// What is in the file.
    void serve_file(ChildProcess::Options options) {
        options.arguments = {"--config=" + path("c"), "--keeper=fork", "--sandbox=log"};
        daemon_ = std::make_unique<ChildProcess>(program_, options);
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
    }

    void connect() {
        connect_guest({});
        configure();
    }

    [[nodiscard]] size_t count_said(const std::string& what) const {
        const std::string said = daemon_->complained();
        size_t found = 0;
        for (size_t at = said.find(what); at != std::string::npos; at = said.find(what, at + 1)) {
            ++found;
        }
        return found;
    }

    /// The file has these lines by now, and another process is to serve them, of which the keeper
    /// says `outcome`.
    void reload(const std::string& lines, const std::string& outcome) {
        write_config(lines);
        reload_file(outcome);
    }

    void reload_file(const std::string& outcome) {
        const size_t before = count_said(outcome);
        daemon_->send_signal(SIGHUP);
        ASSERT_TRUE(eventually([&] { return count_said(outcome) > before; }))
            << daemon_->complained();
    }

    void reload(const std::string& lines) { reload(lines, kTakenOver); }

    static constexpr const char* kTakenOver = "the new program has taken over";
    static constexpr const char* kGoneBack = "going back to the program before";
};

/// A copy, as a program inherits it.
int passed(const UniqueFd& fd) {
    return ::fcntl(fd.get(), F_DUPFD, 3);
}

/// Keeps what it is given for whoever comes next, behind settle().
class PlayedKeeper final : public DeviceKeeper {
  public:
    explicit PlayedKeeper(bool can_hand_back = false) : can_hand_back_(can_hand_back) {}

    [[nodiscard]] bool goes_on() const override { return true; }

    [[nodiscard]] bool can_hand_back() const override { return can_hand_back_; }

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

    bool can_hand_back_;
    std::map<std::string, UniqueFd, std::less<>> given_;
    std::map<std::string, UniqueFd, std::less<>> kept_;
};

TEST_F(NetKeptTapTest, KeptTapHasAQueueForPairsThatAreNew) {
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

TEST_F(NetKeptTapTest, QueuesOfATapThatIsMadeAnewAreKept) {
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

TEST_F(NetKeptTapTest, AnotherNameIsAnotherTap) {
    PlayedKeeper keeper;
    for (const std::string name : {kTap, kOtherTap}) {
        const auto tap =
            net::open_wished_tap({.key = "tap", .name = name, .queue_count = kPairs}, &keeper);
        ASSERT_TRUE(tap) << tap.error().message;
        EXPECT_EQ(tap->name, name);
        EXPECT_EQ(tap->others.size() + 1, kPairs);
        if (name == kOtherTap) {
            // Until this process serves, the one before may be what goes on.
            EXPECT_EQ(keeper.count(), 2 * kPairs);
        }
        keeper.settle();
        EXPECT_EQ(keeper.count(), kPairs);
    }
    EXPECT_EQ(::if_nametoindex(kTap), 0U);
    EXPECT_NE(::if_nametoindex(kOtherTap), 0U);
}

TEST_F(NetKeptTapTest, TapThatGotAnotherNameIsTheSame) {
    PlayedKeeper keeper;
    const net::TapWish wish{.key = "tap", .name = kTap};
    ASSERT_TRUE(net::open_wished_tap(wish, &keeper));
    keeper.settle();
    ifreq renamed = request();
    std::strncpy(renamed.ifr_newname, kOtherTap, IFNAMSIZ - 1);
    ASSERT_EQ(::ioctl(control_.get(), SIOCSIFNAME, &renamed), 0) << std::strerror(errno);
    const auto tap = net::open_wished_tap(wish, &keeper);
    ASSERT_TRUE(tap) << tap.error().message;
    EXPECT_EQ(tap->name, kOtherTap);
}

TEST_F(NetKeptTapTest, TapThatWasGivenIsFoundByItsName) {
    PlayedKeeper keeper;
    // It has one queue, so nobody could open it anew.
    const int number = passed(open_kernel_tap(IFF_VNET_HDR));
    ASSERT_TRUE(net::open_wished_tap({.key = "tap", .fds = {number}}, &keeper));
    keeper.settle();
    const unsigned index = ::if_nametoindex(kTap);
    const auto same = net::open_wished_tap({.key = "tap", .name = kTap}, &keeper);
    ASSERT_TRUE(same) << same.error().message;
    keeper.settle();
    EXPECT_EQ(::if_nametoindex(kTap), index);
    EXPECT_EQ(keeper.count(), 1U);
    const auto other = net::open_wished_tap({.key = "tap", .name = kOtherTap}, &keeper);
    ASSERT_TRUE(other) << other.error().message;
    EXPECT_EQ(other->name, kOtherTap);
    keeper.settle();
    EXPECT_EQ(keeper.count(), 1U);
}

TEST_F(NetKeptTapTest, DeviceIsMovedToAnotherTap) {
    const std::string lines = "backend = tap\ntap = ";
    serve_config(lines + kTap);
    connect();
    expect_traffic();
    reload(lines + kOtherTap);
    EXPECT_NE(::if_nametoindex(kOtherTap), 0U);
    EXPECT_TRUE(eventually([] { return ::if_nametoindex(kTap) == 0; }));
    reload(lines + kTap);
    configure();
    expect_traffic();
    // One that cannot be had: somebody else has its only queue.
    const unsigned index = ::if_nametoindex(kTap);
    UniqueFd taken(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ifreq other{};
    std::strncpy(other.ifr_name, kOtherTap, IFNAMSIZ - 1);
    other.ifr_flags = IFF_TAP | IFF_NO_PI;
    ASSERT_EQ(::ioctl(taken.get(), TUNSETIFF, &other), 0);
    reload(lines + kOtherTap, kGoneBack);
    expect_traffic();
    EXPECT_EQ(::if_nametoindex(kTap), index);
}

TEST_F(NetKeptTapTest, TapOfOneQueueServesPairsThatAreNew) {
    // A guest has seen how many pairs there are, so it cannot be there meanwhile.
    serve_config(std::string("backend = tap\ntap = ") + kTap);
    EXPECT_EQ(count_said("has one queue"), 0U);
    reload(std::string("backend = tap\nqueue-pairs = 4\ntap = ") + kTap);
    EXPECT_EQ(count_said("has one queue"), 1U);
    connect();
    expect_traffic();
    EXPECT_EQ(queues_of(daemon_->pid()), (Queues{.used = 1, .unused = 0}));
}

/// Queues that are inherited under the numbers from 11 on.
class NetGivenQueuesTest : public NetKeptTapTest {
  protected:
    static constexpr int kFirstNumber = 11;

    void serve_given(const std::string& lines) {
        std::vector<UniqueFd> queues;
        ChildProcess::Options options;
        for (int i = 0; i < kPairs; ++i) {
            queues.push_back(open_kernel_tap(IFF_VNET_HDR | IFF_MULTI_QUEUE));
            options.descriptors.emplace_back(queues.back().get(), kFirstNumber + i);
        }
        write_config(lines);
        serve_file(std::move(options));
    }

    static std::string lines_of(int pairs) {
        std::string lines = "backend = tap\nqueue-pairs = " + std::to_string(pairs) + "\n";
        for (int i = 0; i < pairs; ++i) {
            lines += "tap-fd = " + std::to_string(kFirstNumber + i) + "\n";
        }
        return lines;
    }

    /// Of the keeper.
    [[nodiscard]] size_t kept() const {
        const Queues queues = queues_of(daemon_->pid());
        return queues.used + queues.unused;
    }
};

TEST_F(NetGivenQueuesTest, FewerPairsHaveFewerQueues) {
    serve_given(lines_of(kPairs));
    expect_used(1, kPairs - 1);
    reload(lines_of(2));
    expect_used(1, 1);
    EXPECT_EQ(kept(), 2U);
    reload("backend = null");
    EXPECT_EQ(kept(), 0U);
    EXPECT_TRUE(eventually([] { return ::if_nametoindex(kTap) == 0; }));
}

TEST_F(NetGivenQueuesTest, DeviceThatIsGivenThemLaterLetsThemGo) {
    serve_given("backend = null");
    EXPECT_EQ(kept(), kPairs);  // of which nobody knows
    reload(lines_of(kPairs));
    expect_used(1, kPairs - 1);
    connect();
    expect_traffic();
    kill_worker();
    expect_traffic();
    expect_used(1, kPairs - 1);
    EXPECT_EQ(kept(), kPairs);
    guest_.reset();
    ASSERT_TRUE(daemon_->wait_complained("disconnected")) << daemon_->complained();
    reload("backend = null");
    EXPECT_EQ(kept(), 0U);
    EXPECT_TRUE(eventually([] { return ::if_nametoindex(kTap) == 0; }));
}

// A service manager starts the program with descriptors of its own each time.
TEST_F(NetGivenQueuesTest, TapThatGoesOnNeedsNoneThatAreGivenAgain) {
    PlayedKeeper keeper;
    const int first = passed(open_kernel_tap(IFF_VNET_HDR | IFF_MULTI_QUEUE));
    ASSERT_TRUE(net::open_wished_tap({.key = "tap", .fds = {first}}, &keeper));
    keeper.settle();
    const int second = passed(open_kernel_tap(IFF_VNET_HDR | IFF_MULTI_QUEUE));
    const auto tap = net::open_wished_tap({.key = "tap", .fds = {second}}, &keeper);
    ASSERT_TRUE(tap) << tap.error().message;
    EXPECT_EQ(::fcntl(second, F_GETFD), -1);
    // What has that number otherwise is somebody else's.
    keeper.settle();
    const UniqueFd ours = open_kernel_tap(IFF_VNET_HDR | IFF_MULTI_QUEUE);
    const UniqueFd file(passed(home_));
    for (const UniqueFd* const other : {&ours, &file}) {
        ASSERT_TRUE(net::open_wished_tap({.key = "tap", .fds = {other->get()}}, &keeper));
        EXPECT_GE(::fcntl(other->get(), F_GETFD), 0);
        keeper.settle();
    }
    EXPECT_EQ(keeper.count(), 1U);
}

TEST_F(NetGivenQueuesTest, AnotherTapThatIsGivenIsTaken) {
    PlayedKeeper keeper;
    const int first = passed(open_kernel_tap(IFF_VNET_HDR));
    ASSERT_TRUE(net::open_wished_tap({.key = "tap", .fds = {first}}, &keeper));
    keeper.settle();
    const auto other = net::open_tap(kOtherTap, 1);
    ASSERT_TRUE(other) << other.error().message;
    {
        const net::TapWish wish{.key = "tap", .fds = {passed(other->fd)}};
        const auto tap = net::open_wished_tap(wish, &keeper);
        ASSERT_TRUE(tap) << tap.error().message;
        EXPECT_EQ(tap->name, kOtherTap);
    }
    keeper.settle();
    EXPECT_EQ(::if_nametoindex(kTap), 0U);
    // Who takes over and may have to hand it back refuses.
    PlayedKeeper careful(true);
    const int again = passed(open_kernel_tap(IFF_VNET_HDR));
    ASSERT_TRUE(net::open_wished_tap({.key = "tap", .fds = {again}}, &careful));
    careful.settle();
    const UniqueFd another(passed(other->fd));
    const auto refused = net::open_wished_tap({.key = "tap", .fds = {another.get()}}, &careful);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find(kOtherTap), std::string::npos);
    EXPECT_EQ(careful.count(), 1U);
}

TEST_F(NetGivenQueuesTest, OnlyOneMayHaveBeenGivenUp) {
    const UniqueFd queue = open_kernel_tap(IFF_VNET_HDR | IFF_MULTI_QUEUE);
    ASSERT_TRUE(net::use_tap_queue(queue.get(), false));
    const auto tap = net::open_wished_tap({.key = "tap", .fds = {passed(queue)}}, nullptr);
    ASSERT_TRUE(tap) << tap.error().message;
    EXPECT_TRUE(net::is_tap_queue_used(tap->fd.get()));
}

// A service manager's store would have it at each start.
TEST_F(NetGivenQueuesTest, TapThatWasDeletedIsInNobodysWay) {
    PlayedKeeper keeper;
    const int first = passed(open_kernel_tap(IFF_VNET_HDR));
    ASSERT_TRUE(net::open_wished_tap({.key = "tap", .fds = {first}}, &keeper));
    keeper.settle();
    delete_tap();
    const int second = passed(open_kernel_tap(IFF_VNET_HDR, kOtherTap));
    const auto tap = net::open_wished_tap({.key = "tap", .fds = {second}}, &keeper);
    ASSERT_TRUE(tap) << tap.error().message;
    EXPECT_EQ(tap->name, kOtherTap);
    keeper.settle();
    EXPECT_EQ(keeper.count(), 1U);
}

/// Taps of two sections, inherited under numbers that are low: a next process, which does not
/// inherit them, has descriptors of its own there.
class NetGivenNumbersTest : public NetKeptTapTest, public ::testing::WithParamInterface<int> {
  protected:
    /// The second tap has that number, and the first one 3.
    void serve_both() {
        write_sections({"a", "b"});
        const UniqueFd first = open_kernel_tap(IFF_VNET_HDR);
        const UniqueFd second = open_kernel_tap(IFF_VNET_HDR, kOtherTap);
        serve_file({.descriptors = {{first.get(), 3}, {second.get(), GetParam()}}});
        expect_taps({kTap, kOtherTap});
    }

    /// Of the two numbers, each with a socket of its own.
    void write_sections(const std::vector<std::string>& names) const {
        std::ofstream file(path("c"));
        int number = 3;
        for (const std::string& name : names) {
            file << "[" << name << "]\nsocket-path = " << path("s-" + name)
                 << "\nbackend = tap\ntap-fd = " << std::exchange(number, GetParam()) << "\n";
        }
    }

    /// The process that serves, and its keeper, have a descriptor of each of these.
    void expect_taps(const std::vector<std::string>& names) const {
        EXPECT_TRUE(eventually([&] { return taps_of(daemon_->first_child()) == names; }))
            << ::testing::PrintToString(taps_of(daemon_->first_child())) << daemon_->complained();
        EXPECT_TRUE(eventually([&] { return taps_of(daemon_->pid()) == names; }))
            << ::testing::PrintToString(taps_of(daemon_->pid())) << daemon_->complained();
    }
};

TEST_P(NetGivenNumbersTest, SectionOfAnotherNameGetsNoOtherDescriptor) {
    serve_both();
    write_sections({"a", "c"});
    reload_file(kGoneBack);
    expect_taps({kTap, kOtherTap});
    kill_worker();
    expect_taps({kTap, kOtherTap});
}

TEST_P(NetGivenNumbersTest, SectionThatComesBackGetsNoOtherDescriptor) {
    serve_both();
    write_sections({"a"});
    reload_file(kTakenOver);
    expect_taps({kTap});
    write_sections({"a", "b"});
    reload_file(kGoneBack);
    expect_taps({kTap});
}

// 5 and 8 are those of what a keeper sends.
INSTANTIATE_TEST_SUITE_P(Numbers, NetGivenNumbersTest, ::testing::Values(4, 5, 6, 8, 30));

}  // namespace
}  // namespace outrigger::testing
