// SPDX-License-Identifier: Apache-2.0
// What a guest's driver and the host's side of a console's ports tell one another.
#include <array>
#include <cstring>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "tests/integration/console_test.h"

namespace outrigger::console {
namespace {

using testing::eventually;
using testing::give_others_a_moment;
using testing::kConsolePort;
using testing::kDeviceAdd;
using testing::kDeviceReady;
using testing::kDeviceRemove;
using testing::kPatience;
using testing::kPortName;
using testing::kPortOpen;
using testing::kPortReady;
using testing::kResize;

constexpr std::chrono::milliseconds kMoment{50};
/// No chain takes so long but one that waits.
constexpr std::chrono::milliseconds kLong{1000};

// --- The conversation about ports ---------------------------------------------------------------

TEST_P(ConsoleTest, PortsAreAddedWhenTheDriverIsReadyAndNamedWhenTheyAre) {
    serve({"name=hvc0,backend=null", "name=log,backend=null"});
    Guest& guest = boot();
    guest.send(0, kDeviceReady, 1);
    EXPECT_EQ(guest.next_message(), (Message{.port = 0, .event = kDeviceAdd, .value = 1}));
    EXPECT_EQ(guest.next_message(), (Message{.port = 1, .event = kDeviceAdd, .value = 1}));
    guest.send(0, kPortReady, 1);
    EXPECT_EQ(guest.next_message(), (Message{.port = 0, .event = kConsolePort, .value = 1}));
    EXPECT_EQ(guest.next_message(),
              (Message{.port = 0, .event = kPortName, .value = 1, .rest = "hvc0"}));
    EXPECT_EQ(guest.next_message(), (Message{.port = 0, .event = kPortOpen, .value = 1}));
    guest.send(1, kPortReady, 1);
    EXPECT_EQ(guest.next_message(),
              (Message{.port = 1, .event = kPortName, .value = 1, .rest = "log"}));
    EXPECT_EQ(guest.next_message(), (Message{.port = 1, .event = kPortOpen, .value = 1}));
}

TEST_P(ConsoleTest, ThereAreThirtyOnePorts) {
    std::vector<std::string> texts;
    for (size_t i = 0; i < kPortsMax; ++i) {
        texts.push_back("name=p" + std::to_string(i) + ",backend=unix,path=@s" + std::to_string(i));
    }
    serve(texts);
    EXPECT_EQ(device_->identity().queue_count, 64);
    Guest& guest = boot_and_open({.receive_buffers = 2});
    const HostUser last = join("s30", 30);
    ASSERT_TRUE(guest.write(30, "from the guest"));
    EXPECT_EQ(last.read(14), "from the guest");
    last.write("from the host");
    EXPECT_EQ(guest.read(30, 13), "from the host");
}

TEST_P(ConsoleTest, OpenFollowsTheHostsClients) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open();
    HostUser user = join("a");
    EXPECT_EQ(guest.next_message(), (Message{.port = 0, .event = kPortOpen, .value = 1}));
    user.close();
    EXPECT_EQ(guest.next_message(), (Message{.port = 0, .event = kPortOpen, .value = 0}));
}

TEST_P(ConsoleTest, ClientsThatTheDriverNeverHeardOfAreToldAsOneOpen) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot({.gives_control_buffers = false});
    guest.send(0, kDeviceReady, 1);
    guest.send(0, kPortReady, 1);
    { const HostUser first = join("a"); }
    EXPECT_TRUE(eventually([&] { return device_->host(0).viewer_count() == 0; }));
    const HostUser second = join("a");
    guest.give_buffers(2, 16, 64);
    ASSERT_TRUE(guest.wait_message(0, kPortName));
    EXPECT_EQ(guest.next_message(), (Message{.port = 0, .event = kPortOpen, .value = 1}));
    EXPECT_FALSE(guest.next_message(kMoment));
}

