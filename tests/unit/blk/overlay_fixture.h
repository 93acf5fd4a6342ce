// SPDX-License-Identifier: Apache-2.0
/// An overlay in memory, and a worker that serves its queues.
#pragma once

#include <future>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/io/worker.h"

#include "devices/blk/overlay/overlay_image.h"
#include "tests/support/disk_model.h"
#include "tests/unit/blk/memory_disk.h"

namespace outrigger::blk {

/// Runs `task` on the worker and waits for it.
template <class Task>
void run_on(Worker& worker, Task task) {
    std::promise<void> done;
    worker.post([&] {
        task();
        done.set_value();
    });
    done.get_future().wait();
}

class OverlayTest : public ::testing::Test {
  protected:
    static constexpr uint32_t kCluster = 4096;
    static constexpr uint64_t kSector = MemoryDisk::kSectorBytes;

    struct Sizes {
        uint64_t disk_bytes = 1 << 20;
        uint64_t base_bytes = 1 << 20;
    };

    /// The base holds the base content of the model, and the layer nothing.
    void format(const Sizes& sizes) {
        sizes_ = sizes;
        base_ = std::make_unique<MemoryDisk>(sizes.base_bytes);
        outrigger::testing::DiskModel::fill_base(0, base_->bytes());
        geometry_ = layer_geometry(sizes.disk_bytes, kCluster).value();
        layer_ = std::make_unique<MemoryDisk>(geometry_.file_bytes);
        // What a former life left there and never committed.
        std::ranges::fill(layer_->bytes().subspan(geometry_.data_offset), std::byte{0x77});
        MemoryDiskStore store(*layer_);
        ASSERT_EQ(LayerJournal::format(store,
                                       {.layer_id = 17,
                                        .cluster_bytes = kCluster,
                                        .disk_bytes = sizes.disk_bytes,
                                        .base = {.kind = "raw", .size_bytes = sizes.base_bytes}}),
                  0);
        layer_->begin_log();
    }

    void format() { format(Sizes{}); }

    void open(const OverlaySettings& settings) {
        auto opened = try_open(settings);
        ASSERT_TRUE(opened) << opened.error().message;
        overlay_ = *std::move(opened);
        run_on(*worker_, [&] { queue_ = overlay_->open_queue(*worker_, 64).value(); });
    }

    void open() { open(OverlaySettings{}); }

    [[nodiscard]] Result<std::unique_ptr<OverlayImage>> try_open(const OverlaySettings& settings) {
        auto store = std::make_unique<MemoryDiskStore>(*layer_);
        auto journal = OUTRIGGER_TRY(LayerJournal::open(*store, "layer"));
        return OverlayImage::create(
            {.base = std::make_unique<MemoryDiskImage>(*base_, true, late_),
             .layer = std::make_unique<MemoryDiskImage>(*layer_, settings.read_only, late_),
             .store = std::move(store),
             .journal = std::move(journal)},
            settings);
    }

    void close() {
        if (queue_ != nullptr) {
            run_on(*worker_, [&] { queue_.reset(); });
        }
        overlay_.reset();
    }

    void reopen() {
        close();
        open();
    }

    /// Forgets what was not committed, as kill -9 does: the layer as it is now is opened again.
    void TearDown() override { close(); }

    // --- One request, from start to end ----------------------------------------------------------

    class Request final : public ImageRequest {
      public:
        void on_image_done(int os_error) override { result.set_value(os_error); }

        [[nodiscard]] bool data_was_lost() override { return lost; }

        std::promise<int> result;
        bool lost = false;
    };

    int run(Request& request) {
        worker_->post([&] { queue_->submit(request); });
        return request.result.get_future().get();
    }

    int read(uint64_t offset, std::span<std::byte> out) {
        Request request;
        const iovec segment = {.iov_base = out.data(), .iov_len = out.size()};
        request.command = ImageCommand::kRead;
        request.offset_bytes = offset;
        request.length_bytes = out.size();
        request.data = std::span(&segment, 1);
        return run(request);
    }

    int write(uint64_t offset, std::span<std::byte> in, bool stable = false) {
        Request request;
        const iovec segment = {.iov_base = in.data(), .iov_len = in.size()};
        request.command = ImageCommand::kWrite;
        request.stable = stable;
        request.offset_bytes = offset;
        request.length_bytes = in.size();
        request.data = std::span(&segment, 1);
        return run(request);
    }

    int write_value(uint64_t offset, size_t size, int value, bool stable = false) {
        std::vector<std::byte> bytes(size, static_cast<std::byte>(value));
        return write(offset, bytes, stable);
    }

    int change_range(ImageCommand command, uint64_t offset, uint64_t length, bool stable = false) {
        Request request;
        const ImageRange range = {.offset_bytes = offset, .length_bytes = length, .unmap = false};
        request.command = command;
        request.stable = stable;
        request.ranges = std::span(&range, 1);
        return run(request);
    }

    int flush() {
        Request request;
        request.command = ImageCommand::kFlush;
        return run(request);
    }

    [[nodiscard]] std::vector<std::byte> contents(uint64_t offset, size_t size) {
        std::vector<std::byte> bytes(size, std::byte{0xee});
        EXPECT_EQ(read(offset, bytes), 0);
        return bytes;
    }

    [[nodiscard]] bool holds(uint64_t offset, size_t size, int value) {
        return contents(offset, size) ==
               std::vector<std::byte>(size, static_cast<std::byte>(value));
    }

    [[nodiscard]] bool holds_base(uint64_t offset, size_t size) {
        std::vector<std::byte> expected(size);
        outrigger::testing::DiskModel::fill_base(offset / kSector, expected);
        return contents(offset, size) == expected;
    }

    bool late_ = false;
    Sizes sizes_;
    LayerGeometry geometry_;
    std::unique_ptr<MemoryDisk> base_;
    std::unique_ptr<MemoryDisk> layer_;
    std::unique_ptr<Worker> worker_ = Worker::start({.loop = LoopKind::kAsio}).value();
    std::unique_ptr<OverlayImage> overlay_;
    std::unique_ptr<ImageQueue> queue_;
};

}  // namespace outrigger::blk
