// SPDX-License-Identifier: Apache-2.0
/// outrigger-net as a process, and a guest that works it.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include <signal.h>
#include <sys/resource.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/net_frames.h"
#include "tests/support/net_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {

/// Of this process, and of those that it starts meanwhile: how many descriptors they may have, if
/// they do not ask for more.
class SoftFileLimit final {
  public:
    explicit SoftFileLimit(rlim_t soft) {
        EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
        const rlimit lower{.rlim_cur = soft, .rlim_max = before_.rlim_max};
        EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &lower), 0);
    }

    SoftFileLimit(const SoftFileLimit&) = delete;
    SoftFileLimit& operator=(const SoftFileLimit&) = delete;

    ~SoftFileLimit() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before_), 0); }

  private:
    rlimit before_{};
};

class NetDaemonTest : public ::testing::Test {
  protected:
    NetDaemonTest() {
        const char* program = std::getenv("OUTRIGGER_NET_PROGRAM");
        EXPECT_NE(program, nullptr) << "names the program under test";
        program_ = program != nullptr ? program : "";
        std::string name = ::testing::TempDir() + "netd-XXXXXX";
        EXPECT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }

    ~NetDaemonTest() override {
        guest_.reset();
        daemon_.reset();
        std::error_code ignored;  // what a killed keeper's process takes away meanwhile
        std::filesystem::remove_all(folder_, ignored);
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

    void start(std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), {"--socket-path=" + path("s"), "--sandbox=log"});
        daemon_ = std::make_unique<ChildProcess>(
            program_, ChildProcess::Options{.arguments = std::move(arguments), .descriptors = {}});
    }

    void serve(std::vector<std::string> arguments, const NetGuestOptions& options = {}) {
        start(std::move(arguments));
        connect_guest(options);
    }

    void connect_guest(const NetGuestOptions& options) {
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
        guest_ = std::make_unique<NetGuest>(
            driver::Frontend::connect(path("s"), driver::after(kPatience)).value(), options);
        ASSERT_TRUE(guest_->is_up());
    }

    void expect_received(const std::string& frame) {
        const auto received = guest_->receive();
        ASSERT_TRUE(received) << daemon_->complained();
        EXPECT_EQ(received->bytes, frame);
    }

    /// What outriggerctl prints, if it ends so.
    std::string ask(std::vector<std::string> arguments, int status = 0) {
        const char* ctl = std::getenv("OUTRIGGER_CTL_PROGRAM");
        EXPECT_NE(ctl, nullptr) << "names outriggerctl";
        arguments.insert(arguments.begin(), "--socket=" + path("control"));
        ChildProcess asked(ctl != nullptr ? ctl : "",
                           {.arguments = std::move(arguments), .descriptors = {}});
        EXPECT_EQ(asked.wait(), Ended{.status = status}) << asked.complained();
        return asked.printed() + asked.complained();
    }

    /// Was the program built with libslirp?
    [[nodiscard]] bool has_user_network() const {
        ChildProcess asked(program_, {.arguments = {"--help"}, .descriptors = {}});
        EXPECT_EQ(asked.wait(), Ended{.status = 0});
        return asked.printed().find("--forward") != std::string::npos;
    }

    /// It ends well, and leaves no socket behind.
    void expect_good_end() {
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), Ended{.status = 0}) << daemon_->complained();
        EXPECT_FALSE(std::filesystem::exists(path("s")));
        EXPECT_FALSE(std::filesystem::exists(path("ours")));
    }

    /// It ends with a wrong command line, and says so in one line.
    void expect_refusal(std::vector<std::string> arguments, const std::string& why) {
        start(std::move(arguments));
        EXPECT_EQ(daemon_->wait(), Ended{.status = 2});
        const std::string said = daemon_->complained();
        EXPECT_NE(said.find(why), std::string::npos) << said;
        EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
    }

    /// The process that serves; its keeper starts another one.
    void kill_worker() const {
        const pid_t worker = daemon_->first_child();
        ASSERT_GT(worker, 0);
        ASSERT_EQ(::kill(worker, SIGKILL), 0);
    }

    std::string program_;
    std::filesystem::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
    std::unique_ptr<NetGuest> guest_;
};

}  // namespace outrigger::testing
