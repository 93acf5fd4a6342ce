// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/net_tap_daemon.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
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

/// That the first guest's frames are from.
const std::string kFirstMac("\x52\x54\0\0\0\x01", 6);

/// What an operator sees of what passes there, of whichever guest it is.
class NetUplinkCaptureTest : public NetTapDaemonTest {
  protected:
    void serve_switch() {
        start_program({"--sandbox=log",
                       "--control-socket=" + path("control"),
                       "--device=socket-path=" + path("s") + ",backend=switch,switch-tap=" + kTap,
                       "--device=socket-path=" + path("t") + ",backend=switch"});
        connect_guest({});
        second_ = std::make_unique<NetGuest>(
            driver::Frontend::connect(path("t"), driver::after(kPatience)).value(),
            NetGuestOptions{});
        ASSERT_TRUE(second_->is_up());
        configure();
        expect_traffic();
    }

    void start_program(std::vector<std::string> arguments) {
        daemon_ = std::make_unique<ChildProcess>(
            program_, ChildProcess::Options{.arguments = std::move(arguments), .descriptors = {}});
    }

    std::string ask_device(const std::string& socket,
                           std::vector<std::string> arguments,
                           int status = 0) {
        arguments.push_back("--device=" + path(socket));
        return ask(std::move(arguments), status);
    }

    /// Has the other guest send a datagram to that station, at that port.
    void send_from_second(const std::string& to, const std::string& text, uint16_t port) {
        FrameOptions options{.udp = true, .source_port = 9, .destination_port = port};
        options.to_mac = to;
        std::string frame = make_frame(text, options);
        frame.replace(6, 6, std::string("\x02\0\0\0\0\x08", 6));
        ASSERT_TRUE(second_->send(frame));
    }

    [[nodiscard]] std::string file(const std::string& name) const {
        std::ifstream in(path(name), std::ios::binary);
        return {std::istreambuf_iterator<char>(in), {}};
    }

    [[nodiscard]] static bool has_libpcap() {
        const char* const has_pcap = std::getenv("OUTRIGGER_HAS_PCAP");
        return has_pcap != nullptr && has_pcap == std::string("yes");
    }

    std::unique_ptr<NetGuest> second_;
};

TEST_F(NetUplinkCaptureTest, HasWhatPassesThereOfAllGuestsAndNothingElse) {
    serve_switch();
    std::vector<std::string> wish{"capture", path("uplink"), "--uplink"};
    if (has_libpcap()) {
        wish.push_back("--filter=udp port " + std::to_string(kHostPort));
    }
    ASSERT_EQ(ask_device("s", wish), "");
    ASSERT_EQ(ask_device("s", {"capture", path("port")}), "");  // at the same time
    ASSERT_EQ(to_host("of the first", true), "of the first");
    ASSERT_TRUE(from_host("of the host"));
    send_from_second(host_mac_, "of the second", kHostPort);
    send_from_second(host_mac_, "to another port", kHostPort + 1);
    send_from_second(kFirstMac, "among guests", kHostPort);
    while (const auto frame = guest_->receive()) {
        if (frame->bytes.find("among guests") != std::string::npos) {
            break;
        }
    }
    const std::string shown = ask_device("s", {"show"});
    const std::string ended = ask_device("s", {"capture-stop", "--uplink"});
    const std::string captured = file("uplink");
    for (const char* const text : {"of the first", "of the host", "of the second"}) {
        EXPECT_NE(captured.find(text), std::string::npos) << text;
    }
    EXPECT_NE(captured.find(kTap), std::string::npos);
    EXPECT_EQ(captured.find("among guests"), std::string::npos);
    if (has_libpcap()) {
        EXPECT_EQ(captured.find("to another port"), std::string::npos);
        EXPECT_NE(shown.find("capture running: frames 3, dropped 0"), std::string::npos) << shown;
        EXPECT_EQ(ended, "3 frames were captured, and 0 dropped from the capture\n");
    }
    // That of the device's own port is another one, and goes on.
    EXPECT_NE(ask_device("s", {"capture-stop", "--uplink"}, 1).find("no capture is running"),
              std::string::npos);
    (void)ask_device("s", {"capture-stop"});
    const std::string own = file("port");
    EXPECT_NE(own.find("of the first"), std::string::npos);
    EXPECT_NE(own.find("among guests"), std::string::npos);
    EXPECT_EQ(own.find("of the second"), std::string::npos);
    EXPECT_NE(ask_device("s", {"show"}).find("capture stopped: frames"), std::string::npos);
}

TEST_F(NetUplinkCaptureTest, IsRefusedByDevicesThatAreNoWayOut) {
    serve_switch();
    EXPECT_NE(ask_device("t", {"capture", path("f"), "--uplink"}, 1).find("--switch-tap"),
              std::string::npos);
    EXPECT_FALSE(std::filesystem::exists(path("f")));
    EXPECT_NE(ask_device("t", {"capture-stop", "--uplink"}, 1).find("--switch-tap"),
              std::string::npos);
    ASSERT_EQ(ask_device("s", {"capture", path("f"), "--uplink"}), "");
    EXPECT_NE(ask_device("s", {"capture", path("g"), "--uplink"}, 1).find("a capture is running"),
              std::string::npos);
    EXPECT_FALSE(std::filesystem::exists(path("g")));
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
