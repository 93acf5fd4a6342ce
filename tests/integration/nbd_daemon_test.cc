// SPDX-License-Identifier: Apache-2.0
// outrigger-blk as a process before real NBD servers, qemu-nbd and nbdkit: what was written is read
// again, while servers stall, fail, die and come back.
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <future>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include <arpa/inet.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/integration/nbd_test.h"

namespace outrigger::testing {
namespace {

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

TEST_F(NbdTest, ExportIsABaseForAnOverlay) {
    serve("nbdkit -f -r -U nbd.sock file disk.raw");
    const std::vector<std::byte> before = file_bytes();
    start({"--overlay=" + (folder_ / "layer").string(), "--overlay-create"});
    {
        DiskGuest guest(connect());
        expect_same(guest.read_all(kStepBytes), before);
        write_all(guest, 7);
        expect_same(guest.read_all(kStepBytes), pattern(0, kDiskBytes, 7));
    }
    stop();
    expect_same(file_bytes(), before);
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
    // The file is in the page cache of a host that goes on running.
    start({"--queue-threads=2", "--nbd-unflushed=kept"});
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
        stall_server();
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_IOERR);
        server_->send_signal(SIGCONT);
        EXPECT_TRUE(eventually([&] { return read_status(guest) == VIRTIO_BLK_S_OK; }));
        write_all(guest, 3);
        expect_same(guest.read_all(kStepBytes), pattern(0, kDiskBytes, 3));
    }
    stop();
}

TEST_F(NbdTest, DaemonEndsInTimeWhileTheServerHangs) {
    serve("nbdkit -f -U nbd.sock file disk.raw");
    start({"--nbd-timeout=2"});
    {
        DiskGuest guest(connect());
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
        stall_server();
        std::vector<DiskRequest> reads(4);
        for (DiskRequest& read : reads) {
            read = {.type = VIRTIO_BLK_T_IN, .data = std::vector<std::byte>(4096)};
        }
        auto answered =
            std::async(std::launch::async, [&] { return guest.run(reads, seconds(10)); });
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        stop();
        (void)answered.get();
    }
}

TEST_F(NbdTest, FlushThatFailedOnceGoesOnFailing) {
    serve(
        "nbdkit -f -U nbd.sock eval get_size='echo 1M' can_write='exit 0' can_flush='exit 0'"
        " pread='head -c $3 /dev/zero' pwrite='cat >/dev/null'"
        " flush=\"test ! -e $PWD/fail || { echo EIO >&2; exit 1; }\"");
    start();
    {
        DiskGuest guest(connect());
        flush(guest);
        std::ofstream(folder_ / "fail").flush();
        DiskRequest request{.type = VIRTIO_BLK_T_FLUSH};
        EXPECT_EQ(guest.run_one(request), VIRTIO_BLK_S_IOERR);
        fs::remove(folder_ / "fail");
        EXPECT_EQ(guest.run_one(request), VIRTIO_BLK_S_IOERR);
        EXPECT_EQ(read_status(guest), VIRTIO_BLK_S_OK);
    }
    stop();
}

