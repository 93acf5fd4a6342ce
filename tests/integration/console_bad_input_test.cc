// SPDX-License-Identifier: Apache-2.0
// What a guest, a front end or the host's side of a console does wrong.
#include <fmt/core.h>

#include "vhost-user-backend/wire/messages.h"

#include "tests/integration/console_test.h"
#include "tests/support/state_pipe.h"
#include "tests/support/tcp_port.h"

namespace outrigger::console {
namespace {

using driver::Answer;
using testing::eventually;
using testing::kDeviceAdd;
using testing::kDeviceReady;
using testing::kPatience;
using testing::kPortName;
using testing::kPortOpen;
using testing::kPortReady;

constexpr std::chrono::milliseconds kMoment{50};

// --- The configuration --------------------------------------------------------------------------

TEST_P(ConsoleTest, ConfigurationReadsBehindTheSpaceShowNothing) {
    serve({"name=a,backend=null,size=65535x65535"});
    Guest& guest = boot();
    const auto answer = guest.frontend().get_config(0, 256);
    ASSERT_TRUE(answer);
    for (size_t i = 12; i < answer->size(); ++i) {
        EXPECT_EQ((*answer)[i], std::byte{0}) << i;
    }
}

TEST_P(ConsoleTest, OnlyTheEmergencyFieldOfTheConfigurationIsWritten) {
    serve({"name=a,backend=null,size=80x25"});
    Guest& guest = boot();
    const std::array<std::byte, 4> value = {std::byte{'!'}};
    for (const uint32_t offset : {0U, 2U, 4U, 7U, 9U, 11U}) {
        EXPECT_EQ(guest.frontend().set_config(offset, std::span(value).first(1)), Answer::kRefused)
            << offset;
    }
    EXPECT_EQ(device_->counters(0).emergencies.value(), 0U);
    EXPECT_EQ(guest.frontend().set_config(8, value), Answer::kAccepted);
    EXPECT_EQ(device_->counters(0).emergencies.value(), 1U);
}

TEST_P(ConsoleTest, EmergencyWritesComeOutBeforeThereIsARing) {
    serve({"name=a,backend=unix,path=@a"});
    driver::Frontend frontend = host_->connect();
    ASSERT_TRUE(driver::negotiate(frontend, {.features = driver::kUsualFeatures}));
    for (const char each : std::string("panic")) {
        const std::array<std::byte, 4> value = {static_cast<std::byte>(each)};
        ASSERT_EQ(frontend.set_config(8, value), Answer::kAccepted);
    }
    frontend.close();
    ASSERT_TRUE(host_->wait_closed());
    boot();
    const HostUser user = join("a");
    EXPECT_EQ(user.read(5), "panic");
}

// --- Control messages ---------------------------------------------------------------------------

TEST_P(ConsoleTest, ControlMessagesThatAreCutShortAreCounted) {
    serve({"name=a,backend=null"});
    Guest& guest = boot();
    for (size_t bytes = 0; bytes < 8; ++bytes) {
        guest.send_raw(std::string(bytes, '\0'));
    }
    EXPECT_TRUE(eventually([&] { return device_->control_counters().cut_short.value() == 8; }));
    guest.set_up(1);
}

TEST_P(ConsoleTest, ControlMessagesForUnknownPortsAreCounted) {
    serve({"name=a,backend=null", "name=b,backend=null,plugged=off"});
    Guest& guest = boot();
    guest.send(0, kPortReady, 1);  // not added yet
    guest.set_up(1);
    for (const uint32_t port : {1U, 2U, 31U, 0x8000'0000U, 0xffff'ffffU}) {
        guest.send(port, kPortReady, 1);
        guest.send(port, kPortOpen, 1);
    }
    EXPECT_TRUE(
        eventually([&] { return device_->control_counters().unknown_ports.value() == 11; }));
    EXPECT_FALSE(device_->port_state(1).guest_open);
}

TEST_P(ConsoleTest, ControlMessagesThatMeanNothingAreCounted) {
    serve({"name=a,backend=null"});
    Guest& guest = boot();
    guest.set_up(1);
    for (const uint16_t event : std::initializer_list<uint16_t>{1, 2, 4, 5, 7, 8, 0xffff}) {
        guest.send(0, event, 1);
    }
    EXPECT_TRUE(
        eventually([&] { return device_->control_counters().unknown_events.value() == 7; }));
}

TEST_P(ConsoleTest, ADriverThatFailsIsCounted) {
    serve({"name=a,backend=null"});
    Guest& guest = boot();
    guest.send(0, kDeviceReady, 0);
    guest.send(0, kDeviceReady, 1);
    guest.send(0, kPortReady, 0);
    EXPECT_TRUE(eventually([&] { return device_->control_counters().failures.value() == 2; }));
    EXPECT_FALSE(device_->port_state(0).ready);
}

TEST_P(ConsoleTest, AFloodOfControlMessagesCostsAHandfulOfAnswers) {
    serve({"name=a,backend=null"});
    Guest& guest = boot({.gives_control_buffers = false});
    for (int i = 0; i < 1000; ++i) {
        guest.send(0, kDeviceReady, 1);
        guest.send(0, kPortReady, 1);
    }
    guest.give_buffers(2, 32, 64);
    size_t answers = 0;
    while (guest.next_message(kMoment)) {
        ++answers;
    }
    EXPECT_GE(answers, 3U);
    EXPECT_LE(answers, 8U);
}

TEST_P(ConsoleTest, AMessageWaitsForABufferThatItFitsInto) {
    serve({"name=averylongname,backend=null"});
    Guest& guest = boot({.gives_control_buffers = false});
    guest.send(0, kDeviceReady, 1);
    guest.send(0, kPortReady, 1);
    guest.give_buffers(2, 1, 12);  // too small for the name, and used again and again
    bool named = false;
    for (int i = 0; i < 20 && !named; ++i) {
        const auto message = guest.next_message(kMoment);
        named = message && message->event == kPortName;
    }
    EXPECT_FALSE(named);
    guest.give_buffers(2, 1, 64);
    bool whole = false;
    for (int i = 0; i < 200 && !whole; ++i) {
        const auto message = guest.next_message(kMoment);
        whole = message && message->event == kPortName && message->rest == "averylongname";
    }
    EXPECT_TRUE(whole);
}

TEST_P(ConsoleTest, BuffersOfTheWrongDirectionComeBackEmpty) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open({.receive_buffers = 0});
    const HostUser user = join("a");
    user.write("x");
    const GuestAddr at = guest.memory().allocate(64, 16).value();
    const driver::Segment readable{.address = at, .length = 64, .device_writable = false};
    const driver::Segment writable{.address = at, .length = 64, .device_writable = true};
    // A readable one to receive into, a writable one to be written.
    const auto received =
        guest.queue(0).transact(std::span(&readable, 1), driver::after(kPatience));
    ASSERT_TRUE(received);
    EXPECT_EQ(received->length, 0U);
    const auto written = guest.queue(1).transact(std::span(&writable, 1), driver::after(kPatience));
    ASSERT_TRUE(written);
    EXPECT_EQ(written->length, 0U);
    EXPECT_EQ(device_->counters(0).empty_chains.value(), 2U);
    guest.give_buffers(0, 1, 16);
    EXPECT_EQ(guest.read(0, 1), "x");
}

TEST_P(ConsoleTest, AChainOfMoreThanAPortHoldsKeepsItsEnd) {
    serve({"name=a,backend=unix,path=@a,console=off"});
    Guest& guest = boot_and_open();
    const std::string sent = pattern(3 << 20);
    const GuestAddr at = guest.memory().allocate(sent.size(), 16).value();
    guest.memory().write(at, std::as_bytes(std::span(sent)));
    const driver::Segment segment{.address = at, .length = static_cast<uint32_t>(sent.size())};
    ASSERT_TRUE(guest.queue(1).transact(std::span(&segment, 1), driver::after(kPatience)));
    const HostUser user = join("a");
    const size_t kept = PortStream::kWindowBytes + PortStream::kChainBytesMax;
    EXPECT_EQ(user.read(kept), sent.substr(sent.size() - kept));
}

// --- The host -----------------------------------------------------------------------------------

std::string refusal(const std::vector<std::string>& texts) {
    const auto ports = parse_ports(texts);
    if (!ports) {
        return ports.error().message;
    }
    for (const PortOptions& port : *ports) {
        if (auto end = open_host_end(port); !end) {
            return end.error().message;
        }
    }
    return "accepted";
}

TEST_P(ConsoleTest, ATcpPortThatIsInUseIsSaidSo) {
    const testing::TcpPort port;
    port.listen();
    EXPECT_EQ(refusal({fmt::format("name=a,backend=tcp,tcp-port={}", port.number())}),
              fmt::format("cannot listen at 127.0.0.1:{}: Address already in use", port.number()));
}

TEST_P(ConsoleTest, ASocketPathThatIsInUseIsSaidSo) {
    serve({"name=a,backend=unix,path=@a"});
    EXPECT_EQ(refusal({"name=a,backend=unix,path=" + path("a")}),
              path("a") + " belongs to another running program: stop it or choose another path");
}

TEST_P(ConsoleTest, AFileInPlaceOfALinkOrASocketStays) {
    std::ofstream(path("file")) << "mine";
    EXPECT_EQ(refusal({"name=a,backend=pty,link=" + path("file")}),
              path("file") + " exists and is not a symbolic link: choose another path");
    EXPECT_EQ(refusal({"name=a,backend=unix,path=" + path("file")}),
              path("file") + " exists and is not a socket: choose another path");
    EXPECT_EQ(contents("file"), "mine");
}

TEST_P(ConsoleTest, ALogThatIsNoFileIsRefused) {
    ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
    std::filesystem::create_symlink(path("elsewhere"), path("link"));
    EXPECT_NE(refusal({"name=a,backend=null,log=" + path("fifo")}), "accepted");
    EXPECT_NE(refusal({"name=a,backend=null,log=" + path("link")}), "accepted");
    EXPECT_NE(refusal({"name=a,backend=null,log=" + folder_.string()}), "accepted");
    EXPECT_NE(refusal({"name=a,backend=null,log=/nowhere/at/all"}), "accepted");
    EXPECT_FALSE(std::filesystem::exists(path("elsewhere")));
}

// --- Device state -------------------------------------------------------------------------------

constexpr FeatureSet kWithState =
    driver::kUsualProtocolFeatures.with(bit(wire::ProtocolFeature::kDeviceState));

TEST_P(ConsoleTest, AStateGoesToAnotherProcessWithUnreadInputAndReplay) {
    serve({"name=a,backend=unix,path=@a,size=80x24", "name=b,backend=unix,path=@b"});
    Guest& guest = boot_and_open({.receive_buffers = 0, .protocol_features = kWithState});
    const HostUser user = join("a");
    const HostUser other = join("b", 1);
    ASSERT_TRUE(guest.wait_message(1, kPortOpen));
    ASSERT_TRUE(guest.write(0, "written"));
    user.write("unread");
    EXPECT_TRUE(eventually([&] { return device_->save_state().value()[1].bytes.size() > 38; }));
    for (size_t i = 0; i < 6; ++i) {
        (void)guest.queue(i).stop(guest.frontend());
    }
    const std::string state = testing::save_state(guest.frontend());
    ASSERT_FALSE(state.empty());

    // There: another device, of the same ports.
    guest_.reset();
    host_.reset();
    device_.reset();
    serve({"name=a,backend=unix,path=@a,size=80x24", "name=b,backend=unix,path=@b"});
    driver::Frontend frontend = host_->connect();
    EXPECT_TRUE(frontend.get_features());
    EXPECT_TRUE(frontend.get_protocol_features());
    EXPECT_EQ(frontend.set_protocol_features(kWithState), Answer::kUnasked);
    ASSERT_TRUE(testing::load_state(frontend, state));
    EXPECT_TRUE(device_->port_state(0).guest_open);
    EXPECT_TRUE(device_->port_state(1).ready);
    const HostUser there = join("a");
    EXPECT_EQ(there.read(7), "written");
    EXPECT_TRUE(device_->port_state(0).host_open);
    const auto saved = device_->save_state().value();
    // SAFETY: any object may be read as characters; the section lives as long as `saved`.
    const std::string bytes(reinterpret_cast<const char*>(saved[1].bytes.data()),
                            saved[1].bytes.size());
    EXPECT_NE(bytes.find("unread"), std::string::npos);
}

TEST_P(ConsoleTest, AStateOfOtherPortsIsRefusedWhole) {
    serve({"name=a,backend=null"});
    const auto state = device_->save_state().value();
    for (const std::vector<std::string>& texts :
         {std::vector<std::string>{"name=b,backend=null"},
          std::vector<std::string>{"name=a,backend=null", "name=b,backend=null"}}) {
        const auto other = make_device(texts, {});
        const auto before = other->save_state().value();
        EXPECT_FALSE(other->load_state(state));
        EXPECT_EQ(other->save_state().value(), before);
    }
}

}  // namespace
}  // namespace outrigger::console
