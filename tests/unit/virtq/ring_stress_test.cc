// SPDX-License-Identifier: Apache-2.0
/// A driver thread and a device thread on one ring, with real kicks, calls and suppression. Every
/// answer is checked, and both sides sleep whenever they may: a lost wake-up is a hang, which the
/// deadline of the waits turns into a failure.
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include <poll.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_drivers.h"
#include "tools/driver/driver_queue.h"

namespace outrigger::test {
namespace {

// Sanitizers make each request some fifty times slower.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr uint32_t kRequests = 20'000;
#else
constexpr uint32_t kRequests = 300'000;
#endif

constexpr int kHangMs = 60'000;
constexpr uint64_t kAnswer = 0x9e3779b97f4a7c15;

bool wait_readable(int fd) {
    pollfd waited = {.fd = fd, .events = POLLIN, .revents = 0};
    return poll(&waited, 1, kHangMs) == 1;
}

/// The device's side: a worker that answers each 8-byte word with the word times kAnswer, in
/// batches, sometimes out of order.
class DeviceThread final {
  public:
    DeviceThread(Virtqueue& queue, int kick_fd, int call_fd)
        : queue_(queue), kick_fd_(kick_fd), call_fd_(call_fd), thread_([this] { run(); }) {}

    /// Ends the thread; the caller wakes it with a kick first.
    void stop(const Notifier& kick) {
        stopping_.store(true, std::memory_order_release);
        kick.signal();
        thread_.join();
    }

    [[nodiscard]] bool hung() const { return hung_; }

  private:
    void run() {
        while (true) {
            // Also before the first wait: a ring that starts is looked at, kicked or not.
            do {
                queue_.suppress_kicks();
                serve();
            } while (queue_.enable_kicks());
            if (stopping_.load(std::memory_order_acquire)) {
                return;
            }
            if (!wait_readable(kick_fd_)) {
                hung_ = true;
                return;
            }
            EXPECT_EQ(drain_notification(kick_fd_), DrainResult::kSignalled);
        }
    }

    void serve() {
        bool more = true;
        while (more) {
            const uint32_t batch = 1 + random_() % 8;
            while (held_.size() < batch && more) {
                if (auto chain = queue_.pop()) {
                    held_.push_back(std::move(*chain));
                } else {
                    more = false;
                }
            }
            while (!held_.empty()) {
                answer_one();
            }
            if (queue_.publish()) {
                EXPECT_EQ(send_notification(call_fd_), SignalResult::kDelivered);
            }
        }
    }

    void answer_one() {
        std::swap(held_.back(), held_[random_() % held_.size()]);
        DescriptorChain chain = std::move(held_.back());
        held_.pop_back();
        ChainReader reader = chain.take_reader();
        ChainWriter writer = chain.take_writer();
        const auto word = reader.read_object<uint64_t>();
        if (!word) {
            ADD_FAILURE() << "a request without a word";
            return;
        }
        const uint64_t answer = *word * kAnswer;
        chain.complete(static_cast<uint32_t>(writer.write(std::as_bytes(std::span(&answer, 1)))));
    }

    Virtqueue& queue_;
    int kick_fd_;
    int call_fd_;
    std::atomic<bool> stopping_ = false;
    bool hung_ = false;
    std::minstd_rand random_;
    std::vector<DescriptorChain> held_;
    std::thread thread_;
};

struct Kind {
    const char* name;
    bool packed;
    bool event_idx;
    uint16_t size;
    bool in_order = false;
};

void PrintTo(const Kind& kind, std::ostream* out) {
    *out << kind.name;
}

/// A hand driver with its memory, which driver and device see in one mapping.
template <class HandDriver>
class HandPort final {
  public:
    explicit HandPort(const Kind& kind)
        : driver_(memory_, kind.size, kRing, kData, kind.event_idx), kind_(kind) {}

    [[nodiscard]] std::unique_ptr<Virtqueue> make_device() const {
        VirtqueueConfig config = driver_.config();
        config.event_idx = kind_.event_idx;
        config.in_order = kind_.in_order;
        return Virtqueue::create(config, driver_.base(), memory_.snapshot()).value();
    }

    [[nodiscard]] uint32_t slots() const { return driver_.slots(); }

    [[nodiscard]] HandDriver& driver() { return driver_; }

