// SPDX-License-Identifier: Apache-2.0
// A daemon that a service manager starts again, with what its store has: --keeper=systemd.
#include <string>

#include <signal.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/daemon/listening_socket.h"

#include "tests/integration/keeper_test.h"
#include "tests/integration/service_manager.h"

namespace outrigger::testing {
namespace {

class SystemdTest : public KeeperTest {
  protected:
    void SetUp() override {
        KeeperTest::SetUp();
        notify_ = folder_ / "notify";
    }

    /// As a service whose store has what `manager` has.
    void start_service(ServiceManager& manager, const std::string& arguments = "") {
        daemon_ = manager.start(
            program_, arguments.empty() ? "--socket-path=" + socket_.string() : arguments);
        ASSERT_NE(daemon_, nullptr);
    }

    fs::path notify_;
};

TEST_F(SystemdTest, TheStoreOfAServiceIsEnoughToGoOn) {
    ServiceManager manager(notify_);
    start_service(manager);
    Guest guest(connect());
    EXPECT_GT(guest.draw().value_or(0), 0U);
    // The same open file twice, which systemd would not store again.
    EXPECT_EQ(guest.frontend.set_vring_call(0, guest.running.queues[0].call_fd()),
              Answer::kAccepted);
    for (int round = 0; round < 3; ++round) {
        daemon_->send_signal(SIGKILL);
        ASSERT_TRUE(daemon_->wait());
        manager.read();
        // Numbers that the shell's own descriptors do not have.
        start_service(manager);
        EXPECT_GT(guest.draw().value_or(0), 0U) << "round " << round << daemon_->complained();
    }
    guest.frontend.close();
    EXPECT_TRUE(connect().get_features()) << daemon_->complained();
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), kClean);
    EXPECT_FALSE(socket_exists());
}

// QEMU sends its memory anew, and its call descriptors, whenever the guest masks an interrupt.
TEST_F(SystemdTest, ForgetsWhatIsSentAgain) {
    ServiceManager manager(notify_);
    start_service(manager);
    Guest guest(connect());
    const driver::DriverQueue& queue = guest.running.queues[0];
    const auto other = Notifier::create().value();
    const auto kept_behind = [&](const Answer answer) {
        EXPECT_EQ(answer, Answer::kAccepted);
        EXPECT_TRUE(guest.frontend.get_features());
        manager.read();
        return manager.names.size();
    };
    const size_t kept = kept_behind(guest.frontend.set_vring_call(0, queue.call_fd()));
    EXPECT_EQ(kept_behind(guest.frontend.set_vring_call(0, queue.call_fd())), kept);
    EXPECT_EQ(kept_behind(guest.frontend.set_vring_call(0, other.write_fd())), kept);
    EXPECT_EQ(kept_behind(guest.frontend.set_vring_call(0, queue.call_fd())), kept);
    EXPECT_EQ(kept_behind(guest.frontend.set_vring_kick(0, queue.kick_fd())), kept);
    EXPECT_EQ(kept_behind(guest.frontend.set_mem_table(guest.memory)), kept);
    EXPECT_EQ(kept_behind(guest.frontend.set_mem_table(guest.memory)), kept);
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    daemon_->send_signal(SIGKILL);
    ASSERT_TRUE(daemon_->wait());
    start_service(manager);
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    EXPECT_EQ(kept_behind(guest.frontend.set_vring_call(0, queue.call_fd())), kept);
    EXPECT_EQ(kept_behind(guest.frontend.set_vring_call(0, other.write_fd())), kept);
}

// Both have one guest's memory, which systemd keeps once, under the name that came first.
TEST_F(SystemdTest, TwoDevicesOfAGuestGoOn) {
    const fs::path second_socket = folder_ / "second.sock";
    const std::string arguments = "--device=socket-path=" + socket_.string() +
                                  " --device=socket-path=" + second_socket.string();
    ServiceManager manager(notify_);
    start_service(manager, arguments);
    auto first = std::make_unique<Guest>(connect());
    Frontend frontend = Frontend::connect(second_socket, driver::after(kPatience)).value();
    const auto agreement = driver::negotiate(frontend, {});
    ASSERT_TRUE(agreement);
    ASSERT_TRUE(driver::share_memory(frontend, first->memory, *agreement));
    auto queue = driver::create_queue(first->memory, *agreement, {}, 0);
    ASSERT_TRUE(queue);
    manager.read();  // ten messages fit into its socket
    ASSERT_EQ(queue->start(frontend, first->memory), Answer::kAccepted);
    ASSERT_EQ(frontend.set_vring_enable(0, 1), Answer::kAccepted);
    manager.read();
    const auto draw = [&] {
        return queue->transact(std::span(&first->buffer, 1), driver::after(kPatience)).has_value();
    };
    const auto start_again = [&] {
        daemon_->send_signal(SIGKILL);
        ASSERT_TRUE(daemon_->wait());
        manager.read();
        start_service(manager, arguments);
    };
    for (int round = 0; round < 2; ++round) {
        start_again();
        EXPECT_GT(first->draw().value_or(0), 0U) << daemon_->complained();
        EXPECT_TRUE(draw()) << daemon_->complained();
    }
    first->frontend.close();
    // The next front end of the first device does not take the name, either.
    EXPECT_TRUE(connect().get_features());
    start_again();
    EXPECT_TRUE(draw()) << daemon_->complained();
}

