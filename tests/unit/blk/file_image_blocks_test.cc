// SPDX-License-Identifier: Apache-2.0
// Two queues on two workers write parts of the same blocks of a real file: no write is lost. The
// host is taken to need 4096 bytes at a time, whatever it does need.
#include <algorithm>
#include <array>
#include <latch>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "devices/blk/file_image.h"
#include "tests/support/loop_device.h"
#include "tests/support/temporary_image.h"

namespace outrigger::blk {
namespace {

constexpr uint32_t kBlock = 4096;
constexpr uint32_t kSector = 512;
constexpr uint64_t kBlocks = 4;
constexpr size_t kDepth = 16;
constexpr uint32_t kRounds = 400;

/// Writes sectors of its own, over and over, each time with another value. Thread-bound: its
/// worker.
class SectorWriter final {
  public:
    /// `parity`: writes the even, or the odd sectors, several at a time but each once.
    SectorWriter(FileImage& image, Worker& worker, uint64_t parity, std::latch& done)
        : queue_(image.open_queue(worker, kDepth).value()), done_(done) {
        for (uint64_t sector = parity; sector < kBlocks * kBlock / kSector; sector += 2) {
            writes_.push_back(std::make_unique<Write>(*this, sector));
        }
    }

    void begin() {
        for (const auto& write : writes_) {
            write->submit();
        }
    }

    /// What each sector should hold now.
    void collect(std::span<int> values) const {
        for (const auto& write : writes_) {
            values[write->sector()] = write->value();
        }
    }

  private:
    class Write final : public ImageRequest {
      public:
        Write(SectorWriter& owner, uint64_t sector) : owner_(owner), sector_(sector) {
            segment_ = {.iov_base = memory_.data(), .iov_len = memory_.size()};
            command = ImageCommand::kWrite;
            offset_bytes = sector * kSector;
            length_bytes = kSector;
            data = std::span<const iovec>(&segment_, 1);
        }

        void submit() {
            memory_.fill(static_cast<std::byte>(value()));
            owner_.queue_->submit(*this);
        }

        void on_image_done(int os_error) override {
            EXPECT_EQ(os_error, 0);
            if (++round_ < kRounds) {
                submit();
                return;
            }
            --round_;
            owner_.done_.count_down();
        }

        [[nodiscard]] uint64_t sector() const { return sector_; }

        [[nodiscard]] int value() const { return static_cast<int>((round_ + sector_) % 250 + 1); }

      private:
        SectorWriter& owner_;
        const uint64_t sector_;
        uint32_t round_ = 0;
        std::array<std::byte, kSector> memory_{};
        iovec segment_{};
    };

    std::unique_ptr<ImageQueue> queue_;
    std::latch& done_;
    std::vector<std::unique_ptr<Write>> writes_;
};

void run_on(Worker& worker, const std::function<void()>& task) {
    std::latch done{1};
    worker.post([&] {
        task();
        done.count_down();
    });
    done.wait();
}

void expect_no_write_lost(std::unique_ptr<ImageFile> file, const TemporaryImage& backing) {
    FileImage image(std::move(file), IoEngineKind::kAuto);
    std::array<std::unique_ptr<Worker>, 2> workers{Worker::start({}).value(),
                                                   Worker::start({}).value()};
    std::array<std::unique_ptr<SectorWriter>, 2> writers;
    std::latch done{static_cast<ptrdiff_t>(kBlocks * kBlock / kSector)};
    for (size_t i = 0; i < 2; ++i) {
        run_on(*workers[i], [&] {
            writers[i] = std::make_unique<SectorWriter>(image, *workers[i], i, done);
            writers[i]->begin();
        });
    }
    done.wait();
    std::array<int, kBlocks * kBlock / kSector> expected{};
    for (size_t i = 0; i < 2; ++i) {
        run_on(*workers[i], [&] {
            writers[i]->collect(expected);
            writers[i] = nullptr;
        });
    }
    for (uint64_t sector = 0; sector < expected.size(); ++sector) {
        EXPECT_TRUE(backing.holds(sector * kSector, kSector, expected[sector])) << sector;
    }
}

TEST(FileImageBlocks, SectorsOfOneBlockWrittenByTwoQueuesAreAllThere) {
    const TemporaryImage backing(1 << 20);
    auto file = ImageFile::open({.path = backing.path(), .direct = true, .block_bytes = 512});
    if (!file) {
        GTEST_SKIP() << file.error().message;
    }
    (*file)->offset_alignment = kBlock;
    (*file)->block_locks = std::make_unique<BlockLocks>();
    expect_no_write_lost(*std::move(file), backing);
}

TEST(FileImageBlocks, SectorsOfOneBlockOfARealDeviceAreAllThere) {
    const TemporaryImage backing(1 << 20);
    const auto device = LoopDevice::create(backing.fd(), kBlock);
    if (!device) {
        GTEST_SKIP() << "no loop device can be made here";
    }
    expect_no_write_lost(
        ImageFile::open({.path = device->path(), .direct = true, .block_bytes = 512}).value(),
        backing);
}

}  // namespace
}  // namespace outrigger::blk
