// SPDX-License-Identifier: Apache-2.0
// The control socket of a machine: operators, and clients that are none.
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <grp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>
#include <machine_control.pb.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/control/message_frame.h"
#include "vhost-user-backend/wire/fd_passing.h"

#include "tests/support/process_counts.h"
#include "tests/support/wait.h"
#include "vmm-lite/control/operator_client.h"
#include "vmm-lite/control/operator_server.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;
namespace v1 = vmm::control::v1;

constexpr std::chrono::milliseconds kAskLimit{20000};

class FakeMachine final : public vmm::MachineOperator {
  public:
    void describe(v1::Machine& out) const override {
        out.set_state(v1::Machine::RUNNING);
        out.set_processors(2);
        out.set_memory_bytes(uint64_t{512} << 20U);
        v1::Device* const device = out.add_devices();
        device->set_name("blk0");
        device->set_kind("blk");
        device->set_phase("running");
        device->set_losses(3);
        device->set_last_loss("it hung up");
    }

    void describe(v1::Costs& out) const override {
        out.set_json("{\"exits\":265}\n");
        out.set_text("exits: 265\n");
    }

    void pause(Done done) override {
        waiting_ = std::move(done);
        pauses = true;
    }

    void resume(Done done) override {
        done({});
        if (waiting_) {
            std::exchange(waiting_,
                          nullptr)(failure(Error{.message = "blk0: its back end is gone"}));
        }
    }

    Result<void> press_power_button() override {
        if (presses++ > 0) {
            return failure(Error{.message = "the machine is paused: resume it first"});
        }
        return {};
    }

    void quit() override { quits = true; }

    std::atomic<int> presses = 0;
    std::atomic<bool> quits = false;
    std::atomic<bool> pauses = false;

  private:
    Done waiting_;
};

class MachineControlTest : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = ::testing::TempDir() + "machine-control-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        loop_ = std::make_unique<vmm::EventLoop>();
    }

    void TearDown() override {
        stop();
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
    }

    [[nodiscard]] std::string path() const { return folder_ / "control"; }

    void start(const vmm::OperatorLimits& limits = {}) {
        auto server = vmm::OperatorServer::listen(*loop_, path(), machine_, limits);
        ASSERT_TRUE(server) << server.error().message;
        server_ = *std::move(server);
        thread_ = std::thread([this] { loop_->run(); });
    }

    void stop() {
        if (thread_.joinable()) {
            loop_->stop();
            thread_.join();
        }
        server_.reset();
    }

    [[nodiscard]] v1::Reply ask(std::string_view command) {
        const auto reply = vmm::ask_machine(path(), vmm::request_named(command).value(), kAskLimit);
        EXPECT_TRUE(reply) << reply.error().message;
        return reply.value_or(v1::Reply{});
    }

    [[nodiscard]] UniqueFd connect() const {
        sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
        path().copy(address.sun_path, sizeof address.sun_path - 1);
        UniqueFd socket = platform::open_unix_socket(SOCK_STREAM);
        // SAFETY: the socket interface takes every address by the type of their common head.
        const auto* const general = reinterpret_cast<const sockaddr*>(&address);
        EXPECT_EQ(::connect(socket.get(), general, sizeof address), 0);
        return socket;
    }

    /// Sends bytes and reads until the machine hangs up; its last reply.
    [[nodiscard]] static v1::Reply last_reply(const UniqueFd& socket, const std::string& bytes) {
        (void)::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        outrigger::control::FrameReader reader(outrigger::control::kReplyBytesMax);
        std::array<std::byte, 4096> buffer;
        v1::Reply reply;
        for (ssize_t count = ::recv(socket.get(), buffer.data(), buffer.size(), 0); count > 0;
             count = ::recv(socket.get(), buffer.data(), buffer.size(), 0)) {
            reader.add(std::span(buffer).first(static_cast<size_t>(count)));
            while (const auto message = reader.take().value()) {
                EXPECT_TRUE(reply.ParseFromString(*message));
            }
        }
        return reply;
    }

    fs::path folder_;
    FakeMachine machine_;
    std::unique_ptr<vmm::EventLoop> loop_;
    std::unique_ptr<vmm::OperatorServer> server_;
    std::thread thread_;
};

TEST_F(MachineControlTest, TellsHowTheMachineIs) {
    start();
    const v1::Reply reply = ask("status");
    ASSERT_TRUE(reply.has_machine());
    EXPECT_EQ(reply.machine().processors(), 2U);
    EXPECT_EQ(reply.machine().devices(0).losses(), 3U);
    EXPECT_NE(vmm::report(reply, false).find("blk0: running"), std::string::npos);
    EXPECT_NE(vmm::report(reply, true).find("\"processors\":2,"), std::string::npos);
    EXPECT_EQ(vmm::report(ask("statistics"), true), "{\"exits\":265}\n");
    EXPECT_EQ(vmm::report(ask("statistics"), false), "exits: 265\n");
}

TEST_F(MachineControlTest, AnswersWhenItIsDone) {
    start();
    v1::Reply paused;
    std::thread pausing([&] { paused = ask("pause"); });
    EXPECT_TRUE(eventually([&] { return machine_.pauses.load(); }));
    EXPECT_TRUE(ask("resume").has_done());
    pausing.join();
    ASSERT_TRUE(paused.has_error());
    EXPECT_EQ(paused.error().code(), v1::Error::FAILED);
    EXPECT_EQ(paused.error().message(), "blk0: its back end is gone");
    EXPECT_TRUE(ask("quit").has_done());
    EXPECT_TRUE(eventually([&] { return machine_.quits.load(); }));
}

