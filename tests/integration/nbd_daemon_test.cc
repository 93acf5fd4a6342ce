// SPDX-License-Identifier: Apache-2.0
// outrigger-blk as a process before real NBD servers, qemu-nbd and nbdkit: what was written is read
// again, while servers stall, fail, die and come back; and before one that lies.
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include <arpa/inet.h>
#include <linux/virtio_blk.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/support/child_process.h"
#include "tests/support/disk_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

constexpr uint64_t kDiskBytes = uint64_t{16} << 20;
constexpr uint32_t kStepBytes = 48 * 1024;

/// What belongs to byte `offset` of the disk in that round: every sector is unlike every other.
std::vector<std::byte> pattern(uint64_t offset, size_t bytes, uint32_t round) {
    std::vector<std::byte> data(bytes);
    for (size_t at = 0; at < bytes; at += 512) {
        uint64_t state = (offset + at) * 2654435761U + round * 97U + 1;
        for (size_t i = 0; i < 512; ++i) {
            state = state * 6364136223846793005U + 1442695040888963407U;
            data[at + i] = static_cast<std::byte>(state >> 56);
        }
    }
    return data;
}

std::vector<DiskRequest> writes_of_all(uint32_t round) {
    std::vector<DiskRequest> requests;
    for (uint64_t at = 0; at < kDiskBytes; at += kStepBytes) {
        requests.push_back(
            {.type = VIRTIO_BLK_T_OUT,
             .offset_bytes = at,
             .data = pattern(at, std::min<uint64_t>(kStepBytes, kDiskBytes - at), round)});
    }
    return requests;
}

class NbdTest : public ::testing::Test {
  protected:
    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        if (std::system("nbdkit --version >/dev/null 2>&1") != 0 ||
            std::system("qemu-nbd --version >/dev/null 2>&1") != 0) {
            GTEST_SKIP() << "needs nbdkit and qemu-nbd (Debian: nbdkit, qemu-utils)";
        }
        std::string name = ::testing::TempDir() + "nbd-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        fs::resize_file((std::ofstream(folder_ / "disk.raw"), folder_ / "disk.raw"), kDiskBytes);
    }

    void TearDown() override {
        daemon_.reset();
        server_.reset();
        if (!folder_.empty()) {
            fs::remove_all(folder_);
        }
    }

    /// Runs a server in the folder, in the foreground; waits until its socket is there.
    void serve(const std::string& command) {
        server_.reset();
        fs::remove(nbd_socket());
        server_ = std::make_unique<ChildProcess>(
            "/bin/sh",
            ChildProcess::Options{
                .arguments = {"-c", "cd '" + folder_.string() + "' && exec " + command}});
        ASSERT_TRUE(eventually([&] { return fs::exists(nbd_socket()); })) << server_->complained();
    }

    [[nodiscard]] fs::path nbd_socket() const { return folder_ / "nbd.sock"; }

    [[nodiscard]] std::string uri() const { return "nbd+unix:///?socket=" + nbd_socket().string(); }

    void start_at(const std::string& where, const std::vector<std::string>& more = {}) {
        std::vector<std::string> arguments{"--socket-path=" + (folder_ / "blk.sock").string(),
                                           "--blk-nbd=" + where,
                                           "--sandbox=log"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        daemon_ =
            std::make_unique<ChildProcess>(program_, ChildProcess::Options{.arguments = arguments});
    }

    void start(const std::vector<std::string>& more = {}) { start_at(uri(), more); }

    [[nodiscard]] driver::Frontend connect() const {
        return driver::Frontend::connect(folder_ / "blk.sock", driver::after(kPatience)).value();
    }

    void stop() {
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), (Ended{.status = 0})) << daemon_->complained();
        // --sandbox=log names what it must not do.
        EXPECT_EQ(daemon_->complained().find("not allowed"), std::string::npos)
            << daemon_->complained();
    }

    void expect_refused(const std::string& because) {
        EXPECT_EQ(daemon_->wait(), (Ended{.status = 1}));
        EXPECT_NE(daemon_->complained().find(because), std::string::npos) << daemon_->complained();
    }

    static void expect_ok(std::span<const DiskRequest> requests) {
        for (const DiskRequest& request : requests) {
            ASSERT_EQ(request.status, VIRTIO_BLK_S_OK) << "at byte " << request.offset_bytes;
        }
    }

    static void write_all(DiskGuest& guest, uint32_t round) {
        auto writes = writes_of_all(round);
        EXPECT_TRUE(guest.run(writes, seconds(60)));
        expect_ok(writes);
    }

    static void flush(DiskGuest& guest) {
        DiskRequest request{.type = VIRTIO_BLK_T_FLUSH};
        EXPECT_EQ(guest.run_one(request), VIRTIO_BLK_S_OK);
    }

    static int read_status(DiskGuest& guest, uint64_t offset = 0) {
        DiskRequest request{
            .type = VIRTIO_BLK_T_IN, .offset_bytes = offset, .data = std::vector<std::byte>(4096)};
        return guest.run_one(request);
    }

    static void expect_same(const std::vector<std::byte>& read,
                            const std::vector<std::byte>& wanted) {
        EXPECT_TRUE(read == wanted) << read.size() << " and " << wanted.size() << " bytes";
    }

    [[nodiscard]] std::vector<std::byte> file_bytes() const {
        std::ifstream file(folder_ / "disk.raw", std::ios::binary);
        const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
        const auto as_bytes = std::as_bytes(std::span(bytes));
        return {as_bytes.begin(), as_bytes.end()};
    }

    std::string program_;
    fs::path folder_;
    std::unique_ptr<ChildProcess> server_;
    std::unique_ptr<ChildProcess> daemon_;
};

