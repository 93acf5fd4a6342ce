// SPDX-License-Identifier: Apache-2.0
// What a process of a console finds that goes on where another one was killed.
#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <linux/virtio_console.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "devices/console/kept_viewers.h"
#include "devices/console/log_file.h"
#include "devices/console/port_control.h"
#include "devices/console/port_stream.h"

namespace outrigger::console {
namespace {

/// Zeroed, and at a multiple of 64 bytes.
class Memory {
  public:
    explicit Memory(size_t bytes) : lines_((bytes + sizeof(Line) - 1) / sizeof(Line)) {}

    [[nodiscard]] std::span<std::byte> span() { return std::as_writable_bytes(std::span(lines_)); }

  private:
    struct alignas(64) Line {
        std::array<std::byte, 64> bytes{};
    };

    std::vector<Line> lines_;
};

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text));
}

std::string output_of(PortStream& stream, uint64_t position) {
    std::string text(100, '\0');
    uint64_t missed = 0;
    text.resize(stream.copy_output(position, std::as_writable_bytes(std::span(text)), missed));
    return text;
}

constexpr bool kWaits = true;

TEST(KeptStream, HasTheSameBytesAtTheSamePlaces) {
    Memory memory(PortStream::bytes(kWaits, 0));
    {
        PortStream before(kWaits, 0, memory.span());
        before.append_output(bytes_of("shown and held"));
        before.append_input(bytes_of("typed"));
        before.hold_from(6, 6);
    }
    PortStream after(kWaits, 0, memory.span());
    EXPECT_EQ(after.output().end, 14U);
    EXPECT_EQ(output_of(after, 6), "and held");
    EXPECT_EQ(after.delivered(), 6U);
    EXPECT_TRUE(after.has_input());
    EXPECT_EQ(after.input_end(), 5U);
}

TEST(KeptStream, HoldsTheGuestBackAsBefore) {
    Memory memory(PortStream::bytes(kWaits, 0));
    {
        PortStream before(kWaits, 0, memory.span());
        before.hold_from(0, 0);
        before.append_output(std::vector<std::byte>(PortStream::kWindowBytes));
    }
    PortStream after(kWaits, 0, memory.span());
    EXPECT_FALSE(after.has_room());
}

TEST(KeptStream, InputThatTheGuestHasIsNotGivenAgain) {
    Memory memory(PortStream::bytes(kWaits, 0));
    PortStream stream(kWaits, 0, memory.span());
    stream.append_input(bytes_of("typed"));
    stream.note_input_taken(3);
    stream.note_input_taken(3);
    EXPECT_EQ(stream.input_bytes(), 3U);
    stream.note_input_taken(2);  // cannot be, nor can
    stream.note_input_taken(6);
    EXPECT_EQ(stream.input_bytes(), 3U);
}

TEST(KeptStream, AHeadThatCannotBeIsNone) {
    Memory memory(PortStream::bytes(kWaits, 0));
    {
        PortStream before(kWaits, 0, memory.span());
        before.append_output(bytes_of("shown"));
    }
    // What the head says first of all, in both copies: where the output begins.
    for (const size_t copy : {size_t{64}, size_t{128}}) {
        memory.span()[copy + 7] = std::byte{0xff};
    }
    PortStream after(kWaits, 0, memory.span());
    EXPECT_EQ(after.output().end, 0U);
}

TEST(KeptStream, InputComesInStepsToTheEndAndNowhereElse) {
    PortStream stream(kWaits, 0);
    const auto lock = stream.lock_input();
    EXPECT_FALSE(stream.input_space(1, 1));
    EXPECT_FALSE(stream.input_space(0, PortStream::kInputBytes + 1));
    ASSERT_TRUE(stream.input_space(0, 2));
    stream.commit_input(1, 2);
    EXPECT_FALSE(stream.has_input());
    stream.commit_input(0, 2);
    EXPECT_EQ(stream.input_end(), 2U);
}

std::vector<PortOptions> two_ports() {
    return {{.name = "a", .console = true}, {.name = "b"}};
}

std::vector<std::byte> message(uint32_t port, uint16_t event, uint16_t value) {
    const ControlMessage head{.id = port, .event = event, .value = value};
    const auto bytes = std::as_bytes(std::span(&head, 1));
    return {bytes.begin(), bytes.end()};
}

uint16_t next_event(PortControl& control) {
    ControlMessage head{};
    control.take_message(1000, [&](std::span<const std::byte> bytes, uint64_t) {
        std::memcpy(&head, bytes.data(), sizeof head);
    });
    return head.event;
}

class KeptControl : public ::testing::Test {
  protected:
    std::unique_ptr<PortControl> next_process() {
        auto control = std::make_unique<PortControl>(two_ports(), ResizeOrder::kSpecification);
        control->keep(memory_.span());
        return control;
    }

    Memory memory_{PortControl::kKeptBytes};
};

