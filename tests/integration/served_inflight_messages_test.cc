// SPDX-License-Identifier: Apache-2.0
// GET_INFLIGHT_FD and SET_INFLIGHT_FD, seen from the front end. What a ring makes of the buffer is
// in tests/unit/virtq/inflight_*_test.cc.
#include <algorithm>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/shared_memory.h"

#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

constexpr auto kInflight = bit(wire::ProtocolFeature::kInflightShmfd);

const driver::BringUpOptions kWithInflight{.protocol_features = driver::kUsualProtocolFeatures |
                                                                FeatureSet::of({kInflight})};

class InflightMessages : public SessionTest {
  protected:
    /// The first `count` bytes of the buffer.
    static std::vector<std::byte> start_of(const driver::InflightRegion& region, size_t count) {
        const auto mapping =
            Mapping::map_file(
                region.fd.get(), region.description.mmap_offset, region.description.mmap_size)
                .value();
        return {mapping.data(), mapping.data() + count};
    }

    static uint16_t version_of(const driver::InflightRegion& region) {
        uint16_t version = 0;
        std::memcpy(&version, start_of(region, 16).data() + 8, sizeof version);
        return version;
    }
};

TEST_F(InflightMessages, GetGivesAnEmptyBufferForRingsOf1024) {
    negotiate(kWithInflight);
    const auto region = frontend().get_inflight_fd(2, 128);
    ASSERT_TRUE(region);
    EXPECT_EQ(region->description.queue_count, 2);
    EXPECT_EQ(region->description.queue_size, 128);
    // Split entries of 16 bytes, packed ones of 32.
    EXPECT_GE(region->description.mmap_size, 2U * (32 + 1024 * 32));
    EXPECT_EQ(start_of(*region, 64), std::vector<std::byte>(64));
}

TEST_F(InflightMessages, GetGivesADescriptorThatCanNotBeTruncated) {
    negotiate(kWithInflight);
    const auto region = frontend().get_inflight_fd(1, 128);
    ASSERT_TRUE(region);
    if (kPortableBuild) {
        EXPECT_EQ(::ftruncate(region->fd.get(), 0), 0);  // such memory cannot be sealed
    } else {
        EXPECT_NE(::ftruncate(region->fd.get(), 0), 0);
    }
}

TEST_F(InflightMessages, GetForMoreQueuesThanThereAreEndsTheSession) {
    negotiate(kWithInflight);
    EXPECT_FALSE(frontend().get_inflight_fd(300, 128));
    expect_close_and_next_session(CloseReason::kRefused);
}

TEST_F(InflightMessages, RingNotesInTheBufferThatGetGave) {
    negotiate(kWithInflight);
    const auto region = frontend().get_inflight_fd(1, 128);
    ASSERT_TRUE(region);
    EXPECT_EQ(version_of(*region), 0);
    run(kWithInflight);
    EXPECT_EQ(version_of(*region), 1);
    expect_echo();
}

TEST_F(InflightMessages, RingNotesInTheBufferThatSetBrought) {
    negotiate(kWithInflight);
    const auto region = frontend().get_inflight_fd(1, 128);
    ASSERT_TRUE(region);
    frontend().close();
    ASSERT_TRUE(host_->wait_closed());
    reconnect();
    negotiate(kWithInflight);
    EXPECT_EQ(frontend().set_inflight_fd(region->description, region->fd.get()), Answer::kAccepted);
    run(kWithInflight);
    EXPECT_EQ(version_of(*region), 1);
    expect_echo();
}

TEST_F(InflightMessages, RingThatStoppedAndStartsAgainGoesWhereTheFrontEndSays) {
    negotiate(kWithInflight);
    ASSERT_TRUE(frontend().get_inflight_fd(1, 128));
    run(kWithInflight);
    expect_echo();
    ASSERT_TRUE(queue().stop(frontend()));
    // A guest that reboots: the ring is empty, and begins at 0.
    queue().reset();
    buffers_.clear();
    ASSERT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    ASSERT_EQ(frontend().set_vring_enable(0, true), Answer::kAccepted);
    expect_echo();
}

