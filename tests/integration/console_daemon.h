// SPDX-License-Identifier: Apache-2.0
/// outrigger-console as a process, a guest that uses it, and a terminal.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <pty.h>
#include <termios.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/console_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {

inline constexpr Ended kClean{.status = 0};
inline constexpr Ended kFailed{.status = 1};
inline constexpr Ended kUsage{.status = 2};

class ConsoleDaemonTest : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = ::testing::TempDir() + "console-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
    }

    void TearDown() override {
        guest_.reset();
        daemon_.reset();
        std::error_code ignored;  // what a killed keeper's process takes away meanwhile
        std::filesystem::remove_all(folder_, ignored);
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

    [[nodiscard]] std::string contents(const std::string& name) const {
        std::ifstream file(path(name));
        std::stringstream all;
        all << file.rdbuf();
        return all.str();
    }

    [[nodiscard]] static std::string program() { return std::getenv("OUTRIGGER_CONSOLE_PROGRAM"); }

    void start(const std::vector<std::string>& ports,
               std::vector<std::pair<int, int>> descriptors = {}) {
        ports_ = static_cast<uint16_t>(ports.size());
        std::vector<std::string> arguments = more_arguments_;
        arguments.push_back("--socket-path=" + path("s"));
        for (const std::string& port : ports) {
            arguments.push_back("--port=" + port);
        }
        daemon_.emplace(
            program(),
            ChildProcess::Options{.arguments = arguments, .descriptors = std::move(descriptors)});
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
    }

    ConsoleGuest& boot() {
        auto frontend = driver::Frontend::connect(path("s"), driver::after(kPatience));
        EXPECT_TRUE(frontend);
        guest_.emplace(*std::move(frontend), ConsoleGuest::Options{.ports = ports_});
        guest_->set_up(ports_);
        for (uint16_t port = 0; port < ports_; ++port) {
            guest_->open(port);
        }
        return *guest_;
    }

    void expect_refusal(const std::vector<std::string>& arguments,
                        const Ended& ended,
                        const std::string& text) {
        ChildProcess refused(program(), {.arguments = arguments});
        EXPECT_EQ(refused.wait(), ended);
        EXPECT_NE(refused.complained().find(text), std::string::npos) << refused.complained();
    }

    std::filesystem::path folder_;
    std::vector<std::string> more_arguments_;
    uint16_t ports_ = 1;
    std::optional<ChildProcess> daemon_;
    std::optional<ConsoleGuest> guest_;
};

/// Both sides of a terminal: what a user has, and what the programs on it have.
struct Terminal {
    Terminal() {
        int master = -1;
        int slave = -1;
        EXPECT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
        user.emplace(UniqueFd(master));
        programs.reset(slave);
    }

    [[nodiscard]] bool is_raw() const {
        termios now{};
        EXPECT_EQ(::tcgetattr(programs.get(), &now), 0);
        return (now.c_lflag & (ICANON | ECHO)) == 0;
    }

    [[nodiscard]] std::vector<std::pair<int, int>> descriptors() const {
        return {{programs.get(), 0}, {programs.get(), 1}};
    }

    std::optional<HostUser> user;
    UniqueFd programs;
};

}  // namespace outrigger::testing