/// Of a socket unit, which has it open whoever serves.
class ActivatedTest : public SystemdTest {
  protected:
    void SetUp() override {
        SystemdTest::SetUp();
        listening_ = listen_at(socket_.string(), {.backlog = 16}).value();
    }

    void start_by(ServiceManager& manager, const std::string& keeper) {
        manager.keeper = keeper;
        manager.sockets = {{"other", listening_->fd.get()}, {"vhost-user", listening_->fd.get()}};
        start_service(manager, "--fd-name=vhost-user");
    }

    /// What the service says of itself.
    static bool says(ServiceManager& manager, const std::string& status) {
        return eventually([&] {
            manager.read();
            return manager.status == status;
        });
    }

    std::optional<ListeningSocket> listening_;
};

TEST_F(ActivatedTest, ServesTheSocketThatHasItsName) {
    ServiceManager manager(notify_);
    start_by(manager, "none");
    EXPECT_TRUE(says(manager, "waiting for a front end")) << manager.status;
    {
        Guest guest(connect());
        EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
        EXPECT_TRUE(says(manager, "a front end is connected")) << manager.status;
    }
    EXPECT_TRUE(says(manager, "waiting for a front end")) << manager.status;
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), kClean);
    EXPECT_TRUE(says(manager, "stopping")) << manager.status;
    EXPECT_TRUE(socket_exists()) << "it is the service manager's";
}

// A front end that comes while nobody serves waits in the socket.
TEST_F(ActivatedTest, TheSocketOutlivesTheService) {
    ServiceManager manager(notify_);
    start_by(manager, "none");
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), kClean);
    Frontend waiting = connect();
    start_by(manager, "none");
    EXPECT_TRUE(waiting.get_features()) << daemon_->complained();
}

TEST_F(ActivatedTest, SessionsGoOnByTheStoreBehindTheSockets) {
    ServiceManager manager(notify_);
    start_by(manager, "systemd");
    Guest guest(connect());
    for (int round = 0; round < 2; ++round) {
        daemon_->send_signal(SIGKILL);
        ASSERT_TRUE(daemon_->wait());
        manager.read();
        start_by(manager, "systemd");
        EXPECT_GT(guest.draw().value_or(0), 0U) << "round " << round << daemon_->complained();
        EXPECT_TRUE(says(manager, "a front end is connected")) << manager.status;
    }
    guest.frontend.close();
    EXPECT_TRUE(connect().get_features()) << daemon_->complained();
}

TEST_F(ActivatedTest, SessionsGoOnByAKeeperThatTookTheSocket) {
    ServiceManager manager(notify_);
    start_by(manager, "fork");
    Guest guest(connect());
    kill_worker();
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    guest.frontend.close();
    EXPECT_TRUE(connect().get_features()) << daemon_->complained();
}

TEST_F(SystemdTest, WithoutSocketsANameIsAWrongCommandLine) {
    daemon_ = std::make_unique<ChildProcess>(
        program_, ChildProcess::Options{.arguments = {"--keeper=none", "--fd-name=vhost-user"}});
    EXPECT_EQ(daemon_->wait(), (Ended{.status = 2}));
    EXPECT_NE(daemon_->complained().find("LISTEN_FDS"), std::string::npos);
}

TEST_F(SystemdTest, WithoutAServiceManagerThereIsNone) {
    daemon_ = std::make_unique<ChildProcess>(
        program_,
        ChildProcess::Options{
            .arguments = {"--keeper=systemd", "--socket-path=" + socket_.string()}});
    EXPECT_EQ(daemon_->wait(), kFailed);
    EXPECT_NE(daemon_->complained().find("NOTIFY_SOCKET"), std::string::npos);
}

}  // namespace
}  // namespace outrigger::testing
