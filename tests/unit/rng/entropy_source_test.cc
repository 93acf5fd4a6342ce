// SPDX-License-Identifier: Apache-2.0
#include "devices/rng/entropy_source.h"

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::rng {
namespace {

class EntropySourceTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "/entropy-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        directory_ = pattern;
    }

    void TearDown() override { std::filesystem::remove_all(directory_); }

    std::filesystem::path directory_;
    std::array<std::byte, 64> buffer_{};
};

TEST_F(EntropySourceTest, GetrandomGivesAllThatIsAskedFor) {
    const auto source = open_entropy_source("getrandom").value();
    EXPECT_EQ(source->read_now(buffer_).value(), buffer_.size());
    const auto first = buffer_;
    ASSERT_EQ(source->read_now(buffer_).value(), buffer_.size());
    EXPECT_NE(first, buffer_);
}

TEST_F(EntropySourceTest, AFileIsReadOnceAndThenEnds) {
    const auto path = directory_ / "seed";
    std::ofstream(path) << "0123456789";
    const auto source = open_entropy_source(path.string()).value();
    EXPECT_EQ(source->read_now(buffer_).value(), 10U);
    EXPECT_EQ(std::memcmp(buffer_.data(), "0123456789", 10), 0);
    EXPECT_FALSE(source->read_now(buffer_).has_value());
}

/// Waits until the source has bytes or has ended.
Result<size_t> read_when_ready(EntropySource& source, std::span<std::byte> out) {
    auto count = source.read_now(out);
    if (!count || *count > 0) {
        return count;
    }
    pollfd ready{.fd = source.readable_fd(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&ready, 1, 20'000), 1);
    return source.read_now(out);
}

TEST_F(EntropySourceTest, ACharacterDeviceIsReadByAThreadOfItsOwn) {
    const auto source = open_entropy_source("/dev/urandom").value();
    ASSERT_GT(read_when_ready(*source, buffer_).value(), 0U);
    const auto first = buffer_;
    ASSERT_GT(read_when_ready(*source, buffer_).value(), 0U);
    EXPECT_NE(first, buffer_);
}

TEST_F(EntropySourceTest, ADeviceThatRepeatsItselfEnds) {
    const auto source = open_entropy_source("/dev/zero").value();
    EXPECT_FALSE(read_when_ready(*source, buffer_).has_value());
}

TEST_F(EntropySourceTest, AMissingFileIsNamedInTheError) {
    const auto source = open_entropy_source((directory_ / "absent").string());
    ASSERT_FALSE(source.has_value());
    EXPECT_NE(source.error().message.find("absent"), std::string::npos);
}

TEST_F(EntropySourceTest, ADirectoryIsRefused) {
    EXPECT_FALSE(open_entropy_source(directory_.string()).has_value());
}

TEST_F(EntropySourceTest, ASocketThatNobodyServesIsRefused) {
    EXPECT_FALSE(open_entropy_source("unix:" + (directory_ / "absent").string()).has_value());
    EXPECT_FALSE(open_entropy_source("unix:").has_value());
    EXPECT_FALSE(open_entropy_source("unix:" + std::string(200, 'x')).has_value());
}

TEST_F(EntropySourceTest, ASocketGivesWhatWasSentAndSaysWhenItIsDry) {
    const auto path = directory_ / "socket";
    const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    // SAFETY: the sockets API takes every address family by this one pointer type.
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
    const auto source = open_entropy_source("unix:" + path.string()).value();
    UniqueFd peer(::accept(listener.get(), nullptr, nullptr));

    EXPECT_GE(source->readable_fd(), 0);
    EXPECT_EQ(source->read_now(buffer_).value(), 0U);
    ASSERT_EQ(::write(peer.get(), "abc", 3), 3);
    EXPECT_EQ(source->read_now(buffer_).value(), 3U);
    peer.reset();
    EXPECT_FALSE(source->read_now(buffer_).has_value());
}

}  // namespace
}  // namespace outrigger::rng
