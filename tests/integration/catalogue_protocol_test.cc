// SPDX-License-Identifier: Apache-2.0
// Rows 20 and 23 to 32 of the catalogue of malicious input: what belongs to migration, to in-flight
// tracking and to the back-end channel.
#include <array>
#include <limits>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/base/shared_memory.h"

#include "tests/integration/catalogue.h"
#include "tests/support/channel_test.h"
#include "tests/support/process_counts.h"
#include "tests/support/state_pipe.h"

namespace outrigger::testing {
namespace {

constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();

/// Nothing of this is offered yet: refusals must be clean, and leave nothing behind.
class CatalogueProtocol : public ChannelTest {
  protected:
    void expect_nothing_left(const ProcessCounts& before) {
        EXPECT_TRUE(frontend().get_features());
        EXPECT_TRUE(eventually([&] { return ProcessCounts::now() == before; }));
    }

    [[nodiscard]] int any_file() const { return memory_.fd(memory_.regions()[0]); }
};

// Decision 4 of ARCHITECTURE.md: this one request is taken, because front ends send it.
TEST_F(CatalogueProtocol, Row20SetVringKickOnARunningRingReplacesTheDescriptor) {
    run();
    const auto other = Notifier::create().value();
    EXPECT_EQ(frontend().set_vring_kick(0, other.read_fd()), Answer::kAccepted);
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish();
    other.signal();
    EXPECT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_EQ(counters().rings_started.value(), 1U);
}

// SET_LOG_BASE has a reply that is data and nothing else, so what cannot be closes (decision 5).
class CatalogueLog : public CatalogueProtocol, public ::testing::WithParamInterface<wire::Log> {};

INSTANTIATE_TEST_SUITE_P(Logs,
                         CatalogueLog,
                         ::testing::Values(wire::Log{.size = kHuge, .offset = kHuge},
                                           wire::Log{.size = kHuge - 4095, .offset = 4096},
                                           wire::Log{.size = 0, .offset = 0},
                                           wire::Log{.size = 4096, .offset = kHuge},
                                           wire::Log{.size = 1ULL << 40, .offset = 0}));

TEST_P(CatalogueLog, Row23LogThatCannotBeIsRefused) {
    run({.protocol_features = kEverything});
    EXPECT_EQ(frontend().set_log_base(GetParam(), any_file()), Answer::kClosed);
    EXPECT_EQ(counters().refused.value(Refusal::kDirtyLog), 1U);
    expect_close_and_next_session(CloseReason::kRefused);
}

TEST_F(CatalogueProtocol, Row23LogDescriptorThatCannotBeIsRefused) {
    run({.protocol_features = kEverything});
    const ProcessCounts before = ProcessCounts::now();
    EXPECT_EQ(frontend().set_log_fd(any_file()), Answer::kRefused);
    expect_nothing_left(before);
    expect_echo();
}

TEST_F(CatalogueProtocol, Row24LogTooSmallBreaksTheRing) {
    run({.protocol_features = kEverything});
    const UniqueFd log = create_shared_memory("log", 1).value();
    EXPECT_EQ(frontend().set_log_base({.size = 1, .offset = 0}, log.get()), Answer::kAccepted);
    EXPECT_EQ(frontend().set_features(running_.agreement.features.with(wire::kLogAllBit)),
              Answer::kAccepted);
    EXPECT_TRUE(eventually([&] { return counters().rings_broken.total() == 1; }));
    EXPECT_EQ(counters().rings_broken.value(RingError::kDirtyLog), 1U);
    EXPECT_EQ(frontend().set_features(running_.agreement.features), Answer::kAccepted);
    EXPECT_TRUE(queue().stop(frontend()));
    queue().reset();
    EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    expect_echo();
}

TEST_F(CatalogueProtocol, Row25InflightRegionThatCannotBeIsRefused) {
    run({.protocol_features = kEverything});
    const ProcessCounts before = ProcessCounts::now();
    for (const wire::Inflight inflight :
         {wire::Inflight{.mmap_size = 4096,
         .mmap_offset = 0,
         .queue_count = 65535,
         .queue_size = 65535,
         .padding = 0},
          wire::Inflight{
              .mmap_size = 1, .mmap_offset = 0, .queue_count = 2, .queue_size = 256, .padding = 0},
          wire::Inflight{.mmap_size = kHuge,
          .mmap_offset = 3,
          .queue_count = 2,
          .queue_size = 256,
          .padding = 0}}) {
        EXPECT_EQ(frontend().set_inflight_fd(inflight, any_file()), Answer::kRefused);
    }
    expect_nothing_left(before);
    expect_echo();
}

// Taken as it is, because nothing is known of the rings yet; the ring that it is for is refused.
TEST_F(CatalogueProtocol, Row26RingWithAnInflightBufferOfRandomBytesIsRefused) {
    negotiate({.protocol_features = kEverything});
    const UniqueFd file = create_shared_memory("noise", 65536).value();
    const std::vector<std::byte> noise(65536, std::byte{0xa5});
    ASSERT_EQ(::pwrite(file.get(), noise.data(), noise.size(), 0), ssize_t{65536});
    EXPECT_EQ(frontend().set_inflight_fd({.mmap_size = 65536,
                                          .mmap_offset = 0,
                                          .queue_count = 1,
                                          .queue_size = 64,
                                          .padding = 0},
                                         file.get()),
              Answer::kAccepted);
    const auto running = driver::bring_up(frontend(), memory_, {.protocol_features = kEverything});
    ASSERT_FALSE(running);
    EXPECT_EQ(running.error().answer, Answer::kRefused);
    EXPECT_EQ(counters().refused.value(Refusal::kInflightLog), 1U);
    // Another buffer, and it starts.
    ASSERT_TRUE(frontend().get_inflight_fd(1, 64));
    const auto kick = Notifier::create().value();
    EXPECT_EQ(frontend().set_vring_kick(0, kick.read_fd()), Answer::kAccepted);
    EXPECT_EQ(counters().rings_started.value(), 1U);
}

TEST_F(CatalogueProtocol, Row27FloodOfGetInflightLeavesNothing) {
    negotiate({.protocol_features = kEverything});
    const ProcessCounts before = ProcessCounts::now();
    for (int i = 0; i < 1000; ++i) {
        const auto region = frontend().get_inflight_fd(2, 1024);
        ASSERT_TRUE(region);
        EXPECT_GT(region->description.mmap_size, 2 * 1024 * sizeof(uint64_t) * 4);
    }
    // The last one is kept.
    EXPECT_TRUE(
        eventually([&] { return ProcessCounts::now().descriptors == before.descriptors + 1; }));
    const wire::Inflight wish{
        .mmap_size = 0, .mmap_offset = 0, .queue_count = 2, .queue_size = 1024, .padding = 0};
    std::vector<std::byte> flood;
    const wire::Header header{.request = number(FrontendRequest::kGetInflightFd),
                              .flags = wire::kVersion,
                              .size = sizeof wish};
    for (int i = 0; i < 100'000; ++i) {
        flood.insert(flood.end(), bytes_of(header).begin(), bytes_of(header).end());
        flood.insert(flood.end(), bytes_of(wish).begin(), bytes_of(wish).end());
    }
    // Nobody reads the answers.
    (void)frontend().send_bytes(flood);
    EXPECT_TRUE(frontend().wait_closed());
    EXPECT_EQ(host_->wait_closed(), CloseReason::kReplyNotTaken);
    // Both ends of the connection were there before.
    frontend().close();
    EXPECT_TRUE(eventually([&] { return ProcessCounts::now().descriptors < before.descriptors; }));
    reconnect();
    expect_echo();
}

TEST_F(CatalogueProtocol, Row28GetConfigOutsideTheSpaceFailsWithAnEmptyReply) {
    negotiate({.protocol_features = kEverything});
    // Offset and size of the header; the payload is as long as the size says.
    const auto ask = [&](uint32_t offset, uint32_t size) {
        return frontend().get_config(offset, size);
    };
    EXPECT_TRUE(ask(0xffff'ffff, 256).value().empty());
    EXPECT_TRUE(ask(512, 1).value().empty());
    EXPECT_TRUE(ask(255, 2).value().empty());
    EXPECT_TRUE(ask(0, 0).value().empty());
    EXPECT_EQ(counters().refused.value(Refusal::kConfigRange), 4U);
    expect_echo();
}

TEST_F(CatalogueProtocol, Row28SetConfigOutsideTheSpaceOrOfAReadOnlyFieldIsRefused) {
    negotiate({.protocol_features = kEverything});
    const std::array<std::byte, 2> two{};
    const auto set = [&](uint32_t offset, size_t size) {
        return [this, &two, offset, size] {
            return frontend().set_config(offset, std::span(two).first(size));
        };
    };
    expect_refusal(Refusal::kConfigRange, set(0xffff'ffff, 2));
    expect_refusal(Refusal::kConfigRange, set(31, 2));
    expect_refusal(Refusal::kConfigRange, set(8, 0));
    expect_refusal(Refusal::kConfigValue, set(0, 1));
    expect_echo();
}

TEST_F(CatalogueProtocol, Row28ConfigSizeThatIsNotThatOfTheMessageCloses) {
    negotiate({.protocol_features = kEverything});
    const wire::ConfigHeader header{.offset = 0, .size = 300, .flags = 0};
    EXPECT_EQ(frontend().send({.request = number(FrontendRequest::kGetConfig),
                               .flags = wire::kVersion,
                               .size = sizeof header},
                              bytes_of(header)),
              Answer::kUnasked);
    expect_close_and_next_session(CloseReason::kPayloadSize);
}

TEST_F(CatalogueProtocol, Row29DeviceStateWhileARingRunsIsRefused) {
    run({.protocol_features = kEverything});
    const ProcessCounts before = ProcessCounts::now();
    EXPECT_NE(begin_transfer(frontend(), kSaveState, any_file()), 0U);
    EXPECT_NE(begin_transfer(frontend(), kLoadState, any_file()), 0U);
    EXPECT_EQ(counters().refused.value(Refusal::kState), 2U);
    expect_nothing_left(before);
    expect_echo();
}

TEST_F(CatalogueProtocol, Row29DeviceStateOfAnotherDirectionPhaseOrChannelIsRefused) {
    negotiate({.protocol_features = kEverything});
    EXPECT_NE(begin_transfer(frontend(), {.direction = 2, .phase = 0}, any_file()), 0U);
    EXPECT_NE(begin_transfer(frontend(), {.direction = 0, .phase = 0xffff'ffff}, any_file()), 0U);
    EXPECT_EQ(counters().refused.value(Refusal::kStateTransfer), 2U);
    // Never readable to an end.
    const UniqueFd zero(::open("/dev/zero", O_RDWR | O_CLOEXEC));
    EXPECT_NE(begin_transfer(frontend(), kLoadState, zero.get()), 0U);
    EXPECT_EQ(counters().refused.value(Refusal::kStateChannel), 1U);
    EXPECT_EQ(frontend().reset_device(), Answer::kAccepted);
    expect_echo();
}

TEST_F(CatalogueProtocol, Row29DeviceStateOfAGibibyteIsCutOff) {
    negotiate({.protocol_features = kEverything});
    UniqueFd pipe = begin_pipe(frontend(), kLoadState);
    const std::string piece(size_t{1} << 20, 'x');
    int written = 0;
    while (written < 1024 && write_all(pipe.get(), piece)) {
        ++written;
    }
    EXPECT_LT(written, 80);
    EXPECT_FALSE(transfer_is_good(frontend()));
    EXPECT_EQ(frontend().reset_device(), Answer::kAccepted);
    expect_echo();
}

TEST_F(CatalogueProtocol, Row30StateThatNeverCameIsNoGoodState) {
    run({.protocol_features = kEverything});
    EXPECT_NE(frontend().check_device_state().value(), 0U);
    expect_echo();
    EXPECT_EQ(frontend().reset_device(), Answer::kAccepted);
    EXPECT_NE(frontend().check_device_state().value(), 0U);
}

TEST_F(CatalogueProtocol, Row30StateWithAnyByteChangedIsRefusedOrMeansTheSame) {
    negotiate({.protocol_features = kEverything});
    device_.set_saved_byte(7);
    const std::string good = save_state(frontend());
    ASSERT_NE(good, "");
    for (size_t at = 0; at < good.size(); ++at) {
        for (const int change : {0x01, 0x80, 0xff}) {
            std::string bad = good;
            bad[at] = static_cast<char>(bad[at] ^ change);
            device_.set_saved_byte(0);
            const bool taken = load_state(frontend(), bad);
            EXPECT_EQ(device_.saved_byte(), taken ? 7 : 0) << at;
        }
    }
    EXPECT_FALSE(load_state(frontend(), "no state"));
    EXPECT_EQ(frontend().reset_device(), Answer::kAccepted);
    expect_echo();
}

TEST_F(CatalogueProtocol, Row31IotlbAndPostcopyAreRefusedAndTheConnectionLives) {
    run({.protocol_features = kEverything});
    const wire::Iotlb iotlb{
        .iova = 0, .size = 4096, .user_address = 0, .permissions = 3, .type = 2, .padding = {}};
    const auto answer = frontend().query(number(FrontendRequest::kIotlbMsg), bytes_of(iotlb));
    ASSERT_TRUE(answer);
    EXPECT_EQ(payload_as<uint64_t>(*answer), 1U);
    const auto end = frontend().query(number(FrontendRequest::kPostcopyEnd));
    ASSERT_TRUE(end);
    EXPECT_EQ(payload_as<uint64_t>(*end), 1U);
    expect_refusal(Refusal::kNotNegotiated,
                   [&] { return frontend().call(number(FrontendRequest::kPostcopyListen)); });
    expect_echo();
}

TEST_F(CatalogueProtocol, Row31GpuSocketIsRefusedAndClosed) {
    run({.protocol_features = kEverything});
    const ProcessCounts before = ProcessCounts::now();
    const int fd = frontend().socket();
    expect_refusal(Refusal::kNotServed, [&] {
        return frontend().call(number(FrontendRequest::kGpuSetSocket), {}, {&fd, 1});
    });
    expect_nothing_left(before);
    expect_echo();
}

TEST_F(CatalogueProtocol, Row31SharedObjectThatWasNotNegotiatedIsAnsweredWithoutADescriptor) {
    run(everything_without(ProtocolFeature::kSharedObject));
    device_.share({}, any_file());
    const auto answer = frontend().get_shared_object({});
    ASSERT_TRUE(answer);
    EXPECT_FALSE(answer->valid());
    EXPECT_EQ(counters().refused.value(Refusal::kNotNegotiated), 1U);
    expect_echo();
}

// What we send there would come to us as a request, and our own replies as replies to us.
TEST_F(CatalogueProtocol, Row32ChannelThatIsTheVhostSocketItselfIsNotUsed) {
    negotiate({.protocol_features = kEverything});
    const int fd = frontend().socket();
    if (!kPortableBuild) {
        expect_refusal(Refusal::kChannelFd, [&] { return frontend().set_backend_req_fd(fd); });
        return;
    }
    // Where the ends of a pair have no names it is found out by what comes. The acknowledgement is
    // what the back end reads on its new channel: nobody else does.
    EXPECT_EQ(frontend().send({.request = number(FrontendRequest::kSetBackendReqFd),
                               .flags = wire::kVersion | wire::kFlagNeedReply,
                               .size = 0},
                              {},
                              {&fd, 1}),
              Answer::kUnasked);
    EXPECT_EQ(host_->wait_closed(), CloseReason::kChannelViolated);
    reconnect();
    expect_echo();
}

TEST_F(CatalogueProtocol, Row32FloodOfRepliesOnTheChannelCloses) {
    run_with_channel();
    const uint64_t value = 0;
    const wire::Header header{.request = number(BackendRequest::kConfigChangeMsg),
                              .flags = wire::kVersion | wire::kFlagReply,
                              .size = sizeof value};
    while (channel().send(header, bytes_of(value)) == Answer::kUnasked) {
    }
    expect_close_and_next_session(CloseReason::kChannelViolated);
}

TEST_F(CatalogueProtocol, Row32FloodOfRepliesOnTheVhostSocketCloses) {
    run_with_channel();
    const uint64_t value = 0;
    const wire::Header header{.request = number(FrontendRequest::kGetFeatures),
                              .flags = wire::kVersion | wire::kFlagReply,
                              .size = sizeof value};
    while (frontend().send(header, bytes_of(value)) == Answer::kUnasked) {
    }
    expect_close_and_next_session(CloseReason::kUnexpectedReply);
}

}  // namespace
}  // namespace outrigger::testing