// --- Servers as they should be -------------------------------------------------------------------

struct Server {
    const char* name;
    const char* command;

    friend void PrintTo(const Server& server, std::ostream* out) { *out << server.name; }
};

constexpr Server kServers[] = {
    {"QemuNbdOneClient", "qemu-nbd -t -f raw -k $PWD/nbd.sock disk.raw"},
    {"QemuNbdNotPersistent", "qemu-nbd -f raw -k $PWD/nbd.sock disk.raw"},
    {"QemuNbdManyClients", "qemu-nbd -t -e 8 -f raw -k $PWD/nbd.sock disk.raw"},
    {"Nbdkit", "nbdkit -f -U nbd.sock file disk.raw"},
    {"NbdkitOneConnection",
     "nbdkit -f -U nbd.sock --filter=multi-conn file disk.raw"
     " multi-conn-mode=disable"},
    {"NbdkitFuaEmulated", "nbdkit -f -U nbd.sock --filter=fua file disk.raw fuamode=emulate"},
    {"NbdkitSmallTransfers",
     "nbdkit -f -U nbd.sock --filter=blocksize-policy file disk.raw blocksize-minimum=512"
     " blocksize-maximum=8k blocksize-error-policy=error"},
    {"NbdkitSlow", "nbdkit -f -U nbd.sock --filter=delay file disk.raw rdelay=5ms wdelay=5ms"},
    {"NbdkitNoZero", "nbdkit -f -U nbd.sock --filter=nozero file disk.raw"},
};

class NbdServers : public NbdTest, public ::testing::WithParamInterface<Server> {};

INSTANTIATE_TEST_SUITE_P(Kinds, NbdServers, ::testing::ValuesIn(kServers), [](const auto& server) {
    return std::string(server.param.name);
});

