// SPDX-License-Identifier: Apache-2.0
// A daemon that a service manager starts again, with what its store has: --keeper=systemd.
#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/fd_passing.h"

#include "tests/integration/keeper_test.h"

namespace outrigger::testing {
namespace {

/// What systemd does for a service with FileDescriptorStoreMax=, as far as sd_notify(3) tells.
class ServiceManager final {
  public:
    explicit ServiceManager(const fs::path& path)
        : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
        // SAFETY: bind() takes every address type through this pointer type.
        // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
        const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
        EXPECT_EQ(::bind(socket_.get(), generic, sizeof address), 0);
    }

    /// Takes what has come.
    void read() {
        std::array<std::byte, 4096> bytes;
        while (true) {
            wire::ReceiveResult result = wire::receive_some(socket_.get(), bytes);
            if (result.status != wire::ReceiveStatus::kData) {
                return;
            }
            std::string text(result.bytes, '\0');
            std::memcpy(text.data(), bytes.data(), result.bytes);
            const size_t at = text.find("FDNAME=");
            const std::string name =
                at == std::string::npos ? "" : text.substr(at + 7, text.find('\n', at) - at - 7);
            if (text.starts_with("FDSTORE=1") && result.fds.size() == 1) {
                EXPECT_NE(text.find("FDPOLL=0"), std::string::npos);
                EXPECT_TRUE(std::ranges::none_of(fds,
                                                 [&](const UniqueFd& kept) {
                                                     return platform::is_same_open_file(
                                                         kept.get(), result.fds[0].get());
                                                 }))
                    << "systemd drops it: " << name;
                names.push_back(name);
                fds.push_back(std::move(result.fds[0]));
            } else if (text.starts_with("FDSTOREREMOVE=1")) {
                for (size_t i = names.size(); i-- > 0;) {
                    if (names[i] == name) {
                        names.erase(names.begin() + static_cast<ptrdiff_t>(i));
                        fds.erase(fds.begin() + static_cast<ptrdiff_t>(i));
                    }
                }
            }
            ready = ready || text.find("READY=1") != std::string::npos;
        }
    }

    bool ready = false;
    std::vector<std::string> names;
    std::vector<UniqueFd> fds;

  private:
    UniqueFd socket_;
};

class SystemdTest : public KeeperTest {
  protected:
    void SetUp() override {
        KeeperTest::SetUp();
        notify_ = folder_ / "notify";
    }

    /// As a service whose store has what `manager` has.
    void start_service(ServiceManager& manager, const std::string& arguments = "") {
        manager.ready = false;
        std::string names;
        ChildProcess::Options options;
        int number = 3;
        for (size_t i = 0; i < manager.fds.size(); ++i) {
            names += (names.empty() ? "" : ":") + manager.names[i];
            options.descriptors.emplace_back(manager.fds[i].get(), number++);
        }
        std::string command = "NOTIFY_SOCKET=" + notify_.string();
        if (!names.empty()) {
            command += " LISTEN_PID=$$ LISTEN_FDS=" + std::to_string(manager.fds.size()) +
                       " LISTEN_FDNAMES=" + names;
        }
        command += " exec " + program_ + " --keeper=systemd " +
                   (arguments.empty() ? "--socket-path=" + socket_.string() : arguments);
        options.arguments = {"-c", command};
        daemon_ = std::make_unique<ChildProcess>("/bin/sh", options);
        ASSERT_TRUE(eventually([&] {
            manager.read();
            return manager.ready;
        })) << daemon_->complained();
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
    ASSERT_EQ(queue->start(frontend, first->memory), Answer::kAccepted);
    ASSERT_EQ(frontend.set_vring_enable(0, 1), Answer::kAccepted);
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