    void add(uint32_t slot, uint64_t word) {
        std::memcpy(memory_.at(kData + slot * kSlotBytes), &word, sizeof word);
        driver_.add(slot);
    }

    [[nodiscard]] std::array<uint64_t, 2> words(uint32_t slot) const {
        std::array<uint64_t, 2> words;
        std::memcpy(words.data(), memory_.at(kData + slot * kSlotBytes), sizeof words);
        return words;
    }

    [[nodiscard]] std::optional<SlotUsed> poll_used() { return driver_.poll_used(); }

  private:
    static constexpr uint64_t kRing = 0x1000;
    static constexpr uint64_t kData = 0x10000;

    GuestMemory memory_{{{0, 0x100000}}};
    HandDriver driver_;
    Kind kind_;
};

/// The driver of tools/driver, with chains of many shapes. It has a mapping of its own.
class ToolsPort final {
  public:
    explicit ToolsPort(const Kind& kind)
        : kind_(kind),
          queue_(driver::DriverQueue::create(memory_,
                                             {.packed = kind.packed,
                                              .ring = {.size = kind.size,
                                                       .event_idx = kind.event_idx,
                                                       .indirect_segments_max = 4,
                                                       .in_order = kind.in_order}})
                     .value()),
          data_(memory_.allocate(kind.size * kSlotBytes, kSlotBytes).value()) {}

    [[nodiscard]] std::unique_ptr<Virtqueue> make_device() const {
        const driver::RegionId id = memory_.regions().front();
        const wire::MemoryRegion region = memory_.description(id);
        const MemoryRegionLayout layout = {
            .guest_address = GuestAddr{region.guest_address},
            .size = region.size,
            .frontend_address = FrontendAddr{region.user_address},
            .mmap_offset = region.mmap_offset,
        };
        auto mapped =
            std::make_shared<const MemoryRegion>(MemoryRegion::map(layout, memory_.fd(id)).value());
        const wire::VringAddress areas = queue_.vring_address(memory_);
        const VirtqueueConfig config = {
            .size = kind_.size,
            .packed = kind_.packed,
            .event_idx = kind_.event_idx,
            .indirect = true,
            .in_order = kind_.in_order,
            .descriptor_area = FrontendAddr{areas.descriptor},
            .driver_area = FrontendAddr{areas.available},
            .device_area = FrontendAddr{areas.used},
        };
        return Virtqueue::create(config,
                                 VringBase{queue_.base()},
                                 MemorySnapshot::create({std::move(mapped)}, 1, 1).value())
            .value();
    }

    /// A direct chain takes up to four descriptors.
    [[nodiscard]] uint32_t slots() const { return kind_.size / 4U; }

    [[nodiscard]] driver::DriverQueue& driver() { return queue_; }

    void add(uint32_t slot, uint64_t word) {
        const GuestAddr header = driver::offset_by(data_, slot * kSlotBytes);
        memory_.write(header, std::as_bytes(std::span(&word, 1)));
        const uint32_t cut = static_cast<uint32_t>(random_() % kWordBytes);
        const std::array<driver::Segment, 4> segments = {{
            {.address = header, .length = cut, .device_writable = false},
            {.address = driver::offset_by(header, cut),
             .length = kWordBytes - cut,
             .device_writable = false},
            {.address = driver::offset_by(header, kWordBytes),
             .length = cut,
             .device_writable = true},
            {.address = driver::offset_by(header, kWordBytes + cut),
             .length = kWordBytes - cut,
             .device_writable = true},
        }};
        EXPECT_TRUE(queue_.try_add(segments, slot, random_layout()));
    }

    [[nodiscard]] std::array<uint64_t, 2> words(uint32_t slot) const {
        std::array<uint64_t, 2> words;
        memory_.read(driver::offset_by(data_, slot * kSlotBytes),
                     std::as_writable_bytes(std::span(words)));
        return words;
    }

    [[nodiscard]] std::optional<SlotUsed> poll_used() {
        const auto completion = queue_.poll_used();
        EXPECT_EQ(queue_.fault(), driver::DeviceFault::kNone);
        if (!completion) {
            return std::nullopt;
        }
        return SlotUsed{.slot = static_cast<uint32_t>(completion->token),
                        .length = completion->length};
    }