TEST_P(NbdServers, ReadsWhatItWroteOverManyQueues) {
    serve(GetParam().command);
    start({"--queue-threads=2"});
    {
        DiskGuest guest(connect(), {.queue_count = 4, .in_flight_max = 8});
        EXPECT_EQ(guest.disk_bytes(), kDiskBytes);
        write_all(guest, 1);
        flush(guest);
        expect_same(guest.read_all(kStepBytes + 512), pattern(0, kDiskBytes, 1));
        expect_same(file_bytes(), pattern(0, kDiskBytes, 1));
    }
    {
        // The next guest of the same daemon.
        DiskGuest guest(connect());
        expect_same(guest.read_all(DiskGuest::kDataBytesMax), pattern(0, kDiskBytes, 1));
    }
    stop();
}

/// A segment of a discard or a zeroing.
std::vector<std::byte> range(uint64_t sector, uint32_t count, uint32_t flags) {
    std::vector<std::byte> bytes(16);
    std::memcpy(bytes.data(), &sector, sizeof sector);
    std::memcpy(bytes.data() + 8, &count, sizeof count);
    std::memcpy(bytes.data() + 12, &flags, sizeof flags);
    return bytes;
}

TEST_P(NbdServers, ZeroesAndDiscards) {
    serve(GetParam().command);
    start({"--cache=writethrough"});
    {
        DiskGuest guest(connect());
        write_all(guest, 2);
        std::vector<std::byte> wanted = pattern(0, kDiskBytes, 2);
        DiskRequest keeping{.type = VIRTIO_BLK_T_WRITE_ZEROES, .data = range(3, 5000, 0)};
        EXPECT_EQ(guest.run_one(keeping), VIRTIO_BLK_S_OK);
        DiskRequest unmapping{.type = VIRTIO_BLK_T_WRITE_ZEROES,
                              .data = range(8192, 4096, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)};
        if (guest.has_feature(VIRTIO_BLK_F_WRITE_ZEROES)) {
            EXPECT_EQ(guest.run_one(unmapping), VIRTIO_BLK_S_OK);
        }
        std::fill_n(wanted.begin() + 3 * 512, 5000 * 512, std::byte{0});
        std::fill_n(wanted.begin() + 8192 * 512, 4096 * 512, std::byte{0});
        EXPECT_TRUE(guest.has_feature(VIRTIO_BLK_F_DISCARD));
        DiskRequest discard{.type = VIRTIO_BLK_T_DISCARD, .data = range(20000, 4000, 0)};
        EXPECT_EQ(guest.run_one(discard), VIRTIO_BLK_S_OK);
        // What was discarded may hold anything.
        std::vector<std::byte> read = guest.read_all(kStepBytes);
        std::fill_n(read.begin() + 20000 * 512, 4000 * 512, std::byte{0});
        std::fill_n(wanted.begin() + 20000 * 512, 4000 * 512, std::byte{0});
        expect_same(read, wanted);
    }
    stop();
}

TEST_F(NbdTest, StableWriteIsFollowedByAFlushWhereThereIsNoFua) {
    serve(
        "nbdkit -f -U nbd.sock eval get_size='echo 1M' can_write='exit 0' can_flush='exit 0'"
        " can_fua='echo none' pread='head -c $3 /dev/zero' pwrite='cat >/dev/null'"
        " flush=\"echo flushed >>$PWD/flushes\"");
    start({"--cache=writethrough"});
    {
        DiskGuest guest(connect());
        DiskRequest write{.type = VIRTIO_BLK_T_OUT, .data = std::vector<std::byte>(4096)};
        EXPECT_EQ(guest.run_one(write), VIRTIO_BLK_S_OK);
        std::ifstream flushes(folder_ / "flushes");
        EXPECT_EQ(std::string(std::istreambuf_iterator<char>(flushes), {}), "flushed\n");
    }
    stop();
}

TEST_F(NbdTest, ReadOnlyExportIsServedReadOnly) {
    serve("nbdkit -f -r -U nbd.sock file disk.raw");
    start();
    expect_refused("--read-only");
    start({"--read-only"});
    {
        DiskGuest guest(connect());
        EXPECT_TRUE(guest.has_feature(VIRTIO_BLK_F_RO));
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
        flush(guest);
        DiskRequest write{.type = VIRTIO_BLK_T_OUT, .data = std::vector<std::byte>(512)};
        EXPECT_EQ(guest.run_one(write), VIRTIO_BLK_S_IOERR);
    }
    stop();
}

