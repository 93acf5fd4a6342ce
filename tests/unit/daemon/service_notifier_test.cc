// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/service_notifier.h"

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <latch>
#include <optional>
#include <string>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/daemon/activated_sockets.h"
#include "vhost-user-backend/daemon/listening_socket.h"

namespace outrigger {
namespace {

using std::chrono::milliseconds;

/// Of a service manager: its variables are set for the test that runs.
class ServiceTest : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = ::testing::TempDir() + "service-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        const std::string path = folder_ / "notify";
        auto manager = listen_at(path, {.type = SOCK_DGRAM});
        ASSERT_TRUE(manager) << manager.error().message;
        manager_ = *std::move(manager);
        loop_ = create_event_loop(LoopKind::kAsio).value();
        set("NOTIFY_SOCKET", path);
    }

    void TearDown() override {
        for (const char* variable : {"NOTIFY_SOCKET",
                                     "WATCHDOG_USEC",
                                     "WATCHDOG_PID",
                                     "LISTEN_PID",
                                     "LISTEN_FDS",
                                     "LISTEN_FDNAMES"}) {
            ::unsetenv(variable);
        }
        std::filesystem::remove_all(folder_);
    }

    static void set(const char* variable, const std::string& value) {
        ASSERT_EQ(::setenv(variable, value.c_str(), 1), 0);
    }

    static void listen_to(const std::string& pid, const std::string& names, int count) {
        set("LISTEN_PID", pid);
        set("LISTEN_FDS", std::to_string(count));
        set("LISTEN_FDNAMES", names);
    }

    static std::string own_pid() { return std::to_string(::getpid()); }

    /// What has come, a message after the other; empty when there is none.
    std::string next() const {
        std::array<char, 512> text{};
        const auto length = ::recv(manager_->fd.get(), text.data(), text.size(), MSG_DONTWAIT);
        return length > 0 ? std::string(text.data(), static_cast<size_t>(length)) : std::string();
    }

    void run_for(milliseconds time) const {
        const auto end = EventLoop::Clock::now() + time;
        while (EventLoop::Clock::now() < end) {
            (void)loop_->run_once(end);
        }
    }

    /// Runs the loop until the service manager is told `text`.
    bool is_told(const std::string& text) const {
        const auto end = EventLoop::Clock::now() + std::chrono::seconds(20);
        while (EventLoop::Clock::now() < end) {
            (void)loop_->run_once(EventLoop::Clock::now() + milliseconds(5));
            for (std::string message = next(); !message.empty(); message = next()) {
                if (message == text) {
                    return true;
                }
            }
        }
        return false;
    }

    std::filesystem::path folder_;
    std::optional<ListeningSocket> manager_;
    std::unique_ptr<EventLoop> loop_;
};

TEST_F(ServiceTest, TellsWhenItIsReadyAndNothingBefore) {
    const auto notifier = ServiceNotifier::from_environment(false);
    ASSERT_NE(notifier, nullptr);
    notifier->begin(*loop_, {});
    notifier->show_status("waiting");
    EXPECT_EQ(next(), "");
    notifier->ready();
    EXPECT_EQ(next(), "READY=1\nSTATUS=waiting");
    notifier->show_status("busy");
    EXPECT_TRUE(is_told("READY=1\nSTATUS=busy"));
    notifier->stopping();
    EXPECT_EQ(next(), "STOPPING=1\nSTATUS=stopping");
    EXPECT_EQ(next(), "");
}

TEST_F(ServiceTest, NobodyIsToldWithoutAServiceManager) {
    ::unsetenv("NOTIFY_SOCKET");
    EXPECT_EQ(ServiceNotifier::from_environment(false), nullptr);
    set("NOTIFY_SOCKET", (folder_ / "nobody").string());
    EXPECT_EQ(ServiceNotifier::from_environment(false), nullptr);
    set("NOTIFY_SOCKET", "relative/path");
    EXPECT_EQ(ServiceNotifier::from_environment(false), nullptr);
    set("NOTIFY_SOCKET", "/" + std::string(200, 'x'));
    EXPECT_EQ(ServiceNotifier::from_environment(false), nullptr);
}

// A service manager that does not read holds up nobody, and hears how it is as soon as it does.
TEST_F(ServiceTest, AFullSocketGetsTheNewestLater) {
    const auto notifier = ServiceNotifier::from_environment(false);
    ASSERT_NE(notifier, nullptr);
    notifier->begin(*loop_, {});
    for (int i = 0; i < 5000; ++i) {
        notifier->ready();
    }
    notifier->show_status("the last");
    EXPECT_TRUE(is_told("READY=1\nSTATUS=the last"));
}

