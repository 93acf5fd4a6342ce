// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/terminal.h"

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <initializer_list>

#include <termios.h>
#include <unistd.h>

namespace outrigger::vmm {
namespace {

termios g_saved;  // written once, before g_is_raw is set
std::atomic<bool> g_is_raw = false;

/// Async-signal-safe.
void restore() {
    if (g_is_raw.exchange(false)) {
        (void)::tcsetattr(STDIN_FILENO, TCSAFLUSH, &g_saved);
    }
}

void on_crash(int signal) {
    restore();
    // SA_RESETHAND: this time it ends the program as it would have.
    (void)::raise(signal);
}

}  // namespace

RawTerminal::RawTerminal() {
    if (::isatty(STDIN_FILENO) == 0 || ::tcgetattr(STDIN_FILENO, &g_saved) != 0) {
        return;
    }
    g_is_raw = true;
    std::atexit(restore);
    struct sigaction action = {};
    action.sa_handler = on_crash;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    for (const int signal : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGQUIT, SIGSYS}) {
        (void)::sigaction(signal, &action, nullptr);
    }
    termios raw = g_saved;
    ::cfmakeraw(&raw);
    // What this program itself prints has line ends that a terminal understands.
    raw.c_oflag |= OPOST;
    (void)::tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw);
}

RawTerminal::~RawTerminal() {
    restore();
}

}  // namespace outrigger::vmm