TEST_F(NbdTest, BlockSizeIsTheServers) {
    serve(
        "nbdkit -f -U nbd.sock --filter=blocksize-policy file disk.raw blocksize-minimum=4096"
        " blocksize-error-policy=error");
    start({"--blk-size=512"});
    expect_refused("--blk-size=4096");
    start();
    {
        DiskGuest guest(connect());
        uint32_t block = 0;
        std::memcpy(&block, guest.config(60).data() + 20, sizeof block);
        EXPECT_EQ(block, 4096U);
        EXPECT_EQ(read_status(guest, 4096), VIRTIO_BLK_S_OK);
    }
    stop();
}

TEST_F(NbdTest, NamedExportsAreToldApart) {
    serve(
        "nbdkit -f -U nbd.sock --filter=exportname file disk.raw exportname=one"
        " exportname-strict=true");
    start_at("nbd+unix:///two?socket=" + nbd_socket().string());
    expect_refused("cannot connect");
    start_at("nbd+unix:///one?socket=" + nbd_socket().string());
    {
        DiskGuest guest(connect());
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
    }
    stop();
}

TEST_F(NbdTest, ServerThatIsNotThereIsAnErrorAtTheStart) {
    start();
    expect_refused("cannot connect to nbd+unix:///?socket=");
}

// --- Servers that fail ---------------------------------------------------------------------------

TEST_F(NbdTest, ErrorsOfTheServerAreErrorsOfTheRequests) {
    serve(
        "nbdkit -f -U nbd.sock --filter=error file disk.raw error-pread=EIO"
        " error-pread-rate=100% error-pread-file=$PWD/fail");
    start();
    {
        DiskGuest guest(connect());
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
        std::ofstream(folder_ / "fail").flush();
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_IOERR);
        fs::remove(folder_ / "fail");
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
    }
    stop();
}

class NbdRestarts : public NbdTest, public ::testing::WithParamInterface<Server> {};

constexpr Server kRestarting[] = {
    {"QemuNbd", "qemu-nbd -t -f raw -k $PWD/nbd.sock disk.raw"},
    {"Nbdkit", "nbdkit -f -U nbd.sock file disk.raw"},
};

INSTANTIATE_TEST_SUITE_P(Kinds,
                         NbdRestarts,
                         ::testing::ValuesIn(kRestarting),
                         [](const auto& server) { return std::string(server.param.name); });

TEST_P(NbdRestarts, KilledUnderLoadAndBackAgainNothingIsLost) {
    serve(GetParam().command);
    start({"--queue-threads=2"});
    {
        DiskGuest guest(connect(), {.queue_count = 2});
        for (uint32_t round = 1; round <= 4; ++round) {
            auto writes = writes_of_all(round);
            auto written =
                std::async(std::launch::async, [&] { return guest.run(writes, seconds(60)); });
            std::this_thread::sleep_for(std::chrono::milliseconds(10 * round));
            server_->send_signal(SIGKILL);
            EXPECT_TRUE(server_->wait());
            serve(GetParam().command);
            EXPECT_TRUE(written.get());
            expect_ok(writes);
            flush(guest);
            expect_same(guest.read_all(kStepBytes), pattern(0, kDiskBytes, round));
        }
        expect_same(file_bytes(), pattern(0, kDiskBytes, 4));
    }
    stop();
}

TEST_F(NbdTest, ServerThatStallsFailsRequestsInTimeAndIsUsedAgain) {
    serve("nbdkit -f -U nbd.sock file disk.raw");
    start({"--nbd-timeout=1"});
    {
        DiskGuest guest(connect());
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
        server_->send_signal(SIGSTOP);
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_IOERR);
        server_->send_signal(SIGCONT);
        EXPECT_TRUE(eventually([&] { return read_status(guest) == VIRTIO_BLK_S_OK; }));
        write_all(guest, 3);
        expect_same(guest.read_all(kStepBytes), pattern(0, kDiskBytes, 3));
    }
    stop();
}

