// SPDX-License-Identifier: Apache-2.0
// An overlay under load from several queues at once, their requests in the same clusters; and what
// is left of it when the power goes at any moment.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <latch>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/blk/overlay_fixture.h"

namespace outrigger::blk {
namespace {

using outrigger::testing::DiskModel;

struct LoadOptions {
    uint32_t queue = 0;
    uint32_t queue_count = 1;
    uint32_t requests = 1000;
    bool stable = false;
};

/// Random requests of one queue, eight at a time. The disk is dealt out to the queues in blocks of
/// three sectors, so that they meet in every cluster, and above its middle in runs of clusters.
class Load final {
  public:
    Load(DiskModel& model, MemoryDisk& layer, const LoadOptions& options)
        : model_(model), layer_(layer), options_(options), random_(options.queue + 1) {
        for (Slot& slot : slots_) {
            slot.load = this;
        }
    }

    /// On the worker. `done` when every request has been answered.
    void start(ImageQueue& queue, std::latch& done) {
        queue_ = &queue;
        done_ = &done;
        for (Slot& slot : slots_) {
            next(slot);
        }
    }

    [[nodiscard]] uint64_t mismatches() const { return mismatches_; }

    [[nodiscard]] uint64_t failures() const { return failures_; }

  private:
    struct Slot final : public ImageRequest {
        void on_image_done(int os_error) override { load->on_done(*this, os_error); }

        Load* load = nullptr;
        DiskModel::Change change;
        DiskModel::Moment moment;
        uint64_t block = ~uint64_t{0};
        std::vector<std::byte> bytes;
        iovec segment{};
        ImageRange range;
    };

    static constexpr uint64_t kBlockSectors = 3;
    static constexpr uint64_t kRunSectors = 5 * 8;

    /// Where block `index` of this queue lies. Small ones first, then runs.
    struct Place {
        uint64_t sector;
        uint64_t count;
    };

    [[nodiscard]] Place place_of(uint64_t index) const {
        const uint64_t half = model_.sectors() / 2;
        const uint64_t small = half / kBlockSectors / options_.queue_count;
        if (index < small) {
            return {.sector = (index * options_.queue_count + options_.queue) * kBlockSectors,
                    .count = kBlockSectors};
        }
        return {.sector =
                    half + ((index - small) * options_.queue_count + options_.queue) * kRunSectors,
                .count = kRunSectors};
    }

    [[nodiscard]] uint64_t block_count() const {
        const uint64_t half = model_.sectors() / 2;
        return half / kBlockSectors / options_.queue_count +
               half / kRunSectors / options_.queue_count;
    }

    uint64_t free_block() {
        while (true) {
            const uint64_t block = random_() % block_count();
            if (std::ranges::none_of(slots_,
                                     [&](const Slot& slot) { return slot.block == block; })) {
                return block;
            }
        }
    }

    void next(Slot& slot) {
        if (begun_ == options_.requests) {
            slot.block = ~uint64_t{0};
            if (++rested_ == slots_.size()) {
                done_->count_down();
            }
            return;
        }
        ++begun_;
        slot.block = ~uint64_t{0};
        slot.block = free_block();
        const Place place = place_of(slot.block);
        slot.offset_bytes = place.sector * DiskModel::kSectorBytes;
        slot.length_bytes = place.count * DiskModel::kSectorBytes;
        slot.stable = options_.stable;
        const uint64_t what = random_() % 16;
        if (what < 7) {
            set_up_data(slot, ImageCommand::kWrite);
            slot.change = model_.begin_change(place.sector, place.count, slot.bytes);
        } else if (what < 13) {
            set_up_data(slot, ImageCommand::kRead);
        } else if (what < 15) {
            slot.command = ImageCommand::kWriteZeroes;
            slot.range = {.offset_bytes = slot.offset_bytes,
                          .length_bytes = slot.length_bytes,
                          .unmap = what == 14};
            slot.ranges = std::span(&slot.range, 1);
            slot.change = model_.begin_change(place.sector, place.count, {});
        } else {
            slot.command = ImageCommand::kFlush;
            slot.moment = model_.now();
        }
        queue_->submit(slot);
    }

    static void set_up_data(Slot& slot, ImageCommand command) {
        slot.command = command;
        slot.bytes.assign(slot.length_bytes, std::byte{0xee});
        slot.segment = {.iov_base = slot.bytes.data(), .iov_len = slot.bytes.size()};
        slot.data = std::span(&slot.segment, 1);
    }

    void on_done(Slot& slot, int os_error) {
        failures_ += os_error != 0 ? 1 : 0;
        switch (slot.command) {
            case ImageCommand::kRead:
                if (!model_.holds_now(slot.offset_bytes / DiskModel::kSectorBytes, slot.bytes)) {
                    ++mismatches_;
                }
                break;
            case ImageCommand::kFlush:
                model_.end_flush(slot.moment);
                layer_.mark([&stable = stable_, moment = std::move(slot.moment)] {
                    raise(stable, moment);
                });
                break;
            default:
                model_.end_change(slot.change);
                if (options_.stable) {
                    layer_.mark([&stable = stable_, moment = model_.now(), change = slot.change] {
                        raise(stable, moment, change);
                    });
                }
                break;
        }
        next(slot);
    }

    static void raise(DiskModel::Moment& stable, const DiskModel::Moment& moment) {
        stable.resize(moment.size());
        for (size_t i = 0; i < moment.size(); ++i) {
            stable[i] = std::max(stable[i], moment[i]);
        }
    }

    static void raise(DiskModel::Moment& stable,
                      const DiskModel::Moment& moment,
                      const DiskModel::Change& change) {
        stable.resize(moment.size());
        for (uint64_t i = change.sector; i < change.sector + change.count; ++i) {
            stable[i] = std::max(stable[i], moment[i]);
        }
    }

