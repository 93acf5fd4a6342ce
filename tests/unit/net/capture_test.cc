// SPDX-License-Identifier: Apache-2.0
#include "devices/net/capture.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/filter.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/io/asio_loop.h"

#include "devices/net/captured_port.h"

namespace outrigger::net {
namespace {

constexpr uint32_t kPacket = 6;
constexpr uint32_t kStatistics = 5;

template <class T>
T read_at(const std::string& bytes, size_t at) {
    T value{};
    if (at + sizeof value <= bytes.size()) {
        std::memcpy(&value, bytes.data() + at, sizeof value);
    }
    return value;
}

struct ReadBlock {
    uint32_t type = 0;
    std::string body{};  ///< between the lengths
};

/// draft-ietf-opsawg-pcapng, 3.1. Empty when it is not what it says.
std::vector<ReadBlock> read_blocks(const std::string& file) {
    std::vector<ReadBlock> blocks;
    for (size_t at = 0; at < file.size();) {
        const auto bytes = read_at<uint32_t>(file, at + 4);
        if (bytes < 12 || bytes % 4 != 0 || bytes > file.size() - at ||
            read_at<uint32_t>(file, at + bytes - 4) != bytes) {
            ADD_FAILURE() << "a block of " << bytes << " bytes at " << at << " of " << file.size();
            return {};
        }
        blocks.push_back(
            {.type = read_at<uint32_t>(file, at), .body = file.substr(at + 8, bytes - 12)});
        at += bytes;
    }
    return blocks;
}

std::string read_file(int fd) {
    std::string bytes(static_cast<size_t>(::lseek(fd, 0, SEEK_END)), '\0');
    EXPECT_EQ(::pread(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return bytes;
}

UniqueFd make_file() {
    return UniqueFd(::memfd_create("capture", MFD_CLOEXEC));
}

UniqueFd another(const UniqueFd& fd) {
    return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
}

struct Pipe {
    Pipe() {
        std::array<int, 2> ends{};
        EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
        reader.reset(ends[0]);
        writer.reset(ends[1]);
    }

    UniqueFd reader;
    UniqueFd writer;
};

class CaptureTest : public ::testing::Test {
  protected:
    void note(std::string bytes, Capture::Direction direction = Capture::Direction::kFromGuest) {
        const iovec piece{.iov_base = bytes.data(), .iov_len = bytes.size()};
        capture_.note({.pieces = std::span(&piece, 1), .bytes = bytes.size()}, direction);
    }

    void begin(UniqueFd file,
               CaptureOptions options = {.interface_name = "tap", .filter_text = ""}) {
        const auto prepared = capture_.prepare(std::move(file), std::move(options));
        ASSERT_TRUE(prepared) << prepared.error().message;
        ASSERT_TRUE(capture_.begin_from_worker());
        EXPECT_TRUE(capture_.is_running());
    }

    UniqueFd file_ = make_file();
    Capture capture_;
};

TEST_F(CaptureTest, FileHasWhatPassed) {
    begin(another(file_), {.interface_name = "tap", .filter_text = "ip"});
    note("first frame");
    note("second", Capture::Direction::kToGuest);
    capture_.stop();
    EXPECT_FALSE(capture_.is_running());
    EXPECT_EQ(capture_.counters().state, CaptureState::kStopped);
    const auto blocks = read_blocks(read_file(file_.get()));
    ASSERT_EQ(blocks.size(), 5U);
    EXPECT_EQ(blocks[0].type, 0x0a0d'0d0aU);
    EXPECT_EQ(read_at<uint32_t>(blocks[0].body, 0), 0x1a2b'3c4dU);
    EXPECT_EQ(blocks[1].type, 1U);
    EXPECT_EQ(read_at<uint16_t>(blocks[1].body, 0), 1);  // Ethernet
    EXPECT_NE(blocks[1].body.find("tap"), std::string::npos);
    EXPECT_NE(blocks[1].body.find(std::string("\0ip", 3)), std::string::npos);
    EXPECT_EQ(blocks[2].type, kPacket);
    EXPECT_EQ(read_at<uint32_t>(blocks[2].body, 12), 11U);
    EXPECT_EQ(read_at<uint32_t>(blocks[2].body, 16), 11U);
    EXPECT_EQ(blocks[2].body.substr(20, 12), std::string("first frame\0", 12));
    // The option epb_flags: outbound, as seen from the guest.
    EXPECT_EQ(blocks[2].body.substr(32, 8), std::string("\x02\0\x04\0\x02\0\0\0", 8));
    EXPECT_EQ(blocks[3].body.substr(20, 6), "second");
    EXPECT_EQ(blocks[3].body.substr(28, 8), std::string("\x02\0\x04\0\x01\0\0\0", 8));
    EXPECT_EQ(blocks[4].type, kStatistics);
    EXPECT_EQ(capture_.counters().frames, 2U);
    EXPECT_EQ(capture_.counters().bytes, read_file(file_.get()).size());
}

TEST_F(CaptureTest, FilterDecides) {
    const FilterInstruction program[] = {{BPF_LD | BPF_B | BPF_ABS, 0, 0, 0},
                                         {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 'y'},
                                         {BPF_RET | BPF_K, 0, 0, 1},
                                         {BPF_RET | BPF_K, 0, 0, 0}};
    begin(another(file_),
          {.interface_name = "tap",
           .filter_text = "",
           .filter = PacketFilter::parse(program).value()});
    note("yes");
    note("no");
    note("");
    capture_.stop();
    EXPECT_EQ(capture_.counters().frames, 1U);
    EXPECT_EQ(capture_.counters().dropped, 0U);
}

TEST_F(CaptureTest, FramesAreCut) {
    begin(another(file_), {.interface_name = "tap", .filter_text = "", .frame_bytes_max = 4});
    note("long frame");
    capture_.stop();
    const auto blocks = read_blocks(read_file(file_.get()));
    ASSERT_EQ(blocks.size(), 4U);
    EXPECT_EQ(read_at<uint32_t>(blocks[2].body, 12), 4U);
    EXPECT_EQ(read_at<uint32_t>(blocks[2].body, 16), 10U);
}

TEST_F(CaptureTest, FilterSeesWhatIsCut) {
    const FilterInstruction program[] = {{BPF_LD | BPF_B | BPF_ABS, 0, 0, 9},
                                         {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 'y'},
                                         {BPF_RET | BPF_K, 0, 0, 1},
                                         {BPF_RET | BPF_K, 0, 0, 0}};
    begin(another(file_),
          {.interface_name = "tap",
           .filter_text = "",
           .filter = PacketFilter::parse(program).value(),
           .frame_bytes_max = 4});
    note("xxxxxxxxxy");
    note("xxxxxxxxxx");
    capture_.stop();
    const auto blocks = read_blocks(read_file(file_.get()));
    ASSERT_EQ(blocks.size(), 4U);
    EXPECT_EQ(read_at<uint32_t>(blocks[2].body, 12), 4U);
    EXPECT_EQ(read_at<uint32_t>(blocks[2].body, 16), 10U);
}

TEST_F(CaptureTest, ReaderOfOneThatIsFullSeesItsEnd) {
    Pipe pipe;
    begin(std::move(pipe.writer),
          {.interface_name = "tap", .filter_text = "", .file_bytes_max = 4096});
    for (int i = 0; i < 100; ++i) {
        note(std::string(200, 'x'));
    }
    std::array<char, 4096> bytes{};
    ssize_t count = 1;
    while (count > 0) {
        pollfd reader{.fd = pipe.reader.get(), .events = POLLIN, .revents = 0};
        ASSERT_EQ(::poll(&reader, 1, 20'000), 1) << "the writer has it open";
        count = ::read(pipe.reader.get(), bytes.data(), bytes.size());
    }
    EXPECT_EQ(count, 0);
}

TEST_F(CaptureTest, SlowReaderIsNotWaitedForToTheEnd) {
    Pipe pipe;
    begin(std::move(pipe.writer));
    for (size_t i = 0; i < Capture::kBufferBytesMax / 60000 + 1; ++i) {
        note(std::string(60000, 'x'));
    }
    std::atomic<bool> reads = true;
    std::thread reader([&] {
        std::array<char, 4096> bytes{};
        while (reads && ::read(pipe.reader.get(), bytes.data(), bytes.size()) > 0) {
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
    });
    const auto began = std::chrono::steady_clock::now();
    capture_.stop();
    // All of it would take this reader 50 s.
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(20));
    reads = false;
    reader.join();
}

TEST_F(CaptureTest, FileEndsBeforeItIsTooLong) {
    begin(another(file_), {.interface_name = "tap", .filter_text = "", .file_bytes_max = 4096});
    for (int i = 0; i < 100; ++i) {
        note(std::string(200, 'x'));
    }
    EXPECT_FALSE(capture_.is_running());
    capture_.stop();
    EXPECT_EQ(capture_.counters().state, CaptureState::kFull);
    const std::string file = read_file(file_.get());
    // The statistics come behind all.
    EXPECT_LE(file.size(), 4096U + 64);
    EXPECT_GT(file.size(), 3500U);
    EXPECT_EQ(read_blocks(file).back().type, kStatistics);
}

TEST_F(CaptureTest, WhatAReaderIsTooSlowForIsDroppedAndCounted) {
    Pipe pipe;
    begin(std::move(pipe.writer));
    const size_t frames = 2 * Capture::kBufferBytesMax / 60000 + 8;
    for (size_t i = 0; i < frames; ++i) {
        note(std::string(60000, 'x'));
    }
    const CaptureCounters counters = capture_.counters();
    EXPECT_EQ(counters.state, CaptureState::kRunning);
    EXPECT_GT(counters.dropped, 0U);
    EXPECT_EQ(counters.frames + counters.dropped, frames);
    // Nobody reads: it ends all the same.
    capture_.stop();
    EXPECT_FALSE(capture_.is_running());
}

/// Whoever asks has others to serve meanwhile.
TEST_F(CaptureTest, NobodyWaitsForTheEndOfOne) {
    Pipe pipe;
    const auto prepared =
        capture_.prepare(std::move(pipe.writer), {.interface_name = "tap", .filter_text = ""});
    ASSERT_TRUE(prepared) << prepared.error().message;
    std::promise<void> ended;
    auto end = ended.get_future();
    ASSERT_TRUE(capture_.begin_from_worker([&] {
        ended.set_value();
        // Whoever waits for this goes on before the writer has gone.
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }));
    for (int i = 0; i < 4; ++i) {
        note(std::string(60000, 'x'));  // more than the pipe has room for
    }
    capture_.ask_to_stop();
    EXPECT_EQ(end.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
    EXPECT_FALSE(capture_.is_running());
    EXPECT_FALSE(capture_.prepare(make_file(), {.interface_name = "tap", .filter_text = ""}));
    // Its reader may have all of it all the same.
    std::string captured;
    std::array<char, 4096> bytes{};
    for (ssize_t count = 1; count > 0;) {
        count = ::read(pipe.reader.get(), bytes.data(), bytes.size());
        captured.append(bytes.data(), count > 0 ? static_cast<size_t>(count) : 0);
    }
    end.get();
    const auto blocks = read_blocks(captured);
    ASSERT_EQ(blocks.size(), 7U);
    EXPECT_EQ(blocks.back().type, kStatistics);
    EXPECT_EQ(capture_.counters().bytes, captured.size());
    begin(another(file_));
}

TEST_F(CaptureTest, ReaderThatHasGoneEndsIt) {
    Pipe pipe;
    begin(std::move(pipe.writer));
    pipe.reader.reset();
    for (int tries = 0; capture_.is_running() && tries < 10'000; ++tries) {
        note("frame");
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(capture_.counters().state, CaptureState::kFailed);
    // And another one may begin.
    begin(another(file_));
    note("frame");
    capture_.stop();
    EXPECT_EQ(read_blocks(read_file(file_.get())).size(), 4U);
}

TEST_F(CaptureTest, OneAtATime) {
    begin(another(file_));
    EXPECT_FALSE(capture_.prepare(make_file(), {.interface_name = "", .filter_text = ""}));
    EXPECT_TRUE(capture_.is_running());
}

TEST_F(CaptureTest, FilesThatCannotBeAreRefused) {
    const auto is_refused = [this](UniqueFd fd) {
        return !capture_.prepare(std::move(fd), {.interface_name = "", .filter_text = ""});
    };
    EXPECT_TRUE(is_refused(UniqueFd()));
    EXPECT_TRUE(is_refused(UniqueFd(::open("/dev/null", O_WRONLY | O_CLOEXEC))));
    EXPECT_TRUE(is_refused(UniqueFd(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC))));
    Pipe pipe;
    EXPECT_TRUE(is_refused(std::move(pipe.reader)));
    EXPECT_FALSE(capture_.is_running());
    EXPECT_EQ(capture_.counters().state, CaptureState::kNone);
}

/// Frames that go from ring to ring do so while they are captured, too.
TEST_F(CaptureTest, DeviceTakesFramesAsWithoutIt) {
    struct HandingPort final : Port {
        void attach(EventLoop& /*loop*/, PortEvents& to) override { events = &to; }

        void detach() override { events = nullptr; }

        size_t send(std::span<const Frame> frames) override { return frames.size(); }

        std::optional<Frame> next_frame() override { return std::nullopt; }

        void drop_frame() override {}

        void await_frames() override {}

        PortEvents* events = nullptr;
    };

    struct TakesOne final : PortEvents {
        void on_frames() override {}

        void on_room() override {}

        size_t take_frames(std::span<const Frame> frames) override {
            return std::min(frames.size(), size_t{1});
        }
    };

    auto made = std::make_unique<HandingPort>();
    HandingPort& port = *made;
    CapturedPort captured(std::move(made), capture_);
    const std::unique_ptr<EventLoop> loop = create_asio_loop().value();
    TakesOne device;
    captured.attach(*loop, device);
    begin(another(file_));
    std::string bytes = "a frame";
    const iovec piece{.iov_base = bytes.data(), .iov_len = bytes.size()};
    const std::array<Frame, 2> frames{{{.pieces = std::span(&piece, 1), .bytes = bytes.size()},
                                       {.pieces = std::span(&piece, 1), .bytes = bytes.size()}}};
    EXPECT_EQ(port.events->take_frames(frames), 1U);
    capture_.stop();
    EXPECT_EQ(capture_.counters().frames, 1U);
    captured.detach();
}

}  // namespace
}  // namespace outrigger::net