TEST_F(NbdTest, ServerThatIsGoneForGoodFailsRequestsAndTheDaemonEnds) {
    serve("nbdkit -f -U nbd.sock file disk.raw");
    start({"--nbd-timeout=1"});
    {
        DiskGuest guest(connect());
        server_->send_signal(SIGKILL);
        EXPECT_TRUE(server_->wait());
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_IOERR);
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_IOERR);
        EXPECT_TRUE(daemon_->wait_complained("no connection to nbd+unix:"));
    }
    stop();
}

TEST_F(NbdTest, DiskOfAnotherSizeIsNotTakenForTheOneThatWasLost) {
    serve("nbdkit -f -U nbd.sock file disk.raw");
    start({"--nbd-timeout=2"});
    {
        DiskGuest guest(connect());
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
        server_->send_signal(SIGKILL);
        EXPECT_TRUE(server_->wait());
        fs::resize_file(folder_ / "disk.raw", kDiskBytes / 2);
        serve("nbdkit -f -U nbd.sock file disk.raw");
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_IOERR);
    }
    stop();
}

// --- Over TCP, and with TLS ----------------------------------------------------------------------

uint16_t free_port() {
    const UniqueFd probe(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address;
    // SAFETY: sockets' addresses are passed so.
    auto* const raw = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(probe.get(), raw, sizeof address), 0);
    EXPECT_EQ(::getsockname(probe.get(), raw, &bytes), 0);
    return ntohs(address.sin_port);
}

TEST_F(NbdTest, TcpConnectionComesBackInsideTheSandbox) {
    const std::string port = std::to_string(free_port());
    serve("nbdkit -f -i 127.0.0.1 -p " + port + " -P nbd.sock file disk.raw");
    start_at("nbd://127.0.0.1:" + port + "/");
    {
        DiskGuest guest(connect());
        write_all(guest, 5);
        server_->send_signal(SIGKILL);
        EXPECT_TRUE(server_->wait());
        serve("nbdkit -f -i 127.0.0.1 -p " + port + " -P nbd.sock file disk.raw");
        expect_same(guest.read_all(kStepBytes), pattern(0, kDiskBytes, 5));
    }
    stop();
}

TEST_F(NbdTest, TlsByAPreSharedKeyComesBackInsideTheSandbox) {
    std::ofstream(folder_ / "psk") << "vm:0123456789abcdef0123456789abcdef\n";
    const std::string command =
        "nbdkit -f --tls=require --tls-psk=$PWD/psk -U nbd.sock file disk.raw";
    serve(command);
    if (std::system(("nbdkit --dump-config | grep -q tls=yes")) != 0) {
        GTEST_SKIP() << "nbdkit has no TLS";
    }
    start();
    expect_refused("cannot connect");
    start_at("nbds+unix://vm@/?socket=" + nbd_socket().string() +
             "&tls-psk-file=" + (folder_ / "psk").string());
    {
        DiskGuest guest(connect());
        write_all(guest, 6);
        server_->send_signal(SIGKILL);
        EXPECT_TRUE(server_->wait());
        serve(command);
        expect_same(guest.read_all(kStepBytes), pattern(0, kDiskBytes, 6));
    }
    stop();
}

// --- A server that lies --------------------------------------------------------------------------

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

    static void greet(int client, uint64_t size) {
        std::vector<uint8_t> hello(152);
        std::memcpy(hello.data(), "NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53", 16);
        for (size_t i = 0; i < 8; ++i) {
            hello[16 + i] = static_cast<uint8_t>(size >> (56 - 8 * i));
        }
        hello[27] = 1;  // flags: has flags
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

}  // namespace
}  // namespace outrigger::testing