  public:
    /// What the marks of the log have told so far.
    DiskModel::Moment stable_;

  private:
    DiskModel& model_;
    MemoryDisk& layer_;
    const LoadOptions options_;
    std::minstd_rand random_;
    ImageQueue* queue_ = nullptr;
    std::latch* done_ = nullptr;
    std::array<Slot, 8> slots_;
    uint32_t begun_ = 0;
    size_t rested_ = 0;
    std::atomic<uint64_t> mismatches_ = 0;
    std::atomic<uint64_t> failures_ = 0;
};

struct RunOptions {
    const char* name;
    uint32_t queue_count = 3;
    uint32_t requests = 1500;
    bool stable = false;
    bool copy_on_read = false;
    bool fill = false;
};

class OverlayLoadTest : public OverlayTest, public ::testing::WithParamInterface<RunOptions> {
  protected:
    /// All queues on workers of their own; ends when every request was answered.
    void run_load() {
        const RunOptions& options = GetParam();
        format({.disk_bytes = 1 << 20, .base_bytes = (1 << 20) - 7 * kSector});
        model_ = std::make_unique<DiskModel>((1 << 20) / kSector, (1 << 20) / kSector - 7);
        late_ = true;
        open({.copy_on_read = options.copy_on_read, .fill = options.fill, .fill_rate = 1 << 20});
        std::latch done(options.queue_count);
        std::vector<std::unique_ptr<Worker>> workers;
        std::vector<std::unique_ptr<ImageQueue>> queues(options.queue_count);
        for (uint32_t i = 0; i < options.queue_count; ++i) {
            workers.push_back(Worker::start({.loop = LoopKind::kAsio}).value());
            loads_.push_back(std::make_unique<Load>(*model_,
                                                    *layer_,
                                                    LoadOptions{.queue = i,
                                                                .queue_count = options.queue_count,
                                                                .requests = options.requests,
                                                                .stable = options.stable}));
            run_on(*workers[i], [&] { queues[i] = overlay_->open_queue(*workers[i], 8).value(); });
        }
        for (uint32_t i = 0; i < options.queue_count; ++i) {
            workers[i]->post([&, i] { loads_[i]->start(*queues[i], done); });
        }
        done.wait();
        for (uint32_t i = 0; i < options.queue_count; ++i) {
            run_on(*workers[i], [&] { queues[i].reset(); });
            EXPECT_EQ(loads_[i]->mismatches(), 0U);
            EXPECT_EQ(loads_[i]->failures(), 0U);
        }
    }

    /// What the disk holds by what lies in `layer`; fails when the layer cannot be used.
    [[nodiscard]] std::vector<std::byte> disk_of(MemoryDisk& layer) {
        MemoryDiskStore store(layer);
        auto journal = LayerJournal::open(store, "layer");
        EXPECT_TRUE(journal) << journal.error().message;
        ClusterMap map((*journal)->geometry(), 0);
        EXPECT_EQ((*journal)->load(map), 0);
        EXPECT_EQ((*journal)->findings().pages_lost, 0U);
        EXPECT_EQ((*journal)->findings().bits_beyond_end, 0U);
        std::vector<std::byte> disk(sizes_.disk_bytes);
        std::ranges::copy(base_->bytes(), disk.begin());
        for (uint64_t cluster = 0; cluster < map.cluster_count(); ++cluster) {
            if (map.is_present(cluster)) {
                std::ranges::copy(
                    layer.bytes().subspan(geometry_.data_offset + cluster * kCluster, kCluster),
                    disk.begin() + static_cast<ptrdiff_t>(cluster * kCluster));
            }
        }
        return disk;
    }

    std::unique_ptr<DiskModel> model_;
    std::vector<std::unique_ptr<Load>> loads_;
};

INSTANTIATE_TEST_SUITE_P(
    Loads,
    OverlayLoadTest,
    ::testing::Values(
        RunOptions{.name = "Plain"},
        RunOptions{.name = "CopyOnRead", .copy_on_read = true},
        RunOptions{.name = "Fill", .fill = true},
        RunOptions{.name = "All", .queue_count = 4, .copy_on_read = true, .fill = true},
        RunOptions{.name = "WriteThrough", .requests = 400, .stable = true, .fill = true}),
    [](const auto& load) { return std::string(load.param.name); });

TEST_P(OverlayLoadTest, QueuesReadWhatTheyWroteAndSoDoesTheNextLife) {
    run_load();
    EXPECT_TRUE(model_->holds_now(0, contents(0, 1 << 20)));
    close();
    EXPECT_TRUE(model_->holds_now(0, disk_of(*layer_)));
}

TEST_P(OverlayLoadTest, PowerCutAtAnyMomentLeavesAllFlushedDataAndNoOther) {
    run_load();
    close();
    std::minstd_rand random(99);
    const auto is_metadata = [&](uint64_t offset) { return offset < geometry_.data_offset; };
    for (int cut = 0; cut < 80; ++cut) {
        for (const auto& load : loads_) {
            load->stable_.assign(model_->sectors(), 0);
        }
        const size_t events = random() % (layer_->log_size() + 1);
        MemoryDisk left(layer_->size_bytes());
        std::ranges::copy(layer_->after_power_cut(events, random, is_metadata),
                          left.bytes().begin());
        DiskModel::Moment stable(model_->sectors(), 0);
        for (const auto& load : loads_) {
            std::ranges::transform(stable, load->stable_, stable.begin(), [](auto a, auto b) {
                return std::max(a, b);
            });
        }
        ASSERT_TRUE(model_->may_hold(stable, 0, disk_of(left))) << "cut behind event " << events;
    }
}

}  // namespace
}  // namespace outrigger::blk
