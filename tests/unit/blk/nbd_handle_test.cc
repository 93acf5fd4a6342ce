// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/nbd/nbd_handle.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>

#include <sys/un.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::blk {
namespace {

using namespace std::chrono_literals;

/// A socket that takes connections. Whom it does not greet waits.
class Listener final {
  public:
    explicit Listener(const std::string& name) : path_(::testing::TempDir() + name) {
        ::unlink(path_.c_str());
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
        std::memcpy(&address_.storage, &address, sizeof address);
        address_.bytes = sizeof address;
        // SAFETY: sockets' addresses are passed so.
        const auto* const raw = reinterpret_cast<const sockaddr*>(&address);
        EXPECT_EQ(::bind(socket_.get(), raw, sizeof address), 0);
        EXPECT_EQ(::listen(socket_.get(), 8), 0);
    }

    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

    ~Listener() { ::unlink(path_.c_str()); }

    [[nodiscard]] const NbdAddress& address() const { return address_; }

    /// Tells one client of a disk of 1 MiB, by the oldest form of the protocol.
    void greet_one() {
        client_ = UniqueFd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        std::array<uint8_t, 152> hello{};
        std::memcpy(hello.data(), "NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53", 16);
        hello[21] = 0x10;
        hello[27] = 1;
        EXPECT_EQ(::send(client_.get(), hello.data(), hello.size(), MSG_NOSIGNAL), 152);
    }

  private:
    std::string path_;
    UniqueFd socket_{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    UniqueFd client_;
    NbdAddress address_;
};

NbdTarget target_of(std::vector<NbdAddress> addresses) {
    return {.uri = parse_nbd_uri("nbd://server").value(), .addresses = std::move(addresses)};
}

NbdAddress nobody() {
    NbdAddress address = Listener("nbd-handle-nobody").address();
    return address;
}

TEST(NbdHandle, AddressWhereNobodyListensIsPassedOver) {
    Listener good("nbd-handle-good");
    NbdTarget target = target_of({nobody(), good.address()});
    std::thread server([&] { good.greet_one(); });
    const auto handle = connect_to_nbd(target, 20s);
    server.join();
    EXPECT_TRUE(handle) << handle.error().message;
}

TEST(NbdHandle, AddressThatStallsTakesItsShareOfTheTimeOnly) {
    Listener stalled("nbd-handle-stalled");
    Listener good("nbd-handle-good");
    NbdTarget target = target_of({stalled.address(), good.address()});
    std::thread server([&] { good.greet_one(); });
    const auto handle = connect_to_nbd(target, 2s);
    server.join();
    EXPECT_TRUE(handle) << handle.error().message;
}

TEST(NbdHandle, AddressThatAnsweredStandsInFront) {
    Listener good("nbd-handle-good");
    NbdTarget target = target_of({nobody(), good.address()});
    std::thread server([&] { good.greet_one(); });
    EXPECT_TRUE(connect_to_nbd(target, 20s));
    server.join();
    EXPECT_EQ(std::memcmp(&target.addresses[0].storage, &good.address().storage, 110), 0);
}

TEST(NbdHandle, AllAddressesWithoutAnAnswerAreAnError) {
    NbdTarget target = target_of({nobody(), nobody()});
    const auto handle = connect_to_nbd(target, 20s);
    ASSERT_FALSE(handle);
    EXPECT_NE(handle.error().message.find("cannot connect to nbd://server"), std::string::npos);
}

}  // namespace
}  // namespace outrigger::blk
