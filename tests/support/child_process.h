// SPDX-License-Identifier: Apache-2.0
/// A program of ours as a child process, with what it prints kept in files.
///
/// A daemon is the process that serves, without a keeper above it, unless --keeper says otherwise.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

namespace outrigger::testing {

/// How a program ended: its exit status, or the signal that killed it.
struct Ended {
    int status = -1;
    int signal = 0;

    friend bool operator==(const Ended&, const Ended&) = default;
};

class ChildProcess final {
  public:
    struct Options {
        std::vector<std::string> arguments{};
        /// Descriptors that the child inherits: ours, and the number that it has there.
        std::vector<std::pair<int, int>> descriptors{};
        bool ignores_hangup = false;  ///< as under nohup
    };

    ChildProcess(const std::string& program, const Options& options);
    ChildProcess(const ChildProcess&) = delete;
    ChildProcess& operator=(const ChildProcess&) = delete;
    /// Kills what still runs.
    ~ChildProcess();

    [[nodiscard]] pid_t pid() const { return pid_; }

    /// The process that it has started, of several the one first: of a keeper, the one that serves.
    /// -1 while there is none.
    [[nodiscard]] pid_t first_child() const;

    void send_signal(int signal_number) const;

    /// Waits until it has ended; nullopt when it does not within kPatience.
    [[nodiscard]] std::optional<Ended> wait();

    /// Everything that it has printed so far.
    [[nodiscard]] std::string printed() const { return read_all(stdout_path_); }

    [[nodiscard]] std::string complained() const { return read_all(stderr_path_); }

    /// Waits until stderr holds `text`.
    [[nodiscard]] bool wait_complained(const std::string& text) const;

  private:
    static std::string read_all(const std::string& path);

    std::string stdout_path_;
    std::string stderr_path_;
    pid_t pid_ = -1;
    std::optional<Ended> ended_;
};

}  // namespace outrigger::testing
