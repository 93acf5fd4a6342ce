// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/worker_process.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vhost-user-backend/daemon/config_file.h"
#include "vhost-user-backend/daemon/descriptor_store.h"

namespace outrigger::worker_process {
namespace {

/// The program finds descriptor `fd` by that variable.
bool pass(const char* variable, int fd) {
    return ::fcntl(fd, F_SETFD, 0) == 0 && ::setenv(variable, std::to_string(fd).c_str(), 1) == 0;
}

}  // namespace

Result<UniqueFd> open_program(const std::string& path) {
    UniqueFd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!fd.valid()) {
        return failure(error_from_errno("cannot open " + path));
    }
    return fd;
}

std::string own_path() {
    std::array<char, 4096> path{};
    const ssize_t bytes = ::readlink("/proc/self/exe", path.data(), path.size());
    return bytes > 0 ? std::string(path.data(), static_cast<size_t>(bytes)) : std::string();
}

rlimit take_all_descriptors() {
    rlimit before{};
    if (::getrlimit(RLIMIT_NOFILE, &before) == 0) {
        const rlimit all{.rlim_cur = before.rlim_max, .rlim_max = before.rlim_max};
        (void)::setrlimit(RLIMIT_NOFILE, &all);
    }
    return before;
}

bool end(pid_t& pid) {
    if (pid <= 0) {
        return false;
    }
    ::kill(pid, SIGKILL);
    (void)::waitpid(std::exchange(pid, -1), nullptr, 0);
    return true;
}

UniqueFd take_signals(bool hangup_is_wish, sigset_t& before) {
    sigset_t ours;
    sigemptyset(&ours);
    for (const int each : {SIGCHLD, SIGTERM, SIGINT, SIGUSR2}) {
        sigaddset(&ours, each);
    }

    // Under nohup a terminal that hangs up is to end nothing, and the program ignores it, too: what
    // is blocked would come all the same.
    struct sigaction hangup {};

    ::sigaction(SIGHUP, nullptr, &hangup);
    if (hangup_is_wish || hangup.sa_handler != SIG_IGN) {
        sigaddset(&ours, SIGHUP);
    }
    ::sigprocmask(SIG_BLOCK, &ours, &before);
    return UniqueFd(::signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK));
}

/// The keeper has one thread, so anything may be called.
void become(const Program& program) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    ::sigprocmask(SIG_SETMASK, &program.signals, nullptr);
    (void)::setrlimit(RLIMIT_NOFILE, &program.files);
    std::vector<char*> argv;
    for (const std::string& argument : program.arguments) {
        argv.push_back(const_cast<char*>(argument.c_str()));  // execveat() does not write there
    }
    argv.push_back(nullptr);
    if (::getppid() == program.keeper &&
        (program.config < 0 || pass(kConfigVariable, program.config)) &&
        pass(DescriptorStore::kChannelVariable, program.channel)) {
        // The binary itself, and not its path: an update may have put another one there.
        ::syscall(SYS_execveat, program.program, "", argv.data(), environ, AT_EMPTY_PATH);
    }
    const std::string line =
        std::string(program.name) + ": cannot start the program: " + std::strerror(errno) + "\n";
    (void)!::write(STDERR_FILENO, line.data(), line.size());
    ::_exit(1);
}

int end_alike(int status) {
    if (!WIFSIGNALED(status)) {
        return WEXITSTATUS(status);
    }
    ::signal(WTERMSIG(status), SIG_DFL);
    sigset_t only;
    sigemptyset(&only);
    sigaddset(&only, WTERMSIG(status));
    ::sigprocmask(SIG_UNBLOCK, &only, nullptr);
    ::raise(WTERMSIG(status));
    return 128 + WTERMSIG(status);
}

}  // namespace outrigger::worker_process
