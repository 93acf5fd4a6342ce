// SPDX-License-Identifier: Apache-2.0
#include "tests/support/child_process.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

std::string make_file() {
    std::string path = ::testing::TempDir() + "child-XXXXXX";
    const int fd = ::mkstemp(path.data());
    EXPECT_GE(fd, 0);
    ::close(fd);
    return path;
}

/// Tests mean the process that they start: its descriptors, its memory, the signal that ends it.
bool is_daemon_without_choice(const std::string& program, const std::vector<std::string>& words) {
    const bool is_daemon = program.ends_with("/outrigger-blk") ||
                           program.ends_with("/outrigger-rng") ||
                           program.ends_with("/outrigger-console");
    const bool is_command = !words.empty() && !words.front().starts_with("-");  // overlay info
    return is_daemon && !is_command && std::ranges::none_of(words, [](const std::string& word) {
               return word.starts_with("--keeper") || word.starts_with("--take-over") ||
                      word.starts_with("--attach");
           });
}

/// A number that no test has.
constexpr int kOutOfTheWay = 500;

/// Behind fork(): system calls only.
void redirect(const std::string& path, int number) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_APPEND);
    ::dup2(fd, number);
    ::close(fd);
}

}  // namespace

ChildProcess::ChildProcess(const std::string& program, const Options& options)
    : stdout_path_(make_file()), stderr_path_(make_file()) {
    std::vector<std::string> words = {program};
    words.insert(words.end(), options.arguments.begin(), options.arguments.end());
    if (is_daemon_without_choice(program, options.arguments)) {
        words.emplace_back("--keeper=none");
    }
    std::vector<char*> argv;
    for (std::string& word : words) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    pid_ = ::fork();
    EXPECT_GE(pid_, 0);
    if (pid_ == 0) {
        redirect(stdout_path_, STDOUT_FILENO);
        redirect(stderr_path_, STDERR_FILENO);
        // First out of the way of each other: a number may be another one's source.
        for (size_t i = 0; i < options.descriptors.size(); ++i) {
            ::dup3(options.descriptors[i].first, kOutOfTheWay + static_cast<int>(i), O_CLOEXEC);
        }
        for (size_t i = 0; i < options.descriptors.size(); ++i) {
            ::dup2(kOutOfTheWay + static_cast<int>(i), options.descriptors[i].second);
        }
        // Whatever it is to whoever started the test.
        ::signal(SIGHUP, options.ignores_hangup ? SIG_IGN : SIG_DFL);
        ::execv(argv[0], argv.data());
        ::_exit(127);
    }
}

ChildProcess::~ChildProcess() {
    if (!ended_) {
        send_signal(SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    ::unlink(stdout_path_.c_str());
    ::unlink(stderr_path_.c_str());
}

pid_t ChildProcess::first_child() const {
    const std::string parent = std::to_string(pid_);
    std::ifstream children("/proc/" + parent + "/task/" + parent + "/children");
    pid_t child = -1;
    return children >> child ? child : -1;
}

void ChildProcess::send_signal(int signal_number) const {
    if (!ended_) {
        ::kill(pid_, signal_number);
    }
}

std::optional<Ended> ChildProcess::wait() {
    (void)eventually([this] {
        int status = 0;
        if (!ended_ && ::waitpid(pid_, &status, WNOHANG) == pid_) {
            ended_ = WIFSIGNALED(status) ? Ended{.status = -1, .signal = WTERMSIG(status)}
                                         : Ended{.status = WEXITSTATUS(status), .signal = 0};
        }
        return ended_.has_value();
    });
    return ended_;
}

bool ChildProcess::wait_complained(const std::string& text) const {
    return eventually([&] { return complained().find(text) != std::string::npos; });
}

std::string ChildProcess::read_all(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace outrigger::testing
