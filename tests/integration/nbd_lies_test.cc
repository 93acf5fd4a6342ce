// SPDX-License-Identifier: Apache-2.0
// outrigger-blk as a process before an NBD server that lies.
#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <thread>

#include <sys/socket.h>
#include <sys/un.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/integration/nbd_test.h"

namespace outrigger::testing {
namespace {

/// Speaks the oldest form of the protocol, and then whatever the test says, to each client in turn.
class LyingServer final {
  public:
    /// `talk` has a client that was told of a disk of kDiskBytes.
    LyingServer(const fs::path& path, std::function<void(int client)> talk)
        : listener_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), talk_(std::move(talk)) {
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
        // SAFETY: sockets' addresses are passed so.
        EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address),
                  0);
        EXPECT_EQ(::listen(listener_.get(), 8), 0);
        thread_ = std::thread([this] { run(); });
    }

    LyingServer(const LyingServer&) = delete;
    LyingServer& operator=(const LyingServer&) = delete;

    ~LyingServer() {
        ::shutdown(listener_.get(), SHUT_RDWR);
        thread_.join();
    }

    static void send_bytes(int client, std::span<const uint8_t> bytes) {
        (void)!::send(client, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    }

    static constexpr uint8_t kHasFlags = 1 << 0;
    static constexpr uint8_t kSendFlush = 1 << 2;
    static constexpr uint8_t kSendFua = 1 << 3;

    static void greet(int client, uint64_t size, uint8_t flags = 0) {
        std::vector<uint8_t> hello(152);
        std::memcpy(hello.data(), "NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53", 16);
        for (size_t i = 0; i < 8; ++i) {
            hello[16 + i] = static_cast<uint8_t>(size >> (56 - 8 * i));
        }
        hello[27] = kHasFlags | flags;
        send_bytes(client, hello);
    }

    /// The header of the next request; false: the client has gone.
    static bool receive_request(int client, std::array<uint8_t, 28>& request) {
        return ::recv(client, request.data(), request.size(), MSG_WAITALL) ==
               static_cast<ssize_t>(request.size());
    }

    /// A reply to it: magic, error, the cookie that it has.
    static std::vector<uint8_t> reply_to(const std::array<uint8_t, 28>& request) {
        std::vector<uint8_t> reply(16);
        std::memcpy(reply.data(), "\x67\x44\x66\x98", 4);
        std::memcpy(reply.data() + 8, request.data() + 8, 8);
        return reply;
    }

  private:
    void run() {
        while (true) {
            const UniqueFd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            if (!client.valid()) {
                return;
            }
            talk_(client.get());
        }
    }

    UniqueFd listener_;
    std::function<void(int client)> talk_;
    std::thread thread_;
};

/// What a server may answer instead of data. Reads fail in time, and the daemon ends when told to.
class NbdLies : public NbdTest {
  protected:
    using Request = std::array<uint8_t, 28>;

    void expect_failed_reads(const std::function<void(int client, const Request&)>& answer) {
        const LyingServer server(nbd_socket(), [&](int client) {
            LyingServer::greet(client, kDiskBytes);
            Request request{};
            while (LyingServer::receive_request(client, request)) {
                answer(client, request);
            }
        });
        start({"--nbd-timeout=1"});
        {
            DiskGuest guest(connect());
            EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_IOERR);
            EXPECT_EQ(read_status(guest, 8192), VIRTIO_BLK_S_IOERR);
        }
        stop();
    }
};

TEST_F(NbdLies, GarbageInPlaceOfAGreeting) {
    const LyingServer server(nbd_socket(), [](int client) {
        LyingServer::send_bytes(client, std::vector<uint8_t>(1000, 0x55));
    });
    start();
    expect_refused("cannot connect");
}

TEST_F(NbdLies, NoGreetingAtAll) {
    const LyingServer server(nbd_socket(), [](int client) {
        Request request{};
        (void)LyingServer::receive_request(client, request);
    });
    start({"--nbd-timeout=1"});
    expect_refused("no answer in time");
}

