// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/children.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <span>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/wire/fd_passing.h"

#include "vmm-lite/child_starter.h"

namespace outrigger::vmm {
namespace {

constexpr size_t kLineBytesMax = 1024;
constexpr size_t kEarlyLinesMax = 64;
constexpr int kReportsATurnMax = 64;

void print(const std::string& line) {
    std::fprintf(stderr, "%s\n", line.c_str());
}

Result<std::pair<UniqueFd, UniqueFd>> socket_pair(int type) {
    int ends[2];
    if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0) {
        return failure(error_from_errno("cannot make a pair of sockets"));
    }
    return std::pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

/// The program beside this one, where there is one.
std::string find_beside(const std::string& program) {
    std::array<char, 4096> path{};
    const ssize_t length = ::readlink("/proc/self/exe", path.data(), path.size() - 1);
    const std::string own(path.data(), length > 0 ? static_cast<size_t>(length) : 0);
    const size_t slash = own.rfind('/');
    if (program.find('/') != std::string::npos || slash == std::string::npos) {
        return program;
    }
    const std::string beside = own.substr(0, slash + 1) + program;
    return ::access(beside.c_str(), X_OK) == 0 ? beside : program;
}

}  // namespace

/// One device's daemon, over all its lives.
class Children::Source final : public BackendSource {
  public:
    Source(Children& children, uint32_t id, Command command)
        : children_(children), id_(id), command_(std::move(command)) {}

    ~Source() override { children_.forget(id_); }

    Result<UniqueFd> open() override { return children_.launch(id_, command_); }

    bool can_reopen() const override { return true; }

    std::string obituary() const override { return children_.obituary(id_, command_); }

    bool obituary_due() const override { return children_.obituary_due(id_); }

    void end() override { children_.end(id_); }

    void on_serving() override { children_.on_serving(id_); }

    std::string describe() const override { return command_.program; }

