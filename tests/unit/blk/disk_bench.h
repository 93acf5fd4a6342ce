// SPDX-License-Identifier: Apache-2.0
/// A block device on a ring without sockets or threads: the test is driver, worker and image.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/virtq/virtqueue.h"

#include "devices/blk/blk_device.h"
#include "tests/unit/blk/chain_bytes.h"
#include "tools/driver/driver_queue.h"
#include "tools/driver/guest_memory.h"

namespace outrigger::blk {

/// An image whose requests end when and how the test says.
class HeldImage final : public Image {
  public:
    explicit HeldImage(const ImageProperties& properties) : properties_(properties) {}

    [[nodiscard]] const ImageProperties& properties() const override { return properties_; }

    [[nodiscard]] Result<std::unique_ptr<ImageQueue>> open_queue(
        Worker& /*worker*/, uint32_t /*requests_max*/) override {
        return std::make_unique<Queue>(*this);
    }

    [[nodiscard]] ImageRequest& request(size_t index = 0) { return *held_.at(index); }

    [[nodiscard]] size_t held() const { return held_.size(); }

    /// Ends the oldest request.
    void end(int os_error = 0) {
        ImageRequest* const request = held_.front();
        held_.pop_front();
        request->on_image_done(os_error);
    }

    void end_newest(int os_error = 0) {
        ImageRequest* const request = held_.back();
        held_.pop_back();
        request->on_image_done(os_error);
    }

  private:
    class Queue final : public ImageQueue {
      public:
        explicit Queue(HeldImage& image) : image_(image) {}

        void submit(ImageRequest& request) override { image_.held_.push_back(&request); }

      private:
        HeldImage& image_;
    };

    ImageProperties properties_;
    std::deque<ImageRequest*> held_;
};

/// Builds chains in guest memory, by device-readable bytes and device-writable sizes.
class ChainRecipe final {
  public:
    explicit ChainRecipe(driver::GuestMemory& memory) : memory_(memory) {}

    ChainRecipe& readable(std::span<const std::byte> bytes) {
        const GuestAddr address = memory_.allocate(bytes.size(), 1).value();
        memory_.write(address, bytes);
        segments_.push_back({address, static_cast<uint32_t>(bytes.size()), false});
        return *this;
    }

    ChainRecipe& readable_zeroes(uint32_t size) {
        segments_.push_back({memory_.allocate(size, 1).value(), size, false});
        return *this;
    }

    /// Filled with 0xee.
    ChainRecipe& writable(uint32_t size) {
        const GuestAddr address = memory_.allocate(size, 1).value();
        memory_.write(address, std::vector<std::byte>(size, std::byte{0xee}));
        segments_.push_back({address, size, true});
        return *this;
    }

    [[nodiscard]] std::span<const driver::Segment> segments() const { return segments_; }

    /// The last writable byte.
    [[nodiscard]] int status() const {
        const driver::Segment& last = segments_.back();
        std::byte byte{};
        memory_.read(driver::offset_by(last.address, last.length - 1), std::span(&byte, 1));
        return std::to_integer<int>(byte);
    }

    [[nodiscard]] std::vector<std::byte> bytes(size_t segment) const {
        std::vector<std::byte> out(segments_[segment].length);
        memory_.read(segments_[segment].address, out);
        return out;
    }

  private:
    driver::GuestMemory& memory_;
    std::vector<driver::Segment> segments_;
};

inline constexpr int kUntouchedStatus = 0xee;

/// One running queue of one device.
class DiskBench final {
  public:
    static constexpr uint16_t kQueueSize = 64;

    explicit DiskBench(std::unique_ptr<Image> image, const BlkDeviceOptions& options = {})
        : memory_(driver::GuestMemory::create(8 << 20).value()),
          driver_(
              driver::DriverQueue::create(
                  memory_,
                  {.index = 0,
                   .packed = false,
                   .ring = {.size = kQueueSize, .event_idx = false, .indirect_segments_max = 16}})
                  .value()),
          device_(std::move(image), options),
          worker_(Worker::start({.loop = LoopKind::kAsio}).value()) {
        start();
    }

