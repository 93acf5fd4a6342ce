// SPDX-License-Identifier: Apache-2.0
// Real files, real workers, both engines, cached and direct.
#include "devices/blk/file_image.h"

#include <array>
#include <cerrno>
#include <latch>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"

#include "tests/support/temporary_image.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kMebibyte = 1 << 20;

class BlockingRequest final : public ImageRequest {
  public:
    void on_image_done(int os_error) override {
        result = os_error;
        done.count_down();
    }

    int result = -1;
    std::latch done{1};
};

struct Setup {
    IoEngineKind engine;
    bool direct;
    bool polled = false;  ///< where the host does: most answer EOPNOTSUPP
};

class FileImageTest : public testing::TestWithParam<Setup> {
  protected:
    void SetUp() override {
        const LoopKind loop =
            GetParam().engine == IoEngineKind::kUring ? LoopKind::kUring : LoopKind::kAsio;
        auto worker = Worker::start({.loop = loop});
        if (!worker) {
            GTEST_SKIP() << worker.error().message;
        }
        worker_ = std::move(*worker);
        auto file = ImageFile::open({.path = backing_.path(), .direct = GetParam().direct});
        if (!file && GetParam().direct) {
            GTEST_SKIP() << file.error().message;
        }
        ASSERT_TRUE(file) << file.error().message;
        file_ = file->get();
        image_ = std::make_unique<FileImage>(std::move(*file), GetParam().engine);
        if (GetParam().polled) {
            auto rings = PolledRings::create(2);
            ASSERT_TRUE(rings) << rings.error().message;
            image_->use_polled_rings(*std::move(rings));
        }
        on_worker([&] { queue_ = image_->open_queue(*worker_, 64).value(); });
    }

    void TearDown() override {
        if (queue_) {
            on_worker([&] { queue_ = nullptr; });
        }
        image_ = nullptr;
    }

    template <class Task>
    void on_worker(Task task) {
        std::latch done{1};
        worker_->post([&] {
            task();
            done.count_down();
        });
        done.wait();
    }

    int run(BlockingRequest& request) {
        worker_->post([&] { queue_->submit(request); });
        request.done.wait();
        return request.result;
    }

    int transfer(ImageCommand command, uint64_t offset, std::span<const iovec> data) {
        BlockingRequest request;
        request.command = command;
        request.offset_bytes = offset;
        request.data = data;
        for (const iovec& segment : data) {
            request.length_bytes += segment.iov_len;
        }
        return run(request);
    }

    int change(ImageCommand command, std::span<const ImageRange> ranges) {
        BlockingRequest request;
        request.command = command;
        request.ranges = ranges;
        return run(request);
    }

    TemporaryImage backing_{16 * kMebibyte};
    std::unique_ptr<Worker> worker_;
    ImageFile* file_ = nullptr;
    std::unique_ptr<FileImage> image_;
    std::unique_ptr<ImageQueue> queue_;
};

std::string setup_name(const testing::TestParamInfo<Setup>& info) {
    return std::string(info.param.engine == IoEngineKind::kUring ? "Uring" : "Threads") +
           (info.param.direct ? "Direct" : "Cached") + (info.param.polled ? "Polled" : "");
}

std::vector<Setup> setups_of_this_build() {
    if (kPortableBuild) {
        return {{IoEngineKind::kThreads, false}};
    }
    return {{IoEngineKind::kUring, false},
            {IoEngineKind::kUring, true},
            {IoEngineKind::kUring, true, true},
            {IoEngineKind::kThreads, false},
            {IoEngineKind::kThreads, true}};
}

INSTANTIATE_TEST_SUITE_P(Engines,
                         FileImageTest,
                         testing::ValuesIn(setups_of_this_build()),
                         setup_name);

// The device keeps the object until the next run of its ring, and destroys it on another thread.
TEST_P(FileImageTest, RetiredQueueLetsGoOfTheFile) {
    on_worker([&] { queue_->retire(); });
    queue_ = nullptr;
    image_ = nullptr;

    const auto again = ImageFile::open({.path = backing_.path()});

    EXPECT_TRUE(again) << again.error().message;
}