  private:
    Children& children_;
    const uint32_t id_;
    const Command command_;
};

Result<std::unique_ptr<Children>> Children::start(EventLoop& loop) {
    auto ends = OUTRIGGER_TRY(socket_pair(SOCK_SEQPACKET));
    const pid_t pid = ::fork();
    if (pid < 0) {
        return failure(error_from_errno("cannot start the process that starts daemons"));
    }
    if (pid == 0) {
        run_child_starter(ends.second.get());
    }
    return std::unique_ptr<Children>(new Children(loop, std::move(ends.first), pid));
}

Children::Children(EventLoop& loop, UniqueFd starter, pid_t starter_pid)
    : loop_(loop), starter_(std::move(starter)), starter_pid_(starter_pid) {}

Children::~Children() {
    take_down();
}

void Children::take_down() {
    reports_ = {};
    for (auto& [id, child] : children_) {
        child.watch = {};
    }
    if (starter_.valid()) {
        starter_.reset();  // that is what it waits for
        while (::waitpid(starter_pid_, nullptr, 0) < 0 && errno == EINTR) {
        }
    }
}

std::unique_ptr<BackendSource> Children::source(Command command) {
    const uint32_t id = next_id_++;
    names_[command.name] = id;
    command.program = find_beside(command.program);
    return std::make_unique<Source>(*this, id, std::move(command));
}

pid_t Children::process_of(const std::string& name) const {
    const auto id = names_.find(name);
    const auto child = id != names_.end() ? children_.find(id->second) : children_.end();
    return child != children_.end() && !child->second.ended ? child->second.pid : 0;
}

Result<UniqueFd> Children::launch(uint32_t id, const Command& command) {
    if (!std::exchange(watching_, true)) {
        reports_ = OUTRIGGER_TRY(loop_.watch(starter_.get(), [this] { on_report(); }));
    }
    auto ends = OUTRIGGER_TRY(socket_pair(SOCK_STREAM));
    auto pipe = OUTRIGGER_TRY(platform::open_pipe());
    std::vector<std::string> words = {command.program};
    words.insert(words.end(), command.arguments.begin(), command.arguments.end());
    words.push_back(fmt::format("--fd={}", kChildSocketFd));
    const StartChild request{.id = id, .words = static_cast<uint32_t>(words.size())};
    std::string text;
    for (const std::string& word : words) {
        text += word;
        text.push_back('\0');
    }
    if (sizeof request + text.size() > kStartChildBytesMax) {
        return failure(Error{.message = "the command line of " + command.program + " is too long"});
    }
    const std::array<int, 2> fds = {ends.second.get(), pipe.write_end.get()};
    const auto sent = wire::send_some(
        starter_.get(), std::as_bytes(std::span(&request, 1)), std::as_bytes(std::span(text)), fds);
    if (sent.status != wire::SendStatus::kSent) {
        return failure(Error{.message = "the process that starts daemons is gone"});
    }
    Child& child = children_[id];
    child = Child{};
    if (::fcntl(pipe.read_end.get(), F_SETFL, O_NONBLOCK) == 0) {
        child.complaints = std::move(pipe.read_end);
        child.watch =
            OUTRIGGER_TRY(loop_.watch(child.complaints.get(), [this, id] { on_complaint(id); }));
    }
    return std::move(ends.first);
}

void Children::on_report() {
    for (int count = 0; count < kReportsATurnMax; ++count) {
        ChildReport report{};
        const ssize_t bytes = ::recv(starter_.get(), &report, sizeof report, MSG_DONTWAIT);
        if (bytes == 0) {
            reports_ = {};  // it is gone, and the daemons with it
            return;
        }
        if (bytes != ssize_t{sizeof report}) {
            return;
        }
        const auto found = children_.find(report.id);
        if (found == children_.end()) {
            continue;
        }
        Child& child = found->second;
        if (report.ended == 0) {
            child.pid = report.pid;
        } else if (report.pid == child.pid) {  // not of the one before it
            child.ended = true;
            child.status = report.status;
        }
    }
}

/// What a daemon has to say goes to our own stderr, line by line.
void Children::on_complaint(uint32_t id) {
    const auto found = children_.find(id);
    if (found == children_.end()) {
        return;
    }
    Child& child = found->second;
    std::array<char, 4096> buffer;
    const ssize_t bytes = ::read(child.complaints.get(), buffer.data(), buffer.size());
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (bytes <= 0) {
        child.watch = {};
        child.complaints.reset();
        return;
    }
    for (const char letter : std::span(buffer).first(static_cast<size_t>(bytes))) {
        if (letter != '\n' && child.line.size() < kLineBytesMax) {
            child.line.push_back(letter);
            continue;
        }
        // Of one that cannot start, the last line is what its device says: no need to say it twice.
        if (child.serving) {
            print(child.line);
        } else if (child.early_lines.size() < kEarlyLinesMax) {
            child.early_lines.push_back(child.line);
        }
        child.last_line = std::exchange(child.line, {});
    }
}

void Children::on_serving(uint32_t id) {
    const auto child = children_.find(id);
    if (child != children_.end()) {
        child->second.serving = true;
        std::ranges::for_each(std::exchange(child->second.early_lines, {}), print);
    }
}

/// By SIGKILL: one that is stopped takes nothing else.
void Children::end(uint32_t id) {
    const StartChild request{.id = id, .words = 0};
    // It fails when the process that starts them is gone, and the daemons with it.
    (void)wire::send_some(starter_.get(), std::as_bytes(std::span(&request, 1)), {}, {});
}

bool Children::obituary_due(uint32_t id) const {
    const auto child = children_.find(id);
    // Its status, and all that it has said.
    return child != children_.end() && (!child->second.ended || child->second.complaints.valid());
}

std::string Children::obituary(uint32_t id, const Command& command) const {
    const auto found = children_.find(id);
    if (found == children_.end() || !found->second.ended) {
        return {};
    }
    const Child& child = found->second;
    const std::string how = WIFSIGNALED(child.status)
                                ? fmt::format("was killed by signal {}", WTERMSIG(child.status))
                                : fmt::format("ended with status {}", WEXITSTATUS(child.status));
    return fmt::format(
        "{} {}{}{}", command.program, how, child.last_line.empty() ? "" : ": ", child.last_line);
}

Children::Command blk_daemon(std::string name, std::string path, bool read_only) {
    Children::Command command{
        .name = std::move(name),
        .program = "outrigger-blk",
        .arguments = {"--keeper=none", "--log-level=warning", "--blk-file=" + std::move(path)}};
    if (read_only) {
        command.arguments.emplace_back("--read-only");
    }
    return command;
}

Children::Command fs_daemon(std::string name,
                            std::string path,
                            const std::string& tag,
                            bool read_only) {
    Children::Command command{
        .name = std::move(name),
        .program = "outrigger-fs",
        .arguments = {"--keeper=none", "--log-level=warning", "--shared-dir=" + std::move(path)}};
    if (!tag.empty()) {
        command.arguments.push_back("--tag=" + tag);
    }
    if (read_only) {
        command.arguments.emplace_back("--readonly");
    }
    return command;
}

Children::Command vsock_daemon(std::string name, std::string path, uint32_t cid) {
    return {.name = std::move(name),
            .program = "outrigger-vsock",
            .arguments = {"--keeper=none",
                          "--log-level=warning",
                          "--uds-path=" + std::move(path),
                          fmt::format("--guest-cid={}", cid)}};
}

Children::Command console_daemon(std::string name, const std::string& path) {
    return {.name = std::move(name),
            .program = "outrigger-console",
            .arguments = {"--keeper=none",
                          "--log-level=warning",
                          "--multiport=off",
                          "--port=name=hvc0,backend=unix,path=" + path}};
}

Children::Command rng_daemon(std::string name, std::string path) {
    Children::Command command{.name = std::move(name),
                              .program = "outrigger-rng",
                              .arguments = {"--keeper=none", "--log-level=warning"}};
    if (!path.empty()) {
        command.arguments.push_back("--source=" + std::move(path));
    }
    return command;
}

}  // namespace outrigger::vmm
