// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/child_starter.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/fd_passing.h"

namespace outrigger::vmm {
namespace {

constexpr size_t kWordsMax = 256;
constexpr size_t kChildFds = 2;
constexpr auto kEndLimit = std::chrono::seconds(2);

class Starter final {
  public:
    explicit Starter(int socket) : socket_(socket) {
        // The terminal's signals are for the machine; what it is told then, it tells us.
        (void)::setpgid(0, 0);
        sigset_t child;
        ::sigemptyset(&child);
        ::sigaddset(&child, SIGCHLD);
        ::sigprocmask(SIG_SETMASK, &child, nullptr);
        ::signal(SIGPIPE, SIG_IGN);
        signals_.reset(::signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
        null_.reset(::open("/dev/null", O_RDWR | O_CLOEXEC));
    }

    void serve() {
        while (signals_.valid() && null_.valid()) {
            std::array<pollfd, 2> ready{{{.fd = socket_, .events = POLLIN, .revents = 0},
                                         {.fd = signals_.get(), .events = POLLIN, .revents = 0}}};
            if (::poll(ready.data(), ready.size(), -1) < 0 && errno != EINTR) {
                return;
            }
            if (ready[1].revents != 0) {
                reap();
            }
            if (ready[0].revents != 0 && !take_request()) {
                return;
            }
        }
    }

    void end_all() {
        for (const auto& [pid, id] : children_) {
            ::kill(pid, SIGTERM);
        }
        const auto limit = std::chrono::steady_clock::now() + kEndLimit;
        while (!children_.empty() && std::chrono::steady_clock::now() < limit) {
            pollfd ready{.fd = signals_.get(), .events = POLLIN, .revents = 0};
            (void)::poll(&ready, 1, 50);
            reap();
        }
        for (const auto& [pid, id] : children_) {
            ::kill(pid, SIGKILL);
        }
    }

  private:
    /// False when there is nobody any more who would ask.
    bool take_request() {
        std::vector<std::byte> packet(kStartChildBytesMax);
        const wire::ReceiveResult received = wire::receive_some(socket_, packet);
        if (received.status == wire::ReceiveStatus::kWouldBlock) {
            return true;
        }
        StartChild request{};
        if (received.status != wire::ReceiveStatus::kData || received.bytes < sizeof request) {
            return false;
        }
        std::memcpy(&request, packet.data(), sizeof request);
        if (request.words == 0) {
            end(request.id);
            return true;
        }
        if (received.fds.size() != kChildFds) {
            return false;
        }
        std::vector<std::string> words;
        std::string word;
        for (const std::byte byte :
             std::span(packet).first(received.bytes).subspan(sizeof request)) {
            if (byte != std::byte{0}) {
                word.push_back(static_cast<char>(byte));
            } else if (words.size() < kWordsMax) {
                words.push_back(std::exchange(word, {}));
            }
        }
        if (words.size() != request.words || words.empty()) {
            return false;
        }
        end(request.id);
        start(request.id, words, received.fds[0].get(), received.fds[1].get());
        return true;
    }

    /// One that has lost its machine's side of the socket, and has not gone by itself.
    void end(uint32_t id) {
        for (const auto& [pid, child_id] : children_) {
            if (child_id == id) {
                ::kill(pid, SIGKILL);
            }
        }
    }

    void start(uint32_t id, std::vector<std::string>& words, int socket, int complaints) {
        std::vector<char*> argv;
        for (std::string& word : words) {
            argv.push_back(word.data());
        }
        argv.push_back(nullptr);
        const pid_t own = ::getpid();
        const pid_t pid = ::fork();
        if (pid == 0) {
            become(argv, own, socket, complaints);
        }
        if (pid > 0) {
            children_[pid] = id;
            report({.id = id, .pid = pid, .ended = 0, .status = 0});
        } else {
            report({.id = id, .pid = 0, .ended = 1, .status = 127 << 8});
        }
    }

    [[noreturn]] void become(std::vector<char*>& argv, pid_t parent, int socket, int complaints) {
        sigset_t none;
        ::sigemptyset(&none);
        ::sigprocmask(SIG_SETMASK, &none, nullptr);
        ::signal(SIGPIPE, SIG_DFL);
        // Also when nobody is left to end it.
        ::prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (::getppid() != parent) {
            ::_exit(127);
        }
        // Out of the way of the numbers that are about to be taken.
        const int high_socket = ::fcntl(socket, F_DUPFD_CLOEXEC, 16);
        const int high_complaints = ::fcntl(complaints, F_DUPFD_CLOEXEC, 16);
        ::dup2(null_.get(), STDIN_FILENO);
        ::dup2(null_.get(), STDOUT_FILENO);
        ::dup2(high_complaints, STDERR_FILENO);
        ::dup2(high_socket, kChildSocketFd);
        ::execvp(argv[0], argv.data());
        ::dprintf(STDERR_FILENO,
                  "cannot run %s: %s; put it beside vmm-lite or into $PATH\n",
                  argv[0],
                  strerrordesc_np(errno));
        ::_exit(127);
    }

    void reap() {
        signalfd_siginfo info;
        while (::read(signals_.get(), &info, sizeof info) > 0) {
        }
        int status = 0;
        for (pid_t pid = ::waitpid(-1, &status, WNOHANG); pid > 0;
             pid = ::waitpid(-1, &status, WNOHANG)) {
            const auto child = children_.find(pid);
            if (child != children_.end()) {
                report({.id = child->second, .pid = pid, .ended = 1, .status = status});
                children_.erase(child);
            }
        }
    }

    void report(const ChildReport& what) {
        (void)::send(socket_, &what, sizeof what, MSG_NOSIGNAL | MSG_DONTWAIT);
    }

    const int socket_;
    UniqueFd signals_;
    UniqueFd null_;
    std::map<pid_t, uint32_t> children_;
};

}  // namespace

void run_child_starter(int socket) {
    platform::name_this_thread("child-starter");
    // Nothing of the machine is any business of the daemons.
    const int own = 3;
    if (socket != own) {
        ::dup2(socket, own);
    }
    ::fcntl(own, F_SETFD, FD_CLOEXEC);
    (void)::close_range(own + 1, ~0U, 0);
    Starter starter(own);
    starter.serve();
    starter.end_all();
    ::_exit(0);
}

}  // namespace outrigger::vmm
