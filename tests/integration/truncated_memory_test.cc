// SPDX-License-Identifier: Apache-2.0
// Row 13 under load: a front end truncates the file of guest memory while the disk works on it,
// through io_uring and by threads, cached and direct. What the kernel cannot reach (EFAULT) and
// what the CPU cannot (SIGBUS) end alike: the ring breaks, says so, and the next session is served.
#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include <linux/virtio_blk.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"

#include "devices/blk/blk_device.h"
#include "devices/blk/file_image.h"
#include "tests/support/printers.h"
#include "tests/support/session_host.h"
#include "tests/support/temporary_image.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {
namespace {

using namespace outrigger::blk;
using driver::Answer;
using driver::RegionBacking;
using driver::RegionId;
using driver::Segment;

constexpr uint64_t kDiskBytes = uint64_t{64} << 20;
constexpr uint32_t kRequestBytes = 65536;
constexpr uint32_t kRequests = 48;
constexpr uint64_t kHeldBytes = 1 << 20;
constexpr GuestAddr kLostStart{0x4000'0000};

struct Way {
    const char* name;
    IoEngineKind engine;
    bool direct = false;
    uint32_t misaligned_bytes = 0;  ///< direct I/O on such buffers goes through bounce buffers
};

void PrintTo(const Way& way, std::ostream* out) {
    *out << way.name;
}

class TruncatedMemory : public ::testing::TestWithParam<Way> {
  protected:
    void SetUp() override {
        auto file = ImageFile::open({.path = backing_.path(), .direct = GetParam().direct});
        if (!file && GetParam().direct) {
            GTEST_SKIP() << file.error().message;
        }
        device_ = std::make_unique<BlkDevice>(
            std::make_unique<FileImage>(std::move(file).value(), GetParam().engine),
            BlkDeviceOptions{});
        host_ = std::make_unique<SessionHost>(*device_, SessionHostOptions{});
    }

    /// A new session, whose memory is sealed but for the region at kLostStart. The ring, which the
    /// driver goes on to read, lies in the first or in the second.
    void connect(bool ring_in_lost_memory = false) {
        running_ = {};
        frontend_.emplace(host_->connect());
        memory_ = driver::GuestMemory();
        const RegionOptionsPair regions = region_options();
        const RegionId held = memory_.add_region(regions.held).value();
        lost_ = memory_.add_region(regions.lost).value();
        auto agreement = driver::negotiate(*frontend_, {}).value();
        ASSERT_TRUE(driver::share_memory(*frontend_, memory_, agreement));
        running_.queues.push_back(
            driver::DriverQueue::create(memory_,
                                        {.ring = {.size = 256, .event_idx = true},
                                         .region = ring_in_lost_memory ? lost_ : held})
                .value());
        ASSERT_EQ(queue().start(*frontend_, memory_), Answer::kAccepted);
        ASSERT_EQ(frontend_->set_vring_enable(0, 1), Answer::kAccepted);
        headers_ = memory_.allocate(kRequests * 16, 16, held).value();
        statuses_ = memory_.allocate(kRequests, 1, held).value();
        data_ = driver::offset_by(
            memory_.allocate((kRequests + 1) * kRequestBytes, 4096, lost_).value(),
            GetParam().misaligned_bytes);
    }

    void end_session() {
        frontend_.reset();
        ASSERT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
    }

    void add(uint32_t slot) {
        std::array<std::byte, 16> header{};
        const uint32_t type = slot % 2 == 0 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
        const uint64_t sector = uint64_t{slot} * kRequestBytes / 512;
        std::memcpy(header.data(), &type, sizeof type);
        std::memcpy(header.data() + 8, &sector, sizeof sector);
        memory_.write(driver::offset_by(headers_, slot * 16), header);
        const std::array chain = {
            Segment{.address = driver::offset_by(headers_, slot * 16), .length = 16},
            Segment{.address = driver::offset_by(data_, slot * kRequestBytes),
                    .length = kRequestBytes,
                    .device_writable = type == VIRTIO_BLK_T_IN},
            Segment{.address = driver::offset_by(statuses_, slot),
                    .length = 1,
                    .device_writable = true}};
        ASSERT_TRUE(queue().try_add(chain, slot));
    }

    void add_all() {
        for (uint32_t slot = 0; slot < kRequests; ++slot) {
            add(slot);
        }
        queue().publish_and_kick();
    }

    /// Takes what came, sends each anew, until `count` came.
    void work_until(uint64_t count) {
        while (done_ < count) {
            ASSERT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
            while (const auto used = queue().poll_used()) {
                ++done_;
                EXPECT_EQ(status_of(*used), VIRTIO_BLK_S_OK);
                add(static_cast<uint32_t>(used->token));
            }
            queue().publish_and_kick();
        }
    }

    [[nodiscard]] int status_of(const driver::Completion& used) const {
        std::byte status{};
        memory_.read(driver::offset_by(statuses_, used.token), std::span(&status, 1));
        return std::to_integer<int>(status);
    }

    void truncate() { ASSERT_EQ(::ftruncate(memory_.fd(lost_), 0), 0); }

    /// The load goes on: with O_DIRECT what is in flight has its pages already, and nobody notices.
    void work_until_lost() {
        const auto deadline = driver::after(kPatience);
        while (!queue().wait_error(driver::after(std::chrono::milliseconds(1)))) {
            ASSERT_LT(std::chrono::steady_clock::now(), deadline);
            while (const auto used = queue().poll_used()) {
                ++done_;
                add(static_cast<uint32_t>(used->token));
            }
            queue().publish_and_kick();
        }
        EXPECT_EQ(broken().value(RingError::kMemoryLost), broken().total());
    }

    void expect_lost() {
        EXPECT_TRUE(queue().wait_error(driver::after(kPatience)));
        EXPECT_TRUE(eventually([&] { return broken().total() > 0; }));
        EXPECT_EQ(broken().value(RingError::kMemoryLost), broken().total());
    }

    /// What was in flight comes back, done or failed: nothing of it hangs.
    void expect_answers_to_what_was_taken() {
        const auto base = queue().stop(*frontend_);
        ASSERT_TRUE(base);
        while (const auto used = queue().poll_used()) {
            ++done_;
            const int status = status_of(*used);
            EXPECT_TRUE(status == VIRTIO_BLK_S_OK || status == VIRTIO_BLK_S_IOERR) << status;
        }
        EXPECT_EQ(queue().fault(), driver::DeviceFault::kNone);
        EXPECT_EQ(static_cast<uint16_t>(done_), *base);
    }

    void expect_next_session_is_served() {
        end_session();
        connect();
        done_ = 0;
        add_all();
        work_until(2 * kRequests);
        ASSERT_TRUE(queue().stop(*frontend_));
        end_session();
    }

    [[nodiscard]] driver::DriverQueue& queue() { return running_.queues[0]; }

    [[nodiscard]] const CounterTable<RingError, kRingErrorCount>& broken() const {
        return host_->counters().rings_broken;
    }

    struct RegionOptionsPair {
        driver::RegionOptions held;
        driver::RegionOptions lost;
    };

    static RegionOptionsPair region_options() {
        return {.held = {.guest_address = GuestAddr{0x10'0000}, .size = kHeldBytes},
                .lost = {.guest_address = kLostStart,
                         .size = (kRequests + 2) * uint64_t{kRequestBytes},
                         .backing = RegionBacking::kPosixObject}};
    }

    TemporaryImage backing_{kDiskBytes};
    std::unique_ptr<BlkDevice> device_;
    std::unique_ptr<SessionHost> host_;
    driver::GuestMemory memory_;
    std::optional<driver::Frontend> frontend_;
    driver::RunningDevice running_;
    RegionId lost_{};
    GuestAddr headers_{};
    GuestAddr statuses_{};
    GuestAddr data_{};
    uint64_t done_ = 0;
};

std::vector<Way> ways() {
    std::vector<Way> list = {
        {.name = "Cached", .engine = IoEngineKind::kAuto},
        {.name = "Direct", .engine = IoEngineKind::kAuto, .direct = true},
        {.name = "Bounced", .engine = IoEngineKind::kAuto, .direct = true, .misaligned_bytes = 1},
        {.name = "ThreadsCached", .engine = IoEngineKind::kThreads},
        {.name = "ThreadsDirect", .engine = IoEngineKind::kThreads, .direct = true}};
    if (kPortableBuild) {
        // It cannot go around the page cache.
        std::erase_if(list, [](const Way& way) { return way.direct; });
    }
    return list;
}

INSTANTIATE_TEST_SUITE_P(Ways,
                         TruncatedMemory,
                         ::testing::ValuesIn(ways()),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST_P(TruncatedMemory, Row13BuffersThatGoUnderLoadBreakTheRing) {
    connect();
    add_all();
    work_until(4 * kRequests);
    truncate();
    work_until_lost();
    expect_answers_to_what_was_taken();
    expect_next_session_is_served();
}

TEST_P(TruncatedMemory, Row13BuffersThatAreGoneBeforeTheRequestsBreakTheRing) {
    connect();
    truncate();
    add_all();
    expect_lost();
    expect_answers_to_what_was_taken();
    expect_next_session_is_served();
}

// What the guest wrote is gone; what its disk held must not go with it.
TEST_P(TruncatedMemory, Row13WritesWhoseMemoryIsGoneDoNotBecomeZeroes) {
    constexpr uint8_t kOnDisk = 0xab;
    backing_.fill(0, kDiskBytes, kOnDisk);
    connect();
    truncate();
    add_all();
    expect_lost();
    end_session();
    for (uint32_t slot = 0; slot < kRequests; ++slot) {
        EXPECT_TRUE(backing_.holds(uint64_t{slot} * kRequestBytes, kRequestBytes, kOnDisk))
            << "request " << slot;
    }
}

TEST_P(TruncatedMemory, Row13RingMemoryThatGoesUnderLoadBreaksTheRing) {
    constexpr bool kRingInLostMemory = true;
    connect(kRingInLostMemory);
    add_all();
    work_until(4 * kRequests);
    truncate();
    // This process does not touch the ring any more either: the kick makes the device look.
    queue().kick();
    expect_lost();
    expect_next_session_is_served();
}

TEST_P(TruncatedMemory, Row13AnotherRingCannotStartOnThatMemory) {
    connect();
    truncate();
    add_all();
    expect_lost();
    ASSERT_TRUE(queue().stop(*frontend_));
    queue().reset();
    ASSERT_EQ(queue().start(*frontend_, memory_), Answer::kAccepted);
    EXPECT_TRUE(queue().wait_error(driver::after(kPatience)));
    expect_next_session_is_served();
}

}  // namespace
}  // namespace outrigger::testing
