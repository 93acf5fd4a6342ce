// SPDX-License-Identifier: Apache-2.0
#include "devices/net/capture.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <concepts>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/io/helper_thread.h"

namespace outrigger::net {
namespace {

// Of pcapng. Numbers are in the byte order of this machine, which readers find out by the magic.
constexpr uint32_t kSectionHeader = 0x0a0d'0d0a;
constexpr uint32_t kByteOrderMagic = 0x1a2b'3c4d;
constexpr uint32_t kInterfaceDescription = 1;
constexpr uint32_t kInterfaceStatistics = 5;
constexpr uint32_t kEnhancedPacket = 6;
constexpr uint16_t kEthernetLink = 1;
constexpr uint16_t kEndOfOptions = 0;
constexpr uint16_t kInterfaceName = 2;
constexpr uint16_t kTimeResolution = 9;
constexpr uint16_t kFilter = 11;
constexpr uint16_t kUserApplication = 4;
constexpr uint16_t kPacketFlags = 2;
constexpr uint16_t kPacketsReceived = 4;
constexpr uint16_t kPacketsDropped = 5;
/// Of what a packet's block has beside its bytes.
constexpr size_t kPacketBlockBytes = 48;

constexpr uint64_t kNanosecondsPerSecond = 1'000'000'000;
constexpr int kLookMs = 100;
constexpr auto kLastWriteMax = std::chrono::milliseconds(1000);
/// When the device goes: a program that ends has less than a second for all of it.
constexpr auto kFinalWriteMax = std::chrono::milliseconds(200);

/// One block; numbers and texts are padded to 32 bits.
class Block final {
  public:
    Block(std::vector<std::byte>& out, uint32_t type) : out_(out), start_(out.size()) {
        add(type);
        add(uint32_t{0});
    }

    template <std::integral T>
    void add(T value) {
        const auto bytes = std::as_bytes(std::span(&value, 1));
        out_.insert(out_.end(), bytes.begin(), bytes.end());
    }

    void add_padded(std::span<const std::byte> bytes) {
        out_.insert(out_.end(), bytes.begin(), bytes.end());
        out_.resize(start_ + (out_.size() - start_ + 3) / 4 * 4);
    }

    void add_option(uint16_t code, std::span<const std::byte> value) {
        add(code);
        add(static_cast<uint16_t>(value.size()));
        add_padded(value);
    }

    void add_option(uint16_t code, std::string_view text) {
        add_option(code, std::as_bytes(std::span(text)));
    }

    template <std::integral T>
    void add_option(uint16_t code, T value) {
        add_option(code, std::as_bytes(std::span(&value, 1)));
    }

    void end_options() {
        add(kEndOfOptions);
        add(uint16_t{0});
    }

    /// Its length stands at both of its ends.
    void end() {
        const auto bytes = static_cast<uint32_t>(out_.size() - start_ + sizeof(uint32_t));
        add(bytes);
        std::memcpy(out_.data() + start_ + sizeof(uint32_t), &bytes, sizeof bytes);
    }

  private:
    std::vector<std::byte>& out_;
    const size_t start_;
};

uint64_t time_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<uint64_t>(now.tv_sec) * kNanosecondsPerSecond +
           static_cast<uint64_t>(now.tv_nsec);
}

void add_time(Block& block) {
    const uint64_t now = time_ns();
    block.add(static_cast<uint32_t>(now >> 32));
    block.add(static_cast<uint32_t>(now));
}

}  // namespace

std::string_view name_of(CaptureState state) {
    switch (state) {
        case CaptureState::kNone:
            return "none";
        case CaptureState::kRunning:
            return "running";
        case CaptureState::kStopped:
            return "stopped";
        case CaptureState::kFull:
            return "full";
        case CaptureState::kFailed:
            return "failed";
    }
    return "";
}

Capture::~Capture() {
    last_write_max_ = kFinalWriteMax;
    stop();
}

Result<void> Capture::prepare(UniqueFd file, CaptureOptions options) {
    struct stat status {};

    if (::fstat(file.get(), &status) != 0) {
        return failure(error_from_errno("cannot look at the file"));
    }
    if (!S_ISREG(status.st_mode) && !S_ISFIFO(status.st_mode)) {
        return failure(Error{.message = "a capture goes to a regular file or a pipe"});
    }
    const int flags = ::fcntl(file.get(), F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY) {
        return failure(Error{.message = "the file is not open for writing"});
    }
    if (is_running()) {
        return failure(Error{.message = "a capture is running: end that one first"});
    }
    // One that has failed writes nothing more.
    if (thread_.joinable() && !ended_ && counters().state != CaptureState::kFailed) {
        ask_to_stop();
        return failure(Error{.message = "the last capture is not written yet: try again"});
    }
    stop();
    const std::lock_guard lock(mutex_);
    file_ = std::move(file);
    is_pipe_ = S_ISFIFO(status.st_mode);
    options_ = std::move(options);
    counters_ = {};
    filling_.clear();
    filling_.reserve(kBufferBytesMax);
    writing_.clear();  // what one that failed has left
    writing_.reserve(kBufferBytesMax);
    // The filter is to decide the same however little is kept.
    scratch_.resize(options_.filter.wants_all() ? options_.frame_bytes_max : kFrameBytesMax);
    asked_at_.reset();
    last_write_max_ = kLastWriteMax;
    bytes_noted_ = 0;
    append_header();
    return {};
}

