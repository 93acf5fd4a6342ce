// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/frontend_socket.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::driver {
namespace {

using std::chrono::milliseconds;

class ConnectTest : public ::testing::Test {
  protected:
    ~ConnectTest() override { ::unlink(path_.c_str()); }

    void listen_without_room() {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        ASSERT_LT(path_.size(), sizeof address.sun_path);
        std::memcpy(address.sun_path, path_.c_str(), path_.size());
        // SAFETY: the socket API takes every address family through sockaddr.
        const auto* const any = reinterpret_cast<const sockaddr*>(&address);
        ASSERT_EQ(::bind(listener_.get(), any, sizeof address), 0);
        ASSERT_EQ(::listen(listener_.get(), 0), 0);
        for (int count = 0; count < 16; ++count) {
            UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
            ASSERT_EQ(::fcntl(socket.get(), F_SETFL, O_NONBLOCK), 0);
            if (::connect(socket.get(), any, sizeof address) != 0) {
                return;
            }
            waiting_.push_back(std::move(socket));
        }
        FAIL() << "the system lets everybody wait";
    }

    const std::string path_ = ::testing::TempDir() + "full-" + std::to_string(::getpid());
    const UniqueFd listener_{::socket(AF_UNIX, SOCK_STREAM, 0)};
    std::vector<UniqueFd> waiting_;
};

TEST_F(ConnectTest, DaemonThatAcceptsNobodyIsGivenUpAtTheDeadline) {
    ASSERT_NO_FATAL_FAILURE(listen_without_room());

    const auto socket = connect_until(path_, after(milliseconds(50)));

    ASSERT_FALSE(socket);
    // Systems say it in different words.
    EXPECT_TRUE(socket.error().os_error == EAGAIN || socket.error().os_error == ECONNREFUSED);
}

TEST_F(ConnectTest, PlaceInTheQueueIsTakenWhenThereIsOne) {
    ASSERT_NO_FATAL_FAILURE(listen_without_room());
    const UniqueFd accepted(::accept(listener_.get(), nullptr, nullptr));

    const auto socket = connect_until(path_, after(milliseconds(5000)));

    ASSERT_TRUE(socket) << socket.error().message;
    EXPECT_EQ(::fcntl(socket->get(), F_GETFL) & O_NONBLOCK, 0);
}

}  // namespace
}  // namespace outrigger::driver
