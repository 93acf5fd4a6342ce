// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/memory_image.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <functional>
#include <latch>
#include <memory>
#include <vector>

#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/io/worker.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kMebibyte = 1 << 20;
constexpr uint64_t kPage = 4096;

using Bytes = std::vector<std::byte>;

Bytes filled(size_t size, int value) {
    return Bytes(size, static_cast<std::byte>(value));
}

/// Memory of this process that the system has given pages for.
uint64_t resident_bytes() {
    std::ifstream statm("/proc/self/statm");
    uint64_t total = 0;
    uint64_t resident = 0;
    statm >> total >> resident;
    return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

class MemoryRequest final : public ImageRequest {
  public:
    void on_image_done(int os_error) override {
        result = os_error;
        done.count_down();
    }

    [[nodiscard]] bool data_was_lost() override { return ++asked > lost_after; }

    int result = -1;
    int asked = 0;
    int lost_after = INT32_MAX;  ///< so many questions are answered "no"
    std::latch done{1};
    std::vector<iovec> segments;
    std::vector<ImageRange> list;
};

/// One end of the image, on a worker of its own.
class MemoryEnd final {
  public:
    explicit MemoryEnd(Image& image) : worker_(Worker::start({}).value()) {
        on_worker([&] { queue_ = image.open_queue(*worker_, 64).value(); });
    }

    MemoryEnd(const MemoryEnd&) = delete;
    MemoryEnd& operator=(const MemoryEnd&) = delete;

    ~MemoryEnd() {
        on_worker([&] { queue_ = nullptr; });
    }

    void on_worker(const std::function<void()>& task) {
        std::latch done{1};
        worker_->post([&] {
            task();
            done.count_down();
        });
        done.wait();
    }

    int run(MemoryRequest& request) {
        on_worker([&] { queue_->submit(request); });
        request.done.wait();
        return request.result;
    }

    int write(uint64_t offset, Bytes data) {
        MemoryRequest request;
        set_data(request, ImageCommand::kWrite, offset, data);
        return run(request);
    }

    Bytes read(uint64_t offset, size_t size) {
        Bytes data = filled(size, 0xee);
        MemoryRequest request;
        set_data(request, ImageCommand::kRead, offset, data);
        EXPECT_EQ(run(request), 0);
        return data;
    }

    int change(ImageCommand command, std::vector<ImageRange> ranges) {
        MemoryRequest request;
        set_ranges(request, command, std::move(ranges));
        return run(request);
    }

    static void set_data(MemoryRequest& request,
                         ImageCommand command,
                         uint64_t offset,
                         Bytes& data) {
        request.command = command;
        request.offset_bytes = offset;
        request.length_bytes = data.size();
        request.segments = {{data.data(), data.size()}};
        request.data = request.segments;
    }

    static void set_ranges(MemoryRequest& request,
                           ImageCommand command,
                           std::vector<ImageRange> ranges) {
        request.command = command;
        request.list = std::move(ranges);
        request.ranges = request.list;
    }

    [[nodiscard]] ImageQueue& queue() { return *queue_; }

  private:
    std::unique_ptr<Worker> worker_;
    std::unique_ptr<ImageQueue> queue_;
};

std::unique_ptr<MemoryImage> image_of(uint64_t size_bytes, bool huge_pages = false) {
    return MemoryImage::create({.size_bytes = size_bytes, .huge_pages = huge_pages}).value();
}

TEST(MemoryImage, BeginsWithZeroes) {
    const auto image = image_of(kMebibyte);
    MemoryEnd end(*image);
    EXPECT_EQ(end.read(512, 1024), filled(1024, 0));
}

TEST(MemoryImage, WhatIsWrittenIsReadBackThroughEveryEnd) {
    const auto image = image_of(kMebibyte);
    MemoryEnd end(*image);
    MemoryEnd other(*image);
    EXPECT_EQ(end.write(1536, filled(100 * 512, 0x3c)), 0);
    EXPECT_EQ(other.read(1536, 100 * 512), filled(100 * 512, 0x3c));
    EXPECT_EQ(other.read(1024, 512), filled(512, 0));
    EXPECT_EQ(other.read(1536 + 100 * 512, 512), filled(512, 0));
}

TEST(MemoryImage, DataComesInSegmentsOfAnyLength) {
    const auto image = image_of(kMebibyte);
    MemoryEnd end(*image);
    Bytes data(40'960);
    for (size_t i = 0; i < data.size(); ++i) {
        data[i] = static_cast<std::byte>(i % 251);
    }
    MemoryRequest write;
    MemoryEnd::set_data(write, ImageCommand::kWrite, 512, data);
    write.segments = {
        {data.data(), 1}, {data.data() + 1, 16'384}, {data.data() + 16'385, data.size() - 16'385}};
    write.data = write.segments;
    EXPECT_EQ(end.run(write), 0);
    Bytes out = filled(data.size(), 0xee);
    MemoryRequest read;
    MemoryEnd::set_data(read, ImageCommand::kRead, 512, out);
    read.segments = {{out.data(), 20'000}, {out.data() + 20'000, out.size() - 20'000}};
    read.data = read.segments;
    EXPECT_EQ(end.run(read), 0);
    EXPECT_EQ(out, data);
}

TEST(MemoryImage, RequestsCrossTheBordersOfItsChunks) {
    const auto image = image_of(2 * MemoryStore::kChunkBytes);
    MemoryEnd end(*image);
    const uint64_t at = MemoryStore::kChunkBytes - 4 * kPage;
    EXPECT_EQ(end.write(at, filled(8 * kPage, 0x71)), 0);
    EXPECT_EQ(end.read(at, 8 * kPage), filled(8 * kPage, 0x71));
    EXPECT_EQ(end.change(ImageCommand::kWriteZeroes,
                         {{.offset_bytes = at + 512, .length_bytes = 7 * kPage, .unmap = true}}),
              0);
    EXPECT_EQ(end.read(at, 512), filled(512, 0x71));
    EXPECT_EQ(end.read(at + 512, 7 * kPage), filled(7 * kPage, 0));
    EXPECT_EQ(end.read(at + 512 + 7 * kPage, 512), filled(512, 0x71));
}

TEST(MemoryImage, ReadingWhatWasNeverWrittenTakesNoMemory) {
    const auto image = image_of(256 * kMebibyte);
    MemoryEnd end(*image);
    Bytes data = filled(kMebibyte, 0xee);
    const uint64_t before = resident_bytes();
    for (uint64_t at = 0; at < 256; ++at) {
        MemoryRequest request;
        MemoryEnd::set_data(request, ImageCommand::kRead, at * kMebibyte, data);
        EXPECT_EQ(end.run(request), 0);
    }
    EXPECT_LT(resident_bytes(), before + 64 * kMebibyte);
}

TEST(MemoryImage, UnmappingAndDiscardingGiveMemoryBack) {
    for (const ImageCommand command : {ImageCommand::kWriteZeroes, ImageCommand::kDiscard}) {
        const auto image = image_of(256 * kMebibyte);
        MemoryEnd end(*image);
        EXPECT_EQ(end.write(0, filled(256 * kMebibyte, 0x55)), 0);
        const uint64_t full = resident_bytes();
        EXPECT_EQ(
            end.change(
                command,
                {{.offset_bytes = 512, .length_bytes = 256 * kMebibyte - 1024, .unmap = true}}),
            0);
        EXPECT_LT(resident_bytes() + 192 * kMebibyte, full);
        EXPECT_EQ(end.read(128 * kMebibyte, kPage), filled(kPage, 0));
        EXPECT_EQ(end.read(0, 512), filled(512, 0x55));
        EXPECT_EQ(end.read(256 * kMebibyte - 512, 512), filled(512, 0x55));
    }
}

TEST(MemoryImage, ZeroingWithoutUnmapKeepsTheMemory) {
    const auto image = image_of(64 * kMebibyte);
    MemoryEnd end(*image);
    const uint64_t before = resident_bytes();
    EXPECT_EQ(end.change(ImageCommand::kWriteZeroes,
                         {{.offset_bytes = 0, .length_bytes = 64 * kMebibyte, .unmap = false}}),
              0);
    EXPECT_GT(resident_bytes(), before + 48 * kMebibyte);
    EXPECT_EQ(end.read(63 * kMebibyte, kPage), filled(kPage, 0));
}

TEST(MemoryImage, DiscardIsRoundedInwardToPages) {
    const auto image = image_of(kMebibyte);
    MemoryEnd end(*image);
    EXPECT_EQ(end.write(0, filled(4 * kPage, 0x44)), 0);
    EXPECT_EQ(
        end.change(ImageCommand::kDiscard, {{.offset_bytes = 512, .length_bytes = 2 * kPage}}), 0);
    EXPECT_EQ(end.read(512, kPage - 512), filled(kPage - 512, 0x44));
    EXPECT_EQ(end.read(kPage, kPage), filled(kPage, 0));
    EXPECT_EQ(end.read(2 * kPage, kPage), filled(kPage, 0x44));
}

TEST(MemoryImage, DiscardOfLessThanAPageTouchesNothing) {
    const auto image = image_of(kMebibyte);
    MemoryEnd end(*image);
    EXPECT_EQ(end.write(0, filled(2 * kPage, 0x44)), 0);
    EXPECT_EQ(
        end.change(ImageCommand::kDiscard, {{.offset_bytes = 512, .length_bytes = kPage}, {}}), 0);
    EXPECT_EQ(end.read(0, 2 * kPage), filled(2 * kPage, 0x44));
}

TEST(MemoryImage, LongZeroingLetsOthersGoFirst) {
    const auto image = image_of(64 * kMebibyte);
    MemoryEnd end(*image);
    MemoryRequest first;
    MemoryRequest second;
    MemoryEnd::set_ranges(
        first, ImageCommand::kWriteZeroes, {{.offset_bytes = 0, .length_bytes = 32 * kMebibyte}});
    MemoryEnd::set_ranges(second,
                          ImageCommand::kWriteZeroes,
                          {{.offset_bytes = 32 * kMebibyte, .length_bytes = 512}});
    Bytes data = filled(512, 0xee);
    MemoryRequest read;
    MemoryEnd::set_data(read, ImageCommand::kRead, 0, data);
    end.on_worker([&] {
        end.queue().submit(first);
        end.queue().submit(second);
        end.queue().submit(read);
        EXPECT_EQ(first.result, -1);
        EXPECT_EQ(second.result, -1);
        EXPECT_EQ(read.result, 0);
    });
    first.done.wait();
    second.done.wait();
    EXPECT_EQ(first.result, 0);
    EXPECT_EQ(second.result, 0);
}

TEST(MemoryImage, LostGuestMemoryNeverReachesTheDisk) {
    const auto image = image_of(kMebibyte);
    MemoryEnd end(*image);
    EXPECT_EQ(end.write(0, filled(65'536, 0x11)), 0);
    Bytes data = filled(65'536, 0);
    MemoryRequest write;
    MemoryEnd::set_data(write, ImageCommand::kWrite, 0, data);
    write.lost_after = 0;
    EXPECT_EQ(end.run(write), EFAULT);
    EXPECT_EQ(end.read(0, 65'536), filled(65'536, 0x11));
}

TEST(MemoryImage, LostRangesEndTheirRequest) {
    const auto image = image_of(64 * kMebibyte);
    MemoryEnd end(*image);
    EXPECT_EQ(end.write(32 * kMebibyte, filled(512, 0x11)), 0);
    MemoryRequest zeroes;
    MemoryEnd::set_ranges(
        zeroes, ImageCommand::kWriteZeroes, {{.offset_bytes = 0, .length_bytes = 64 * kMebibyte}});
    zeroes.lost_after = 3;
    EXPECT_EQ(end.run(zeroes), EFAULT);
    EXPECT_EQ(end.read(32 * kMebibyte, 512), filled(512, 0x11));
}

TEST(MemoryImage, FlushIsDoneAndWhatItDoesNotOfferIsNot) {
    const auto image = image_of(kMebibyte);
    MemoryEnd end(*image);
    EXPECT_EQ(end.change(ImageCommand::kFlush, {}), 0);
    EXPECT_EQ(end.change(ImageCommand::kSecureErase, {}), EOPNOTSUPP);
    EXPECT_EQ(end.change(ImageCommand::kGetLifetime, {}), EOPNOTSUPP);
}

TEST(MemoryImage, GrowsUnderItsEndsAndShrinksForGood) {
    const auto image = image_of(kMebibyte + 512);
    MemoryEnd end(*image);
    EXPECT_EQ(end.write(kMebibyte, filled(512, 0x21)), 0);
    EXPECT_EQ(image->resize(3 * MemoryStore::kChunkBytes).value(), 3 * MemoryStore::kChunkBytes);
    EXPECT_EQ(end.read(kMebibyte, 1024).front(), std::byte{0x21});
    EXPECT_EQ(end.write(3 * MemoryStore::kChunkBytes - 512, filled(512, 0x22)), 0);
    EXPECT_EQ(image->resize(kMebibyte).value(), kMebibyte);
    EXPECT_EQ(image->resize(3 * MemoryStore::kChunkBytes).value(), 3 * MemoryStore::kChunkBytes);
    EXPECT_EQ(end.read(kMebibyte, 1024), filled(1024, 0));
    EXPECT_EQ(end.read(3 * MemoryStore::kChunkBytes - 512, 512), filled(512, 0));
    EXPECT_EQ(image->resize(std::nullopt).value(), 3 * MemoryStore::kChunkBytes);
}

TEST(MemoryImage, MoreThanItCanHaveIsRefusedAndNothingChanges) {
    const auto image = image_of(kMebibyte);
    MemoryEnd end(*image);
    EXPECT_EQ(end.write(0, filled(512, 0x21)), 0);
    EXPECT_FALSE(image->resize(MemoryStore::kSizeMax + 512));
    EXPECT_EQ(image->resize(std::nullopt).value(), kMebibyte);
    EXPECT_EQ(end.read(0, 512), filled(512, 0x21));
    EXPECT_FALSE(MemoryImage::create({.size_bytes = MemoryStore::kSizeMax + 512}));
}

/// The guest's own fault, and nobody else's: no byte is anything but what one of them wrote.
TEST(MemoryImage, OverlappingWritesOfTwoWorkersAreNoMoreThanAMix) {
    const auto image = image_of(kMebibyte, true);
    MemoryEnd end(*image);
    MemoryEnd other(*image);
    Bytes ones = filled(kPage, 1);
    Bytes twos = filled(kPage, 2);
    for (int i = 0; i < 200; ++i) {
        MemoryRequest first;
        MemoryRequest second;
        MemoryEnd::set_data(first, ImageCommand::kWrite, 0, ones);
        MemoryEnd::set_data(second, ImageCommand::kWrite, 0, twos);
        std::jthread thread([&] { EXPECT_EQ(end.run(first), 0); });
        EXPECT_EQ(other.run(second), 0);
    }
    EXPECT_TRUE(std::ranges::all_of(end.read(0, kPage), [](std::byte each) {
        return each == std::byte{1} || each == std::byte{2};
    }));
}

TEST(MemoryImage, SaysWhatItCanDo) {
    const auto writable = image_of(kMebibyte);
    EXPECT_TRUE(writable->properties().can_discard);
    EXPECT_TRUE(writable->properties().can_unmap_zeroes);
    EXPECT_FALSE(writable->properties().can_secure_erase);
    EXPECT_EQ(writable->properties().size_bytes, kMebibyte);
    const auto read_only =
        MemoryImage::create({.size_bytes = kMebibyte, .block_bytes = 4096, .read_only = true})
            .value();
    EXPECT_TRUE(read_only->properties().read_only);
    EXPECT_FALSE(read_only->properties().can_discard);
    EXPECT_EQ(read_only->properties().block_bytes, 4096U);
}

}  // namespace
}  // namespace outrigger::blk
