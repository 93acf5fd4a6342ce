// SPDX-License-Identifier: Apache-2.0
// Rows 1 to 10 of the catalogue: bytes, descriptors and features.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/integration/catalogue.h"
#include "tests/support/process_counts.h"

namespace outrigger::testing {

NoMoreDescriptors::NoMoreDescriptors() {
    OUTRIGGER_ASSERT(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
    const UniqueFd lowest_free(::dup(0));
    const rlimit none{.rlim_cur = static_cast<rlim_t>(lowest_free.get()),
                      .rlim_max = before_.rlim_max};
    OUTRIGGER_ASSERT(::setrlimit(RLIMIT_NOFILE, &none) == 0);
}

NoMoreDescriptors::~NoMoreDescriptors() {
    (void)::setrlimit(RLIMIT_NOFILE, &before_);
}

namespace {

using wire::Header;

constexpr uint32_t kSetVringNum = number(FrontendRequest::kSetVringNum);
constexpr uint32_t kSetOwner = number(FrontendRequest::kSetOwner);

TEST_F(Catalogue, Row01PayloadAboveTheLargestMessageCloses) {
    const Header header{
        .request = kSetOwner, .flags = wire::kVersion, .size = wire::kPayloadBytesMax + 1};
    EXPECT_EQ(frontend().send(header), Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kTooLarge);
}

TEST_F(Catalogue, Row01PayloadOfTheLargestNumberCloses) {
    const Header header{.request = kSetOwner, .flags = wire::kVersion, .size = 0xffff'ffff};
    EXPECT_EQ(frontend().send(header), Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kTooLarge);
}

TEST_F(Catalogue, Row01PayloadOneByteShortOfTheTypesSizeCloses) {
    const std::vector<std::byte> payload(sizeof(wire::VringState) - 1);
    EXPECT_EQ(
        frontend().send({.request = kSetVringNum, .flags = wire::kVersion, .size = 7}, payload),
        Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kPayloadSize);
}

TEST_F(Catalogue, Row01PayloadOneByteLongerThanTheTypesSizeCloses) {
    const std::vector<std::byte> payload(sizeof(wire::VringState) + 1);
    EXPECT_EQ(
        frontend().send({.request = kSetVringNum, .flags = wire::kVersion, .size = 9}, payload),
        Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kPayloadSize);
}

TEST_F(Catalogue, Row01PayloadWhereThereIsNoneCloses) {
    const std::vector<std::byte> payload(1);
    EXPECT_EQ(frontend().send({.request = kSetOwner, .flags = wire::kVersion, .size = 1}, payload),
              Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kPayloadSize);
}

class CatalogueVersions : public Catalogue, public ::testing::WithParamInterface<uint32_t> {};

TEST_P(CatalogueVersions, Row02OtherVersionsClose) {
    EXPECT_EQ(frontend().send({.request = kSetOwner, .flags = GetParam(), .size = 0}),
              Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kBadVersion);
}

INSTANTIATE_TEST_SUITE_P(Versions, CatalogueVersions, ::testing::Values(0U, 2U, 3U));

TEST_F(Catalogue, Row02ReplyFlagOfTheFrontEndCloses) {
    const uint32_t flags = wire::kVersion | wire::kFlagReply;
    EXPECT_EQ(frontend().send({.request = kSetOwner, .flags = flags, .size = 0}), Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kUnexpectedReply);
}

TEST_F(Catalogue, Row03HeaderThatEndsHalfwayCloses) {
    const Header header{.request = kSetOwner, .flags = wire::kVersion, .size = 0};
    EXPECT_EQ(frontend().send_bytes(bytes_of(header).first(11)), Answer::kUnasked);
    frontend().finish_sending();
    expect_close_and_next_session(CloseReason::kEndedMidMessage);
}

TEST_F(Catalogue, Row03PayloadThatEndsHalfwayCloses) {
    const std::vector<std::byte> half(4);
    EXPECT_EQ(frontend().send({.request = kSetVringNum, .flags = wire::kVersion, .size = 8}, half),
              Answer::kUnasked);
    frontend().finish_sending();
    expect_close_and_next_session(CloseReason::kEndedMidMessage);
}

TEST_F(Catalogue, Row03EndBetweenTwoMessagesIsAnOrdinaryHangUp) {
    EXPECT_EQ(frontend().set_owner(), Answer::kUnasked);
    frontend().finish_sending();
    expect_close_and_next_session(CloseReason::kPeerClosed);
}

TEST_F(Catalogue, Row04ByteAtATimeSenderIsServed) {
    negotiate();
    const wire::VringState state{.index = 0, .num = 64};
    const Header header{.request = kSetVringNum,
                        .flags = wire::kVersion | wire::kFlagNeedReply,
                        .size = sizeof state};
    for (const auto part : {bytes_of(header), bytes_of(state)}) {
        for (const std::byte& byte : part) {
            EXPECT_EQ(frontend().send_bytes({&byte, 1}), Answer::kUnasked);
        }
    }
    EXPECT_EQ(frontend().receive_ack(kSetVringNum), Answer::kAccepted);
    expect_echo();
}

class CatalogueImpatient : public Catalogue {
  protected:
    CatalogueImpatient()
        : Catalogue(
              EchoDeviceOptions{},
              SessionHostOptions{.session = {.message_timeout = std::chrono::milliseconds(100)}}) {}
};

TEST_F(CatalogueImpatient, Row04MessageThatIsNotFinishedInTimeCloses) {
    const Header header{.request = kSetOwner, .flags = wire::kVersion, .size = 0};
    EXPECT_EQ(frontend().send_bytes(bytes_of(header).first(5)), Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kStalled);
}

TEST_F(CatalogueImpatient, Row04SilenceBetweenTwoMessagesIsNoStall) {
    negotiate();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    expect_echo();
    EXPECT_EQ(counters().closed.total(), 0U);
}

TEST_F(Catalogue, Row05MoreDescriptorsThanAMessageCanCarryClose) {
    const ProcessCounts before = ProcessCounts::now();
    const std::vector<int> fds(wire::kMessageFdsMax + 1, frontend().socket());
    EXPECT_EQ(frontend().send({.request = kSetOwner, .flags = wire::kVersion, .size = 0}, {}, fds),
              Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kTooManyFds);
    // Two of the next session's rings have three each; none of the 33 is left.
    queues().clear();
    buffers_.clear();
    EXPECT_TRUE(
        eventually([&] { return ProcessCounts::now().descriptors <= before.descriptors + 3; }));
}

TEST_F(Catalogue, Row05DescriptorOnAMessageThatTakesNoneCloses) {
    const int fd = frontend().socket();
    EXPECT_EQ(
        frontend().send({.request = kSetOwner, .flags = wire::kVersion, .size = 0}, {}, {&fd, 1}),
        Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kFdCount);
}

TEST_F(Catalogue, Row05SecondDescriptorOfARingCloses) {
    const uint64_t index = 0;
    const std::vector<int> fds(2, frontend().socket());
    EXPECT_EQ(frontend().send({.request = number(FrontendRequest::kSetVringCall),
                               .flags = wire::kVersion,
                               .size = sizeof index},
                              bytes_of(index),
                              fds),
              Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kFdCount);
}

TEST_F(Catalogue, Row06DescriptorsThatCannotBeReceivedClose) {
    const auto region = first_region();
    const int fd = first_region_fd();
    driver::Frontend& connection = frontend();
    {
        const NoMoreDescriptors limit;
        (void)connection.set_mem_table(std::span(&region, 1), std::span(&fd, 1));
        EXPECT_TRUE(connection.wait_closed());
    }
    expect_close_and_next_session(CloseReason::kTooManyFds);
}

TEST_F(Catalogue, Row07DescriptorOnTheSecondByteOfAMessageCloses) {
    const Header header{.request = kSetOwner, .flags = wire::kVersion, .size = 0};
    const int fd = frontend().socket();
    EXPECT_EQ(frontend().send_bytes(bytes_of(header).first(1)), Answer::kUnasked);
    // One receive call must not take both pieces: the first has gone before the second is sent.
    ASSERT_TRUE(eventually([&] {
        int unread = 1;
        return ::ioctl(frontend().socket(), TIOCOUTQ, &unread) == 0 && unread == 0;
    }));
    EXPECT_EQ(frontend().send_bytes(bytes_of(header).subspan(1), {&fd, 1}), Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kFdsInsideMessage);
}

TEST_F(Catalogue, Row07DescriptorOnThePayloadCloses) {
    const wire::VringState state{.index = 0, .num = 64};
    const int fd = frontend().socket();
    EXPECT_EQ(
        frontend().send({.request = kSetVringNum, .flags = wire::kVersion, .size = sizeof state}),
        Answer::kUnasked);
    EXPECT_EQ(frontend().send_bytes(bytes_of(state), {&fd, 1}), Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kFdsInsideMessage);
}

TEST_F(Catalogue, Row08UnknownRequestIsRefusedWhenAnAckIsAskedFor) {
    negotiate();
    for (const uint32_t request : {0U, 46U, 1006U, 0xffff'ffffU}) {
        expect_refusal(Refusal::kUnknownRequest, [&] { return frontend().call(request); });
    }
    expect_echo();
}

TEST_F(Catalogue, Row08UnknownRequestWithoutAnAckIsCountedAndPassedOver) {
    negotiate();
    const std::vector<std::byte> payload(100);
    EXPECT_EQ(frontend().send({.request = 46, .flags = wire::kVersion, .size = 100}, payload),
              Answer::kUnasked);
    expect_echo();
    EXPECT_EQ(counters().refused.value(Refusal::kUnknownRequest), 1U);
}

TEST_F(Catalogue, Row09FeaturesThatWereNotOfferedAreRefusedAndTheOldOnesKept) {
    run();
    const auto features = running_.agreement.features;
    expect_refusal(Refusal::kFeatures,
                   [&] { return frontend().set_features(features.with(63).with(26)); });
    expect_echo();
    EXPECT_EQ(device_.negotiated(), features & EchoDeviceOptions{}.features);
}

// reliability.md 2.2: QEMU 7.2 takes EVENT_IDX for some devices whatever is offered.
TEST_F(Catalogue, Row09EventIdxIsAlwaysOfferedAndServed) {
    EXPECT_TRUE(frontend().get_features().value().has(driver::kEventIdxBit));
    run({.event_idx = true});
    expect_echo();
}

TEST_F(Catalogue, Row10EnableWithoutProtocolFeaturesIsRefused) {
    negotiate({.features = driver::kUsualFeatures.without(wire::kProtocolFeaturesBit)});
    expect_refusal(Refusal::kNotNegotiated, [&] { return frontend().set_vring_enable(0, 1); });
    // The ring is enabled from the start.
    ASSERT_TRUE(driver::share_memory(frontend(), memory_, running_.agreement));
    queues().push_back(driver::create_queue(memory_, running_.agreement, {}, 0).value());
    EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    expect_echo();
}

}  // namespace
}  // namespace outrigger::testing
