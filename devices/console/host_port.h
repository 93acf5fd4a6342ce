// SPDX-License-Identifier: Apache-2.0
/// The host's side of one port at work: its viewers, who come and go, its files, and what they are
/// owed of the guest's output.
///
/// The viewer that has been there longest holds a port which is no console back until it has taken
/// what the guest wrote; the longest of those that still write is the one whose input the guest
/// gets. What others type is thrown away, and who falls too far behind misses the oldest bytes.
///
/// Thread-bound: host thread, but for the counters.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/base/log.h"

#include "devices/console/host_end.h"
#include "devices/console/host_loop.h"
#include "devices/console/port_control.h"
#include "devices/console/port_stream.h"
#include "devices/console/size_teller.h"
#include "devices/console/viewer.h"

namespace outrigger::console {

/// What the host thread tells the device. Called on the host thread.
class HostEvents {
  public:
    virtual void on_input(size_t port) = 0;
    virtual void on_room(size_t port) = 0;
    virtual void on_host_open(size_t port, bool open) = 0;
    virtual void on_size(size_t port, TerminalSize size) = 0;

  protected:
    ~HostEvents() = default;
};

/// Written by the host thread.
struct HostCounters {
    Counter viewers;         ///< that came
    Counter turned_away;     ///< because there were too many
    Counter input_ignored;   ///< bytes of viewers that are not the writer
    Counter bytes_missed;    ///< by viewers and files that were too slow, or failed
    Counter write_failures;  ///< of files
};

class HostPort final : public ViewerOwner {
  public:
    HostPort(size_t index,
             const PortOptions& options,
             HostEnd end,
             PortStream& stream,
             HostEvents& events);
    HostPort(const HostPort&) = delete;
    HostPort& operator=(const HostPort&) = delete;
    ~HostPort();

    /// Begins to let viewers in.
    void start(HostLoop& loop);

    /// Does what can be done without waiting: passes output on, takes input. True: there is more to
    /// do at once.
    [[nodiscard]] bool serve(std::span<std::byte> stage);

    /// Terminals that cannot say that their size has changed are asked.
    void look_at_sizes();

    [[nodiscard]] bool has_sizes_to_look_at() const;

    /// Until when somebody is not let in because the process has no descriptor left.
    [[nodiscard]] std::optional<HostLoop::Clock::time_point> pause_end() const {
        return pause_end_;
    }

    void end_pause();

    void reopen_files();

    /// Any thread.
    [[nodiscard]] const HostCounters& counters() const { return counters_; }

    [[nodiscard]] uint32_t viewer_count() const {
        return viewer_count_.load(std::memory_order_relaxed);
    }

    // Of ViewerOwner.
    void on_readable(Viewer& viewer) override;
    void on_gone(Viewer& viewer) override;

  private:
    /// A descriptor that brings others, or news.
    class Source final : public HostLoop::Watch {
      public:
        using Handler = void (HostPort::*)();

        Source(HostPort& port, Handler handler) : port_(port), handler_(handler) {}

        void on_events(uint32_t /*events*/) override { (port_.*handler_)(); }

      private:
        HostPort& port_;
        Handler handler_;
    };

    void on_connection();
    void on_size_connection();
    void on_pty_event();
    void forget_gone();
    [[nodiscard]] UniqueFd accept_from(int listener, Source& source);
    void go_on();
    void add_viewer(Viewer::Options options);
    void begin_viewer(Viewer::Options options);
    void keep(Viewer::Options& options);
    void add_size_teller(SizeTeller::Options options);
    void add_pty_viewer();
    void look_at_pty();
    void clear_pty();
    void sweep();
    void update_writer();
    void update_open();
    void update_hold();
    [[nodiscard]] Viewer* first_that_sees() const;
    void take_input(Viewer& viewer);
    void ignore_input(Viewer& viewer);
    [[nodiscard]] bool pass_on(Viewer& viewer, std::span<std::byte> stage);
    [[nodiscard]] bool append_to(LogFile& file, uint64_t& position, std::span<std::byte> stage);
    void reopen(LogFile& file);
    void tell_size(TerminalSize size);
    void tell_size_of_writer();

    const size_t index_;
    const PortOptions options_;
    HostEnd end_;
    PortStream& stream_;
    HostEvents& events_;
    KeptViewers kept_viewers_;
    KeptViewers kept_size_tellers_;
    std::optional<Viewer::Passage> passage_;  // of viewers that are kept
    HostCounters counters_;
    LogLimiter turned_away_log_;
    LogLimiter file_log_;
    HostLoop* loop_ = nullptr;
    Source listener_source_{*this, &HostPort::on_connection};
    Source size_source_{*this, &HostPort::on_size_connection};
    Source pty_source_{*this, &HostPort::on_pty_event};
    std::vector<std::unique_ptr<Viewer>> viewers_;  // in the order in which they came
    std::vector<std::unique_ptr<SizeTeller>> tellers_;
    Viewer* writer_ = nullptr;  // of viewers_
    bool must_sweep_ = false;   // some of them have gone
    bool input_held_ = false;   // the writer is not asked, because there is no room
    std::atomic<uint32_t> viewer_count_ = 0;
    bool must_look_at_pty_;  // somebody may have opened it
    bool host_open_ = false;
    TerminalSize size_{};
    uint64_t delivered_ = 0;  // to the viewer that was there longest of those that see
    uint64_t file_position_ = 0;
    uint64_t log_position_ = 0;
    std::optional<HostLoop::Clock::time_point> pause_end_;
};

}  // namespace outrigger::console
