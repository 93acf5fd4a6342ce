// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/listening_socket.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger {
namespace {

namespace fs = std::filesystem;

sockaddr_un to_address(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path.c_str());
    return address;
}

/// Binds a socket of `type` at `path`, and no more.
UniqueFd bind_socket(const std::string& path, int type) {
    UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    const sockaddr_un address = to_address(path);
    // SAFETY: bind() takes every address type through this pointer type.
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return fd;
}

int connect_to(const std::string& path) {
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = to_address(path);
    // SAFETY: connect() takes every address type through this pointer type.
    return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

class ListenAt : public testing::Test {
  protected:
    void SetUp() override {
        std::string name = testing::TempDir() + "listen-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        path_ = folder_ / "s";
    }

    void TearDown() override { fs::remove_all(folder_); }

    fs::path folder_;
    std::string path_;
};

TEST_F(ListenAt, TakesConnections) {
    const auto socket = listen_at(path_);
    ASSERT_TRUE(socket) << socket.error().message;

    EXPECT_EQ(connect_to(path_), 0);
}

TEST_F(ListenAt, IsForTheOwnerAlone) {
    const mode_t before = ::umask(0);
    const auto socket = listen_at(path_);
    ::umask(before);
    ASSERT_TRUE(socket);

    struct stat status {};

    ASSERT_EQ(::lstat(path_.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

TEST_F(ListenAt, LeavesTheUmaskAlone) {
    const mode_t before = ::umask(0022);
    { const auto socket = listen_at(path_); }

    EXPECT_EQ(::umask(before), 0022U);
}

TEST_F(ListenAt, RemovesItsFileAtTheEnd) {
    { const auto socket = listen_at(path_); }

    EXPECT_FALSE(fs::exists(fs::symlink_status(path_)));
}

TEST_F(ListenAt, RemovesItsFileWhenTheProcessGoes) {
    const auto socket = listen_at(path_);

    remove_socket_files();

    EXPECT_FALSE(fs::exists(fs::symlink_status(path_)));
}

TEST_F(ListenAt, LeavesAForeignSuccessorAlone) {
    auto socket = listen_at(path_);
    ASSERT_TRUE(socket);
    fs::remove(path_);
    const UniqueFd other = bind_socket(path_, SOCK_STREAM);

    socket->file.reset();

    EXPECT_TRUE(fs::is_socket(path_));
}

TEST_F(ListenAt, LeavesAForeignFileInItsPlaceAlone) {
    auto socket = listen_at(path_);
    ASSERT_TRUE(socket);
    fs::remove(path_);
    std::ofstream(path_) << "precious";

    socket->file.reset();

    EXPECT_TRUE(fs::is_regular_file(path_));
}

TEST_F(ListenAt, ReplacesAStaleSocket) {
    { const UniqueFd gone = bind_socket(path_, SOCK_STREAM); }
    ASSERT_TRUE(fs::is_socket(path_));

    const auto socket = listen_at(path_);

    EXPECT_TRUE(socket);
    EXPECT_EQ(connect_to(path_), 0);
}

TEST_F(ListenAt, RefusesALiveSocketWithoutDisturbingIt) {
    const auto first = listen_at(path_);
    ASSERT_TRUE(first);

    const auto second = listen_at(path_);

    ASSERT_FALSE(second);
    EXPECT_NE(second.error().message.find("another running program"), std::string::npos);
    EXPECT_TRUE(fs::is_socket(path_));
    pollfd connection{.fd = first->fd.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&connection, 1, 0), 0) << "the daemon there saw a connection";
}

TEST_F(ListenAt, RefusesASocketThatIsOnlyBoundSoFar) {
    const UniqueFd starting = bind_socket(path_, SOCK_STREAM);

    EXPECT_FALSE(listen_at(path_));
    EXPECT_TRUE(fs::is_socket(path_));
}

TEST_F(ListenAt, RefusesALiveDatagramSocket) {
    const UniqueFd other = bind_socket(path_, SOCK_DGRAM);

    EXPECT_FALSE(listen_at(path_));
    EXPECT_TRUE(fs::is_socket(path_));
}

TEST_F(ListenAt, RefusesARegularFile) {
    std::ofstream(path_) << "precious";

    const auto socket = listen_at(path_);

    ASSERT_FALSE(socket);
    EXPECT_NE(socket.error().message.find("is not a socket"), std::string::npos);
    EXPECT_EQ(fs::file_size(path_), 8U);
}

TEST_F(ListenAt, RefusesASymbolicLink) {
    { const UniqueFd stale = bind_socket(folder_ / "target", SOCK_STREAM); }
    fs::create_symlink(folder_ / "target", path_);

    EXPECT_FALSE(listen_at(path_));
    EXPECT_TRUE(fs::is_symlink(path_));
    EXPECT_TRUE(fs::is_socket(folder_ / "target"));
}

TEST_F(ListenAt, RefusesADirectory) {
    fs::create_directory(path_);

    EXPECT_FALSE(listen_at(path_));
    EXPECT_TRUE(fs::is_directory(path_));
}

TEST_F(ListenAt, ReportsAMissingDirectory) {
    const auto socket = listen_at(folder_ / "none" / "s");

    ASSERT_FALSE(socket);
    EXPECT_EQ(socket.error().os_error, ENOENT);
}

TEST_F(ListenAt, TakesARelativePath) {
    const auto before = fs::current_path();
    fs::current_path(folder_);
    {
        const auto socket = listen_at("relative");
        EXPECT_TRUE(socket);
        EXPECT_TRUE(fs::is_socket(folder_ / "relative"));
    }
    fs::current_path(before);

    EXPECT_FALSE(fs::exists(folder_ / "relative"));
}

// --- Inherited sockets -------------------------------------------------------------------------

TEST_F(ListenAt, InheritedListenerIsRecognised) {
    UniqueFd fd = bind_socket(path_, SOCK_STREAM);
    ASSERT_EQ(::listen(fd.get(), 1), 0);
    ASSERT_EQ(::fcntl(fd.get(), F_SETFD, 0), 0);

    const auto socket = take_inherited_socket(fd.release());

    ASSERT_TRUE(socket) << socket.error().message;
    EXPECT_TRUE(socket->listening);
    EXPECT_TRUE((::fcntl(socket->fd.get(), F_GETFL) & O_NONBLOCK) != 0);
    EXPECT_TRUE((::fcntl(socket->fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST(InheritedSocket, ConnectedOneIsRecognised) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
    const UniqueFd peer(ends[1]);

    const auto socket = take_inherited_socket(ends[0]);

    ASSERT_TRUE(socket) << socket.error().message;
    EXPECT_FALSE(socket->listening);
}

TEST(InheritedSocket, RefusesAClosedNumber) {
    const auto socket = take_inherited_socket(99'999);

    ASSERT_FALSE(socket);
    EXPECT_NE(socket.error().message.find("--fd=99999 is not open"), std::string::npos);
}

// As what listens of another device, which the keeper has sent.
TEST_F(ListenAt, InheritedSocketIsNoneOfOurOwn) {
    const UniqueFd fd = bind_socket(path_, SOCK_STREAM);
    ASSERT_EQ(::listen(fd.get(), 1), 0);
    ASSERT_EQ(::fcntl(fd.get(), F_SETFD, FD_CLOEXEC), 0);

    const auto socket = take_inherited_socket(fd.get());

    ASSERT_FALSE(socket);
    EXPECT_NE(socket.error().message.find("is not passed"), std::string::npos);
    EXPECT_TRUE((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST(InheritedSocket, RefusesAFile) {
    const UniqueFd file(::open("/proc/self/exe", O_RDONLY));

    EXPECT_FALSE(take_inherited_socket(file.get()));
}

TEST(InheritedSocket, RefusesAnUnconnectedSocket) {
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));

    EXPECT_FALSE(take_inherited_socket(fd.get()));
}

TEST(InheritedSocket, RefusesADatagramSocket) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM, 0, ends.data()), 0);
    const UniqueFd ours(ends[0]);
    const UniqueFd peer(ends[1]);

    EXPECT_FALSE(take_inherited_socket(ours.get()));
}

TEST(InheritedSocket, RefusesAnInternetSocket) {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM, 0));
    ASSERT_TRUE(fd.valid());

    EXPECT_FALSE(take_inherited_socket(fd.get()));
}

}  // namespace
}  // namespace outrigger