// The data's segments are one page, so the guest need not have so much memory.
TEST_F(NbdTest, RequestsOfMoreThanTwoGibibytesAreMovedWhole) {
    serve("nbdkit -f -U nbd.sock memory 4G");
    start({"--seg-max=1022", "--cache=writethrough"});
    {
        driver::Frontend frontend = connect();
        driver::GuestMemory memory = driver::GuestMemory::create(64 << 20).value();
        auto up =
            driver::bring_up(frontend, memory, {.indirect_segments_max = 1024, .queue_size = 1024});
        ASSERT_TRUE(up) << up.error().step;
        constexpr uint32_t kSegmentBytes = (2 << 20) + (64 << 10);
        constexpr uint32_t kSegments = 1000;
        static_assert(uint64_t{kSegments} * kSegmentBytes > uint64_t{1} << 31);
        const GuestAddr header = memory.allocate(16, 16).value();
        const GuestAddr data = memory.allocate(kSegmentBytes, 4096).value();
        const GuestAddr status = memory.allocate(1, 1).value();
        const auto status_of = [&](uint32_t type) {
            std::array<std::byte, 16> bytes{};
            std::memcpy(bytes.data(), &type, sizeof type);
            memory.write(header, bytes);
            std::byte answer{0xff};
            memory.write(status, std::span(&answer, 1));
            std::vector<driver::Segment> segments{{header, 16, false}};
            if (type != VIRTIO_BLK_T_FLUSH) {
                segments.resize(1 + kSegments, {data, kSegmentBytes, type == VIRTIO_BLK_T_IN});
            }
            segments.push_back({status, 1, true});
            EXPECT_TRUE(up->queues[0].transact(
                segments, driver::after(seconds(120)), driver::ChainLayout::kIndirect));
            memory.read(status, std::span(&answer, 1));
            return std::to_integer<int>(answer);
        };
        EXPECT_EQ(status_of(VIRTIO_BLK_T_IN), VIRTIO_BLK_S_OK);
        EXPECT_EQ(status_of(VIRTIO_BLK_T_OUT), VIRTIO_BLK_S_OK);
        EXPECT_EQ(status_of(VIRTIO_BLK_T_FLUSH), VIRTIO_BLK_S_OK);
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

/// A certificate authority, a server at 127.0.0.1 and a client of it, made by certtool.
class NbdCertificates : public NbdTest {
  protected:
    void SetUp() override {
        NbdTest::SetUp();
        if (IsSkipped() || HasFatalFailure()) {
            return;
        }
        if (std::system("certtool --version >/dev/null 2>&1") != 0 ||
            std::system("nbdkit --dump-config | grep -q tls=yes") != 0) {
            GTEST_SKIP() << "needs certtool (Debian: gnutls-bin) and an nbdkit with TLS";
        }
        make_authority("ca");
        make_certificate("server", "ca", "ip_address = 127.0.0.1\ntls_www_server\n");
        make_certificate("client", "ca", "tls_www_client\n");
        port_ = std::to_string(free_port());
    }

    void run(const std::string& command) {
        const std::string all = "cd '" + folder_.string() + "' && " + command + " >/dev/null 2>&1";
        ASSERT_EQ(std::system(all.c_str()), 0) << command;
    }

    void make_authority(const std::string& name) {
        std::ofstream(folder_ / "template") << "cn = authority\nca\ncert_signing_key\n";
        run("certtool --generate-privkey --ecc --outfile " + name + "-key.pem");
        run("certtool --generate-self-signed --load-privkey " + name +
            "-key.pem --template template --outfile " + name + "-cert.pem");
    }

    void make_certificate(const std::string& name,
                          const std::string& authority,
                          const std::string& is) {
        std::ofstream(folder_ / "template") << "cn = " << name << "\nsigning_key\n" << is;
        run("certtool --generate-privkey --ecc --outfile " + name + "-key.pem");
        run("certtool --generate-certificate --load-ca-certificate " + authority +
            "-cert.pem --load-ca-privkey " + authority + "-key.pem --load-privkey " + name +
            "-key.pem --template template --outfile " + name + "-cert.pem");
    }

    void serve_tls() {
        serve("nbdkit -f --tls=require --tls-certificates=$PWD --tls-verify-peer -i 127.0.0.1 -p " +
              port_ + " -P nbd.sock file disk.raw");
    }

    void start_tls() {
        start_at("nbds://127.0.0.1:" + port_ + "/?tls-certificates=" + folder_.string());
    }

    std::string port_;
};

TEST_F(NbdCertificates, ConnectionComesBackInsideTheSandbox) {
    serve_tls();
    start_tls();
    {
        DiskGuest guest(connect());
        write_all(guest, 8);
        flush(guest);
        server_->send_signal(SIGKILL);
        EXPECT_TRUE(server_->wait());
        serve_tls();
        expect_same(guest.read_all(kStepBytes), pattern(0, kDiskBytes, 8));
    }
    stop();
}

TEST_F(NbdCertificates, ServerOfAnotherAddressIsRefused) {
    make_certificate("server", "ca", "ip_address = 127.0.0.2\ntls_www_server\n");
    serve_tls();
    start_tls();
    expect_refused("cannot connect");
}

TEST_F(NbdCertificates, ServerOfAnotherAuthorityIsRefused) {
    serve_tls();
    fs::create_directory(folder_ / "other");
    make_authority("other/ca");
    for (const char* const name : {"client-cert.pem", "client-key.pem"}) {
        fs::copy_file(folder_ / name, folder_ / "other" / name);
    }
    start_at("nbds://127.0.0.1:" + port_ + "/?tls-certificates=" + (folder_ / "other").string());
    expect_refused("cannot connect");
}

}  // namespace
}  // namespace outrigger::testing
