// SPDX-License-Identifier: Apache-2.0
/// A machine whose devices have scripted back ends.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include <signal.h>

#include <gtest/gtest.h>

#include "tests/vmm/proxy_host.h"
#include "tests/vmm/scripted_backend.h"

namespace outrigger::testing {

using enum wire::FrontendRequest;
using Phase = vmm::RemoteDevice::Phase;

/// Short, so that silence is found soon; nothing here is that slow by itself but a machine under
/// load, where a good back end is then taken for a silent one, and the test for failed.
inline constexpr vmm::Deadlines kShort = {.message = std::chrono::milliseconds(400),
                                          .drain = std::chrono::milliseconds(500),
                                          .start = std::chrono::milliseconds(3000),
                                          .state = std::chrono::milliseconds(500)};
inline constexpr vmm::Deadlines kPatient = {.message = std::chrono::milliseconds(20000),
                                            .drain = std::chrono::milliseconds(20000),
                                            .start = std::chrono::milliseconds(20000),
                                            .state = std::chrono::milliseconds(20000)};

class HostileBackendTest : public ::testing::Test {
  protected:
    void SetUp() override { ::signal(SIGPIPE, SIG_IGN); }

    void TearDown() override {
        host_.reset();
        backends_.clear();
    }

    /// Without a reconnect: each script but the first is one.
    [[nodiscard]] Result<void> connect(std::vector<Script> scripts,
                                       const vmm::Deadlines& deadlines = kPatient,
                                       bool shared_memory = false) {
        host_ = std::make_unique<ProxyHost>(ProxyHost::Options{
            .source = std::make_unique<ScriptedSource>(std::move(scripts), backends_),
            .shared_memory = shared_memory,
            .deadlines = deadlines});
        return host_->connect();
    }

    /// Everything that a driver does with its device. The error of whatever went wrong first.
    std::string whole_life(const Script& script, const vmm::Deadlines& deadlines) {
        if (const auto connected = connect({script}, deadlines); !connected) {
            return connected.error().message;
        }
        host_->activate({.count = 1});
        EXPECT_TRUE(eventually([&] {
            const Phase phase = host_->status().phase;
            return phase == Phase::kRunning || phase == Phase::kLost;
        }));
        EXPECT_TRUE(host_->reset()) << "the driver waits for ever";
        // What was sent unasked may be on its way.
        if (script.misdeed != Misdeed::kNone) {
            (void)eventually([&] { return host_->status().phase == Phase::kLost; });
        }
        return host_->status().last_loss;
    }

    [[nodiscard]] ScriptedBackend& backend(size_t index = 0) { return backends_.at(index); }

    ScriptedBackends backends_;
    std::unique_ptr<ProxyHost> host_;
};

}  // namespace outrigger::testing
