// SPDX-License-Identifier: Apache-2.0
/// The serial port between the guest and this program's standard input and output. A terminal
/// passes keys on as they are typed, and is as before on every way out of this program, SIGKILL
/// included.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "vhost-user-backend/base/raw_terminal.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "vmm-lite/kvm/kvm_interrupts.h"
#include "vmm-lite/legacy/serial_port.h"
#include "vmm-lite/loop/event_loop.h"

namespace outrigger::vmm {

class SerialConsole final {
  public:
    /// `interrupts` outlives this; `on_quit` is called on the loop's thread for Ctrl-A X.
    [[nodiscard]] static Result<std::unique_ptr<SerialConsole>> create(
        KvmInterrupts& interrupts, std::function<void()> on_quit);
    SerialConsole(const SerialConsole&) = delete;
    SerialConsole& operator=(const SerialConsole&) = delete;

    [[nodiscard]] BusDevice& port() { return port_; }

    /// Begins to read standard input, where it is something that can be waited for.
    void watch_input(EventLoop& loop);

  private:
    SerialConsole(UniqueFd interrupt,
                  std::function<void()> on_quit,
                  std::optional<RawTerminal> terminal);

    void on_input();

    UniqueFd interrupt_;
    std::function<void()> on_quit_;
    SerialPort port_;
    std::optional<RawTerminal> terminal_;  // where standard input is one
    bool escaped_ = false;                 // Ctrl-A was typed
    EventLoop::Watch watch_;
};

}  // namespace outrigger::vmm