TEST_F(InflightMessages, PackedRingBeginsAnewBehindAResetOfTheDevice) {
    driver::BringUpOptions packed = kWithInflight;
    packed.packed = true;
    negotiate(packed);
    ASSERT_TRUE(frontend().get_inflight_fd(1, 128));
    run(packed);
    expect_echo();
    ASSERT_EQ(frontend().set_status(0), Answer::kAccepted);
    queue().reset();
    buffers_.clear();
    ASSERT_EQ(frontend().set_features(running_.agreement.features), Answer::kAccepted);
    ASSERT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    ASSERT_EQ(frontend().set_vring_enable(0, true), Answer::kAccepted);
    expect_echo();
}

TEST_F(InflightMessages, GetWhileARingRunsEndsTheSession) {
    run(kWithInflight);
    EXPECT_FALSE(frontend().get_inflight_fd(1, 128));
    expect_close_and_next_session(CloseReason::kRefused);
}

TEST_F(InflightMessages, SetIsRefusedWhileARingRuns) {
    run(kWithInflight);
    const UniqueFd file = create_shared_memory("inflight", 65536).value();
    expect_refusal(Refusal::kState, [&] {
        return frontend().set_inflight_fd({.mmap_size = 65536,
                                           .mmap_offset = 0,
                                           .queue_count = 1,
                                           .queue_size = 128,
                                           .padding = 0},
                                          file.get());
    });
    expect_echo();
}

TEST_F(InflightMessages, SetIsRefusedForAFileThatIsTooShort) {
    negotiate(kWithInflight);
    const UniqueFd file = create_shared_memory("inflight", 4096).value();
    expect_refusal(Refusal::kInflight, [&] {
        return frontend().set_inflight_fd({.mmap_size = 65536,
                                           .mmap_offset = 0,
                                           .queue_count = 1,
                                           .queue_size = 128,
                                           .padding = 0},
                                          file.get());
    });
    expect_echo();
}

TEST_F(InflightMessages, RingLargerThanTheBufferIsRefused) {
    negotiate(kWithInflight);
    const UniqueFd file = create_shared_memory("inflight", 4096).value();
    ASSERT_EQ(frontend().set_inflight_fd({.mmap_size = 4096,
                                          .mmap_offset = 0,
                                          .queue_count = 1,
                                          .queue_size = 128,
                                          .padding = 0},
                                         file.get()),
              Answer::kAccepted);
    driver::BringUpOptions large = kWithInflight;
    large.queue_size = 512;
    EXPECT_FALSE(driver::bring_up(frontend(), memory_, large));
    EXPECT_EQ(counters().refused.value(Refusal::kInflightLog), 1U);
}

// --- What a process that died had in hand --------------------------------------------------------

class InflightRecovery : public InflightMessages, public ::testing::WithParamInterface<bool> {
  protected:
    static constexpr size_t kRequests = 3;

    [[nodiscard]] driver::BringUpOptions options() const {
        driver::BringUpOptions options = kWithInflight;
        options.packed = GetParam();
        return options;
    }

    /// A ring whose requests a process had in hand when it was killed, and a new connection.
    void leave_requests_in_flight() {
        negotiate(options());
        auto region = frontend().get_inflight_fd(1, 128);
        ASSERT_TRUE(region);
        region_ = *std::move(region);
        run(options());
        device_.hold(true);
        for (size_t i = 0; i < kRequests; ++i) {
            requests_.emplace_back(memory_);
            requests_[i].fill();
            ASSERT_TRUE(queue().try_add(requests_[i].chain(), i));
        }
        queue().publish_and_kick();
        ASSERT_TRUE(eventually([&] { return device_.held() == kRequests; }));
        // A session of the same process cannot die so: what it does from here on is undone.
        const auto log = map_region();
        const std::vector<std::byte> noted(log.data(), log.data() + log.size());
        const std::vector<std::byte> used = read_used();
        frontend().close();
        give_others_a_moment();
        device_.hold(false);
        device_.release_held(QueueIndex{0});
        ASSERT_TRUE(host_->wait_closed());
        std::ranges::copy(noted, log.data());
        memory_.write(used_area().first, used);
        for (EchoBuffers& request : requests_) {
            request.fill();
        }
        frontend_.emplace(host_->connect());
        const auto agreement = driver::negotiate(frontend(), options());
        ASSERT_TRUE(agreement);
        ASSERT_TRUE(driver::share_memory(frontend(), memory_, *agreement));
        ASSERT_EQ(frontend().set_inflight_fd(region_.description, region_.fd.get()),
                  Answer::kAccepted);
        ASSERT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    }