void Capture::append_header() {
    Block section(filling_, kSectionHeader);
    section.add(kByteOrderMagic);
    section.add(uint16_t{1});
    section.add(uint16_t{0});
    section.add(int64_t{-1});  // of unknown length
    section.add_option(kUserApplication, "outrigger-net");
    section.end_options();
    section.end();
    Block interface(filling_, kInterfaceDescription);
    interface.add(kEthernetLink);
    interface.add(uint16_t{0});
    interface.add(static_cast<uint32_t>(options_.frame_bytes_max));
    interface.add_option(kInterfaceName, options_.interface_name);
    interface.add_option(kTimeResolution, uint8_t{9});
    if (!options_.filter_text.empty()) {
        // The first byte says that it is libpcap's expression.
        interface.add_option(kFilter, std::string(1, '\0') + options_.filter_text);
    }
    interface.end_options();
    interface.end();
    bytes_noted_ = filling_.size();
}

Result<void> Capture::begin_from_worker(std::function<void()> on_end) {
    {
        const std::lock_guard lock(mutex_);
        counters_.state = CaptureState::kRunning;
    }
    stopping_ = false;
    ended_ = false;
    on_end_ = std::move(on_end);
    running_ = true;
    auto thread = start_helper_thread("net-capture", [this] { write_all(); });
    if (!thread) {
        ended_ = true;
        end(CaptureState::kFailed);
        return failure(thread.error());
    }
    thread_ = *std::move(thread);
    return {};
}

void Capture::ask_to_stop() {
    end(CaptureState::kStopped);
    stopping_ = true;
}

void Capture::stop() {
    if (thread_.joinable()) {
        ask_to_stop();
        thread_.join();
    }
}

void Capture::end(CaptureState state) {
    const std::lock_guard lock(mutex_);
    running_ = false;
    if (counters_.state == CaptureState::kRunning) {
        counters_.state = state;
    }
    changed_.notify_one();
}

CaptureCounters Capture::counters() const {
    const std::lock_guard lock(mutex_);
    return counters_;
}

// --- The device's worker -----------------------------------------------------------------------

void Capture::note(const Frame& frame, Direction direction) {
    // Nobody holds this for long: the writer only swaps two buffers.
    const std::lock_guard lock(mutex_);
    if (!running_) {
        return;
    }
    // A guest may write the frame while it is looked at, so it is the copy that is.
    const auto front = std::span(scratch_).first(copy_front(frame, scratch_));
    if (!options_.filter.wants(front, frame.bytes)) {
        return;
    }
    const auto bytes = front.first(std::min(front.size(), options_.frame_bytes_max));
    const size_t block_bytes = kPacketBlockBytes + bytes.size();
    if (filling_.size() + block_bytes > kBufferBytesMax) {
        ++counters_.dropped;
        return;
    }
    if (options_.file_bytes_max - std::min(options_.file_bytes_max, bytes_noted_) < block_bytes) {
        running_ = false;
        counters_.state = CaptureState::kFull;
        changed_.notify_one();
        return;
    }
    const size_t before = filling_.size();
    Block block(filling_, kEnhancedPacket);
    block.add(uint32_t{0});
    add_time(block);
    block.add(static_cast<uint32_t>(bytes.size()));
    block.add(static_cast<uint32_t>(frame.bytes));
    block.add_padded(bytes);
    block.add_option(kPacketFlags, static_cast<uint32_t>(direction));
    block.end_options();
    block.end();
    bytes_noted_ += filling_.size() - before;
    ++counters_.frames;
    changed_.notify_one();
}

// --- The writer --------------------------------------------------------------------------------

void Capture::write_all() {
    bool is_last = false;
    while (!is_last) {
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [this] { return !filling_.empty() || !running_; });
            is_last = !running_;
            if (is_last) {
                Block statistics(filling_, kInterfaceStatistics);
                statistics.add(uint32_t{0});
                add_time(statistics);
                statistics.add_option(kPacketsReceived, counters_.frames + counters_.dropped);
                statistics.add_option(kPacketsDropped, counters_.dropped);
                statistics.end_options();
                statistics.end();
            }
            writing_.swap(filling_);
        }
        if (!write_out(writing_)) {
            end(CaptureState::kFailed);
            break;
        }
        {
            const std::lock_guard lock(mutex_);
            counters_.bytes += writing_.size();
        }
        writing_.clear();
    }
    file_.reset();  // a pipe's reader sees the end
    ended_ = true;  // whoever is told may begin another one
    on_end_();
}

/// False: the file takes no more.
bool Capture::write_out(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        // A pipe that is ready takes so many bytes at least, so nobody waits in the call.
        const size_t most = is_pipe_ ? PIPE_BUF : bytes.size();
        if (is_pipe_ && !await_room()) {
            return false;
        }
        const ssize_t count = ::write(file_.get(), bytes.data(), std::min(most, bytes.size()));
        if (count > 0) {
            bytes = bytes.subspan(static_cast<size_t>(count));
        } else if (errno != EINTR && errno != EAGAIN) {
            log(LogLevel::kWarning, "net: the capture ends: {}", std::strerror(errno));
            return false;
        }
    }
    return true;
}

bool Capture::await_room() {
    using Clock = std::chrono::steady_clock;
    while (!asked_at_ || Clock::now() < *asked_at_ + last_write_max_.load()) {
        if (stopping_ && !asked_at_) {
            asked_at_ = Clock::now();
        }
        pollfd pipe{.fd = file_.get(), .events = POLLOUT, .revents = 0};
        if (::poll(&pipe, 1, kLookMs) > 0) {
            // A reader that has gone: what write() says of it is told.
            return true;
        }
    }
    return false;
}

}  // namespace outrigger::net
