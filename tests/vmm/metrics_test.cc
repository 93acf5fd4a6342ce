// SPDX-License-Identifier: Apache-2.0
// The metrics of a machine: their text, and clients of their socket that mean no good.
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/platform.h"

#include "tests/support/wait.h"
#include "vmm-lite/control/metrics_server.h"
#include "vmm-lite/machine_metrics.h"
#include "vmm-lite/machine_options.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kGet = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

bool has_line(const std::string& text, const std::string& line) {
    return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

vmm::MachineMetrics some_machine() {
    vmm::MachineMetrics machine;
    machine.memory_bytes = uint64_t{512} << 20U;
    machine.paused = true;
    machine.exits_of_processors = {{1, 2, 3, 4, 5, 6, 7}, {8, 0, 0, 0, 0, 0, 9}};
    machine.statistics.accesses = {{"pci configuration", 70}, {"nothing", 1}};
    machine.statistics.phases[0] = std::chrono::microseconds(1'500'000);
    machine.devices.push_back({.name = "blk0",
                               .kind = "blk",
                               .source = "socket /x",
                               .phase = vmm::RemoteDevice::Phase::kRunning,
                               .queues_running = 2,
                               .losses = 3});
    return machine;
}

TEST(MachineMetrics, TellProcessorsDevicesAndTheStart) {
    const std::string text = vmm::machine_metrics_text(some_machine(), MetricsFormat::kPrometheus);
    EXPECT_TRUE(has_line(text, "vmm_lite_paused 1")) << text;
    EXPECT_TRUE(has_line(text, "vmm_lite_memory_bytes 536870912")) << text;
    EXPECT_TRUE(has_line(text, "# TYPE vmm_lite_exits_total counter")) << text;
    EXPECT_TRUE(has_line(text, R"(vmm_lite_exits_total{processor="0",kind="port write"} 2)"))
        << text;
    EXPECT_TRUE(has_line(text, R"(vmm_lite_exits_total{processor="1",kind="other"} 9)")) << text;
    EXPECT_TRUE(has_line(text, R"(vmm_lite_accesses_total{range="pci configuration"} 70)")) << text;
    EXPECT_TRUE(has_line(text, R"(vmm_lite_start_seconds{phase="connected"} 1.500000000)")) << text;
    EXPECT_EQ(text.find("phase=\"init\""), std::string::npos) << "it was not reached";
    EXPECT_TRUE(
        has_line(text, R"(vmm_lite_device_state{device="blk0",type="blk",state="running"} 1)"))
        << text;
    EXPECT_TRUE(has_line(text, R"(vmm_lite_device_queues_running{device="blk0"} 2)")) << text;
    EXPECT_TRUE(has_line(text, R"(vmm_lite_device_losses_total{device="blk0"} 3)")) << text;
    EXPECT_EQ(text.find("# EOF"), std::string::npos);
    EXPECT_TRUE(has_line(vmm::machine_metrics_text(some_machine(), MetricsFormat::kOpenMetrics),
                         "# TYPE vmm_lite_exits counter"));
}

TEST(MachineMetrics, TheOptionTakesAUnixSocket) {
    const auto parse = [](const char* option) {
        const std::array<const char*, 2> arguments = {"--kernel=vmlinuz", option};
        return vmm::parse_machine_options(arguments);
    };
    EXPECT_EQ(parse("--metrics=unix:/run/m").value().metrics_socket, "/run/m");
    EXPECT_FALSE(parse("--metrics=unix:"));
    EXPECT_FALSE(parse("--metrics=/run/m"));
}

class MachineMetricsSocket : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = ::testing::TempDir() + "machine-metrics-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        loop_ = std::make_unique<vmm::EventLoop>();
    }

    void TearDown() override {
        loop_->stop();
        if (thread_.joinable()) {
            thread_.join();
        }
        server_.reset();
        EXPECT_FALSE(fs::exists(path()));
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
    }

    [[nodiscard]] std::string path() const { return folder_ / "metrics"; }

    void start(const vmm::MetricsServer::Limits& limits = {}, size_t text_bytes = 100) {
        auto server = vmm::MetricsServer::listen(
            *loop_,
            path(),
            [text_bytes](MetricsFormat /*format*/) { return std::string(text_bytes, 'x'); },
            limits);
        ASSERT_TRUE(server) << server.error().message;
        server_ = *std::move(server);
        thread_ = std::thread([this] { loop_->run(); });
    }

    [[nodiscard]] UniqueFd connect() const {
        sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
        path().copy(address.sun_path, sizeof address.sun_path - 1);
        UniqueFd socket = platform::open_unix_socket(SOCK_STREAM);
        const timeval patience{.tv_sec = kPatience.count() / 1000, .tv_usec = 0};
        (void)::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        // SAFETY: the socket interface takes every address by the type of their common head.
        const auto* const general = reinterpret_cast<const sockaddr*>(&address);
        EXPECT_EQ(::connect(socket.get(), general, sizeof address), 0);
        return socket;
    }

    /// Everything until the machine hangs up.
    [[nodiscard]] static std::string receive(const UniqueFd& socket) {
        std::string all;
        std::array<char, 65536> buffer;
        for (ssize_t count = ::recv(socket.get(), buffer.data(), buffer.size(), 0); count > 0;
             count = ::recv(socket.get(), buffer.data(), buffer.size(), 0)) {
            all.append(buffer.data(), static_cast<size_t>(count));
        }
        return all;
    }

    [[nodiscard]] std::string ask(std::string_view request) const {
        const UniqueFd socket = connect();
        (void)::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL);
        return receive(socket);
    }

    fs::path folder_;
    std::unique_ptr<vmm::EventLoop> loop_;
    std::unique_ptr<vmm::MetricsServer> server_;
    std::thread thread_;
};