    void expect_all_answered() {
        for (size_t i = 0; i < kRequests; ++i) {
            const auto used = queue().poll_used();
            ASSERT_TRUE(used) << i;
            EXPECT_EQ(used->token, i);
            EXPECT_TRUE(requests_[i].answered()) << i;
        }
        EXPECT_FALSE(queue().poll_used());
    }

    /// One more, which nobody had.
    void requests_behind() {
        EchoBuffers more(memory_);
        more.fill();
        ASSERT_TRUE(queue().try_add(more.chain(), kRequests));
        queue().publish_and_kick();
    }

  private:
    [[nodiscard]] Mapping map_region() const {
        return Mapping::map_file(
                   region_.fd.get(), region_.description.mmap_offset, region_.description.mmap_size)
            .value();
    }

    [[nodiscard]] const driver::RingAddresses& addresses() {
        return GetParam() ? queue().packed()->addresses() : queue().split()->addresses();
    }

    /// Where the device tells what it has used.
    [[nodiscard]] std::pair<GuestAddr, size_t> used_area() {
        return GetParam() ? std::pair(addresses().descriptor_area, size_t{16} * queue().size())
                          : std::pair(addresses().device_area, 6 + size_t{8} * queue().size());
    }

    [[nodiscard]] std::vector<std::byte> read_used() {
        const auto [address, bytes] = used_area();
        std::vector<std::byte> used(bytes);
        memory_.read(address, used);
        return used;
    }

    driver::InflightRegion region_;
    std::vector<EchoBuffers> requests_;
};

INSTANTIATE_TEST_SUITE_P(Formats, InflightRecovery, ::testing::Bool(), [](const auto& format) {
    return std::string(format.param ? "Packed" : "Split");
});

TEST_P(InflightRecovery, RequestsAreServedAgain) {
    leave_requests_in_flight();
    ASSERT_EQ(frontend().set_vring_enable(0, true), Answer::kAccepted);
    ASSERT_TRUE(eventually([&] { return device_.answered() == 2 * kRequests; }));
    ASSERT_TRUE(queue().stop(frontend()));
    expect_all_answered();
}

// The base says that they were taken: whoever has the ring next does not know of them.
TEST_P(InflightRecovery, StopAnswersWhatTheDeviceHasNotComeTo) {
    leave_requests_in_flight();  // the ring is not enabled
    EXPECT_EQ(device_.answered(), kRequests);
    const auto base = queue().stop(frontend());
    ASSERT_TRUE(base);
    EXPECT_EQ(*base & 0x7fff, GetParam() ? uint32_t{queue().base() & 0x7fff} : kRequests);
    expect_all_answered();
}

TEST_P(InflightRecovery, StopAnswersNothingElse) {
    leave_requests_in_flight();
    requests_behind();
    ASSERT_TRUE(queue().stop(frontend()));
    expect_all_answered();
}

TEST_P(InflightRecovery, StopWaitsForADeviceThatTakesItsTime) {
    leave_requests_in_flight();
    device_.hold(true);
    std::thread releaser([&] {
        EXPECT_TRUE(eventually([&] { return device_.held() == kRequests; }));
        device_.hold(false);
        device_.release_held(QueueIndex{0});
    });
    EXPECT_TRUE(queue().stop(frontend()));
    releaser.join();
    expect_all_answered();
}

}  // namespace
}  // namespace outrigger::testing
