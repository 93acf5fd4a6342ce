// SPDX-License-Identifier: Apache-2.0
// The sandbox around both daemons: what the kernel says about their threads, and that nothing which
// they do needs more than they kept.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/daemon/sanitizers.h"

#include "tests/support/child_process.h"
#include "tests/support/state_pipe.h"
#include "tests/support/temporary_image.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"
#include "tools/driver/channel_end.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

/// /proc/PID/status of one thread.
struct ThreadStatus {
    std::string name;
    std::map<std::string, std::string> fields;
};

ThreadStatus read_status(const fs::path& path) {
    ThreadStatus status;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        const size_t colon = line.find(":\t");
        if (colon != std::string::npos) {
            status.fields[line.substr(0, colon)] = line.substr(colon + 2);
        }
    }
    status.name = status.fields["Name"];
    return status;
}

std::vector<ThreadStatus> threads_of(pid_t process) {
    std::vector<ThreadStatus> threads;
    for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(process) + "/task")) {
        threads.push_back(read_status(entry.path() / "status"));
    }
    return threads;
}

int filters_of(const ThreadStatus& thread) {
    return std::stoi(thread.fields.at("Seccomp_filters"));
}

class SandboxedDaemonTest : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = ::testing::TempDir() + "sandboxed-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        socket_ = folder_ / "s";
    }

    void TearDown() override {
        daemon_.reset();
        fs::remove_all(folder_);
    }

    void start(const char* program_variable, std::vector<std::string> arguments) {
        const char* const program = std::getenv(program_variable);
        ASSERT_NE(program, nullptr) << program_variable << " names the program under test";
        arguments.push_back("--socket-path=" + socket_.string());
        daemon_ = std::make_unique<ChildProcess>(
            program, ChildProcess::Options{.arguments = std::move(arguments)});
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
    }

    /// A guest whose driver has started all queues.
    void bring_up_guest(uint16_t queue_count = 1,
                        FeatureSet protocol_features = driver::kUsualProtocolFeatures) {
        frontend_.emplace(driver::Frontend::connect(socket_, driver::after(kPatience)).value());
        auto up =
            driver::bring_up(*frontend_,
                             memory_,
                             {.protocol_features = protocol_features, .queue_count = queue_count});
        ASSERT_TRUE(up.has_value()) << up.error().step;
        running_ = *std::move(up);
    }

    void expect_every_thread_confined(size_t threads_min) {
        const auto threads = threads_of(daemon_->pid());
        size_t confined = 0;
        for (const ThreadStatus& thread : threads) {
            if (thread.fields.at("Seccomp") == "2") {
                ++confined;
            }
            EXPECT_EQ(thread.fields.at("NoNewPrivs"), "1") << thread.name;
            for (const char* const set : {"CapEff", "CapPrm", "CapInh", "CapAmb"}) {
                EXPECT_EQ(thread.fields.at(set), "0000000000000000") << thread.name << " " << set;
            }
            if (::prctl(PR_CAPBSET_READ, CAP_SETPCAP, 0, 0, 0) == 1 && ::geteuid() == 0) {
                EXPECT_EQ(thread.fields.at("CapBnd"), "0000000000000000") << thread.name;
            }
        }
        // ThreadSanitizer's own thread is none of the daemon's.
        EXPECT_EQ(confined + (kThreadSanitizer ? 1 : 0), threads.size());
        EXPECT_GE(confined, threads_min);
    }

    /// Those with the filter of the worker that started them, and their own.
    [[nodiscard]] long helper_threads() const {
        const int around_us = filters_of(read_status("/proc/self/status"));
        return std::ranges::count(threads_of(daemon_->pid()), around_us + 2, filters_of);
    }

    void expect_clean_end() {
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), (Ended{.status = 0})) << daemon_->complained();
        EXPECT_FALSE(fs::exists(socket_));
    }

    TemporaryImage image_{16 << 20};
    fs::path folder_;
    fs::path socket_;
    std::unique_ptr<ChildProcess> daemon_;
    std::optional<driver::Frontend> frontend_;
    driver::GuestMemory memory_ = driver::GuestMemory::create(4 << 20).value();
    driver::RunningDevice running_;
};

