// SPDX-License-Identifier: Apache-2.0
/// Somebody at the host's side of a port: a connection, the user of a pseudo-terminal, or our own
/// standard input and output. Nothing here waits.
///
/// Thread-bound: host thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include <sys/types.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "devices/console/conduit.h"
#include "devices/console/host_loop.h"
#include "devices/console/kept_viewers.h"

namespace outrigger::console {

class Viewer;

class ViewerOwner {
  public:
    /// It has input, or no more of it.
    virtual void on_readable(Viewer& viewer) = 0;
    /// It cannot be served any more. It stays until the round is over.
    virtual void on_gone(Viewer& viewer) = 0;

  protected:
    ~ViewerOwner() = default;
};

class Viewer final {
  public:
    enum class Kind : uint8_t {
        kUnix,
        kTcp,
        kPty,
        kStdio,
    };

    /// How its bytes pass, where another process goes on with it.
    struct Passage {
        Conduit& conduit;
        KeptViewers& viewers;
        PortStream& stream;
        uint32_t port = 0;
    };

    struct Options {
        Kind kind = Kind::kUnix;
        int input = -1;  ///< borrowed, unless `owned` is it
        int output = -1;
        UniqueFd owned{};
        bool input_is_socket = true;
        bool output_is_socket = true;
        pid_t process = 0;      ///< of a Unix socket's other end; 0: not known
        uint64_t position = 0;  ///< of the output, from where it gets it
        /// Its place there, and the rest of what it takes to keep it; nothing: it is not kept.
        std::optional<size_t> slot{};
        const Passage* passage = nullptr;  ///< borrowed
    };

    Viewer(Options options, ViewerOwner& owner)
        : options_(std::move(options)), owner_(owner), position(options_.position) {}

    Viewer(const Viewer&) = delete;
    Viewer& operator=(const Viewer&) = delete;
    ~Viewer() = default;

    void start(HostLoop& loop);
    /// Nothing is told any more.
    void stop();

    [[nodiscard]] bool gone() const { return gone_; }

    [[nodiscard]] Kind kind() const { return options_.kind; }

    [[nodiscard]] pid_t process() const { return options_.process; }

    [[nodiscard]] std::optional<size_t> slot() const { return options_.slot; }

    /// Input has ended; output may still be wanted.
    [[nodiscard]] bool input_ended() const { return input_ended_; }

    /// It gets no more; what it has sent may still be there, and more of it come.
    [[nodiscard]] bool output_ended() const { return output_ended_; }

    /// Can output be written, as far as is known?
    [[nodiscard]] bool is_writable() const { return !gone_ && !output_ended_ && !blocked_; }

    /// Is input there that nobody is told of by itself: the descriptor is always ready, or has hung
    /// up?
    [[nodiscard]] bool must_be_read() const {
        return !gone_ && !input_ended_ && (!input_can_wait_ || hung_up_);
    }

    /// What came: bytes, 0 when there are none now or no more of them (input_ended(), gone()).
    [[nodiscard]] size_t read(std::span<std::byte> out);

    /// The same of one that is kept (slot()): it goes to the end of the port's input.
    [[nodiscard]] size_t take(size_t bytes_max);

    /// How much of `bytes`, which are at `position`, was written. Less than all: is_writable() is
    /// false, for now, or because it has gone or looks no more.
    [[nodiscard]] size_t write(std::span<const std::byte> bytes);

    /// Is it to be told of input? Not while there is no room for it.
    void want_input(bool wanted);

    void leave();

  private:
    class End final : public HostLoop::Watch {
      public:
        End(Viewer& viewer, bool is_input) : viewer_(viewer), is_input_(is_input) {}

        void on_events(uint32_t events) override { viewer_.on_events(is_input_, events); }

      private:
        Viewer& viewer_;
        bool is_input_;
    };

    void on_events(bool at_input, uint32_t events);
    [[nodiscard]] size_t note_read(ssize_t count);
    [[nodiscard]] ssize_t write_some(uint64_t at, std::span<const std::byte> bytes) const;
    void end_input();
    void end_output();
    void update();

    [[nodiscard]] bool is_one_descriptor() const { return options_.input == options_.output; }

    Options options_;
    ViewerOwner& owner_;

  public:
    /// Of the next byte that it gets, and how many it never got. Its owner's.
    uint64_t position;
    uint64_t missed = 0;

  private:
    HostLoop* loop_ = nullptr;  // null: not started, or stopped
    End input_end_{*this, true};
    End output_end_{*this, false};
    uint32_t input_events_ = 0;  // what the loop knows
    bool input_added_ = false;
    bool output_added_ = false;
    bool input_can_wait_ = true;
    bool input_wanted_ = true;
    bool input_ended_ = false;
    bool output_ended_ = false;
    bool hung_up_ = false;
    bool blocked_ = false;
    bool gone_ = false;
};

}  // namespace outrigger::console