TEST_P(FileImageTest, ReadsIntoScatteredUnalignedMemory) {
    backing_.fill(4096, 4096, 0x21);
    std::vector<char> memory(8192);
    const std::array data{iovec{memory.data() + 1, 100}, iovec{memory.data() + 4001, 3996}};
    ASSERT_EQ(transfer(ImageCommand::kRead, 4096, data), 0);
    EXPECT_EQ(memory[0], 0);
    EXPECT_EQ(memory[1], 0x21);
    EXPECT_EQ(memory[100], 0x21);
    EXPECT_EQ(memory[101], 0);
    EXPECT_EQ(memory[4001], 0x21);
    EXPECT_EQ(memory[4001 + 3995], 0x21);
    EXPECT_EQ(memory[4001 + 3996], 0);
}

TEST_P(FileImageTest, WritesFromScatteredUnalignedMemory) {
    std::vector<char> memory(8192, 0x42);
    const std::array data{iovec{memory.data() + 3, 511}, iovec{memory.data() + 1000, 3585}};
    ASSERT_EQ(transfer(ImageCommand::kWrite, 8192, data), 0);
    EXPECT_TRUE(backing_.holds(8192, 4096, 0x42));
    EXPECT_TRUE(backing_.holds(8192 - 512, 512, 0));
    EXPECT_TRUE(backing_.holds(8192 + 4096, 512, 0));
}

TEST_P(FileImageTest, TransfersMegabytes) {
    std::vector<char> out(5 * kMebibyte, 0x33);
    const std::array source{iovec{out.data(), out.size()}};
    ASSERT_EQ(transfer(ImageCommand::kWrite, 0, source), 0);
    std::vector<char> in(5 * kMebibyte);
    const std::array target{iovec{in.data(), in.size()}};
    ASSERT_EQ(transfer(ImageCommand::kRead, 0, target), 0);
    EXPECT_EQ(in, out);
}

TEST_P(FileImageTest, TransfersMoreSegmentsThanOneCallTakes) {
    std::vector<char> memory(1100 * 4096, 0x44);
    std::vector<iovec> data;
    for (size_t i = 0; i < 1100; ++i) {
        data.push_back({.iov_base = memory.data() + i * 4096, .iov_len = 4096});
    }
    ASSERT_EQ(transfer(ImageCommand::kWrite, 0, data), 0);
    EXPECT_TRUE(backing_.holds(0, 1100 * 4096, 0x44));
}

TEST_P(FileImageTest, StableWriteIsWritten) {
    std::vector<char> memory(4096, 0x45);
    const std::array data{iovec{memory.data(), memory.size()}};
    BlockingRequest request;
    request.command = ImageCommand::kWrite;
    request.stable = true;
    request.data = data;
    request.length_bytes = 4096;
    ASSERT_EQ(run(request), 0);
    EXPECT_TRUE(backing_.holds(0, 4096, 0x45));
}

TEST_P(FileImageTest, FlushSucceeds) {
    BlockingRequest request;
    request.command = ImageCommand::kFlush;
    EXPECT_EQ(run(request), 0);
}

TEST_P(FileImageTest, ReadOfATruncatedFileGivesZeroes) {
    backing_.fill(0, 8192, 0x55);
    ASSERT_EQ(::ftruncate(backing_.fd(), 4096), 0);
    std::vector<char> memory(8192, 0x66);
    const std::array data{iovec{memory.data(), memory.size()}};
    ASSERT_EQ(transfer(ImageCommand::kRead, 0, data), 0);
    EXPECT_EQ(memory[4095], 0x55);
    EXPECT_EQ(memory[4096], 0);
    EXPECT_EQ(memory[8191], 0);
}

TEST_P(FileImageTest, DiscardFreesSpaceAndNeverShrinksTheFile) {
    backing_.fill(0, 16 * kMebibyte, 0x77);
    const uint64_t before = backing_.allocated();
    // To the very end: where others truncated.
    const std::array ranges{ImageRange{8 * kMebibyte, 8 * kMebibyte, false}};
    ASSERT_EQ(change(ImageCommand::kDiscard, ranges), 0);
    EXPECT_EQ(backing_.size(), 16 * kMebibyte);
    EXPECT_TRUE(backing_.holds(0, 8 * kMebibyte, 0x77));
    if (file_->properties.can_discard) {
        EXPECT_LT(backing_.allocated(), before);
    }
}

