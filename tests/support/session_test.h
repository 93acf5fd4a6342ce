// SPDX-License-Identifier: Apache-2.0
/// The fixture of the session's tests: an echo device is served, a front end is connected to it,
/// and nothing has been said yet.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "tests/support/echo_device.h"
#include "tests/support/echo_guest.h"
#include "tests/support/printers.h"
#include "tests/support/session_host.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {

using driver::Answer;
using wire::FrontendRequest;

[[nodiscard]] constexpr uint32_t number(FrontendRequest request) {
    return static_cast<uint32_t>(request);
}

class SessionTest : public ::testing::Test {
  protected:
    static constexpr uint64_t kMemoryBytes = 4 << 20;
    static constexpr GuestAddr kMemoryStart{0x10'0000};

    SessionTest() : SessionTest(EchoDeviceOptions{}, SessionHostOptions{}) {}

    SessionTest(const EchoDeviceOptions& device, const SessionHostOptions& host)
        : device_(device), host_(std::make_unique<SessionHost>(device_, host)) {
        reconnect();
    }

    /// A fresh connection and fresh guest memory. The session before it must have closed.
    void reconnect() {
        queues().clear();
        buffers_.clear();
        frontend_.reset();
        frontend_.emplace(host_->connect());
        memory_ = driver::GuestMemory::create(kMemoryBytes, kMemoryStart).value();
    }

    [[nodiscard]] driver::Frontend& frontend() { return *frontend_; }

    [[nodiscard]] const SessionCounters& counters() const { return host_->counters(); }

    [[nodiscard]] std::vector<driver::DriverQueue>& queues() { return running_.queues; }

    [[nodiscard]] driver::DriverQueue& queue(size_t index = 0) { return running_.queues.at(index); }

    /// The buffers of one ring's requests. Rings share none: TSan does not see that one worker's
    /// answer reached the driver (through another mapping) before another worker's request left.
    [[nodiscard]] EchoBuffers& buffers(size_t index = 0) {
        return buffers_.try_emplace(index, memory_).first->second;
    }

    /// Features and owner; neither memory nor rings.
    void negotiate(const driver::BringUpOptions& options = {}) {
        const auto agreement = driver::negotiate(frontend(), options);
        ASSERT_TRUE(agreement) << agreement.error().step << ": "
                               << describe(agreement.error().answer);
        running_.agreement = *agreement;
    }

    /// Everything, in QEMU's order: the queues run afterwards.
    void run(const driver::BringUpOptions& options = {}) {
        auto running = driver::bring_up(frontend(), memory_, options);
        ASSERT_TRUE(running) << running.error().step << ": " << describe(running.error().answer);
        running_ = *std::move(running);
    }

    /// A good request is still answered: on this connection, whose queues are started if need be.
    void expect_echo(size_t index = 0) {
        if (queues().empty()) {
            run();
            ASSERT_FALSE(HasFatalFailure());
        }
        EXPECT_EQ(echo_problem(queue(index), buffers(index)), "");
    }

    /// The message is refused for that reason and no other, and the connection lives.
    template <class Message>
    void expect_refusal(Refusal refusal, Message send_message) {
        const uint64_t before = counters().refused.value(refusal);
        const uint64_t total_before = counters().refused.total();
        EXPECT_EQ(send_message(), Answer::kRefused);
        EXPECT_EQ(counters().refused.value(refusal), before + 1) << describe(refusal);
        EXPECT_EQ(counters().refused.total(), total_before + 1);
    }

    /// The back end hangs up for that reason, and serves the next connection.
    void expect_close_and_next_session(CloseReason reason) {
        EXPECT_TRUE(frontend().wait_closed());
        const auto closed = host_->wait_closed();
        ASSERT_TRUE(closed);
        EXPECT_EQ(*closed, reason);
        EXPECT_EQ(counters().closed.value(reason), 1U);
        EXPECT_EQ(counters().closed.total(), 1U);
        reconnect();
        expect_echo();
    }

    template <class T>
    [[nodiscard]] static std::span<const std::byte> bytes_of(const T& object) {
        return std::as_bytes(std::span(&object, 1));
    }

    EchoDevice device_;
    std::unique_ptr<SessionHost> host_;
    driver::GuestMemory memory_;
    std::optional<driver::Frontend> frontend_;
    driver::RunningDevice running_;
    std::map<size_t, EchoBuffers> buffers_;
};

}  // namespace outrigger::testing
