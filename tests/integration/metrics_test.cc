// SPDX-License-Identifier: Apache-2.0
// The metrics socket of a daemon, and clients that mean no good.
#include <array>
#include <map>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tests/integration/blk_control.h"
#include "tests/support/metrics_samples.h"

namespace outrigger::testing {
namespace {

constexpr std::string_view kGet = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

/// A client of the metrics socket.
class Client final {
  public:
    explicit Client(const std::string& path) : socket_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
        // SAFETY: connect() tells the types of address apart by their family.
        connect(reinterpret_cast<const sockaddr*>(&address), sizeof address);
    }

    explicit Client(const sockaddr_in& address) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
        // SAFETY: as above.
        connect(reinterpret_cast<const sockaddr*>(&address), sizeof address);
    }

    [[nodiscard]] bool is_connected() const { return connected_; }

    void send(std::string_view text) const {
        (void)::send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL);
    }

    void end() const { ::shutdown(socket_.get(), SHUT_WR); }

    /// Everything until the other end closes.
    [[nodiscard]] std::string receive() const {
        std::string all;
        std::array<char, 4096> buffer;
        ssize_t bytes = 0;
        while ((bytes = ::recv(socket_.get(), buffer.data(), buffer.size(), 0)) > 0) {
            all.append(buffer.data(), static_cast<size_t>(bytes));
        }
        was_reset_ = bytes < 0;
        return all;
    }

    /// receive() ended with an error in place of the end.
    [[nodiscard]] bool was_reset() const { return was_reset_; }

    [[nodiscard]] std::string ask(std::string_view request) const {
        send(request);
        return receive();
    }

  private:
    void connect(const sockaddr* address, socklen_t bytes) {
        const timeval patience{.tv_sec = kPatience.count() / 1000, .tv_usec = 0};
        ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        connected_ = ::connect(socket_.get(), address, bytes) == 0;
    }

    UniqueFd socket_;
    bool connected_ = false;
    mutable bool was_reset_ = false;
};

class MetricsTest : public BlkControlTest {
  protected:
    void start_with_metrics(std::vector<std::string> more = {}) {
        more.push_back("--metrics=unix:" + metrics_path());
        more.push_back("--name=disk");
        start(more);
        ASSERT_TRUE(daemon_->wait_complained("metrics: listening")) << daemon_->complained();
    }

    [[nodiscard]] std::string metrics_path() const { return (folder_ / "metrics.sock").string(); }

    [[nodiscard]] std::map<std::string, std::string> samples() const {
        return samples_of(Client(metrics_path()).ask(kGet));
    }

    /// Waits until a sample has that value: workers count behind the guest's back.
    [[nodiscard]] bool comes_to(const std::string& sample, const std::string& value) const {
        return eventually([&] {
            const auto now = samples();
            const auto found = now.find(sample);
            return found != now.end() && found->second == value;
        });
    }
};

std::string of_queue(const std::string& name, const std::string& more = "") {
    return "outrigger_queue_" + name + "{device=\"disk\",queue=\"0\"" + more + "}";
}

TEST_F(MetricsTest, CountsAndMeasuresTheRequestsOfAQueue) {
    start_with_metrics();
    ControlGuest guest = connect();
    constexpr int kReads = 5;
    for (int i = 0; i < kReads; ++i) {
        ASSERT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
    }
    EXPECT_TRUE(comes_to(of_queue("answers_total"), "5"));
    EXPECT_TRUE(comes_to(of_queue("latency_seconds_count"), "5"));
    const auto now = samples();
    EXPECT_EQ(now.at(of_queue("requests_total")), "5");
    EXPECT_EQ(now.at(of_queue("requests_in_flight")), "0");
    EXPECT_EQ(now.at(of_queue("running")), "1");
    EXPECT_EQ(now.at(of_queue("bytes_total")), std::to_string(kReads * (16 + 4096 + 1)));
    EXPECT_EQ(now.at(of_queue("latency_seconds_bucket", ",le=\"+Inf\"")), "5");
    EXPECT_GT(std::stod(now.at(of_queue("latency_seconds_sum"))), 0);
    EXPECT_EQ(now.at("outrigger_block_bytes_total{device=\"disk\",operation=\"read\"}"), "20480");
    EXPECT_EQ(now.at("outrigger_device_connected{device=\"disk\",type=\"block\"}"), "1");
    EXPECT_EQ(now.at("outrigger_sessions_total{device=\"disk\"}"), "1");
}