TEST_F(SandboxedDaemonTest, ThreadsAreConfinedBeforeTheFirstConnection) {
    start("OUTRIGGER_BLK_PROGRAM", {"--null-size=1M", "--queue-threads=3"});
    expect_every_thread_confined(4);
    expect_clean_end();
}

TEST_F(SandboxedDaemonTest, ThreadsThatStartWithAQueueAreConfined) {
    start("OUTRIGGER_BLK_PROGRAM",
          {"--blk-file=" + image_.path(), "--io-engine=threads", "--queue-threads=2"});
    bring_up_guest(2);
    EXPECT_TRUE(eventually([&] { return helper_threads() == 16; })) << helper_threads();
    expect_every_thread_confined(19);
    expect_clean_end();
}

TEST_F(SandboxedDaemonTest, ThreadOfTheEntropySourceIsConfinedAndServes) {
    start("OUTRIGGER_RNG_PROGRAM", {"--source=/dev/urandom"});
    bring_up_guest();
    const driver::Segment buffer{
        .address = memory_.allocate(64, 16).value(), .length = 64, .device_writable = true};
    EXPECT_TRUE(
        running_.queues[0].transact(std::span(&buffer, 1), driver::after(kPatience)).has_value());
    EXPECT_EQ(helper_threads(), 1);
    expect_every_thread_confined(3);
    expect_clean_end();
}

TEST_F(SandboxedDaemonTest, ChannelToTheFrontEndIsTaken) {
    start("OUTRIGGER_BLK_PROGRAM", {"--null-size=1M"});
    bring_up_guest(
        1,
        driver::kUsualProtocolFeatures | FeatureSet::of({bit(wire::ProtocolFeature::kBackendReq)}));
    EXPECT_TRUE(driver::ChannelEnd::open(*frontend_).has_value()) << daemon_->complained();
    expect_every_thread_confined(2);
    expect_clean_end();
}

TEST_F(SandboxedDaemonTest, DeviceStateTravelsThroughEveryKindOfChannel) {
    start("OUTRIGGER_BLK_PROGRAM", {"--null-size=1M"});
    frontend_.emplace(driver::Frontend::connect(socket_, driver::after(kPatience)).value());
    ASSERT_TRUE(driver::negotiate(*frontend_,
                                  {.protocol_features = driver::kUsualProtocolFeatures.with(
                                       bit(wire::ProtocolFeature::kDeviceState))}));
    const std::string state = save_state(*frontend_);
    EXPECT_NE(state, "") << daemon_->complained();
    EXPECT_TRUE(load_state(*frontend_, state)) << daemon_->complained();
    int ends[2] = {-1, -1};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    const UniqueFd ours(ends[0]);
    UniqueFd theirs(ends[1]);
    EXPECT_EQ(begin_transfer(*frontend_, kSaveState, theirs.get()), 0U);
    theirs.reset();
    EXPECT_EQ(read_to_end(ours.get()), state) << daemon_->complained();
    const UniqueFd file(::open(image_.path().c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(transfer_is_good(*frontend_));
    EXPECT_EQ(begin_transfer(*frontend_, kSaveState, file.get()), 0U);
    EXPECT_TRUE(transfer_is_good(*frontend_)) << daemon_->complained();
    frontend_.reset();
    expect_clean_end();
}

TEST_F(SandboxedDaemonTest, NoneMeansNone) {
    start("OUTRIGGER_RNG_PROGRAM", {"--sandbox=none"});
    for (const ThreadStatus& thread : threads_of(daemon_->pid())) {
        EXPECT_EQ(thread.fields.at("Seccomp"), read_status("/proc/self/status").fields["Seccomp"]);
        EXPECT_EQ(thread.fields.at("NoNewPrivs"), "1");
    }
    expect_clean_end();
}

}  // namespace
}  // namespace outrigger::testing