    DiskBench(const DiskBench&) = delete;
    DiskBench& operator=(const DiskBench&) = delete;

    ~DiskBench() {
        if (queue_) {
            stop();
            EXPECT_TRUE(stopped_) << "requests are still in flight";
        }
    }

    void start() {
        std::vector<MemorySnapshot::RegionPointer> regions;
        for (const driver::RegionId id : memory_.regions()) {
            const wire::MemoryRegion region = memory_.description(id);
            start_address_ = GuestAddr{region.guest_address};
            regions.push_back(std::make_shared<MemoryRegion>(
                MemoryRegion::map({.guest_address = GuestAddr{region.guest_address},
                                   .size = region.size,
                                   .frontend_address = FrontendAddr{region.user_address},
                                   .mmap_offset = region.mmap_offset},
                                  memory_.fd(id))
                    .value()));
        }
        device_memory_ = {regions[0]->data(), regions[0]->layout().size};
        const wire::VringAddress address = driver_.vring_address(memory_);
        queue_ = Virtqueue::create({.size = kQueueSize,
                                    .packed = false,
                                    .event_idx = false,
                                    .indirect = true,
                                    .descriptor_area = FrontendAddr{address.descriptor},
                                    .driver_area = FrontendAddr{address.available},
                                    .device_area = FrontendAddr{address.used}},
                                   VringBase{driver_.base()},
                                   MemorySnapshot::create(std::move(regions), 1, 8).value())
                     .value();
        stopped_ = false;
        EXPECT_TRUE(device_.start_queue(QueueIndex{0}, *queue_, *worker_));
    }

    /// Asks the device to stop; stopped() says when it has.
    void stop() {
        device_.stop_queue(QueueIndex{0}, [this] { stopped_ = true; });
    }

    [[nodiscard]] bool stopped() const { return stopped_; }

    /// The guest's one region, and a byte of it, in the mapping that the device uses.
    [[nodiscard]] std::span<std::byte> device_memory() const { return device_memory_; }

    [[nodiscard]] std::byte* device_byte(GuestAddr address) const {
        return device_memory_.data() +
               (static_cast<uint64_t>(address) - static_cast<uint64_t>(start_address_));
    }

    [[nodiscard]] ChainRecipe chain() { return ChainRecipe(memory_); }

    /// Makes a chain available.
    void add(const ChainRecipe& recipe) {
        ASSERT_TRUE(driver_.try_add(recipe.segments(), 0, driver::ChainLayout::kIndirect));
        driver_.publish();
    }

    QueueProgress process() {
        const QueueProgress progress = device_.process_queue(QueueIndex{0});
        (void)queue_->publish();
        return progress;
    }

    /// What came back, after publishing what was completed meanwhile.
    std::optional<driver::Completion> completion() {
        (void)queue_->publish();
        return driver_.poll_used();
    }

    /// Adds, processes, and expects an answer at once: its status byte, or -1 without one.
    int answer_to(const ChainRecipe& recipe) {
        add(recipe);
        (void)process();
        const auto used = completion();
        if (!used) {
            return -1;
        }
        last_length_ = used->length;
        return recipe.status();
    }

    [[nodiscard]] uint32_t last_length() const { return last_length_; }

    [[nodiscard]] BlkDevice& device() { return device_; }

    [[nodiscard]] Virtqueue& queue() { return *queue_; }

    [[nodiscard]] const BlkCounters& counters() const { return device_.counters(QueueIndex{0}); }

    [[nodiscard]] driver::DriverQueue& driver() { return driver_; }

  private:
    driver::GuestMemory memory_;
    driver::DriverQueue driver_;
    BlkDevice device_;
    std::unique_ptr<Worker> worker_;  // images get it and need it not
    std::unique_ptr<Virtqueue> queue_;
    std::span<std::byte> device_memory_;
    GuestAddr start_address_{};
    bool stopped_ = false;
    uint32_t last_length_ = 0;
};

}  // namespace outrigger::blk
