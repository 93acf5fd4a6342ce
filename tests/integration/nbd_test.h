// SPDX-License-Identifier: Apache-2.0
/// The fixture of the NBD tests: a server and the daemon before it, as processes, and a disk file.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <linux/virtio_blk.h>
#include <signal.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/disk_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {

namespace fs = std::filesystem;
using std::chrono::seconds;

inline constexpr uint64_t kDiskBytes = uint64_t{16} << 20;
inline constexpr uint32_t kStepBytes = 48 * 1024;

/// What belongs to byte `offset` of the disk in that round: every sector is unlike every other.
inline std::vector<std::byte> pattern(uint64_t offset, size_t bytes, uint32_t round) {
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

inline std::vector<DiskRequest> writes_of_all(uint32_t round) {
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

    /// Until SIGCONT it does nothing: the signal alone says so before every thread heard of it.
    void stall_server() {
        server_->send_signal(SIGSTOP);
        const fs::path tasks = "/proc/" + std::to_string(server_->pid()) + "/task";
        ASSERT_TRUE(eventually([&] {
            return std::ranges::all_of(fs::directory_iterator(tasks), [](const auto& task) {
                std::ifstream file(task.path() / "stat");
                const std::string line(std::istreambuf_iterator<char>(file), {});
                const size_t state = line.rfind(") ") + 2;
                return state < line.size() && line[state] == 'T';
            });
        }));
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

}  // namespace outrigger::testing
