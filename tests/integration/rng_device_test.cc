// SPDX-License-Identifier: Apache-2.0
#include "devices/rng/rng_device.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/mapping.h"

#include "tests/support/session_host.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::rng {
namespace {

using driver::Segment;
using testing::eventually;
using testing::kPatience;

/// Gives what the test puts in, and nothing of its own.
class ScriptedSource final : public EntropySource {
  public:
    explicit ScriptedSource(UniqueFd pipe) : pipe_(std::move(pipe)) {}

    Result<size_t> read_now(std::span<std::byte> out) override {
        const ssize_t count = ::read(pipe_.get(), out.data(), out.size());
        if (count > 0) {
            return static_cast<size_t>(count);
        }
        if (count < 0) {
            return size_t{0};
        }
        return failure(Error{.message = "ended"});
    }

    int readable_fd() const override { return pipe_.get(); }

    std::string_view name() const override { return "scripted"; }

  private:
    UniqueFd pipe_;
};

class RngDeviceTest : public ::testing::TestWithParam<bool> {
  protected:
    static constexpr uint64_t kMemoryBytes = 4 << 20;
    static constexpr FeatureSet kProtocolFeatures =
        driver::kUsualProtocolFeatures.with(bit(wire::ProtocolFeature::kInflightShmfd));

    void serve(RngOptions options, uint16_t indirect_segments_max = 16, uint16_t queue_size = 256) {
        device_ = std::make_unique<RngDevice>(std::move(options));
        host_ = std::make_unique<testing::SessionHost>(*device_, testing::SessionHostOptions{});
        frontend_.emplace(host_->connect());
        memory_ = driver::GuestMemory::create(kMemoryBytes).value();
        auto running = driver::bring_up(*frontend_,
                                        memory_,
                                        {.protocol_features = kProtocolFeatures,
                                         .packed = GetParam(),
                                         .indirect_segments_max = indirect_segments_max,
                                         .queue_size = queue_size});
        ASSERT_TRUE(running) << running.error().step;
        running_ = *std::move(running);
    }

    void serve_getrandom() { serve({.source = make_getrandom_source()}); }

    /// Serves from a pipe whose other end is `writer_`.
    void serve_from_pipe() {
        std::array<int, 2> ends{};
        ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
        writer_.reset(ends[1]);
        serve({.source = std::make_unique<ScriptedSource>(UniqueFd(ends[0]))});
    }

    driver::DriverQueue& queue() { return running_.queues[0]; }

    Segment buffer(uint32_t bytes, bool device_writable = true) {
        return {.address = memory_.allocate(bytes, 16).value(),
                .length = bytes,
                .device_writable = device_writable};
    }

    /// Used length of one request; nullopt when it did not complete.
    std::optional<uint32_t> request(std::span<const Segment> segments,
                                    driver::ChainLayout layout = driver::ChainLayout::kDirect) {
        const auto completion = queue().transact(segments, driver::after(kPatience), layout);
        return completion ? std::optional(completion->length) : std::nullopt;
    }

    std::vector<std::byte> bytes_of(const Segment& segment) {
        std::vector<std::byte> bytes(segment.length);
        memory_.read(segment.address, bytes);
        return bytes;
    }