TEST_F(NbdLies, DiskOfImpossibleSize) {
    const LyingServer server(nbd_socket(), [](int client) {
        LyingServer::greet(client, 0x7fff'ffff'ffff'ffff);
        Request request{};
        (void)LyingServer::receive_request(client, request);
    });
    start();
    expect_refused("size");
}

TEST_F(NbdLies, AnswersWithoutSense) {
    expect_failed_reads([](int client, const Request&) {
        LyingServer::send_bytes(client, std::vector<uint8_t>(64, 0xaa));
    });
}

TEST_F(NbdLies, AnswersToWhatNobodyAsked) {
    expect_failed_reads([](int client, const Request& request) {
        auto reply = LyingServer::reply_to(request);
        reply[15] ^= 0x40;
        reply.resize(reply.size() + 4096);
        LyingServer::send_bytes(client, reply);
    });
}

TEST_F(NbdLies, AnswersThatComeTwiceCostTheConnectionAndNoRequest) {
    std::atomic<int> clients = 0;
    const LyingServer server(nbd_socket(), [&](int client) {
        ++clients;
        LyingServer::greet(client, kDiskBytes);
        Request request{};
        while (LyingServer::receive_request(client, request)) {
            auto reply = LyingServer::reply_to(request);
            reply.resize(reply.size() + 4096);
            LyingServer::send_bytes(client, reply);
            LyingServer::send_bytes(client, reply);
        }
    });
    start();
    {
        DiskGuest guest(connect());
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_GE(clients, 2);
    }
    stop();
}

TEST_F(NbdLies, DataThatEndsTooEarly) {
    expect_failed_reads([](int client, const Request& request) {
        auto reply = LyingServer::reply_to(request);
        reply.resize(reply.size() + 4095);
        LyingServer::send_bytes(client, reply);
    });
}

TEST_F(NbdLies, DisconnectsInPlaceOfAnswers) {
    expect_failed_reads([](int client, const Request&) { ::shutdown(client, SHUT_RDWR); });
}

TEST_F(NbdLies, ErrorsThatNoneKnows) {
    expect_failed_reads([](int client, const Request& request) {
        auto reply = LyingServer::reply_to(request);
        reply[4] = 0x7f;
        LyingServer::send_bytes(client, reply);
    });
}

TEST_F(NbdLies, ShutdownAsAnAnswerAgainAndAgain) {
    expect_failed_reads([](int client, const Request& request) {
        auto reply = LyingServer::reply_to(request);
        reply[7] = 108;  // NBD_ESHUTDOWN
        LyingServer::send_bytes(client, reply);
    });
}

// --- Writes that a server may lose with itself ---------------------------------------------------

enum class Command : int { kRead = 0, kWrite = 1, kFlush = 3, kNone = -1 };

/// Takes everything, answers everything, and keeps nothing. The test may have it cut a client off.
class ForgetfulServer final {
  public:
    ForgetfulServer(const fs::path& path, uint8_t flags)
        : flags_(flags), server_(path, [this](int client) { talk(client); }) {}

    // Cuts once, with the next such command that is counted.
    std::atomic<Command> cut_behind_answer = Command::kNone;
    std::atomic<Command> cut_before_answer = Command::kNone;

    std::atomic<int> clients = 0;
    std::atomic<int> writes = 0;
    std::atomic<int> flushes = 0;

  private:
    /// Is it that one? Then not any more.
    static bool take(std::atomic<Command>& wanted, Command command) {
        return wanted.compare_exchange_strong(command, Command::kNone);
    }

    void talk(int client) {
        ++clients;
        LyingServer::greet(client, kDiskBytes, flags_);
        std::array<uint8_t, 28> request{};
        while (LyingServer::receive_request(client, request)) {
            const auto command = static_cast<Command>(request[7]);
            auto reply = LyingServer::reply_to(request);
            const size_t bytes = size_t{request[25]} << 16 | size_t{request[26]} << 8 | request[27];
            if (command == Command::kRead) {
                reply.resize(reply.size() + bytes);
            } else if (command == Command::kWrite) {
                std::vector<uint8_t> data(bytes);
                (void)!::recv(client, data.data(), bytes, MSG_WAITALL);
                ++writes;
            } else if (command == Command::kFlush) {
                ++flushes;
            }
            if (take(cut_before_answer, command)) {
                return;
            }
            LyingServer::send_bytes(client, reply);
            if (take(cut_behind_answer, command)) {
                return;
            }
        }
    }

    const uint8_t flags_;
    LyingServer server_;
};

class NbdUnflushed : public NbdTest {
  protected:
    static int write_status(DiskGuest& guest) {
        DiskRequest write{.type = VIRTIO_BLK_T_OUT, .data = std::vector<std::byte>(4096)};
        return guest.run_one(write);
    }

    static int flush_status(DiskGuest& guest) {
        DiskRequest request{.type = VIRTIO_BLK_T_FLUSH};
        return guest.run_one(request);
    }
};

TEST_F(NbdUnflushed, FlushFailsFromThenOnWhenAWriteMayBeLost) {
    ForgetfulServer server(nbd_socket(), LyingServer::kSendFlush);
    start();
    {
        DiskGuest guest(connect());
        server.cut_behind_answer = Command::kWrite;
        EXPECT_EQ(write_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(server.clients, 2);
        EXPECT_EQ(flush_status(guest), VIRTIO_BLK_S_IOERR);
        EXPECT_EQ(flush_status(guest), VIRTIO_BLK_S_IOERR);
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_NE(daemon_->complained().find("--nbd-unflushed"), std::string::npos);
    }
    {
        // Also for the next guest.
        DiskGuest guest(connect());
        EXPECT_EQ(flush_status(guest), VIRTIO_BLK_S_IOERR);
    }
    stop();
}

TEST_F(NbdUnflushed, FlushOnTheWayWhenTheConnectionGoesFails) {
    ForgetfulServer server(nbd_socket(), LyingServer::kSendFlush);
    start();
    {
        DiskGuest guest(connect());
        server.cut_before_answer = Command::kFlush;
        EXPECT_EQ(write_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(flush_status(guest), VIRTIO_BLK_S_IOERR);
    }
    stop();
}

TEST_F(NbdUnflushed, WhatWasFlushedIsNotLost) {
    ForgetfulServer server(nbd_socket(), LyingServer::kSendFlush);
    start();
    {
        DiskGuest guest(connect());
        EXPECT_EQ(write_status(guest), VIRTIO_BLK_S_OK);
        server.cut_behind_answer = Command::kFlush;
        EXPECT_EQ(flush_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(flush_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(server.clients, 2);
    }
    stop();
}

TEST_F(NbdUnflushed, WriteWithoutAnAnswerIsSentAgainAndNotLost) {
    ForgetfulServer server(nbd_socket(), LyingServer::kSendFlush);
    start();
    {
        DiskGuest guest(connect());
        server.cut_before_answer = Command::kWrite;
        EXPECT_EQ(write_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(server.writes, 2);
        EXPECT_EQ(flush_status(guest), VIRTIO_BLK_S_OK);
    }
    stop();
}

TEST_F(NbdUnflushed, WriteWithFuaIsNotLost) {
    ForgetfulServer server(nbd_socket(), LyingServer::kSendFlush | LyingServer::kSendFua);
    start({"--cache=writethrough"});
    {
        DiskGuest guest(connect());
        server.cut_behind_answer = Command::kWrite;
        EXPECT_EQ(write_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(server.clients, 2);
        EXPECT_EQ(flush_status(guest), VIRTIO_BLK_S_OK);
    }
    stop();
}

TEST_F(NbdUnflushed, StableWriteWhoseFlushMetAnotherServerIsMadeAgain) {
    ForgetfulServer server(nbd_socket(), LyingServer::kSendFlush);
    start({"--cache=writethrough"});
    {
        DiskGuest guest(connect());
        server.cut_behind_answer = Command::kWrite;
        EXPECT_EQ(write_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(server.clients, 2);
        EXPECT_EQ(server.writes, 2);
        EXPECT_EQ(server.flushes, 2);
        EXPECT_EQ(flush_status(guest), VIRTIO_BLK_S_OK);
    }
    stop();
}

TEST_F(NbdUnflushed, ServerThatKeepsWhatItAnsweredLosesNothing) {
    ForgetfulServer server(nbd_socket(), LyingServer::kSendFlush);
    start({"--nbd-unflushed=kept"});
    {
        DiskGuest guest(connect());
        server.cut_behind_answer = Command::kWrite;
        EXPECT_EQ(write_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(flush_status(guest), VIRTIO_BLK_S_OK);
        EXPECT_EQ(server.clients, 2);
    }
    stop();
}

}  // namespace
}  // namespace outrigger::testing