  private:
    driver::ChainLayout random_layout() {
        switch (random_() % 3) {
            case 0:
                return driver::ChainLayout::kDirect;
            case 1:
                return driver::ChainLayout::kIndirect;
            default:
                return kind_.packed ? driver::ChainLayout::kDirect : driver::ChainLayout::kMixed;
        }
    }

    Kind kind_;
    driver::GuestMemory memory_ = driver::GuestMemory::create(1 << 20).value();
    driver::DriverQueue queue_;
    GuestAddr data_;
    std::minstd_rand random_{3};
};

/// Adds in random bursts, polls, and sleeps when there is nothing to do.
template <class Port>
class StressRun final {
  public:
    explicit StressRun(const Kind& kind)
        : port_(kind),
          queue_(port_.make_device()),
          kick_(Notifier::create().value()),
          call_(Notifier::create().value()) {
        for (uint32_t slot = 0; slot < port_.slots(); ++slot) {
            free_.push_back(slot);
        }
    }

    void run() {
        DeviceThread device(*queue_, kick_.read_fd(), call_.write_fd());
        bool awake = true;
        while (done_ < kRequests && awake) {
            add_burst();
            if (!take_used()) {
                awake = sleep();
            }
        }
        EXPECT_TRUE(awake) << "a lost wake-up behind request " << done_ << " of " << sent_;
        device.stop(kick_);
        EXPECT_FALSE(device.hung());
        EXPECT_EQ(wrong_, 0U);
        EXPECT_FALSE(queue_->broken().has_value());
        EXPECT_EQ(queue_->in_flight(), 0U);
    }

  private:
    void add_burst() {
        for (uint32_t burst = static_cast<uint32_t>(random_() % 16);
             burst > 0 && !free_.empty() && sent_ < kRequests;
             --burst) {
            port_.add(free_.back(), ++sent_);
            free_.pop_back();
        }
        port_.driver().publish();
        if (port_.driver().kick_needed()) {
            kick_.signal();
        }
    }

    bool take_used() {
        const uint32_t before = done_;
        while (const auto used = port_.poll_used()) {
            const auto [word, answer] = port_.words(used->slot);
            if (used->length != kWordBytes || answer != word * kAnswer) {
                ++wrong_;
            }
            free_.push_back(used->slot);
            ++done_;
        }
        return done_ != before;
    }

    /// False: nothing came for a minute.
    bool sleep() {
        if (done_ == sent_ || port_.driver().enable_calls()) {
            return true;
        }
        if (!wait_readable(call_.read_fd())) {
            return false;
        }
        call_.drain();
        port_.driver().suppress_calls();
        return true;
    }

    Port port_;
    std::unique_ptr<Virtqueue> queue_;
    Notifier kick_;
    Notifier call_;
    std::vector<uint32_t> free_;
    std::minstd_rand random_{7};
    uint32_t sent_ = 0;
    uint32_t done_ = 0;
    uint32_t wrong_ = 0;
};

class RingStressTest : public testing::TestWithParam<Kind> {};

TEST_P(RingStressTest, DriverInTheSameMapping) {
    if (GetParam().packed) {
        StressRun<HandPort<PackedHandDriver>>(GetParam()).run();
    } else {
        StressRun<HandPort<SplitHandDriver>>(GetParam()).run();
    }
}

TEST_P(RingStressTest, DriverOfTheToolsWithChainsOfManyShapes) {
    StressRun<ToolsPort>(GetParam()).run();
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    RingStressTest,
    testing::Values(Kind{.name = "SplitFlags", .packed = false, .event_idx = false, .size = 64},
                    Kind{.name = "SplitEventIndex", .packed = false, .event_idx = true, .size = 64},
                    Kind{.name = "SplitTiny", .packed = false, .event_idx = true, .size = 4},
                    Kind{.name = "PackedFlags", .packed = true, .event_idx = false, .size = 61},
                    Kind{.name = "PackedEventIndex", .packed = true, .event_idx = true, .size = 61},
                    Kind{.name = "PackedTiny", .packed = true, .event_idx = true, .size = 5},
                    Kind{.name = "SplitInOrder",
                         .packed = false,
                         .event_idx = true,
                         .size = 64,
                         .in_order = true},
                    Kind{.name = "PackedInOrder",
                         .packed = true,
                         .event_idx = true,
                         .size = 61,
                         .in_order = true}),
    [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace outrigger::test
