// SPDX-License-Identifier: Apache-2.0
/// The fixture of tests that kill an outrigger-vsock under its keeper.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <signal.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/wait.h"

namespace outrigger::testing {

class VsockKeptTest : public ::testing::TestWithParam<bool> {
  protected:
    VsockKeptTest() {
        std::string name = ::testing::TempDir() + "vsockk-XXXXXX";
        EXPECT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }

    ~VsockKeptTest() override {
        daemon_.reset();
        std::error_code ignored;  // what a killed keeper's process takes away meanwhile
        std::filesystem::remove_all(folder_, ignored);
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

    /// `devices`: the options that name them.
    void start_daemon(std::vector<std::string> devices) {
        const char* program = std::getenv("OUTRIGGER_VSOCK_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        for (const char* option : {"--sandbox=log", "--keeper=fork", "--keeper-restarts=1000000"}) {
            devices.emplace_back(option);
        }
        daemon_ = std::make_unique<ChildProcess>(
            program, ChildProcess::Options{.arguments = std::move(devices)});
    }

    [[nodiscard]] const ChildProcess& daemon() const { return *daemon_; }

    /// False when there is none that was not killed before. One thread at a time.
    bool kill_another() {
        const pid_t pid = daemon_->first_child();
        if (pid <= 0 || pid == killed_) {
            return false;
        }
        killed_ = pid;
        return ::kill(pid, SIGKILL) == 0;
    }

    /// The same, when there is one.
    void kill_next() {
        ASSERT_TRUE(eventually([&] { return kill_another(); }));
    }

  private:
    std::filesystem::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
    pid_t killed_ = -1;
};

}  // namespace outrigger::testing
