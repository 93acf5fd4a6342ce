// SPDX-License-Identifier: Apache-2.0
// No request allocates and none locks: counted on the worker, over ten thousand of them, from the
// ring to the image and back.
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <linux/virtio_blk.h>

#include "devices/blk/memory_image.h"
#include "devices/blk/null_image.h"
#include "tests/integration/blk_test.h"
#include "tests/integration/call_counts.h"

namespace outrigger::testing {
namespace {

using driver::Segment;

enum class Kind : uint8_t { kNull, kMemory, kFile };

constexpr uint32_t kInFlight = 32;

/// Says which thread the worker's is, and does what requests must not, if asked to. It keeps the
/// first requests until as many are there as will ever be: what a ring or an engine makes room for
/// once, when so many are in flight for the first time, is made before anything is counted.
class WatchedImage final : public Image {
  public:
    explicit WatchedImage(std::unique_ptr<Image> image) : image_(std::move(image)) {}

    [[nodiscard]] const ImageProperties& properties() const override {
        return image_->properties();
    }

    [[nodiscard]] Result<std::unique_ptr<ImageQueue>> open_queue(Worker& worker,
                                                                 uint32_t requests_max) override {
        count_this_thread();
        return std::make_unique<Queue>(OUTRIGGER_TRY(image_->open_queue(worker, requests_max)),
                                       *this);
    }

    std::atomic<bool> misbehaves = false;

  private:
    class Queue final : public ImageQueue {
      public:
        Queue(std::unique_ptr<ImageQueue> queue, WatchedImage& image)
            : queue_(std::move(queue)), image_(image) {}

        void submit(ImageRequest& request) override {
            if (image_.misbehaves) {
                const std::lock_guard lock(mutex_);
                kept_ = std::make_unique<int>(1);
            }
            if (first_.size() == kInFlight) {
                queue_->submit(request);
                return;
            }
            first_.push_back(&request);
            if (first_.size() == kInFlight) {
                for (ImageRequest* const first : first_) {
                    queue_->submit(*first);
                }
            }
        }

      private:
        std::unique_ptr<ImageQueue> queue_;
        WatchedImage& image_;
        std::vector<ImageRequest*> first_;
        std::mutex mutex_;
        std::unique_ptr<int> kept_;
    };

    std::unique_ptr<Image> image_;
};

class RequestCost : public BlkTest, public ::testing::WithParamInterface<std::tuple<Kind, bool>> {
  protected:
    static constexpr uint32_t kDataBytes = 4096;
    static constexpr uint64_t kUsedBytes = uint64_t{16} << 20;

    [[nodiscard]] std::unique_ptr<Image> make_image(std::unique_ptr<ImageFile> file) override {
        std::unique_ptr<Image> image;
        switch (std::get<Kind>(GetParam())) {
            case Kind::kNull:
                image = std::make_unique<NullImage>(NullImageOptions{.size_bytes = kUsedBytes});
                break;
            case Kind::kMemory:
                image = MemoryImage::create({.size_bytes = kUsedBytes}).value();
                break;
            case Kind::kFile:
                image = std::make_unique<FileImage>(std::move(file), IoEngineKind::kUring);
                break;
        }
        auto watched = std::make_unique<WatchedImage>(std::move(image));
        image_ = watched.get();
        return watched;
    }

    void SetUp() override {
        run({.packed = std::get<bool>(GetParam())});
        for (uint32_t i = 0; i < kInFlight; ++i) {
            Slot slot;
            slot.header = header(VIRTIO_BLK_T_IN, 0);
            slot.data = writable(kDataBytes);
            slot.status = writable(1);
            slots_.push_back(slot);
        }
    }

    void submit(uint32_t slot_index, uint32_t number) {
        const Slot& slot = slots_[slot_index];
        // Reads and writes in turn, and a flush now and then.
        const uint32_t type = number % 500 == 499 ? VIRTIO_BLK_T_FLUSH
                              : number % 2 == 0   ? VIRTIO_BLK_T_OUT
                                                  : VIRTIO_BLK_T_IN;
        const uint64_t sector = uint64_t{number} * 7919 % (kUsedBytes / kDataBytes) * 8;
        std::array<std::byte, 16> bytes{};
        std::memcpy(bytes.data(), &type, sizeof type);
        std::memcpy(bytes.data() + 8, &sector, sizeof sector);
        memory_.write(slot.header.address, bytes);
        std::vector<Segment> segments{slot.header};
        if (type != VIRTIO_BLK_T_FLUSH) {
            segments.push_back(slot.data);
            segments.back().device_writable = type == VIRTIO_BLK_T_IN;
        }
        segments.push_back(slot.status);
        ASSERT_TRUE(queue().try_add(segments, slot_index));
    }

    /// So many requests, from the first to the last answer.
    void run_requests(uint32_t count) {
        uint32_t begun = 0;
        uint32_t ended = 0;
        for (; begun < kInFlight; ++begun) {
            submit(begun, begun);
        }
        while (ended < count) {
            queue().publish_and_kick();
            ASSERT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
            while (const auto used = queue().poll_used()) {
                const auto slot = static_cast<uint32_t>(used->token);
                ASSERT_EQ(bytes_of(slots_[slot].status).front(), std::byte{VIRTIO_BLK_S_OK});
                ++ended;
                if (begun < count) {
                    submit(slot, begun++);
                }
            }
        }
    }

    struct Slot {
        Segment header;
        Segment data;
        Segment status;
    };

    WatchedImage* image_ = nullptr;
    std::vector<Slot> slots_;
};

INSTANTIATE_TEST_SUITE_P(
    Images,
    RequestCost,
    ::testing::Combine(::testing::Values(Kind::kNull, Kind::kMemory, Kind::kFile),
                       ::testing::Bool()),
    [](const auto& setup) {
        const Kind kind = std::get<Kind>(setup.param);
        return std::string(kind == Kind::kNull     ? "Null"
                           : kind == Kind::kMemory ? "Memory"
                                                   : "File") +
               (std::get<bool>(setup.param) ? "Packed" : "Split");
    });

TEST_P(RequestCost, IsNoAllocationAndNoLock) {
    run_requests(2000);
    start_counting();
    run_requests(10'000);
    EXPECT_EQ(stop_counting(), CallCounts{});
}

/// The counts count: one allocation and one lock a request, no more and no less.
TEST_P(RequestCost, IsSeenWhereThereIsSome) {
    run_requests(2000);
    image_->misbehaves = true;
    start_counting();
    run_requests(10'000);
    EXPECT_EQ(stop_counting(), (CallCounts{.allocations = 10'000, .locks = 10'000}));
}

}  // namespace
}  // namespace outrigger::testing
