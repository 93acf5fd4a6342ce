// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/user_namespace.h"

#include <cerrno>

#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger::fs {
namespace {

/// Says how it went, and lives until the other end of `orders` is closed. No memory is allocated
/// between fork() and _exit().
[[noreturn]] void live_in_it(int outcome, int orders) {
    // With a mount namespace, without which the keeper lets nobody make one.
    const int error = ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 ? 0 : errno;
    char nothing = 0;
    if (::write(outcome, &error, sizeof error) == static_cast<ssize_t>(sizeof error)) {
        while (::read(orders, &nothing, 1) < 0 && errno == EINTR) {
        }
    }
    ::_exit(0);
}

Result<void> write_map(const std::string& path, const std::string& lines) {
    const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    // All of it at once, or the kernel takes none.
    if (!file.valid() ||
        ::write(file.get(), lines.data(), lines.size()) != static_cast<ssize_t>(lines.size())) {
        return failure(
            error_from_errno("the kernel does not take the rules of --translate-uid and "
                             "--translate-gid (340 and 4095 bytes at most)"));
    }
    return {};
}

Result<UniqueFd> open_mapped(pid_t child,
                             int outcome,
                             const std::string& uids,
                             const std::string& gids) {
    int error = 0;
    ssize_t count = 0;
    do {
        count = ::read(outcome, &error, sizeof error);
    } while (count < 0 && errno == EINTR);
    if (count != static_cast<ssize_t>(sizeof error) || error != 0) {
        return failure(error_from_code("cannot make a user namespace", error == 0 ? EIO : error));
    }
    const std::string place = "/proc/" + std::to_string(child);
    OUTRIGGER_TRY(write_map(place + "/uid_map", uids));
    OUTRIGGER_TRY(write_map(place + "/gid_map", gids));
    UniqueFd found(::open((place + "/ns/user").c_str(), O_RDONLY | O_CLOEXEC));
    if (!found.valid()) {
        return failure(error_from_errno("cannot open a user namespace"));
    }
    return found;
}

}  // namespace

Result<UniqueFd> make_user_namespace(const std::string& uids, const std::string& gids) {
    platform::PipeEnds outcome = OUTRIGGER_TRY(platform::open_pipe());
    platform::PipeEnds orders = OUTRIGGER_TRY(platform::open_pipe());
    const pid_t child = ::fork();
    if (child < 0) {
        return failure(error_from_errno("cannot start a process"));
    }
    if (child == 0) {
        orders.write_end.reset();
        live_in_it(outcome.write_end.get(), orders.read_end.get());
    }
    outcome.write_end.reset();
    auto found = open_mapped(child, outcome.read_end.get(), uids, gids);
    orders.write_end.reset();
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    return found;
}

}  // namespace outrigger::fs