TEST_P(FileImageTest, ZeroingWithUnmapCoversExactlyTheRange) {
    backing_.fill(0, kMebibyte, 0x78);
    const std::array ranges{ImageRange{4096 + 512, 65536, true}, ImageRange{512 * 1024, 512, true}};
    ASSERT_EQ(change(ImageCommand::kWriteZeroes, ranges), 0);
    EXPECT_TRUE(backing_.holds(0, 4096 + 512, 0x78));
    EXPECT_TRUE(backing_.holds(4096 + 512, 65536, 0));
    EXPECT_TRUE(backing_.holds(4096 + 512 + 65536, 512, 0x78));
    EXPECT_TRUE(backing_.holds(512 * 1024, 512, 0));
}

TEST_P(FileImageTest, ZeroingWithoutUnmapCoversExactlyTheRange) {
    backing_.fill(0, kMebibyte, 0x79);
    const std::array ranges{ImageRange{4096 + 512, 65536, false}};
    ASSERT_EQ(change(ImageCommand::kWriteZeroes, ranges), 0);
    EXPECT_TRUE(backing_.holds(0, 4096 + 512, 0x79));
    EXPECT_TRUE(backing_.holds(4096 + 512, 65536, 0));
    EXPECT_TRUE(backing_.holds(4096 + 512 + 65536, 512, 0x79));
}

TEST_P(FileImageTest, ZeroesAreWrittenWhereNothingElseHelps) {
    backing_.fill(0, 4 * kMebibyte, 0x7a);
    file_->no_punch_hole = true;
    file_->no_zero_range = true;
    const std::array ranges{ImageRange{4096, 3 * kMebibyte, true}};
    ASSERT_EQ(change(ImageCommand::kWriteZeroes, ranges), 0);
    EXPECT_TRUE(backing_.holds(0, 4096, 0x7a));
    EXPECT_TRUE(backing_.holds(4096, 3 * kMebibyte, 0));
    EXPECT_TRUE(backing_.holds(4096 + 3 * kMebibyte, 4096, 0x7a));
}

TEST_P(FileImageTest, ManyRequestsAtATimeAllEndWithTheirOwnData) {
    for (int i = 0; i < 64; ++i) {
        backing_.fill(static_cast<uint64_t>(i) * 4096, 4096, i);
    }
    std::vector<std::vector<char>> memory(64, std::vector<char>(4096, 0x7f));
    std::vector<iovec> segments(64);
    std::vector<BlockingRequest> requests(64);
    worker_->post([&] {
        for (size_t i = 0; i < 64; ++i) {
            segments[i] = {.iov_base = memory[i].data(), .iov_len = 4096};
            requests[i].command = ImageCommand::kRead;
            requests[i].offset_bytes = i * 4096;
            requests[i].length_bytes = 4096;
            requests[i].data = std::span<const iovec>(segments).subspan(i, 1);
            queue_->submit(requests[i]);
        }
    });
    for (size_t i = 0; i < 64; ++i) {
        requests[i].done.wait();
        EXPECT_EQ(requests[i].result, 0);
        EXPECT_EQ(memory[i], std::vector<char>(4096, static_cast<char>(i)));
    }
}

TEST(FileImageEngine, UringOnALoopWithoutItIsAnError) {
    const TemporaryImage backing(4096);
    FileImage image(ImageFile::open({.path = backing.path()}).value(), IoEngineKind::kUring);
    const auto worker = Worker::start({.loop = LoopKind::kAsio}).value();
    std::latch done{1};
    worker->post([&] {
        EXPECT_FALSE(image.open_queue(*worker, 1));
        done.count_down();
    });
    done.wait();
}

TEST(FileImageEngine, AutoUsesThreadsOnALoopWithoutUring) {
    const TemporaryImage backing(4096);
    FileImage image(ImageFile::open({.path = backing.path()}).value(), IoEngineKind::kAuto);
    const auto worker = Worker::start({.loop = LoopKind::kAsio}).value();
    std::latch done{1};
    worker->post([&] {
        EXPECT_TRUE(image.open_queue(*worker, 1));
        done.count_down();
    });
    done.wait();
}

}  // namespace
}  // namespace outrigger::blk