TEST_P(ConsoleTest, ClientsThatComeAndGoWhileTheDriverHearsNothingCostNoMemory) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot({.gives_control_buffers = false});
    guest.send(0, kDeviceReady, 1);
    guest.send(0, kPortReady, 1);
    for (int i = 0; i < 50; ++i) {
        const HostUser user = join("a");
    }
    EXPECT_TRUE(eventually([&] { return device_->host(0).viewer_count() == 0; }));
    guest.give_buffers(2, 32, 64);
    ASSERT_TRUE(guest.wait_message(0, kPortName));
    size_t messages = 0;
    uint16_t last = 7;
    while (const auto message = guest.next_message(kMoment)) {
        ++messages;
        last = message->value;
    }
    EXPECT_LE(messages, 2U);
    EXPECT_NE(last, 1);
}

TEST_P(ConsoleTest, PortsArePluggedAndUnpluggedWhileTheGuestRuns) {
    serve({"name=a,backend=null", "name=b,backend=unix,path=@b,plugged=off"});
    Guest& guest = boot();
    guest.set_up(1);
    while (guest.next_message(kMoment)) {
    }
    host_->on_control([&] { EXPECT_TRUE(device_->set_plugged(1, true)); });
    EXPECT_EQ(guest.next_message(), (Message{.port = 1, .event = kDeviceAdd, .value = 1}));
    guest.send(1, kPortReady, 1);
    EXPECT_EQ(guest.next_message(),
              (Message{.port = 1, .event = kPortName, .value = 1, .rest = "b"}));
    guest.open(1);
    const HostUser user = join("b", 1);
    ASSERT_TRUE(guest.write(1, "plugged"));
    EXPECT_EQ(user.read(7), "plugged");
    ASSERT_TRUE(guest.wait_message(1, kPortOpen));
    host_->on_control([&] {
        EXPECT_TRUE(device_->set_plugged(1, false));
        EXPECT_FALSE(device_->set_plugged(1, false));
    });
    EXPECT_EQ(guest.next_message(), (Message{.port = 1, .event = kDeviceRemove, .value = 1}));
}

TEST_P(ConsoleTest, WithoutMultiportThereIsOnePortThatIsOpen) {
    serve({"name=hvc0,backend=unix,path=@a"}, {.multiport = false});
    EXPECT_EQ(device_->identity().queue_count, 2);
    Guest& guest = boot();
    const HostUser user = join("a");
    ASSERT_TRUE(guest.write(0, "hello"));
    EXPECT_EQ(user.read(5), "hello");
    user.write("world");
    EXPECT_EQ(guest.read(0, 5), "world");
}

TEST_P(ConsoleTest, ADriverThatDoesNotTakeMultiportHasTheFirstPort) {
    serve({"name=hvc0,backend=unix,path=@a", "name=b,backend=null"});
    multiport_ = false;
    ports_ = 1;
    Guest& guest = boot();
    const HostUser user = join("a");
    user.write("typed");
    EXPECT_EQ(guest.read(0, 5), "typed");
}

// --- Bytes --------------------------------------------------------------------------------------

TEST_P(ConsoleTest, BytesPassBothWays) {
    serve({"name=a,backend=unix,path=@a", "name=b,backend=unix,path=@b"});
    Guest& guest = boot_and_open();
    const HostUser a = join("a", 0);
    const HostUser b = join("b", 1);
    ASSERT_TRUE(guest.write(0, "to a"));
    ASSERT_TRUE(guest.write(1, "to b"));
    EXPECT_EQ(a.read(4), "to a");
    EXPECT_EQ(b.read(4), "to b");
    a.write("from a");
    b.write("from b");
    EXPECT_EQ(guest.read(0, 6), "from a");
    EXPECT_EQ(guest.read(1, 6), "from b");
}

TEST_P(ConsoleTest, AMegabyteEachWayArrivesWhole) {
    serve({"name=a,backend=unix,path=@a,console=off"}, {.workers = 2});
    Guest& guest = boot_and_open();
    const HostUser user = join("a");
    const std::string sent = pattern(1 << 20);
    std::string got;
    std::thread reader([&] { got = user.read(sent.size()); });
    guest.write_all(0, sent, 32768);
    reader.join();
    EXPECT_EQ(got, sent);
    std::thread writer([&] { user.write(sent); });
    EXPECT_EQ(guest.read(0, sent.size()), sent);
    writer.join();
    EXPECT_EQ(device_->host(0).counters().bytes_missed.value(), 0U);
}