    std::unique_ptr<RngDevice> device_;
    std::unique_ptr<testing::SessionHost> host_;
    std::optional<driver::Frontend> frontend_;
    driver::GuestMemory memory_;
    driver::RunningDevice running_;
    UniqueFd writer_;
};

TEST_P(RngDeviceTest, FillsABufferWithDifferentBytesEachTime) {
    serve_getrandom();
    const std::array segment{buffer(64)};
    ASSERT_EQ(request(segment), 64U);
    const auto first = bytes_of(segment[0]);
    ASSERT_EQ(request(segment), 64U);
    EXPECT_NE(first, bytes_of(segment[0]));
}

TEST_P(RngDeviceTest, FillsEveryDescriptorOfAChain) {
    serve_getrandom();
    const std::array segments{buffer(1), buffer(4000), buffer(77)};
    EXPECT_EQ(request(segments, driver::ChainLayout::kIndirect), 4078U);
    const auto bytes = bytes_of(segments[1]);
    // 4000 random bytes hold more than 100 different values with all but certainty.
    std::array<bool, 256> seen{};
    for (const std::byte byte : bytes) {
        seen[std::to_integer<size_t>(byte)] = true;
    }
    EXPECT_GT(std::ranges::count(seen, true), 100);
}

TEST_P(RngDeviceTest, IgnoresReadableBytesInFrontOfTheBuffer) {
    serve_getrandom();
    const std::array segments{buffer(32, false), buffer(16)};
    EXPECT_EQ(request(segments), 16U);
}

TEST_P(RngDeviceTest, Row62ReadableBufferComesBackEmpty) {
    serve_getrandom();
    const std::array segments{buffer(32, false)};
    EXPECT_EQ(request(segments), 0U);
    EXPECT_EQ(device_->counters().empty_requests.value(), 1U);
}

TEST_P(RngDeviceTest, OneRequestGetsNoMoreThanTheLimit) {
    serve_getrandom();
    const std::array segments{buffer(1 << 20)};
    EXPECT_EQ(request(segments), RngDevice::kRequestBytesMax);
}

TEST_P(RngDeviceTest, Row62BufferOfAllButFourGibibytesGetsNoMoreThanTheLimit) {
    constexpr uint16_t kSegments = 1024;
    serve({.source = make_getrandom_source()}, kSegments, 8);
    // Only what comes first is filled; the rest names all of memory, again and again.
    std::vector<Segment> segments(
        kSegments,
        {.address = GuestAddr{0x10000}, .length = kMemoryBytes, .device_writable = true});
    segments.front() = buffer(RngDevice::kRequestBytesMax);
    segments.back().length -= 1;
    EXPECT_EQ(request(segments, driver::ChainLayout::kIndirect), RngDevice::kRequestBytesMax);
    EXPECT_EQ(host_->counters().rings_broken.total(), 0U);
}

TEST_P(RngDeviceTest, Row62BufferOfFourGibibytesBreaksTheRing) {
    constexpr uint16_t kSegments = 1024;
    serve({.source = make_getrandom_source()}, kSegments, 8);
    const std::vector<Segment> segments(
        kSegments,
        {.address = GuestAddr{0x10000}, .length = kMemoryBytes, .device_writable = true});
    EXPECT_FALSE(request(segments, driver::ChainLayout::kIndirect));
    EXPECT_TRUE(eventually(
        [&] { return host_->counters().rings_broken.value(RingError::kChainBytesTooMany) == 1; }));
    // The device can be had back.
    EXPECT_TRUE(queue().stop(*frontend_));
    queue().reset();
    EXPECT_EQ(queue().start(*frontend_, memory_), driver::Answer::kAccepted);
    EXPECT_EQ(frontend_->set_vring_enable(0, 1), driver::Answer::kAccepted);
    EXPECT_EQ(request(std::array{buffer(64)}), 64U);
}

TEST_P(RngDeviceTest, Row62FloodOfRequestsGetsWhatTheQuotaAllowsAndNoProcessor) {
    serve({.source = make_getrandom_source(),
           .limit = {.bytes_max = 1, .period = std::chrono::hours(24)}});
    const std::array segments{buffer(1 << 16)};
    constexpr uint32_t kRequests = 200;
    for (uint32_t i = 0; i < kRequests; ++i) {
        ASSERT_TRUE(queue().try_add(segments, i));
    }
    queue().publish();
    const Counter& turns = host_->worker_counters(0).turns;
    const uint64_t turns_before = turns.value();
    constexpr uint32_t kKicks = 2000;
    for (uint32_t i = 0; i < kKicks; ++i) {
        queue().kick();
    }
    ASSERT_TRUE(eventually([&] { return device_->counters().quota_waits.value() > 0; }));
    EXPECT_TRUE(eventually([&] {
        const uint64_t before = turns.value();
        testing::give_others_a_moment();
        return turns.value() == before;
    })) << "the worker does not come to rest";
    EXPECT_LT(turns.value() - turns_before, 10 * kKicks);
    EXPECT_EQ(device_->counters().kernel_bytes.value(), 1U);
    EXPECT_EQ(device_->counters().requests.value(), 1U);
    EXPECT_TRUE(queue().stop(*frontend_));
}

TEST_P(RngDeviceTest, AQuotaThatIsUsedUpDelaysButNeverGivesNothing) {
    serve({.source = make_getrandom_source(),
           .limit = {.bytes_max = 100, .period = std::chrono::milliseconds(200)}});
    const std::array segments{buffer(80)};
    EXPECT_EQ(request(segments), 80U);
    // What is left, and what came in since: the machine may be slow.
    const auto second = request(segments);
    ASSERT_TRUE(second.has_value());
    EXPECT_GE(*second, 20U);
    const auto third = request(segments);
    ASSERT_TRUE(third.has_value());
    EXPECT_GE(*third, 1U);
    EXPECT_GE(device_->counters().quota_waits.value(), 1U);
}

TEST_P(RngDeviceTest, ARingThatWaitsForItsQuotaCanBeStopped) {
    serve({.source = make_getrandom_source(),
           .limit = {.bytes_max = 1, .period = std::chrono::hours(24)}});
    const std::array segments{buffer(16)};
    EXPECT_EQ(request(segments), 1U);
    ASSERT_TRUE(queue().try_add(segments, 7));
    queue().publish_and_kick();
    ASSERT_TRUE(eventually([&] { return device_->counters().quota_waits.value() > 0; }));
    const auto base = queue().stop(*frontend_);
    EXPECT_TRUE(base.has_value());
}

TEST_P(RngDeviceTest, ADrySourceMakesTheRequestWaitUntilBytesCome) {
    serve_from_pipe();
    const std::array segments{buffer(16)};
    ASSERT_TRUE(queue().try_add(segments, 7));
    queue().publish_and_kick();
    ASSERT_TRUE(eventually([&] { return device_->counters().source_waits.value() > 0; }));
    EXPECT_EQ(device_->counters().requests.value(), 0U);
    ASSERT_EQ(::write(writer_.get(), "0123456789", 10), 10);
    ASSERT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_EQ(queue().poll_used()->length, 10U);
    EXPECT_EQ(std::memcmp(bytes_of(segments[0]).data(), "0123456789", 10), 0);
}

TEST_P(RngDeviceTest, AByteOfTheSourceIsGivenOutOnce) {
    serve_from_pipe();
    const std::array segments{buffer(4)};
    ASSERT_EQ(::write(writer_.get(), "abcdefgh", 8), 8);
    ASSERT_EQ(request(segments), 4U);
    EXPECT_EQ(std::memcmp(bytes_of(segments[0]).data(), "abcd", 4), 0);
    ASSERT_EQ(request(segments), 4U);
    EXPECT_EQ(std::memcmp(bytes_of(segments[0]).data(), "efgh", 4), 0);
}

TEST_P(RngDeviceTest, GetrandomTakesOverWhenTheSourceEnds) {
    serve_from_pipe();
    writer_.reset();
    const std::array segments{buffer(64)};
    EXPECT_EQ(request(segments), 64U);
    EXPECT_EQ(device_->counters().source_failures.value(), 1U);
}

TEST_P(RngDeviceTest, ManyRequestsAtOnceAllComeBack) {
    serve_getrandom();
    const std::array segments{buffer(8)};
    constexpr uint32_t kRequests = 200;
    for (uint32_t i = 0; i < kRequests; ++i) {
        ASSERT_TRUE(queue().try_add(segments, i));
    }
    queue().publish_and_kick();
    for (uint32_t i = 0; i < kRequests; ++i) {
        ASSERT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
        EXPECT_EQ(queue().poll_used()->length, 8U);
    }
    EXPECT_EQ(device_->counters().requests.value(), kRequests);
}

std::string format_name(const ::testing::TestParamInfo<bool>& packed) {
    return packed.param ? "Packed" : "Split";
}

// What a process before had in hand is in flight for the driver, and nobody else knows of it: it is
// answered before the ring is given back, quota or not.
TEST_P(RngDeviceTest, ARingThatStopsAnswersWhatAProcessBeforeHadInHand) {
    if (GetParam()) {
        GTEST_SKIP() << "a split ring's log can be written by hand";
    }
    serve({.source = make_getrandom_source(),
           .limit = {.bytes_max = 1, .period = std::chrono::hours(24)}});
    ASSERT_TRUE(queue().stop(*frontend_));
    const auto region = frontend_->get_inflight_fd(1, 256);
    ASSERT_TRUE(region);
    const auto start = [this] {
        return queue().start(*frontend_, memory_) == driver::Answer::kAccepted &&
               frontend_->set_vring_enable(0, 1) == driver::Answer::kAccepted;
    };
    ASSERT_TRUE(start());
    const std::array segments{buffer(16)};
    EXPECT_EQ(request(segments), 1U) << "the quota is used up";
    ASSERT_TRUE(queue().stop(*frontend_));
    ASSERT_TRUE(queue().try_add(segments, 7));
    queue().publish_and_kick();
    const wire::VringAddress address = queue().vring_address(memory_);
    const wire::MemoryRegion memory = memory_.description(memory_.regions()[0]);
    uint16_t head = 0;  // of the second entry of the available ring
    memory_.read(GuestAddr{address.available + 6 - memory.user_address + memory.guest_address},
                 std::as_writable_bytes(std::span(&head, 1)));
    const Mapping log =
        Mapping::map_file(region->fd.get(), 0, region->description.mmap_size).value();
    constexpr size_t kHeaderBytes = 16;
    constexpr size_t kEntryBytes = 16;
    log.data()[kHeaderBytes + head * kEntryBytes] = std::byte{1};
    const uint64_t waits = device_->counters().quota_waits.value();
    ASSERT_TRUE(start());
    ASSERT_TRUE(eventually([&] { return device_->counters().quota_waits.value() > waits; }));
    EXPECT_FALSE(queue().poll_used());
    EXPECT_EQ(queue().stop(*frontend_).value_or(0), 2U);
    const auto used = queue().poll_used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->token, 7U);
    EXPECT_EQ(used->length, 16U);
    EXPECT_EQ(log.data()[kHeaderBytes + head * kEntryBytes], std::byte{0});
}

INSTANTIATE_TEST_SUITE_P(SplitAndPacked, RngDeviceTest, ::testing::Bool(), format_name);

}  // namespace
}  // namespace outrigger::rng
