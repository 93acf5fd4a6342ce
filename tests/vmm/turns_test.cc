// SPDX-License-Identifier: Apache-2.0
// One loop serves all back ends of a machine: what one of them sends in any amount leaves turns to
// the others.
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/messages.h"

#include "vmm-lite/frontend/backend_requests.h"
#include "vmm-lite/frontend/channel.h"
#include "vmm-lite/frontend/leave_taking.h"
#include "vmm-lite/loop/event_loop.h"

namespace outrigger::testing {
namespace {

/// As many as a socket takes before somebody reads.
constexpr size_t kFlood = 200;
/// Served before somebody else has a turn.
constexpr size_t kServedMax = kFlood / 2;

void write_all(int socket, std::span<const std::byte> bytes) {
    ASSERT_EQ(::write(socket, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
}

/// Whoever has to do something at once, beside the flood.
class Other {
  public:
    Other(vmm::EventLoop& loop, const size_t& served)
        : timer_(loop.start_timer({}, [this, &served] { served_before_ = served; })) {}

    [[nodiscard]] std::optional<size_t> served_before() const { return served_before_; }

  private:
    std::optional<size_t> served_before_;
    vmm::EventLoop::Timer timer_;
};

TEST(TurnsTest, AFloodOfRequestsLeavesThemToOthers) {
    vmm::EventLoop loop;
    auto [ours, theirs] = vmm::BackendRequests::make_ends().value();
    size_t served = 0;
    vmm::BackendRequests requests(loop,
                                  std::move(ours),
                                  nullptr,
                                  {.on_config_change =
                                       [&] {
                                           if (++served == kFlood) {
                                               loop.stop();
                                           }
                                       },
                                   .on_mapped = [] {},
                                   .on_violation =
                                       [&](const Error& error) {
                                           ADD_FAILURE() << error.message;
                                           loop.stop();
                                       }});
    requests.set_agreed(FeatureSet::of({wire::bit(wire::ProtocolFeature::kConfig),
                                        wire::bit(wire::ProtocolFeature::kBackendReq)}));
    const wire::Header request{
        .request = static_cast<uint32_t>(wire::BackendRequest::kConfigChangeMsg),
        .flags = wire::kVersion,
        .size = 0};
    for (size_t i = 0; i < kFlood; ++i) {
        write_all(theirs.get(), std::as_bytes(std::span(&request, 1)));
    }
    const Other other(loop, served);
    loop.run();
    EXPECT_EQ(served, kFlood);
    ASSERT_TRUE(other.served_before());
    EXPECT_LE(*other.served_before(), kServedMax);
}

TEST(TurnsTest, AFloodOfRepliesLeavesThemToOthers) {
    vmm::EventLoop loop;
    auto [ours, theirs] = vmm::BackendRequests::make_ends().value();
    size_t served = 0;
    vmm::Channel channel(loop, std::move(ours), {}, [&](const Error& error) {
        ADD_FAILURE() << error.message;
        loop.stop();
    });

    struct {
        wire::Header header{.request = static_cast<uint32_t>(wire::FrontendRequest::kGetFeatures),
                            .flags = wire::kVersion | wire::kFlagReply,
                            .size = sizeof(uint64_t)};
        std::array<std::byte, sizeof(uint64_t)> features{};
    } const reply;

    for (size_t i = 0; i < kFlood; ++i) {
        channel.send({.number = wire::FrontendRequest::kGetFeatures,
                      .on_reply = [&](wire::Message& /*reply*/) -> Result<void> {
                          if (++served == kFlood) {
                              loop.stop();
                          }
                          return {};
                      }});
        write_all(theirs.get(), std::as_bytes(std::span(&reply, 1)));
    }
    const Other other(loop, served);
    loop.run();
    EXPECT_EQ(served, kFlood);
    ASSERT_TRUE(other.served_before());
    EXPECT_LE(*other.served_before(), kServedMax);
}

/// A back end that was left, at the other end of a socket that the loop has.
class LeftBackend {
  public:
    LeftBackend() {
        auto [ours, theirs] = vmm::BackendRequests::make_ends().value();
        theirs_ = std::move(theirs);
        leave_ = vmm::LeaveTaking::begin(loop_, std::move(ours), [this] {
            gone_ = true;
            loop_.stop();
        });
    }

    /// Writes in every turn of the loop, until it has written so much or nobody has read for long.
    void talk(size_t bytes_max) {
        const ssize_t written = ::send(theirs_.get(), words_.data(), words_.size(), MSG_DONTWAIT);
        written_ += written > 0 ? static_cast<size_t>(written) : 0;
        unread_turns_ = written > 0 ? 0 : unread_turns_ + 1;
        if (written_ < bytes_max && unread_turns_ < 1000) {
            loop_.post([this, bytes_max] { talk(bytes_max); });
        } else {
            loop_.stop();
        }
    }

    vmm::EventLoop loop_;
    UniqueFd theirs_;
    std::unique_ptr<vmm::LeaveTaking> leave_;
    std::array<std::byte, 16384> words_{};
    size_t written_ = 0;
    int unread_turns_ = 0;
    bool gone_ = false;
};

TEST(TurnsTest, WhatALeftBackEndSaysIsNotReadForEver) {
    LeftBackend backend;
    ASSERT_NE(backend.leave_, nullptr);
    constexpr size_t kMuch = size_t{64} << 20;
    backend.talk(kMuch);
    backend.loop_.run();
    EXPECT_LT(backend.written_, kMuch);
    EXPECT_FALSE(backend.gone_) << "it has let go of nothing";
}

TEST(TurnsTest, ALeftBackEndThatSaysItsLastWordsIsGone) {
    LeftBackend backend;
    ASSERT_NE(backend.leave_, nullptr);
    write_all(backend.theirs_.get(), backend.words_);
    backend.theirs_.reset();
    backend.loop_.run();
    EXPECT_TRUE(backend.gone_);
}

}  // namespace
}  // namespace outrigger::testing