/// Where the other project's console writes one used entry a byte, and spoils the ring.
TEST_P(ConsoleTest, APasteTakesOneBufferForManyBytes) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open();
    const HostUser user = join("a");
    const std::string pasted = pattern(65536);
    user.write(pasted);
    EXPECT_EQ(guest.read(0, pasted.size()), pasted);
    EXPECT_LE(device_->counters(0).chains_read.value(), 64U);
}

TEST_P(ConsoleTest, AChainOfManyDescriptorsIsWrittenWhole) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open();
    const HostUser user = join("a");
    std::vector<driver::Segment> segments;
    std::string sent;
    for (uint32_t i = 0; i < 9; ++i) {
        const std::string part = pattern(100 * i, i);
        const GuestAddr at = guest.memory().allocate(4096, 16).value();
        guest.memory().write(at, std::as_bytes(std::span(part)));
        segments.push_back({.address = at, .length = static_cast<uint32_t>(part.size())});
        sent += part;
    }
    ASSERT_TRUE(guest.queue(1).transact(segments, driver::after(kPatience)));
    EXPECT_EQ(user.read(sent.size()), sent);
}

TEST_P(ConsoleTest, InputWaitsForTheGuestToOpenThePort) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot();
    guest.set_up(1);
    const HostUser user = join("a");
    user.write("early");
    EXPECT_FALSE(guest.has_input(0, kMoment));
    guest.open(0);
    EXPECT_EQ(guest.read(0, 5), "early");
    guest.open(0, false);
    user.write("late");
    EXPECT_FALSE(guest.has_input(0, kMoment));
    guest.open(0);
    EXPECT_EQ(guest.read(0, 4), "late");
}

TEST_P(ConsoleTest, InputWaitsForABuffer) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open({.receive_buffers = 0});
    const HostUser user = join("a");
    user.write("typed");
    give_others_a_moment();
    guest.give_buffers(0, 1, 3);
    EXPECT_EQ(guest.read(0, 5), "typed");
}

TEST_P(ConsoleTest, AGuestThatBootsAgainGoesOn) {
    serve({"name=a,backend=unix,path=@a"});
    boot_and_open();
    const HostUser user = join("a");
    guest_.reset();
    ASSERT_TRUE(host_->wait_closed());
    Guest& guest = boot_and_open();
    ASSERT_TRUE(guest.write(0, "again"));
    EXPECT_EQ(user.read(5), "again");
    user.write("too");
    EXPECT_EQ(guest.read(0, 3), "too");
}

// --- Waiting, and not waiting -------------------------------------------------------------------

TEST_P(ConsoleTest, AConsoleNeverMakesTheGuestWait) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open();
    const HostUser stalled = join("a");
    const std::string sent = pattern(4 << 20);
    guest.write_all(0, sent, 65536);
    EXPECT_EQ(device_->counters(0).output_waits.value(), 0U);
    // It gets what the socket had taken, then the newest, and what is between is counted.
    const std::string tail = sent.substr(sent.size() - 1024);
    std::string got;
    while (!got.ends_with(tail)) {
        std::array<char, 4096> piece{};
        ASSERT_TRUE(stalled.readable(kPatience));
        const ssize_t count = ::read(stalled.fd(), piece.data(), piece.size());
        ASSERT_GT(count, 0);
        got.append(piece.data(), static_cast<size_t>(count));
    }
    EXPECT_LT(got.size(), sent.size());
    EXPECT_EQ(got.substr(got.size() - 65536), sent.substr(sent.size() - 65536));
    EXPECT_EQ(device_->host(0).counters().bytes_missed.value(), sent.size() - got.size());
}