TEST_F(MetricsTest, TheControlSocketTellsTheSame) {
    start_with_metrics();
    ControlGuest guest = connect();
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
    ASSERT_TRUE(comes_to(of_queue("latency_seconds_count"), "1"));
    const v1::Reply reply = ask([](v1::Request& request) { request.mutable_describe(); });
    const v1::QueueStatistics& queue = reply.program().devices(0).queue_statistics(0);
    EXPECT_TRUE(queue.running());
    EXPECT_EQ(queue.requests_answered(), 1U);
    ASSERT_EQ(queue.latency().buckets_size(), 1);
    EXPECT_EQ(queue.latency().buckets(0).count(), 1U);
    EXPECT_EQ(queue.latency().p50_nanoseconds(), queue.latency().buckets(0).below_nanoseconds());
    EXPECT_LE(queue.latency().sum_nanoseconds(), queue.latency().p999_nanoseconds());
}

TEST_F(MetricsTest, CountersOutliveTheFrontEnd) {
    start_with_metrics();
    {
        ControlGuest guest = connect();
        ASSERT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
    }
    EXPECT_TRUE(comes_to(of_queue("running"), "0"));
    ControlGuest guest = connect();
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(comes_to(of_queue("answers_total"), "2"));
    EXPECT_EQ(samples().at("outrigger_sessions_closed_total{device=\"disk\",reason=\"the front end "
                           "closed the connection\"}"),
              "1");
}

