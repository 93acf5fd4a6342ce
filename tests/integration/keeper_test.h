// SPDX-License-Identifier: Apache-2.0
/// A daemon with a keeper, whose process can be killed, and a guest of the entropy device.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <signal.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {

namespace fs = std::filesystem;

using driver::Answer;
using driver::Frontend;

inline constexpr Ended kClean{.status = 0};
inline constexpr Ended kFailed{.status = 1};

/// More than any test here kills.
inline constexpr const char* kManyRestarts = "--keeper-restarts=1000";

class KeeperTest : public ::testing::Test {
  protected:
    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_RNG_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        std::string name = ::testing::TempDir() + "keeper-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        socket_ = folder_ / "rng.sock";
    }

    void TearDown() override {
        daemon_.reset();
        std::error_code ignored;  // a process that is about to end removes its socket itself
        fs::remove_all(folder_, ignored);
    }

    void start(std::vector<std::string> more = {kManyRestarts}) {
        more.push_back("--keeper=fork");
        more.push_back("--socket-path=" + socket_.string());
        if (daemon_ != nullptr) {
            // The process that serves sees later that its keeper was killed, and has the socket.
            const pid_t process = worker();
            daemon_.reset();
            ASSERT_TRUE(eventually([&] { return process < 0 || ::kill(process, 0) != 0; }));
        }
        daemon_ =
            std::make_unique<ChildProcess>(program_, ChildProcess::Options{.arguments = more});
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
        // It says that before it tells the keeper that it is ready, and one that is killed in
        // between is not started again.
        ASSERT_TRUE(connect().get_features()) << daemon_->complained();
    }

    /// The process that serves: the keeper's one child. -1 while there is none.
    [[nodiscard]] pid_t worker() const { return daemon_->first_child(); }

    /// Kills the process that serves; the next one is there when this returns.
    void kill_worker() const {
        const pid_t before = worker();
        ASSERT_GT(before, 0) << daemon_->complained();
        ASSERT_EQ(::kill(before, SIGKILL), 0);
        ASSERT_TRUE(eventually([&] {
            const pid_t now = worker();
            return now > 0 && now != before;
        })) << daemon_->complained();
    }

    [[nodiscard]] Frontend connect() const {
        return Frontend::connect(socket_, driver::after(kPatience)).value();
    }

    [[nodiscard]] bool socket_exists() const { return fs::exists(fs::symlink_status(socket_)); }

    std::string program_;
    fs::path folder_;
    fs::path socket_;
    std::unique_ptr<ChildProcess> daemon_;
};

/// A guest of the entropy device.
struct Guest {
    explicit Guest(Frontend connected, const driver::BringUpOptions& options = {})
        : frontend(std::move(connected)) {
        auto up = driver::bring_up(frontend, memory, options);
        EXPECT_TRUE(up.has_value()) << up.error().step;
        running = *std::move(up);
        buffer = {
            .address = memory.allocate(4096, 16).value(), .length = 4096, .device_writable = true};
    }

    /// Used length of one request.
    std::optional<uint32_t> draw() {
        const auto completion =
            running.queues[0].transact(std::span(&buffer, 1), driver::after(kPatience));
        EXPECT_TRUE(completion) << describe(running.queues[0].fault());
        return completion ? std::optional(completion->length) : std::nullopt;
    }

    Frontend frontend;
    driver::GuestMemory memory = driver::GuestMemory::create(4 << 20).value();
    driver::RunningDevice running;
    driver::Segment buffer;
};

}  // namespace outrigger::testing