TEST_P(ConsoleTest, APlainPortMakesTheGuestWaitAndLosesNothing) {
    serve({"name=a,backend=unix,path=@a,console=off"});
    Guest& guest = boot_and_open();
    const HostUser user = join("a");
    const std::string sent = pattern(2 << 20);
    size_t done = 0;
    while (done < sent.size() &&
           guest.write(0, std::string_view(sent).substr(done, 32768), kLong)) {
        done += 32768;
    }
    ASSERT_LT(done, sent.size()) << "nobody read, and the guest never waited";
    EXPECT_GT(device_->counters(0).output_waits.value(), 0U);
    // The chain that is not taken yet is, as soon as somebody reads.
    std::string got = user.read(done + 32768);
    EXPECT_TRUE(guest.queue(1).wait_used(driver::after(kPatience)) == driver::WaitResult::kUsed);
    EXPECT_TRUE(guest.queue(1).poll_used());
    EXPECT_EQ(got, sent.substr(0, done + 32768));
    EXPECT_EQ(device_->host(0).counters().bytes_missed.value(), 0U);
}

TEST_P(ConsoleTest, WhatAViewerOfAPlainPortLeavesIsTheNextOnes) {
    serve({"name=a,backend=unix,path=@a,console=off"});
    Guest& guest = boot_and_open();
    HostUser first = join("a");
    ASSERT_TRUE(guest.write(0, "one"));
    EXPECT_EQ(first.read(3), "one");
    first.close();
    EXPECT_TRUE(eventually([&] { return device_->host(0).viewer_count() == 0; }));
    ASSERT_TRUE(guest.write(0, "two"));
    const HostUser second = join("a");
    EXPECT_EQ(second.read(3), "two");
}

// --- Sizes --------------------------------------------------------------------------------------

TEST_P(ConsoleTest, SizesAreTheSpecificationsOrTheOldOnes) {
    for (const ResizeOrder order : {ResizeOrder::kSpecification, ResizeOrder::kLegacy}) {
        TearDown();
        SetUp();
        serve({"name=a,backend=null,size=132x43"}, {.order = order});
        Guest& guest = boot();
        guest.send(0, kDeviceReady, 1);
        guest.send(0, kPortReady, 1);
        const auto message = guest.wait_message(0, kResize);
        ASSERT_TRUE(message);
        const bool spec = order == ResizeOrder::kSpecification;
        EXPECT_EQ(message->rest,
                  spec ? std::string("\x84\0\x2b\0", 4) : std::string("\x2b\0\x84\0", 4));
    }
}

TEST_P(ConsoleTest, TheConfigurationHasTheSizeOfTheFirstPort) {
    serve({"name=a,backend=null,size=132x43", "name=b,backend=null"});
    Guest& guest = boot();
    const auto config = guest.frontend().get_config(0, 12);
    ASSERT_TRUE(config);
    const std::array<uint8_t, 12> expected = {132, 0, 43, 0, 2, 0, 0, 0, 0, 0, 0, 0};
    EXPECT_EQ(std::memcmp(config->data(), expected.data(), 12), 0);
}

TEST_P(ConsoleTest, TheWritersProcessTellsItsSizeBesideTheSocket) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open();
    const HostUser user = join("a");
    const HostUser sizes = HostUser::connect(path("a.size"));
    sizes.write("80x24\n");
    const auto first = guest.wait_message(0, kResize);
    ASSERT_TRUE(first);
    EXPECT_EQ(first->rest, std::string("\x50\0\x18\0", 4));
    sizes.write("100x");
    sizes.write("30\n");
    const auto second = guest.wait_message(0, kResize);
    ASSERT_TRUE(second);
    EXPECT_EQ(second->rest, std::string("\x64\0\x1e\0", 4));
    EXPECT_EQ(guest.read(0, 0), "");
}

TEST_P(ConsoleTest, WhatIsNoSizeEndsTheConnectionThatTellsIt) {
    serve({"name=a,backend=unix,path=@a"});
    for (const std::string_view text : {"80\n",
                                        "x\n",
                                        "80x\n",
                                        "x24\n",
                                        "-1x24\n",
                                        "80x65536\n",
                                        "80x24x\n",
                                        "\n",
                                        "0000000000000000000000000000000000000080x24"}) {
        boot_and_open();
        const HostUser sizes = HostUser::connect(path("a.size"));
        sizes.write(text);
        EXPECT_TRUE(sizes.at_end()) << text;
        guest_.reset();
        ASSERT_TRUE(host_->wait_closed());
    }
    EXPECT_EQ(device_->port_state(0).size, TerminalSize{});
}

