// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/frontend.h"

#include <cstring>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/wire/fd_passing.h"

#include "tools/driver/driver_queue.h"

namespace outrigger::driver {
namespace {

using wire::FrontendRequest;

constexpr uint32_t number(FrontendRequest request) {
    return static_cast<uint32_t>(request);
}

// Answers are put into the socket before they are asked for: no thread is needed.
class FrontendTest : public ::testing::Test {
  protected:
    void SetUp() override {
        auto pair = create_connected_pair().value();
        frontend_.emplace(std::move(pair.first));
        peer_ = std::move(pair.second);
        frontend_->set_time_limit(std::chrono::milliseconds(50));
    }

    void put_u64(FrontendRequest request, uint64_t value, uint32_t flags = 5) {
        put({.request = number(request), .flags = flags, .size = sizeof value},
            std::as_bytes(std::span(&value, 1)));
    }

    void put(const wire::Header& header, std::span<const std::byte> payload) {
        ASSERT_TRUE(
            wire::send_all(peer_.get(), std::as_bytes(std::span(&header, 1)), payload, {}, 1000));
    }

    std::vector<uint8_t> take_bytes() {
        std::vector<uint8_t> bytes(4096);
        const ssize_t count = ::recv(peer_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        bytes.resize(count > 0 ? static_cast<size_t>(count) : 0);
        return bytes;
    }

    std::optional<Frontend> frontend_;
    UniqueFd peer_;
};

TEST_F(FrontendTest, MessageIsHeaderThenPayloadInHostOrder) {
    EXPECT_EQ(frontend_->set_vring_num(1, 256), Answer::kUnasked);
    const std::vector<uint8_t> expected = {8, 0, 0, 0, 1, 0, 0, 0, 8, 0,
                                           0, 0, 1, 0, 0, 0, 0, 1, 0, 0};
    EXPECT_EQ(take_bytes(), expected);
}

TEST_F(FrontendTest, AcknowledgementIsAskedForOnceNegotiated) {
    const auto reply_ack = FeatureSet::of({bit(wire::ProtocolFeature::kReplyAck)});
    EXPECT_EQ(frontend_->set_protocol_features(reply_ack), Answer::kUnasked);
    (void)take_bytes();
    put_u64(FrontendRequest::kSetOwner, 0);
    EXPECT_EQ(frontend_->set_owner(), Answer::kAccepted);
    EXPECT_EQ(take_bytes().at(4), 9);
}

TEST_F(FrontendTest, RefusalIsAValue) {
    frontend_->set_ack_policy(AckPolicy::kAlways);
    put_u64(FrontendRequest::kSetOwner, 22);
    EXPECT_EQ(frontend_->set_owner(), Answer::kRefused);
    EXPECT_EQ(frontend_->last_ack(), 22U);
}

TEST_F(FrontendTest, SilenceEndsAtTheTimeLimit) {
    frontend_->set_ack_policy(AckPolicy::kAlways);
    EXPECT_EQ(frontend_->set_owner(), Answer::kTimeout);
    EXPECT_EQ(frontend_->get_features().error(), Answer::kTimeout);
}

TEST_F(FrontendTest, HangUpIsAValue) {
    peer_.reset();
    EXPECT_EQ(frontend_->set_owner(), Answer::kClosed);
    EXPECT_TRUE(frontend_->wait_closed());
}

TEST_F(FrontendTest, AnOpenConnectionIsNotClosed) {
    EXPECT_FALSE(frontend_->wait_closed());
}

TEST_F(FrontendTest, InputIsLookedForWithoutWaiting) {
    EXPECT_FALSE(frontend_->has_input());
    put_u64(FrontendRequest::kGetFeatures, 1);
    EXPECT_TRUE(frontend_->has_input());
}

TEST_F(FrontendTest, ReplyToAnotherRequestIsMalformed) {
    put_u64(FrontendRequest::kGetQueueNum, 1);
    EXPECT_EQ(frontend_->get_features().error(), Answer::kMalformed);
}

TEST_F(FrontendTest, ReplyWithoutTheReplyFlagIsMalformed) {
    put_u64(FrontendRequest::kGetFeatures, 1, 1);
    EXPECT_EQ(frontend_->get_features().error(), Answer::kMalformed);
}

TEST_F(FrontendTest, ReplyOfTheWrongSizeIsMalformed) {
    const uint32_t half = 1;
    put({.request = number(FrontendRequest::kGetFeatures), .flags = 5, .size = sizeof half},
        std::as_bytes(std::span(&half, 1)));
    EXPECT_EQ(frontend_->get_features().error(), Answer::kMalformed);
}

TEST_F(FrontendTest, VringBaseOfAnotherRingIsMalformed) {
    const wire::VringState state{.index = 1, .num = 5};
    put({.request = number(FrontendRequest::kGetVringBase), .flags = 5, .size = sizeof state},
        std::as_bytes(std::span(&state, 1)));
    EXPECT_EQ(frontend_->get_vring_base(0).error(), Answer::kMalformed);
}

TEST_F(FrontendTest, FailedConfigurationReadIsEmpty) {
    put({.request = number(FrontendRequest::kGetConfig), .flags = 5, .size = 0}, {});
    EXPECT_TRUE(frontend_->get_config(0, 8).value().empty());
}

TEST_F(FrontendTest, MissingKickDescriptorIsSaidInBit8) {
    EXPECT_EQ(frontend_->set_vring_kick(3, -1), Answer::kUnasked);
    const auto bytes = take_bytes();
    EXPECT_EQ(bytes.at(12), 3);
    EXPECT_EQ(bytes.at(13), 1);
}

TEST_F(FrontendTest, DescriptorsTravelWithTheFirstByte) {
    const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const std::vector<int> fds(40, null.get());
    const wire::Header header{.request = 3, .flags = 1, .size = 0};
    EXPECT_EQ(frontend_->send(header, {}, std::span(fds).first(2)), Answer::kUnasked);
    std::array<std::byte, 12> bytes{};
    EXPECT_EQ(wire::receive_some(peer_.get(), bytes).fds.size(), 2U);
    // A hostile front end is not held back by what a message may carry.
    EXPECT_EQ(frontend_->send(header, {}, fds), Answer::kUnasked);
    EXPECT_EQ(wire::receive_some(peer_.get(), bytes).status, wire::ReceiveStatus::kFdsTruncated);
}

TEST_F(FrontendTest, SendingEndsAtTheTimeLimitWhenThePeerDoesNotRead) {
    const std::vector<std::byte> much(16 << 20);
    EXPECT_EQ(frontend_->send_bytes(much), Answer::kTimeout);
}

TEST(FrontendConnect, FailsWithANameWhenNobodyListens) {
    const auto frontend =
        Frontend::connect("/nonexistent/socket", after(std::chrono::milliseconds(20)));
    ASSERT_FALSE(frontend);
    EXPECT_NE(frontend.error().message.find("/nonexistent/socket"), std::string::npos);
}

TEST(DriverQueue, WaitEndsAtTheDeadlineWithoutACall) {
    auto memory = GuestMemory::create(1 << 20).value();
    auto queue = DriverQueue::create(memory, {}).value();
    EXPECT_EQ(queue.wait_used(after(std::chrono::milliseconds(10))), WaitResult::kTimeout);
}

TEST(DriverQueue, WaitTellsOfASignalledError) {
    auto memory = GuestMemory::create(1 << 20).value();
    auto queue = DriverQueue::create(memory, {.notifier = Notifier::Kind::kPipe}).value();
    (void)send_notification(queue.error_fd());
    EXPECT_EQ(queue.wait_used(after(std::chrono::seconds(5))), WaitResult::kRingError);
}

TEST(DriverQueue, AddressesAreUserAddressesOfTheRightAreas) {
    auto memory = GuestMemory::create(1 << 20).value();
    auto queue = DriverQueue::create(memory, {.index = 2}).value();
    const auto payload = queue.vring_address(memory);
    const RingAddresses& ring = queue.split()->addresses();
    EXPECT_EQ(payload.index, 2U);
    EXPECT_EQ(FrontendAddr{payload.descriptor}, *memory.user_address(ring.descriptor_area));
    EXPECT_EQ(FrontendAddr{payload.available}, *memory.user_address(ring.driver_area));
    EXPECT_EQ(FrontendAddr{payload.used}, *memory.user_address(ring.device_area));
}

}  // namespace
}  // namespace outrigger::driver