TEST_F(MachineMetricsSocket, AnswersAndIsForItsUserAlone) {
    start();

    struct stat status {};

    ASSERT_EQ(::stat(path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0600U);
    for (int i = 0; i < 3; ++i) {
        const std::string answer = ask(kGet);
        EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
        EXPECT_TRUE(answer.ends_with("\r\n\r\n" + std::string(100, 'x'))) << answer;
    }
    EXPECT_TRUE(ask("HEAD /metrics HTTP/1.1\n\n").ends_with("\r\n\r\n"));
}

TEST_F(MachineMetricsSocket, WhatIsNoRequestIsRefused) {
    start();
    EXPECT_TRUE(ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    EXPECT_TRUE(ask("POST /metrics HTTP/1.1\r\n\r\nbody").starts_with("HTTP/1.1 405 "));
    EXPECT_TRUE(ask("nothing\r\n\r\n").starts_with("HTTP/1.1 400 "));
    EXPECT_TRUE(ask(std::string(20'000, 'a')).starts_with("HTTP/1.1 400 "));
    EXPECT_TRUE(ask(kGet).starts_with("HTTP/1.1 200 "));
}

TEST_F(MachineMetricsSocket, ALongAnswerComesWhole) {
    constexpr size_t kBytes = size_t{8} << 20U;
    start({}, kBytes);
    const std::string answer = ask(kGet);
    EXPECT_EQ(answer.size() - answer.find("\r\n\r\n") - 4, kBytes);
}

TEST_F(MachineMetricsSocket, ClientsThatStandStillAreLeft) {
    start({.request = std::chrono::milliseconds(50), .reply = std::chrono::milliseconds(50)},
          size_t{8} << 20U);
    const UniqueFd silent = connect();
    const UniqueFd half = connect();
    (void)::send(half.get(), kGet.data(), 10, MSG_NOSIGNAL);
    EXPECT_EQ(receive(silent), "");
    EXPECT_EQ(receive(half), "");
    // This one asks and does not read.
    const UniqueFd deaf = connect();
    (void)::send(deaf.get(), kGet.data(), kGet.size(), MSG_NOSIGNAL);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    EXPECT_LT(receive(deaf).size(), size_t{8} << 20U);
}

TEST_F(MachineMetricsSocket, ManyClientsKeepNobodyOutForEver) {
    start({.request = std::chrono::milliseconds(200)});
    std::vector<UniqueFd> many;
    for (size_t i = 0; i < 3 * vmm::MetricsServer::kConnectionsMax; ++i) {
        many.push_back(connect());
    }
    for (const UniqueFd& each : many) {
        EXPECT_EQ(receive(each), "");
    }
    EXPECT_TRUE(eventually([&] { return ask(kGet).starts_with("HTTP/1.1 200 "); }));
}

}  // namespace
}  // namespace outrigger::testing