// --- A pseudo-terminal --------------------------------------------------------------------------

UniqueFd open_terminal(const std::string& path) {
    return UniqueFd(::open(path.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
}

TEST_P(ConsoleTest, APseudoTerminalHasALinkAndPassesEveryByte) {
    serve({"name=hvc0,backend=pty,link=@tty"});
    Guest& guest = boot_and_open();
    const HostUser user(open_terminal(path("tty")));
    std::string every;
    for (int i = 0; i < 256; ++i) {
        every.push_back(static_cast<char>(i));
    }
    user.write(every);
    EXPECT_EQ(guest.read(0, 256), every);
    ASSERT_TRUE(guest.write(0, every));
    EXPECT_EQ(user.read(256), every);
    guest_.reset();
    host_.reset();
    device_.reset();
    EXPECT_FALSE(std::filesystem::is_symlink(path("tty")));
}

TEST_P(ConsoleTest, APasteIntoAPseudoTerminalComesWholeAndOpensAndClosesThePort) {
    serve({"name=hvc0,backend=pty,link=@tty"});
    Guest& guest = boot_and_open();
    const std::string pasted = pattern(128 << 10);
    HostUser user(open_terminal(path("tty")));
    EXPECT_EQ(guest.next_message(), (Message{.port = 0, .event = kPortOpen, .value = 1}));
    std::thread writer([&] {
        user.write(pasted);
        user.close();  // and is gone before the guest has read it
    });
    EXPECT_EQ(guest.read(0, pasted.size()), pasted);
    writer.join();
    EXPECT_EQ(guest.next_message(), (Message{.port = 0, .event = kPortOpen, .value = 0}));
}

TEST_P(ConsoleTest, AUserOfAPseudoTerminalWhoComesBackSeesWhatWasWritten) {
    serve({"name=hvc0,backend=pty,link=@tty"});
    Guest& guest = boot_and_open();
    for (int i = 0; i < 3; ++i) {
        HostUser user(open_terminal(path("tty")));
        ASSERT_TRUE(guest.wait_message(0, kPortOpen));
        ASSERT_TRUE(guest.write(0, "line" + std::to_string(i)));
        const std::string expected =
            std::string("line0line1line2").substr(0, 5 * static_cast<size_t>(i + 1));
        EXPECT_EQ(user.read(expected.size()), expected);
        user.close();
        ASSERT_TRUE(guest.wait_message(0, kPortOpen));
    }
}

TEST_P(ConsoleTest, ANewSizeOfAPseudoTerminalReachesTheGuest) {
    serve({"name=hvc0,backend=pty,link=@tty"});
    Guest& guest = boot_and_open();
    const HostUser user(open_terminal(path("tty")));
    const winsize size{.ws_row = 50, .ws_col = 200, .ws_xpixel = 0, .ws_ypixel = 0};
    ASSERT_EQ(::ioctl(user.fd(), TIOCSWINSZ, &size), 0);
    const auto message = guest.wait_message(0, kResize);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->rest, std::string("\xc8\0\x32\0", 4));
}

TEST_P(ConsoleTest, APseudoTerminalIsRawAgainForTheNextUser) {
    serve({"name=hvc0,backend=pty,link=@tty"});
    boot_and_open();
    termios cooked{};
    {
        const HostUser user(open_terminal(path("tty")));
        ASSERT_EQ(::tcgetattr(user.fd(), &cooked), 0);
        cooked.c_lflag |= ECHO | ICANON;
        ASSERT_EQ(::tcsetattr(user.fd(), TCSANOW, &cooked), 0);
        EXPECT_TRUE(eventually([&] { return device_->host(0).viewer_count() == 1; }));
    }
    EXPECT_TRUE(eventually([&] { return device_->host(0).viewer_count() == 0; }));
    const HostUser next(open_terminal(path("tty")));
    termios seen{};
    ASSERT_EQ(::tcgetattr(next.fd(), &seen), 0);
    EXPECT_EQ(seen.c_lflag & (ECHO | ICANON), 0U);
}

INSTANTIATE_TEST_SUITE_P(Rings, ConsoleTest, ::testing::Bool(), [](const auto& test) {
    return test.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::console