TEST_F(KeptControl, KnowsWhatTheDriverKnowsAndHasYetToHear) {
    {
        const auto before = next_process();
        before->negotiated(true);
        (void)before->handle(message(0, VIRTIO_CONSOLE_DEVICE_READY, 1));
        (void)next_event(*before);
        (void)before->set_host_open(0, true);
    }
    const auto after = next_process();
    EXPECT_TRUE(after->multiport());
    EXPECT_TRUE(after->state(0).told);
    EXPECT_TRUE(after->state(0).host_open);
    EXPECT_EQ(after->handled(), 1U);
    EXPECT_EQ(next_event(*after), VIRTIO_CONSOLE_PORT_ADD);  // of the second port
    EXPECT_FALSE(after->has_message());
    EXPECT_FALSE(after->set_host_open(0, true)) << "the driver is told once";
}

TEST_F(KeptControl, AMessageThatWasDeliveredDoesNotCountTwice) {
    uint64_t number = 0;
    {
        const auto before = next_process();
        before->negotiated(true);
        (void)before->handle(message(0, VIRTIO_CONSOLE_DEVICE_READY, 1));
        // As if it were killed in here, before the message goes.
        Memory copy = memory_;
        before->take_message(1000, [&](std::span<const std::byte>, uint64_t of) { number = of; });
        memory_ = copy;
    }
    const auto after = next_process();
    after->note_delivered(number);
    after->note_delivered(number);
    EXPECT_EQ(next_event(*after), VIRTIO_CONSOLE_PORT_ADD);
    EXPECT_FALSE(after->has_message()) << "there were two";
}

TEST_F(KeptControl, AResetIsKeptToo) {
    {
        const auto before = next_process();
        before->negotiated(true);
        (void)before->handle(message(0, VIRTIO_CONSOLE_DEVICE_READY, 1));
        before->reset();
    }
    const auto after = next_process();
    EXPECT_FALSE(after->multiport());
    EXPECT_FALSE(after->has_message());
    EXPECT_TRUE(after->state(0).guest_open);
}

TEST(KeptViewersTable, HasThemInTheOrderInWhichTheyCame) {
    Memory memory(KeptViewers::bytes(3));
    KeptViewers before(memory.span(), 3);
    before.begin({.slot = *before.find_free(), .value = 10, .kind = 1, .process = 7});
    before.begin({.slot = *before.find_free(), .value = 20});
    before.begin({.slot = *before.find_free(), .value = 30});
    EXPECT_FALSE(before.find_free());
    before.end(0);
    before.begin({.slot = *before.find_free(), .value = 40, .process = -1});
    before.set_value(1, 21);
    const auto all = KeptViewers(memory.span(), 3).all();
    ASSERT_EQ(all.size(), 3U);
    EXPECT_EQ(all[0].value, 21U);
    EXPECT_EQ(all[1].value, 30U);
    EXPECT_EQ(all[2].value, 40U);
    EXPECT_EQ(all[2].process, -1);
    EXPECT_EQ(all[2].slot, 0U);
}

TEST(KeptViewersTable, WithoutMemoryNobodyIsKept) {
    KeptViewers none({}, 64);
    EXPECT_FALSE(none.find_free());
    EXPECT_TRUE(none.all().empty());
}

class KeptLog : public ::testing::Test {
  protected:
    void SetUp() override {
        path_ = ::testing::TempDir() + "kept-log-" + std::to_string(::getpid());
        ::unlink(path_.c_str());
    }

    void TearDown() override {
        ::unlink(path_.c_str());
        ::unlink((path_ + ".1").c_str());
    }

    [[nodiscard]] LogFile open() {
        return LogFile::open({.path = path_, .bytes_max = 4096}, memory_.span()).value();
    }

    std::string path_;
    Memory memory_{LogFile::kKeptBytes};
};

TEST_F(KeptLog, GoesOnBehindWhatIsInTheFile) {
    {
        LogFile before = open();
        EXPECT_FALSE(before.kept_position());
        ASSERT_TRUE(before.append(100, bytes_of("twelve bytes")));
    }
    EXPECT_EQ(open().kept_position(), 112U);
}

TEST_F(KeptLog, CountsWhatWasWrittenBeforeItCouldBeNoted) {
    {
        LogFile before = open();
        ASSERT_TRUE(before.append(100, bytes_of("twelve bytes")));
        Memory copy = memory_;
        ASSERT_TRUE(before.append(112, bytes_of("more")));
        memory_ = copy;
    }
    EXPECT_EQ(open().kept_position(), 116U);
}

TEST_F(KeptLog, AnotherFileOfThatNameIsNotTheOneThatWasNoted) {
    {
        LogFile before = open();
        ASSERT_TRUE(before.append(100, bytes_of("twelve bytes")));
    }
    ASSERT_EQ(::rename(path_.c_str(), (path_ + ".1").c_str()), 0);
    EXPECT_EQ(open().kept_position(), 112U);
}

TEST_F(KeptLog, ARotationLosesAndDoublesNothing) {
    {
        LogFile before = open();
        ASSERT_TRUE(before.append(0, std::vector<std::byte>(5000)));
    }
    EXPECT_EQ(open().kept_position(), 5000U);
}

}  // namespace
}  // namespace outrigger::console
