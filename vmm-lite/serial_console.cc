// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/serial_console.h"

#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include <sys/eventfd.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/notifier.h"

#include "vmm-lite/boot/layout.h"

namespace outrigger::vmm {
namespace {

constexpr std::byte kCtrlA{1};

/// On a vCPU's thread: a reader of standard output that is slow makes a slow serial port. The
/// signals that stop or pause the processor end the wait, and this byte is not seen then.
void write_byte(std::byte byte) {
    (void)!::write(STDOUT_FILENO, &byte, 1);
}

}  // namespace

Result<std::unique_ptr<SerialConsole>> SerialConsole::create(KvmInterrupts& interrupts,
                                                             std::function<void()> on_quit) {
    UniqueFd interrupt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!interrupt.valid()) {
        return failure(error_from_errno("cannot create an eventfd"));
    }
    OUTRIGGER_TRY(interrupts.connect(layout::kSerialPin, interrupt.get()));
    std::optional<RawTerminal> terminal;
    if (::isatty(STDIN_FILENO) != 0) {
        // What this program itself prints shall look as it should.
        terminal.emplace(
            OUTRIGGER_TRY(RawTerminal::enter(STDIN_FILENO, RawTerminal::Output::kWithLineEnds)));
    }
    return std::unique_ptr<SerialConsole>(
        new SerialConsole(std::move(interrupt), std::move(on_quit), std::move(terminal)));
}

SerialConsole::SerialConsole(UniqueFd interrupt,
                             std::function<void()> on_quit,
                             std::optional<RawTerminal> terminal)
    : interrupt_(std::move(interrupt)),
      on_quit_(std::move(on_quit)),
      port_(write_byte, [fd = interrupt_.get()] { (void)send_notification(fd); }),
      terminal_(std::move(terminal)) {}

void SerialConsole::watch_input(EventLoop& loop) {
    // A file or /dev/null cannot be waited for; the guest then has no input.
    if (auto watch = loop.watch(STDIN_FILENO, [this] { on_input(); }); watch) {
        watch_ = *std::move(watch);
    } else {
        log(LogLevel::kDebug, "the serial port has no input: {}", watch.error().message);
    }
}

void SerialConsole::on_input() {
    std::array<std::byte, 256> buffer{};
    const ssize_t got = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
        return;
    }
    if (got <= 0) {
        watch_ = {};
        return;
    }
    std::vector<std::byte> keys;
    for (const std::byte key : std::span(buffer).first(static_cast<size_t>(got))) {
        if (!std::exchange(escaped_, false)) {
            escaped_ = key == kCtrlA;
            if (escaped_) {
                continue;
            }
        } else if (key == std::byte{'x'} || key == std::byte{'X'}) {
            on_quit_();
            return;
        }
        keys.push_back(key);
    }
    // What does not fit was typed faster than the guest reads, and is lost as on any such line.
    (void)port_.push_input(keys);
}

}  // namespace outrigger::vmm
