// SPDX-License-Identifier: Apache-2.0
/// Copies of what passes at a port, written to a file or a pipe of an operator as pcapng
/// (draft-ietf-opsawg-pcapng), by a thread of its own. What the frames' way is stays the same: who
/// copies never waits for the file, and what there is no room for is dropped from the capture.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "devices/net/frame.h"
#include "devices/net/packet_filter.h"

namespace outrigger::net {

struct CaptureOptions {
    std::string interface_name;  ///< as it stands in the file
    std::string filter_text;     ///< likewise
    PacketFilter filter{};
    size_t frame_bytes_max = kFrameBytesMax;  ///< what is longer is cut
    uint64_t file_bytes_max = UINT64_MAX;     ///< then it ends
};

enum class CaptureState : uint8_t { kNone, kRunning, kStopped, kFull, kFailed };

struct CaptureCounters {
    CaptureState state = CaptureState::kNone;
    uint64_t frames = 0;
    uint64_t bytes = 0;    ///< of the file
    uint64_t dropped = 0;  ///< because the file was too slow
};

class Capture final {
  public:
    /// What waits for the file.
    static constexpr size_t kBufferBytesMax = 4 << 20;

    Capture() = default;
    Capture(const Capture&) = delete;
    Capture& operator=(const Capture&) = delete;
    ~Capture();

    /// Control thread: checks the file, which is a regular one or a pipe, and open for writing. An
    /// error also when one is running, or not all of the last one is written; nobody waits for
    /// that.
    [[nodiscard]] Result<void> prepare(UniqueFd file, CaptureOptions options);
    /// After prepare(), on a worker, whose confinement the thread inherits. `on_end`: the writer
    /// tells it when the file is closed, as the last that it does.
    [[nodiscard]] Result<void> begin_from_worker(std::function<void()> on_end = [] {});
    /// Control thread: nothing more is noted. What is by now is written, of a pipe what it takes
    /// within a second; on_end says when.
    void ask_to_stop();
    /// Control thread: the same, and waits for it.
    void stop();

    /// Any thread.
    [[nodiscard]] CaptureCounters counters() const;

    enum class Direction : uint8_t { kToGuest = 1, kFromGuest = 2 };  ///< as in epb_flags

    /// The device's worker.
    [[nodiscard]] bool is_running() const { return running_.load(std::memory_order_relaxed); }

    void note(const Frame& frame, Direction direction);

  private:
    void write_all();
    [[nodiscard]] bool write_out(std::span<const std::byte> bytes);
    [[nodiscard]] bool await_room();
    void append_header();
    void end(CaptureState state);

    std::atomic<bool> running_ = false;  // frames are to be noted
    std::atomic<bool> stopping_ = false;
    std::atomic<bool> ended_ = true;  // the writer does nothing more that takes time
    std::atomic<std::chrono::milliseconds> last_write_max_;  // of a pipe, once it is stopping

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::byte> filling_;  // guarded by mutex_, as all but what is said otherwise
    CaptureCounters counters_;
    CaptureOptions options_;
    uint64_t bytes_noted_ = 0;

    std::vector<std::byte> scratch_;  // as much of a frame as is looked at

    std::vector<std::byte> writing_;  // the writer's
    UniqueFd file_;                   // likewise, until it has ended
    /// Likewise: when it saw that it is to end.
    std::optional<std::chrono::steady_clock::time_point> asked_at_;
    bool is_pipe_ = false;
    std::function<void()> on_end_;  // likewise
    std::thread thread_;            // of the control thread and, while it waits, the worker
};

[[nodiscard]] std::string_view name_of(CaptureState state);

}  // namespace outrigger::net
