// SPDX-License-Identifier: Apache-2.0
/// The fixture of tests of the back-end channel: the echo device has every ability, and the front
/// end takes every protocol feature that is offered unless a test says otherwise.
#pragma once

#include <future>
#include <memory>
#include <optional>
#include <utility>

#include "tests/support/session_test.h"
#include "tools/driver/channel_end.h"

namespace outrigger::testing {

using wire::BackendRequest;
using wire::ProtocolFeature;

[[nodiscard]] constexpr uint32_t number(BackendRequest request) {
    return static_cast<uint32_t>(request);
}

/// What a Frontend's callback was given.
using Done = std::future<Result<void, FrontendError>>;
using Found = std::future<Result<UniqueFd, FrontendError>>;

class ChannelTest : public SessionTest {
  protected:
    /// But GPA_ADDRESSES: the tests name rings by user addresses.
    static constexpr FeatureSet kEverything =
        FeatureSet(~uint64_t{0}).without(bit(ProtocolFeature::kGpaAddresses));
    static constexpr uint64_t kPage = 65536;  // a multiple of every page size that there is

    ChannelTest() : ChannelTest(SessionHostOptions{}) {}

    explicit ChannelTest(const EchoDeviceOptions& device)
        : SessionTest(device, SessionHostOptions{}) {}

    explicit ChannelTest(const SessionHostOptions& host)
        : SessionTest({.has_abilities = true}, host) {}

    [[nodiscard]] static driver::BringUpOptions everything_without(ProtocolFeature feature) {
        return {.protocol_features = kEverything.without(bit(feature))};
    }

    /// Rings run; then the channel comes.
    void run_with_channel(const driver::BringUpOptions& options = {
                              .protocol_features = kEverything}) {
        run(options);
        ASSERT_FALSE(HasFatalFailure());
        open_channel();
    }

    void open_channel() {
        auto opened = driver::ChannelEnd::open(frontend());
        ASSERT_TRUE(opened) << describe(opened.error());
        channel_.emplace(*std::move(opened));
        channel_->set_time_limit(kPatience);
        // Where nothing is acknowledged, its answer says that the channel is there.
        EXPECT_TRUE(frontend().get_features());
    }

    [[nodiscard]] driver::ChannelEnd& channel() { return *channel_; }

    /// The next request, which must be that one.
    [[nodiscard]] wire::Message expect_request(BackendRequest request) {
        auto message = channel().receive();
        if (!message || message->header.request != number(request)) {
            ADD_FAILURE() << "no request " << number(request) << " but "
                          << (message ? std::to_string(message->header.request)
                                      : std::string(describe(message.error())));
            return {};
        }
        return *std::move(message);
    }

    template <class T>
    [[nodiscard]] static T payload_as(const wire::Message& message) {
        T object{};
        EXPECT_EQ(message.payload.size(), sizeof object);
        if (message.payload.size() == sizeof object) {
            std::memcpy(&object, message.payload.data(), sizeof object);
        }
        return object;
    }

    /// Runs what the control thread was posted so far.
    void settle() {
        host_->on_control([] {});
    }

    // --- What the device asks ------------------------------------------------------------------

    template <class Value, class Ask>
    [[nodiscard]] std::future<Result<Value, FrontendError>> ask(Ask ask) {
        auto promise = std::make_shared<std::promise<Result<Value, FrontendError>>>();
        auto future = promise->get_future();
        const auto device_frontend = device_.frontend();
        EXPECT_NE(device_frontend, nullptr);
        EXPECT_TRUE(ask(*device_frontend, [promise](Result<Value, FrontendError> result) {
            promise->set_value(std::move(result));
        }));
        return future;
    }

    [[nodiscard]] Done add(const Uuid& object) {
        return ask<void>(
            [&](Frontend& to, auto done) { return to.add_shared_object(object, std::move(done)); });
    }

    [[nodiscard]] Done remove(const Uuid& object) {
        return ask<void>([&](Frontend& to, auto done) {
            return to.remove_shared_object(object, std::move(done));
        });
    }

    [[nodiscard]] Found look_up(const Uuid& object) {
        return ask<UniqueFd>([&](Frontend& to, auto found) {
            return to.look_up_shared_object(object, std::move(found));
        });
    }

    [[nodiscard]] Done map(const SharedMemoryRange& range, SharedMemorySource source) {
        return ask<void>([&](Frontend& to, auto done) {
            return to.map_shared_memory(range, std::move(source), std::move(done));
        });
    }

    [[nodiscard]] Done unmap(const SharedMemoryRange& range) {
        return ask<void>([&](Frontend& to, auto done) {
            return to.unmap_shared_memory(range, std::move(done));
        });
    }

    /// A descriptor to map or to share, new for each call.
    [[nodiscard]] UniqueFd some_file() const {
        return UniqueFd(::dup(memory_.fd(memory_.regions()[0])));
    }

    template <class Value>
    [[nodiscard]] static std::optional<FrontendError> error_of(
        std::future<Result<Value, FrontendError>>& future) {
        if (future.wait_for(kPatience) != std::future_status::ready) {
            ADD_FAILURE() << "no answer came";
            return std::nullopt;
        }
        const auto result = future.get();
        return result ? std::nullopt : std::optional(result.error());
    }

    template <class Value>
    [[nodiscard]] static std::optional<FrontendError> error_of(
        std::future<Result<Value, FrontendError>>&& future) {
        return error_of(future);
    }

    std::optional<driver::ChannelEnd> channel_;
};

inline constexpr std::optional<FrontendError> kNoError = std::nullopt;

}  // namespace outrigger::testing
