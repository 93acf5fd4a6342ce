// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/net_tap_daemon.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace outrigger::testing {
namespace {

TEST_F(NetTapDaemonTest, TapIsMadeAndGoesWithTheProgram) {
    serve({"--backend=tap", std::string("--tap=") + kTap});
    configure();
    expect_traffic();
    ifreq queue = request();
    ASSERT_EQ(::ioctl(control_.get(), SIOCGIFTXQLEN, &queue), 0);
    EXPECT_EQ(queue.ifr_qlen, 10'000);
    guest_.reset();
    expect_good_end();
    EXPECT_TRUE(eventually([] { return ::if_nametoindex(kTap) == 0; }));
}

TEST_F(NetTapDaemonTest, KernelFinishesWhatTheGuestCannot) {
    serve({"--backend=tap", std::string("--tap=") + kTap},
          {.features = ~(uint64_t{1} << VIRTIO_NET_F_GUEST_CSUM)});
    configure();
    const auto frame = from_host("question");
    ASSERT_TRUE(frame);
    EXPECT_EQ(frame->header.flags, 0);
    const auto read = read_frame(frame->bytes);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->payload, "question");
}

TEST_F(NetTapDaemonTest, DatagramThatIsToBecomeFragmentsComesWhole) {
    serve({"--backend=tap", std::string("--tap=") + kTap});
    configure();
    FrameOptions options{.udp = true, .source_port = kGuestPort, .destination_port = kHostPort};
    options.source = std::string("\x0a\x09\0\x02", 4);
    options.destination = std::string("\x0a\x09\0\x01", 4);
    options.to_mac = host_mac_;
    options.partial_checksum = true;
    virtio_net_hdr_v1 header{};
    header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    header.gso_type = VIRTIO_NET_HDR_GSO_UDP;
    header.gso_size = 1480;
    header.csum_start = 34;
    header.csum_offset = 6;
    const std::string text = make_payload(20'000);
    ASSERT_TRUE(guest_->send(make_frame(text, options), header));
    pollfd entry{.fd = host_.get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&entry, 1, 20'000), 1) << daemon_->complained();
    std::string got(65'536, '\0');
    const ssize_t count = ::recv(host_.get(), got.data(), got.size(), MSG_DONTWAIT);
    ASSERT_EQ(count, static_cast<ssize_t>(text.size()));
    EXPECT_EQ(got.substr(0, text.size()), text);
}

TEST_F(NetTapDaemonTest, TapOfSeveralQueuesMayBeGiven) {
    UniqueFd tap = open_kernel_tap(IFF_VNET_HDR | IFF_MULTI_QUEUE);
    daemon_ = std::make_unique<ChildProcess>(
        program_,
        ChildProcess::Options{.arguments = {"--socket-path=" + path("s"),
                                            "--sandbox=log",
                                            "--keeper=fork",
                                            "--backend=tap",
                                            "--tap-fd=9"},
                              .descriptors = {{tap.get(), 9}}});
    tap.reset();
    connect_guest({});
    configure();
    expect_traffic();
    kill_worker();
    expect_traffic();
}

TEST_F(NetTapDaemonTest, TapIsTheWayOutOfASwitch) {
    for (const std::string thread : {"own", "shared"}) {
        serve({"--backend=switch",
               std::string("--switch-tap=") + kTap,
               "--switch-thread=" + thread,
               "--control-socket=" + path("control")});
        configure();
        expect_traffic();
        EXPECT_NE(ask({"show"}).find(std::string("uplink ") + kTap), std::string::npos);
        guest_.reset();
        expect_good_end();
        EXPECT_TRUE(eventually([] { return ::if_nametoindex(kTap) == 0; }));
    }
}

TEST_F(NetTapDaemonTest, WayOutOfASwitchMayBeGivenAndIsOne) {
    UniqueFd tap = open_kernel_tap(0);  // frames are whole
    daemon_ = std::make_unique<ChildProcess>(
        program_,
        ChildProcess::Options{
            .arguments = {"--sandbox=log",
                          "--device=socket-path=" + path("s") + ",backend=switch,switch-tap-fd=9",
                          "--device=socket-path=" + path("t") + ",backend=switch"},
            .descriptors = {{tap.get(), 9}}});
    connect_guest({});
    configure();
    const auto frame = from_host("question");
    ASSERT_TRUE(frame);
    EXPECT_EQ(frame->header.flags, 0);
    EXPECT_EQ(to_host("answer", true), "answer");
    ChildProcess second(
        program_,
        {.arguments = {"--device=socket-path=" + path("u") + ",backend=switch,switch-tap=a0",
                       "--device=socket-path=" + path("v") + ",backend=switch,switch-tap=a1"},
         .descriptors = {}});
    EXPECT_EQ(second.wait(), Ended{.status = 1});
    EXPECT_NE(second.complained().find("has a way out"), std::string::npos) << second.complained();
}

TEST_F(NetTapDaemonTest, TapThatIsInUseIsAnError) {
    serve({"--backend=tap", std::string("--tap=") + kTap});
    ChildProcess second(program_,
                        {.arguments = {"--socket-path=" + path("other"),
                                       "--backend=tap",
                                       std::string("--tap=") + kTap},
                         .descriptors = {}});
    EXPECT_EQ(second.wait(), Ended{.status = 1});
    EXPECT_NE(second.complained().find("cannot open the tap"), std::string::npos);
}

/// The same tap, as the device's own and as its switch's way out.
struct TapRow {
    std::string name;
    std::vector<std::string> arguments;
};

class NetBothTapsTest : public NetTapDaemonTest, public ::testing::WithParamInterface<TapRow> {
  protected:
    void serve_tap(std::vector<std::string> more = {}) {
        more.insert(more.end(), GetParam().arguments.begin(), GetParam().arguments.end());
        serve(std::move(more));
        configure();
        expect_traffic();
    }
};

TEST_P(NetBothTapsTest, Trap19TapOutlivesAProcessThatIsKilled) {
    serve_tap({"--keeper=fork"});
    const unsigned index = ::if_nametoindex(kTap);
    for (int round = 0; round < 3; ++round) {
        kill_worker();
        expect_traffic();
    }
    EXPECT_EQ(::if_nametoindex(kTap), index);
}

TEST_P(NetBothTapsTest, Trap14TapThatIsDeletedHarmsNoGuest) {
    serve_tap();
    delete_tap();
    EXPECT_TRUE(daemon_->wait_complained("has gone"));
    for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(guest_->send(make_frame("lost")));
    }
    guest_.reset();
    expect_good_end();
}

INSTANTIATE_TEST_SUITE_P(
    Taps,
    NetBothTapsTest,
    ::testing::Values(TapRow{"Tap", {"--backend=tap", std::string("--tap=") + kTap}},
                      TapRow{"TapOfSeveralQueues",
                             {"--backend=tap", std::string("--tap=") + kTap, "--queue-pairs=4"}},
                      TapRow{"WayOutOfASwitch",
                             {"--backend=switch", std::string("--switch-tap=") + kTap}}),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace outrigger::testing
