// SPDX-License-Identifier: Apache-2.0
/// The state of a stopped device, out of a back end or into one: SET_DEVICE_STATE_FD, the bytes
/// through a pipe, CHECK_DEVICE_STATE. vhost-user "Migrating back-end state".
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "vmm-lite/frontend/channel.h"
#include "vmm-lite/loop/event_loop.h"

namespace outrigger::vmm {

/// One transfer. The process ignores SIGPIPE. Thread-bound: the loop's; destroyed from a posted
/// task or a callback of another object's.
class StateTransfer final {
  public:
    /// No device of ours has more, and a back end must not fill our memory.
    static constexpr size_t kBytesMax = size_t{64} << 20;

    /// Runs once. Of a load the bytes are empty.
    using Done = std::move_only_function<void(Result<std::vector<std::byte>>)>;

    /// `channel` is borrowed. A loss of the channel is not told: whoever sees it destroys this.
    StateTransfer(EventLoop& loop, Channel& channel, const Deadlines& deadlines, Done done);
    StateTransfer(const StateTransfer&) = delete;
    StateTransfer& operator=(const StateTransfer&) = delete;
    ~StateTransfer() = default;

    void save();
    void load(std::vector<std::byte> state);

    /// Ends it with an error.
    void abandon(const Error& reason);

  private:
    void begin(bool saving);
    void on_reply(bool saving, wire::Message& reply);
    void read_on();
    void read_file();
    void write_on();
    void check();
    void end(Result<std::vector<std::byte>> result);

    EventLoop& loop_;
    Channel& channel_;
    const Deadlines deadlines_;
    Done done_;
    UniqueFd own_end_;
    std::vector<std::byte> bytes_;
    size_t written_ = 0;
    EventLoop::Watch watch_;
    EventLoop::Timer limit_;
    EventLoop::Timer turn_;
    std::shared_ptr<StateTransfer*> self_;
};

}  // namespace outrigger::vmm
