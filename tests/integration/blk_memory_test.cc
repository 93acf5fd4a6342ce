// SPDX-License-Identifier: Apache-2.0
// A disk in memory behind real sessions and rings: what a guest reads is what it wrote.
#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include <linux/virtio_blk.h>

#include "devices/blk/memory_image.h"
#include "tests/integration/blk_test.h"

namespace outrigger::testing {
namespace {

using driver::Segment;

class BlkMemory : public BlkTest, public ::testing::WithParamInterface<bool> {
  protected:
    /// The file that every disk of the fixture has is let go.
    [[nodiscard]] std::unique_ptr<Image> make_image(std::unique_ptr<ImageFile> /*file*/) override {
        return MemoryImage::create({.size_bytes = kMemoryBytes}).value();
    }

    static constexpr uint64_t kMemoryBytes = uint64_t{4} << 20;
};

INSTANTIATE_TEST_SUITE_P(Rings, BlkMemory, ::testing::Bool(), [](const auto& ring) {
    return ring.param ? "Packed" : "Split";
});

TEST_P(BlkMemory, ReadsWhatWasWrittenZeroedAndDiscarded) {
    run({.worker_count = 2, .queue_count = 2, .memory_bytes = 64 << 20, .packed = GetParam()});
    ASSERT_TRUE(discards());
    std::vector<std::byte> expected(kMemoryBytes);
    std::mt19937 random(4711);
    for (uint32_t i = 0; i < 800; ++i) {
        const auto count = static_cast<uint32_t>(1 + random() % 40);
        const uint64_t sector = random() % (kMemoryBytes / 512 - count);
        const auto part = std::span(expected).subspan(sector * 512, size_t{count} * 512);
        const size_t queue_index = random() % 2;
        int status = -1;
        switch (random() % 4) {
            case 0:
                std::ranges::fill(part, static_cast<std::byte>(i % 250 + 1));
                status = status_of_request(
                    {header(VIRTIO_BLK_T_OUT, sector), readable(part), writable(1)}, queue_index);
                break;
            case 1:
                std::ranges::fill(part, std::byte{0});
                status = status_of_request({header(VIRTIO_BLK_T_WRITE_ZEROES, 0),
                                            range(sector, count, random() % 2),
                                            writable(1)},
                                           queue_index);
                break;
            case 2: {
                // Whole pages are gone, and nothing else.
                const auto first = static_cast<ptrdiff_t>((sector * 512 + 4095) / 4096 * 4096);
                const auto last = static_cast<ptrdiff_t>((sector + count) * 512 / 4096 * 4096);
                if (first < last) {
                    std::fill(expected.begin() + first, expected.begin() + last, std::byte{0});
                }
                status = status_of_request(
                    {header(VIRTIO_BLK_T_DISCARD, 0), range(sector, count), writable(1)},
                    queue_index);
                break;
            }
            default: {
                const Segment target = writable(count * 512);
                status = status_of_request({header(VIRTIO_BLK_T_IN, sector), target, writable(1)},
                                           queue_index);
                ASSERT_TRUE(std::ranges::equal(bytes_of(target), part)) << i;
            }
        }
        ASSERT_EQ(status, VIRTIO_BLK_S_OK) << i;
    }
}

TEST_P(BlkMemory, NothingBeyondItsEndIsReached) {
    run({.packed = GetParam()});
    EXPECT_EQ(status_of_request(
                  {header(VIRTIO_BLK_T_IN, kMemoryBytes / 512 - 1), writable(1024), writable(1)}),
              VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(status_of_request(
                  {header(VIRTIO_BLK_T_IN, kMemoryBytes / 512 - 1), writable(512), writable(1)}),
              VIRTIO_BLK_S_OK);
}

}  // namespace
}  // namespace outrigger::testing
