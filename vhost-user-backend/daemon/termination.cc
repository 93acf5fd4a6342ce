// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/termination.h"

#include <atomic>
#include <cerrno>
#include <string_view>
#include <utility>

#include <signal.h>
#include <unistd.h>

#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/daemon/socket_file.h"

namespace outrigger {
namespace {

// What the handlers use. Written once by install(), before the handlers exist.
int notify_fd = -1;
int wait_fd = -1;
std::atomic<int> requested_signal = 0;

static_assert(std::atomic<int>::is_always_lock_free);

/// Starts the countdown here and not on the control thread, which may be the one that is stuck.
void on_terminate(int signal_number) {
    const int saved_errno = errno;
    int none = 0;
    if (requested_signal.compare_exchange_strong(none, signal_number)) {
        platform::start_alarm(kTerminationLimit);
        (void)send_notification(notify_fd);
    }
    errno = saved_errno;
}

void on_limit(int) {
    constexpr std::string_view kLine =
        "outrigger: something did not stop within 800 ms: leaving without it\n";
    remove_socket_files();
    (void)!::write(STDERR_FILENO, kLine.data(), kLine.size());
    ::_exit(0);
}

Result<void> handle(int signal_number, void (*handler)(int)) {
    struct sigaction action {};

    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    if (::sigaction(signal_number, &action, nullptr) != 0) {
        return failure(error_from_errno("cannot handle signals"));
    }
    return {};
}

}  // namespace

Result<void> Termination::install() {
    // Leaked on purpose: a handler may run until the process is gone.
    static Notifier& notifier = *new Notifier(OUTRIGGER_TRY(Notifier::create()));
    notify_fd = notifier.write_fd();
    wait_fd = notifier.read_fd();
    OUTRIGGER_TRY(platform::prepare_alarm());
    OUTRIGGER_TRY(handle(SIGPIPE, SIG_IGN));
    OUTRIGGER_TRY(handle(SIGXFSZ, SIG_IGN));
    OUTRIGGER_TRY(handle(SIGALRM, on_limit));
    OUTRIGGER_TRY(handle(SIGTERM, on_terminate));
    OUTRIGGER_TRY(handle(SIGINT, on_terminate));
    // A parent may have blocked what it does not want to hear itself.
    sigset_t ours;
    sigemptyset(&ours);
    for (const int each : {SIGALRM, SIGTERM, SIGINT}) {
        sigaddset(&ours, each);
    }
    ::pthread_sigmask(SIG_UNBLOCK, &ours, nullptr);
    return {};
}

int Termination::request_fd() {
    return wait_fd;
}

int Termination::requested() {
    return requested_signal.load();
}

}  // namespace outrigger