TEST_F(MetricsTest, TheSocketIsForOurUserAlone) {
    start_with_metrics();

    struct stat status {};

    ASSERT_EQ(::stat(metrics_path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

TEST_F(MetricsTest, OpenMetricsIsForWhoeverAcceptsIt) {
    start_with_metrics();
    const std::string plain = Client(metrics_path()).ask(kGet);
    EXPECT_NE(plain.find("Content-Type: text/plain; version=0.0.4"), std::string::npos);
    EXPECT_NE(plain.find("# TYPE outrigger_queue_kicks_total counter\n"), std::string::npos);
    EXPECT_FALSE(plain.ends_with("# EOF\n"));
    const std::string open = Client(metrics_path())
                                 .ask(
                                     "GET /metrics HTTP/1.1\r\nACCEPT: "
                                     "application/openmetrics-text;version=1.0.0\r\n\r\n");
    EXPECT_NE(open.find("Content-Type: application/openmetrics-text"), std::string::npos);
    EXPECT_NE(open.find("# TYPE outrigger_queue_kicks counter\n"), std::string::npos);
    EXPECT_TRUE(open.ends_with("# EOF\n"));
}

TEST_F(MetricsTest, AnswersWhatIsNoRequestForMetrics) {
    start_with_metrics();
    const auto status = [&](std::string_view request) {
        const std::string answer = Client(metrics_path()).ask(request);
        return answer.substr(0, answer.find("\r\n"));
    };
    EXPECT_EQ(status("GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
    EXPECT_EQ(status("GET /metrics2 HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
    EXPECT_EQ(status("GET /metrics?a=b HTTP/1.0\n\n"), "HTTP/1.1 200 OK");
    EXPECT_EQ(status("POST /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
    EXPECT_EQ(status("GET /metrics\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    EXPECT_EQ(status("GET  HTTP/1.1\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    EXPECT_EQ(status("GET /metrics HTTP/2\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    EXPECT_EQ(status(" /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    EXPECT_EQ(status("\n\n"), "HTTP/1.1 400 Bad Request");
    EXPECT_EQ(status(std::string("\0\xff\x80\n\r\n\r\n", 8)), "HTTP/1.1 400 Bad Request");
    const std::string head = Client(metrics_path()).ask("HEAD /metrics HTTP/1.1\r\n\r\n");
    EXPECT_TRUE(head.starts_with("HTTP/1.1 200 OK\r\n"));
    EXPECT_TRUE(head.ends_with("\r\n\r\n"));
}

TEST_F(MetricsTest, ARequestWithoutEndIsRefused) {
    start_with_metrics();
    const Client client(metrics_path());
    client.send(std::string(100'000, 'x'));
    client.end();
    EXPECT_TRUE(client.receive().starts_with("HTTP/1.1 400 Bad Request"));
    EXPECT_FALSE(client.was_reset());
}

TEST_F(MetricsTest, AnAnswerIsNotLostWithABodyThatNobodyReads) {
    start_with_metrics();
    const Client client(metrics_path());
    client.send("POST /metrics HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" +
                std::string(100'000, 'x'));
    client.end();
    EXPECT_TRUE(client.receive().starts_with("HTTP/1.1 405 Method Not Allowed"));
    EXPECT_FALSE(client.was_reset());
}

/// They take all places, and neither guests nor operators notice.
TEST_F(MetricsTest, ClientsThatNeverReadDisturbNobody) {
    start_with_metrics();
    ControlGuest guest = connect();
    std::vector<std::unique_ptr<Client>> silent;
    for (int i = 0; i < 4; ++i) {
        silent.push_back(std::make_unique<Client>(metrics_path()));
        silent.push_back(std::make_unique<Client>(metrics_path()));
        silent.back()->send(kGet);
    }
    for (int i = 0; i < 20; ++i) {
        EXPECT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
    }
    EXPECT_EQ(block().counters().reads(), 20U);
    silent.clear();
    EXPECT_TRUE(comes_to(of_queue("answers_total"), "20"));
}

TEST_F(MetricsTest, AThousandClientsDisturbNobody) {
    start_with_metrics();
    ControlGuest guest = connect();
    for (int i = 0; i < 1000; ++i) {
        const Client client(metrics_path());
        EXPECT_TRUE(client.is_connected());
        client.send(i % 2 == 0 ? "G" : "\xff\xff\n\n");
        if (i % 50 == 0) {
            EXPECT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
        }
    }
    EXPECT_TRUE(comes_to(of_queue("answers_total"), "20"));
}

/// A port of the loopback address that nobody else is given meanwhile: bound, and not listened at.
class TcpPort final {
  public:
    TcpPort() : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
        const int on = 1;
        ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        address_.sin_family = AF_INET;
        address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t bytes = sizeof address_;
        // SAFETY: as above; getsockname() writes at most `bytes`.
        EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address_), bytes), 0);
        EXPECT_EQ(::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address_), &bytes), 0);
    }

    [[nodiscard]] const sockaddr_in& address() const { return address_; }

    [[nodiscard]] std::string text() const {
        return "127.0.0.1:" + std::to_string(ntohs(address_.sin_port));
    }

  private:
    UniqueFd socket_;
    sockaddr_in address_{};
};

TEST_F(MetricsTest, ATcpSocketOutlivesTheProcess) {
    const TcpPort port;
    start({"--metrics=" + port.text(), "--keeper=fork", "--name=disk"});
    ControlGuest guest = connect();
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
    const auto count = [&] {
        const Client client(port.address());
        const auto now = samples_of(client.ask(kGet));
        const auto found = now.find(of_queue("answers_total"));
        return found != now.end() ? found->second : std::string();
    };
    EXPECT_TRUE(eventually([&] { return count() == "1"; }));
    const auto pid = [&] {
        return ask([](v1::Request& request) { request.mutable_describe(); }).program().pid();
    };
    const auto before = static_cast<pid_t>(pid());
    ASSERT_EQ(::kill(before, SIGKILL), 0);
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
    // The next process counts from its own beginning.
    EXPECT_TRUE(eventually([&] { return count() == "2"; })) << count();
    EXPECT_NE(static_cast<pid_t>(pid()), before);
}

}  // namespace
}  // namespace outrigger::testing
