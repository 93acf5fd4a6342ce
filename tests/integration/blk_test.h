// SPDX-License-Identifier: Apache-2.0
/// The fixture of the block device's integration tests: a disk served over a session, and a driver
/// with running queues at the other end.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "devices/blk/blk_device.h"
#include "devices/blk/file_image.h"
#include "tests/support/printers.h"
#include "tests/support/session_host.h"
#include "tests/support/temporary_image.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {

using namespace outrigger::blk;

class BlkTest : public ::testing::Test {
  protected:
    static constexpr uint64_t kDiskBytes = uint64_t{256} << 20;
    static constexpr int kUntouched = 0xee;

    struct Options {
        bool read_only = false;
        size_t worker_count = 1;
        uint16_t queue_count = 1;
        uint16_t queue_size = 256;
        uint64_t memory_bytes = 8 << 20;
        Notifier::Kind notifier = Notifier::Kind::kDefault;
        driver::RegionBacking backing = driver::RegionBacking::kDefault;
        bool packed = false;
        bool in_order = false;
        bool event_idx = true;
        bool direct = false;
        std::optional<uint32_t> block_bytes{};
        uint16_t indirect_segments_max = 96;
        FeatureSet features = driver::kUsualFeatures;
    };

    /// What stands behind the disk.
    [[nodiscard]] virtual std::unique_ptr<Image> make_image(std::unique_ptr<ImageFile> file) {
        return std::make_unique<FileImage>(std::move(file), IoEngineKind::kAuto);
    }

    /// Serves the disk to a front end that has said nothing yet.
    void serve(const Options& options) {
        auto file = ImageFile::open({.path = backing_.path(),
                                     .read_only = options.read_only,
                                     .direct = options.direct,
                                     .block_bytes = options.block_bytes});
        ASSERT_TRUE(file) << file.error().message;
        device_ = std::make_unique<BlkDevice>(
            make_image(*std::move(file)),
            BlkDeviceOptions{.shape = {.queue_count = options.queue_count}});
        host_ = std::make_unique<SessionHost>(
            *device_, SessionHostOptions{.worker_count = options.worker_count});
        frontend_.emplace(host_->connect());
        memory_ =
            driver::GuestMemory::create(options.memory_bytes, GuestAddr{0x10000}, options.backing)
                .value();
    }

    /// Serves the disk and brings the driver up.
    void run(const Options& options) {
        ASSERT_NO_FATAL_FAILURE(serve(options));
        auto running = driver::bring_up(*frontend_,
                                        memory_,
                                        {.features = options.features,
                                         .packed = options.packed,
                                         .event_idx = options.event_idx,
                                         .in_order = options.in_order,
                                         .indirect_segments_max = options.indirect_segments_max,
                                         .queue_count = options.queue_count,
                                         .queue_size = options.queue_size,
                                         .notifier = options.notifier});
        ASSERT_TRUE(running) << running.error().step << ": " << describe(running.error().answer);
        running_ = *std::move(running);
    }

    void run() { run(Options{}); }

    [[nodiscard]] driver::DriverQueue& queue(size_t index = 0) { return running_.queues.at(index); }

    [[nodiscard]] const BlkCounters& counters(uint16_t index = 0) const {
        return device_->counters(QueueIndex{index});
    }

    /// Offered where holes can be made: not in the portable build, and not on every file system.
    [[nodiscard]] bool discards() const {
        return running_.agreement.features.has(VIRTIO_BLK_F_DISCARD);
    }

    // --- Chains --------------------------------------------------------------------------------

    [[nodiscard]] driver::Segment readable(std::span<const std::byte> bytes) {
        const GuestAddr address = memory_.allocate(bytes.size(), 1).value();
        memory_.write(address, bytes);
        return {address, static_cast<uint32_t>(bytes.size()), false};
    }

    /// Filled with kUntouched.
    [[nodiscard]] driver::Segment writable(uint32_t size) {
        const GuestAddr address = memory_.allocate(size, 1).value();
        memory_.write(address, std::vector<std::byte>(size, std::byte{kUntouched}));
        return {address, size, true};
    }

    [[nodiscard]] driver::Segment header(uint32_t type, uint64_t sector) {
        std::array<std::byte, 16> bytes{};
        std::memcpy(bytes.data(), &type, sizeof type);
        std::memcpy(bytes.data() + 8, &sector, sizeof sector);
        return readable(bytes);
    }

    [[nodiscard]] driver::Segment range(uint64_t sector, uint32_t count, uint32_t flags = 0) {
        std::array<std::byte, 16> bytes{};
        std::memcpy(bytes.data(), &sector, sizeof sector);
        std::memcpy(bytes.data() + 8, &count, sizeof count);
        std::memcpy(bytes.data() + 12, &flags, sizeof flags);
        return readable(bytes);
    }

    [[nodiscard]] std::vector<std::byte> bytes_of(const driver::Segment& segment) const {
        std::vector<std::byte> bytes(segment.length);
        memory_.read(segment.address, bytes);
        return bytes;
    }

    /// The status byte of a request that completes; -1 when it does not.
    int status_of_request(std::span<const driver::Segment> segments, size_t queue_index = 0) {
        const auto used = queue(queue_index)
                              .transact(segments,
                                        driver::after(kPatience),
                                        segments.size() > 64 ? driver::ChainLayout::kIndirect
                                                             : driver::ChainLayout::kDirect);
        if (!used) {
            return -1;
        }
        last_length_ = used->length;
        return std::to_integer<int>(bytes_of(segments.back()).back());
    }

    int status_of_request(std::initializer_list<driver::Segment> segments, size_t queue_index = 0) {
        return status_of_request(std::span(segments.begin(), segments.size()), queue_index);
    }

    TemporaryImage backing_{kDiskBytes};
    std::unique_ptr<BlkDevice> device_;
    std::unique_ptr<SessionHost> host_;
    driver::GuestMemory memory_;
    std::optional<driver::Frontend> frontend_;
    driver::RunningDevice running_;
    uint32_t last_length_ = 0;
};

}  // namespace outrigger::testing