// A front end may come and go in a loop.
TEST_F(ServiceTest, ManyChangesAreOneMessage) {
    const auto notifier = ServiceNotifier::from_environment(false);
    ASSERT_NE(notifier, nullptr);
    notifier->begin(*loop_, {});
    notifier->ready();
    EXPECT_EQ(next(), "READY=1");
    for (int i = 0; i < 5; ++i) {
        notifier->show_status("number " + std::to_string(i));
    }
    EXPECT_EQ(next(), "");
    EXPECT_TRUE(is_told("READY=1\nSTATUS=number 4"));
    EXPECT_EQ(next(), "");
}

TEST_F(ServiceTest, SignsOfLifeEndWhenAWorkerIsStuck) {
    set("WATCHDOG_USEC", "80000");
    set("WATCHDOG_PID", own_pid());
    const auto worker = Worker::start({.thread_name = "worker"}).value();
    const auto notifier = ServiceNotifier::from_environment(false);
    ASSERT_NE(notifier, nullptr);
    notifier->begin(*loop_, {worker.get()});
    EXPECT_TRUE(is_told("WATCHDOG=1"));
    EXPECT_TRUE(is_told("WATCHDOG=1"));
    EXPECT_TRUE(is_told("WATCHDOG=1"));
    std::latch stuck(1);
    std::latch release(1);
    worker->post([&] {
        stuck.count_down();
        release.wait();
    });
    stuck.wait();
    run_for(milliseconds(100));  // an answer from before may be under way
    while (!next().empty()) {
    }
    run_for(milliseconds(400));
    EXPECT_EQ(next(), "");
    release.count_down();
    EXPECT_TRUE(is_told("WATCHDOG=1"));
    EXPECT_TRUE(is_told("WATCHDOG=1"));
}

TEST_F(ServiceTest, NoSignsOfLifeThatNobodyAskedFor) {
    const auto signs = [&] {
        const auto notifier = ServiceNotifier::from_environment(false);
        notifier->begin(*loop_, {});
        run_for(milliseconds(50));
        return next();
    };
    EXPECT_EQ(signs(), "");
    set("WATCHDOG_USEC", "4000");
    EXPECT_EQ(signs(), "WATCHDOG=1");
    set("WATCHDOG_PID", "1");
    while (!next().empty()) {
    }
    EXPECT_EQ(signs(), "");
    set("WATCHDOG_PID", own_pid());
    set("WATCHDOG_USEC", "0");
    EXPECT_EQ(signs(), "");
}

// --- Sockets by name ---------------------------------------------------------------------------

Result<void> find(const std::string& name,
                  std::optional<ActivatedRequest::Second> second = std::nullopt) {
    return find_activated_socket({.option = "--fd-name", .name = name, .second = second});
}

TEST_F(ServiceTest, FindsASocketByItsName) {
    listen_to(own_pid(), "first:vhost-user:third", 3);
    EXPECT_TRUE(find("vhost-user"));
    EXPECT_TRUE(find("third"));
}

TEST_F(ServiceTest, RefusesASocketThatIsNotPassed) {
    listen_to(own_pid(), "first:outrigger.l0:second", 3);
    const auto missing = find("vhost-user");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().message,
              "--fd-name=vhost-user: the service manager passes no socket of that name; it passes "
              "'first:second'");
    // A name without its descriptor.
    listen_to(own_pid(), "first:vhost-user", 1);
    EXPECT_FALSE(find("vhost-user"));
}

TEST_F(ServiceTest, RefusesMoreSocketsOfOneNameThanAnOptionTakes) {
    listen_to(own_pid(), "vhost-user:vhost-user", 2);
    EXPECT_FALSE(find("vhost-user"));
    EXPECT_TRUE(find("vhost-user", ActivatedRequest::Second{}));
    listen_to(own_pid(), "vhost-user:vhost-user:vhost-user", 3);
    EXPECT_FALSE(find("vhost-user", ActivatedRequest::Second{}));
}

TEST_F(ServiceTest, RefusesSocketsOfAnotherProcess) {
    listen_to(std::to_string(::getppid()), "vhost-user", 1);
    EXPECT_FALSE(find("vhost-user"));
    // Our parent is our keeper: what it inherited we have, too.
    set("OUTRIGGER_KEEPER", "9");
    EXPECT_TRUE(find("vhost-user"));
    ::unsetenv("OUTRIGGER_KEEPER");
    ::unsetenv("LISTEN_PID");
    EXPECT_FALSE(find("vhost-user"));
}

}  // namespace
}  // namespace outrigger