TEST_F(MachineControlTest, PressesThePowerButton) {
    start();
    EXPECT_TRUE(ask("power-button").has_done());
    const v1::Reply refused = ask("power-button");
    ASSERT_TRUE(refused.has_error());
    EXPECT_EQ(refused.error().code(), v1::Error::FAILED);
    EXPECT_EQ(machine_.presses, 2);
}

TEST_F(MachineControlTest, IsForItsUserAlone) {
    start();

    struct stat file {};

    ASSERT_EQ(::stat(path().c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 07777U, 0600U);
    if (::geteuid() != 0) {
        GTEST_SKIP() << "another user can only be played by root";
    }
    ASSERT_EQ(::chmod(path().c_str(), 0666), 0);
    ASSERT_EQ(::chmod(folder_.c_str(), 0755), 0);
    const pid_t stranger = ::fork();
    if (stranger == 0) {
        if (::setgroups(0, nullptr) != 0 || ::setresuid(65534, 65534, 65534) != 0) {
            ::_exit(2);
        }
        const auto reply = vmm::ask_machine(path(), vmm::request_named("quit").value(), kAskLimit);
        ::_exit(reply && reply->error().code() == v1::Error::FORBIDDEN ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(stranger, &status, 0), stranger);
    EXPECT_EQ(status, 0);
    EXPECT_FALSE(machine_.quits);
}

TEST_F(MachineControlTest, RefusesWhatIsNoRequest) {
    start();
    EXPECT_EQ(last_reply(connect(), std::string(12, '\xff')).error().code(), v1::Error::MALFORMED);
    EXPECT_EQ(last_reply(connect(), "\xff\xff\xff\x7f").error().code(), v1::Error::TOO_LONG);
    EXPECT_EQ(last_reply(connect(), "\x02\xff\xff").error().code(), v1::Error::MALFORMED);
}

TEST_F(MachineControlTest, TakesRequestsInAdvanceAndNotWithoutEnd) {
    start();
    const std::string pause = outrigger::control::frame(vmm::request_named("pause").value());
    const std::string status = outrigger::control::frame(vmm::request_named("status").value());
    const UniqueFd patient = connect();
    const std::string both = status + status;
    ASSERT_GT(::send(patient.get(), both.data(), 3, MSG_NOSIGNAL), 0);
    give_others_a_moment();
    ASSERT_GT(::send(patient.get(), both.data() + 3, both.size() - 3, MSG_NOSIGNAL), 0);
    ASSERT_EQ(::shutdown(patient.get(), SHUT_WR), 0);
    EXPECT_TRUE(last_reply(patient, "").has_machine());
    // The pause is never answered, and nobody reads what comes behind it.
    std::string flood = pause;
    for (int i = 0; i < 40000; ++i) {
        flood += status;
    }
    EXPECT_EQ(last_reply(connect(), flood).error().code(), v1::Error::TOO_MANY);
}

TEST_F(MachineControlTest, KnowsWhatItDoesNotKnow) {
    start();
    EXPECT_EQ(vmm::ask_machine(path(), v1::Request{}, kAskLimit)->error().code(),
              v1::Error::UNKNOWN_COMMAND);
}

TEST_F(MachineControlTest, DoesNotWaitForASlowClient) {
    start({.request = std::chrono::milliseconds(50)});
    EXPECT_EQ(last_reply(connect(), "\x05").error().code(), v1::Error::TIMED_OUT);
}

TEST_F(MachineControlTest, HasRoomForSixteen) {
    start();
    const ProcessCounts before = ProcessCounts::now();
    {
        std::vector<UniqueFd> clients;
        for (size_t i = 0; i < vmm::OperatorServer::kConnectionsMax; ++i) {
            clients.push_back(connect());
        }
        EXPECT_EQ(last_reply(connect(), "").error().code(), v1::Error::TOO_MANY);
    }
    EXPECT_TRUE(eventually([&] { return ProcessCounts::now() == before; }));
    EXPECT_TRUE(ask("status").has_machine());
}

TEST_F(MachineControlTest, ReplacesAStaleSocketAndNothingElse) {
    start();
    EXPECT_FALSE(vmm::OperatorServer::listen(*loop_, path(), machine_)) << "it is in use";
    stop();
    EXPECT_FALSE(fs::exists(path())) << "it is removed";
    {
        const UniqueFd stale = platform::open_unix_socket(SOCK_STREAM);
        sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
        path().copy(address.sun_path, sizeof address.sun_path - 1);
        // SAFETY: as above.
        const auto* const general = reinterpret_cast<const sockaddr*>(&address);
        ASSERT_EQ(::bind(stale.get(), general, sizeof address), 0);
    }
    start();
    EXPECT_TRUE(ask("status").has_machine());
    stop();
    std::ofstream(path()) << "precious";
    EXPECT_FALSE(vmm::OperatorServer::listen(*loop_, path(), machine_));
    EXPECT_TRUE(fs::is_regular_file(path()));
    fs::remove(path());
}

TEST_F(MachineControlTest, TheProgramSaysWhatIsWrong) {
    start();
    const auto ctl = [](std::vector<const char*> words) { return vmm::run_ctl(words); };
    const std::string socket = "--socket=" + path();
    EXPECT_EQ(ctl({socket.c_str(), "status"}), 0);
    EXPECT_EQ(ctl({socket.c_str(), "--json", "status"}), 0);
    EXPECT_EQ(ctl({socket.c_str(), "dance"}), 2);
    EXPECT_EQ(ctl({"status"}), 2);
    EXPECT_EQ(ctl({socket.c_str(), "--timeout=0", "status"}), 2);
    EXPECT_EQ(ctl({socket.c_str(), "status", "status"}), 2);
    EXPECT_EQ(ctl({"--help"}), 0);
    EXPECT_EQ(ctl({"--socket=/nowhere/at/all", "status"}), 1);
}

}  // namespace
}  // namespace outrigger::testing
