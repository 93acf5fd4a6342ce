// SPDX-License-Identifier: Apache-2.0
// What was under way when an end of a connection closed: it arrives, or is missed with a reason.
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <string>
#include <thread>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {
namespace {

/// From now on this call fails in this process. Cannot be undone.
void refuse_call(uint32_t number, uint32_t os_error) {
    std::array<sock_filter, 4> program{
        sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
        sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, number},
        sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | os_error},
        sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
    const sock_fprog filter{.len = program.size(), .filter = program.data()};
    ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
}

class VsockEndTest : public VsockTest {
  protected:
    /// The device looks at nothing of the host's before start_receiving().
    void stop_receiving() { ASSERT_TRUE(guest().queue(0).stop(guest().frontend())); }

    void start_receiving() { start_again(0, guest().queue(0).start_base()); }

    /// The guest sends more than a socket holds, and leaves; the host's end.
    HostSocket leave_behind() {
        options_.window_bytes = kLeftBehind;
        options_.window_bytes_max = kLeftBehind;
        options_.linger_timeout = std::chrono::milliseconds(2000);
        serve();
        HostSocket host = open_from_guest();
        const std::string piece(64 * 1024, 'x');
        for (size_t sent = 0; sent < kLeftBehind; sent += piece.size()) {
            EXPECT_TRUE(guest().send_data(kGuestPort, kHostPort, piece));
        }
        constexpr uint32_t kBoth = VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV;
        EXPECT_TRUE(guest().send_op(
            VIRTIO_VSOCK_OP_SHUTDOWN, kGuestPort, kHostPort, VIRTIO_VSOCK_TYPE_STREAM, kBoth));
        EXPECT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, kGuestPort, kHostPort));
        return host;
    }

    static constexpr uint32_t kLeftBehind = 4 * 1024 * 1024;

    /// In a process of its own: the device's thread must begin with the filter, and nothing else
    /// may have it.
    template <typename Body>
    void where_call_is_refused(uint32_t number, uint32_t os_error, const Body& body) {
        const pid_t child = ::fork();
        if (child == 0) {
            refuse_call(number, os_error);
            serve();
            body();
            ::_exit(HasFailure() ? 1 : 0);
        }
        int status = -1;
        EXPECT_EQ(::waitpid(child, &status, 0), child);
        EXPECT_EQ(status, 0);
    }

    [[nodiscard]] bool send_message(std::string_view text) {
        return guest().send_data(
            kGuestPort, kHostPort, text, VIRTIO_VSOCK_TYPE_SEQPACKET, VIRTIO_VSOCK_SEQ_EOM);
    }
};

TEST_P(VsockEndTest, MessagesOfAHostThatClosesWithoutReadingAllComeBeforeTheReset) {
    serve();
    HostSocket host = open_from_guest(VIRTIO_VSOCK_TYPE_SEQPACKET);
    ASSERT_TRUE(send_message("read"));
    ASSERT_EQ(host.receive(4), "read");
    ASSERT_TRUE(send_message("never read"));
    stop_receiving();
    host.send("answer");
    host.send("another");
    host.close();
    start_receiving();
    for (const char* text : {"answer", "another"}) {
        const auto packet = guest().receive_event();
        ASSERT_TRUE(packet);
        ASSERT_EQ(packet->op(), VIRTIO_VSOCK_OP_RW);
        EXPECT_EQ(packet->payload, text);
    }
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kHostReset), 1U);
    expect_clean();
}

TEST_P(VsockEndTest, HostThatClosesWithoutReadingAllAndSentNothingIsAReset) {
    serve();
    HostSocket host = open_from_guest(VIRTIO_VSOCK_TYPE_SEQPACKET);
    ASSERT_TRUE(send_message("never read"));
    host.close();
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kHostReset), 1U);
    expect_clean();
}

TEST_P(VsockEndTest, WhatTheGuestLeftBehindWaitsForAProgramThatReadsSlowly) {
    const HostSocket host = leave_behind();
    // So little at a time that its socket becomes writable but for a few times.
    constexpr size_t kAtATime = 8 * 1024;
    const auto slow_until =
        std::chrono::steady_clock::now() + options_.linger_timeout + options_.linger_timeout / 2;
    size_t got = 0;
    while (std::chrono::steady_clock::now() < slow_until) {
        got += host.receive(kAtATime).size();
        std::this_thread::sleep_for(options_.linger_timeout / 80);
    }
    got += host.receive(kLeftBehind - got).size();
    EXPECT_EQ(got, kLeftBehind);
    EXPECT_TRUE(host.ends());
    EXPECT_EQ(ended(EndReason::kHostSlow), 0U);
}

TEST_P(VsockEndTest, WhatTheGuestLeftBehindIsLostWithAReasonWhereNobodyReads) {
    const HostSocket host = leave_behind();
    EXPECT_TRUE(eventually([&] { return ended(EndReason::kHostSlow) == 1; }));
    const std::string got = host.receive(kLeftBehind);
    EXPECT_GT(got.size(), 0U);
    EXPECT_LT(got.size(), kLeftBehind);
    expect_clean();
}

TEST_P(VsockEndTest, WhatTheGuestLeftBehindIsLostWithAReasonWhereTheProgramEnds) {
    HostSocket host = leave_behind();
    EXPECT_EQ(host.receive(10).size(), 10U);
    host.close();
    EXPECT_TRUE(eventually([&] { return ended(EndReason::kHostReset) == 1; }));
    expect_clean();
}

TEST_P(VsockEndTest, ShortageOfMemoryCostsNoProcessor) {
    where_call_is_refused(__NR_sendmmsg, ENOBUFS, [&] {
        const HostSocket host = open_from_guest();
        EXPECT_TRUE(guest().send_data(kGuestPort, kHostPort, "waits"));
        const Counter& turns = host_->worker_counters(0).turns;
        const uint64_t before = turns.value();
        const auto begin = std::chrono::steady_clock::now();
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        // It tries again a hundred times a second, and no more.
        const auto tries =
            (std::chrono::steady_clock::now() - begin) / std::chrono::milliseconds(5);
        EXPECT_LT(turns.value() - before, static_cast<uint64_t>(tries));
        EXPECT_GT(turns.value(), before);
        EXPECT_FALSE(host.has_news());
    });
}

TEST_P(VsockEndTest, SocketThatFailsInWritingIsTheReasonForTheReset) {
    where_call_is_refused(__NR_sendmmsg, EIO, [&] {
        const HostSocket host = open_from_guest();
        EXPECT_TRUE(guest().send_data(kGuestPort, kHostPort, "is lost"));
        EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
        EXPECT_TRUE(host.ends());
        EXPECT_EQ(ended(EndReason::kHostError), 1U);
    });
}

TEST_P(VsockEndTest, SocketThatFailsInReadingIsTheReasonForTheReset) {
    where_call_is_refused(__NR_recvmmsg, EIO, [&] {
        const HostSocket host = open_from_guest();
        host.send("is never read");
        EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
        EXPECT_TRUE(eventually([&] { return counters().connections_gone.value() == 1; }));
        EXPECT_EQ(ended(EndReason::kHostError), 1U);
    });
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockEndTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::vsock
