// SPDX-License-Identifier: Apache-2.0
// Every field of a request that the disk reads from guest memory, changed between any two accesses:
// the disk does what the old value alone asks for, or what the new one alone does. And the disk
// reads neither the data, which is the kernel's to read, nor anything that it wrote.
//
// (The configuration space comes by message, so no guest can change it under the device.)
#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <vector>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "tests/support/access_trap.h"
#include "tests/unit/blk/disk_bench.h"

namespace outrigger::blk {
namespace {

using outrigger::testing::AccessTrap;
using outrigger::testing::Flip;
using outrigger::testing::kHasAccessTrap;
using outrigger::testing::TrappedAccess;

constexpr uint64_t kDiskBytes = uint64_t{1} << 32;
constexpr uint64_t kDiskSectors = kDiskBytes / 512;
constexpr uint32_t kDataBytes = 4096;

/// Which buffer of the chain the field lies in.
enum class Buffer : uint8_t { kHeader, kFirstRange, kSecondRange };

struct Case {
    const char* name;
    uint32_t type;  ///< of the request, but for the field that changes
    Buffer buffer;
    uint32_t offset;
    uint32_t bytes;
    uint64_t before;
    uint64_t after;
    bool same_outcome = false;
};

void PrintTo(const Case& one, std::ostream* out) {
    *out << one.name;
}

std::unique_ptr<HeldImage> make_image(HeldImage*& pointer) {
    ImageProperties properties;
    properties.size_bytes = kDiskBytes;
    properties.can_discard = true;
    properties.can_unmap_zeroes = true;
    properties.can_secure_erase = true;
    properties.tells_lifetime = true;
    auto image = std::make_unique<HeldImage>(properties);
    pointer = image.get();
    return image;
}

/// A disk with one request to serve.
class Stage final {
  public:
    explicit Stage(const Case& one) : case_(one) {
        recipe_.readable(header_bytes(one.type, 8));
        const bool ranges = one.type == VIRTIO_BLK_T_DISCARD ||
                            one.type == VIRTIO_BLK_T_WRITE_ZEROES ||
                            one.type == VIRTIO_BLK_T_SECURE_ERASE;
        if (ranges) {
            recipe_.readable(segment_bytes(64, 8, 0)).readable(segment_bytes(128, 8, 0));
        } else if (one.type == VIRTIO_BLK_T_OUT) {
            recipe_.readable_zeroes(kDataBytes);
        } else {
            recipe_.writable(kDataBytes);
        }
        recipe_.writable(1);
        put_field(one.before);
        bench_.add(recipe_);
    }

    [[nodiscard]] std::byte* field() {
        return bench_.device_byte(
            driver::offset_by(segment(static_cast<size_t>(case_.buffer)).address, case_.offset));
    }

    void put_field(uint64_t value) { std::memcpy(field(), &value, case_.bytes); }

    [[nodiscard]] const driver::Segment& segment(size_t index) const {
        return recipe_.segments()[index];
    }

    [[nodiscard]] const driver::Segment& status_segment() const {
        return recipe_.segments().back();
    }

    void process() { (void)bench_.process(); }

    /// What process() has come to.
    [[nodiscard]] std::string outcome() {
        if (image_->held() == 0) {
            return "status " + std::to_string(recipe_.status());
        }
        const ImageRequest& request = image_->request();
        std::string text = "command " + std::to_string(static_cast<int>(request.command));
        switch (request.command) {
            case ImageCommand::kRead:
            case ImageCommand::kWrite:
                text += " at " + std::to_string(request.offset_bytes) + "+" +
                        std::to_string(request.length_bytes);
                break;
            case ImageCommand::kDiscard:
            case ImageCommand::kWriteZeroes:
            case ImageCommand::kSecureErase:
                for (const ImageRange& range : request.ranges) {
                    text += " range " + std::to_string(range.offset_bytes) + "+" +
                            std::to_string(range.length_bytes) + (range.unmap ? " unmap" : "");
                }
                break;
            case ImageCommand::kFlush:
            case ImageCommand::kGetLifetime:
            case ImageCommand::kZone:
                break;
        }
        return text;
    }

    void finish() {
        if (image_->held() > 0) {
            image_->end();
        }
        (void)bench_.queue().publish();
    }

    [[nodiscard]] DiskBench& bench() { return bench_; }

  private:
    Case case_;
    HeldImage* image_ = nullptr;
    DiskBench bench_{make_image(image_)};
    ChainRecipe recipe_ = bench_.chain();
};

class BlkDoubleFetch : public ::testing::TestWithParam<Case> {
  protected:
    static std::string outcome_of(uint64_t value) {
        Stage stage(GetParam());
        stage.put_field(value);
        stage.process();
        std::string outcome = stage.outcome();
        stage.finish();
        return outcome;
    }

    const std::string before_ = outcome_of(GetParam().before);
    const std::string after_ = outcome_of(GetParam().after);
};

TEST_P(BlkDoubleFetch, ValuesDiffer) {
    // Else the case proves nothing.
    EXPECT_EQ(before_ == after_, GetParam().same_outcome) << before_;
}

TEST_P(BlkDoubleFetch, FieldThatChangesBetweenAnyTwoAccessesGivesOneOutcomeOrTheOther) {
    if (!kHasAccessTrap) {
        GTEST_SKIP() << "this system cannot trap accesses";
    }
    size_t access_count = 0;
    for (size_t after = 1; after == 1 || after <= access_count; ++after) {
        Stage stage(GetParam());
        AccessTrap trap(stage.bench().device_memory(),
                        Flip{.field = stage.field(),
                             .value = GetParam().after,
                             .bytes = GetParam().bytes,
                             .after_accesses = after});
        stage.process();
        access_count = std::max(access_count, trap.finish().size());
        const std::string outcome = stage.outcome();
        EXPECT_TRUE(outcome == before_ || outcome == after_)
            << "changed behind access " << after << ": " << outcome << "\nis neither " << before_
            << "\nnor " << after_;
        stage.finish();
    }
    EXPECT_GT(access_count, 0U);
}

TEST_P(BlkDoubleFetch, NeitherDataNorStatusIsRead) {
    if (!kHasAccessTrap) {
        GTEST_SKIP() << "this system cannot trap accesses";
    }
    Stage stage(GetParam());
    AccessTrap trap(stage.bench().device_memory(), Flip{});
    stage.process();
    stage.finish();
    const auto offset_of = [&](GuestAddr address) {
        return static_cast<size_t>(stage.bench().device_byte(address) -
                                   stage.bench().device_memory().data());
    };
    const size_t status = offset_of(stage.status_segment().address);
    const size_t data = offset_of(stage.segment(1).address);
    const bool has_data = stage.segment(1).length == kDataBytes;
    int status_writes = 0;
    for (const TrappedAccess& access : trap.finish()) {
        status_writes += access.is_write && access.offset == status ? 1 : 0;
        EXPECT_FALSE(!access.is_write && access.offset == status);
        EXPECT_FALSE(has_data && access.offset - data < kDataBytes) << access.offset - data;
    }
    EXPECT_EQ(status_writes, 1);
}

INSTANTIATE_TEST_SUITE_P(
    Fields,
    BlkDoubleFetch,
    ::testing::Values(
        Case{"TypeReadBecomesFlush", VIRTIO_BLK_T_IN, Buffer::kHeader, 0, 4, 0, 4},
        Case{"TypeReadBecomesUnknown", VIRTIO_BLK_T_IN, Buffer::kHeader, 0, 4, 0, 77},
        Case{"TypeWriteBecomesDiscard", VIRTIO_BLK_T_OUT, Buffer::kHeader, 0, 4, 1, 11},
        Case{"TypeDiscardBecomesZeroing", VIRTIO_BLK_T_DISCARD, Buffer::kHeader, 0, 4, 11, 13},
        Case{"ReservedMeansNothing", VIRTIO_BLK_T_OUT, Buffer::kHeader, 4, 4, 0, ~0U, true},
        Case{"SectorMoves", VIRTIO_BLK_T_OUT, Buffer::kHeader, 8, 8, 8, 800},
        Case{"SectorLeavesTheDisk", VIRTIO_BLK_T_OUT, Buffer::kHeader, 8, 8, 8, kDiskSectors},
        Case{"SectorWraps", VIRTIO_BLK_T_IN, Buffer::kHeader, 8, 8, 8, ~uint64_t{0}},
        Case{"DiscardSectorMoves", VIRTIO_BLK_T_DISCARD, Buffer::kFirstRange, 0, 8, 64, 72},
        Case{"DiscardSectorLeavesTheDisk",
             VIRTIO_BLK_T_DISCARD,
             Buffer::kSecondRange,
             0,
             8,
             128,
             kDiskSectors},
        Case{"DiscardCountGrows", VIRTIO_BLK_T_DISCARD, Buffer::kFirstRange, 8, 4, 8, 16},
        Case{"DiscardCountIsTooLarge", VIRTIO_BLK_T_DISCARD, Buffer::kSecondRange, 8, 4, 8, ~0U},
        Case{"DiscardFlagsAreReserved", VIRTIO_BLK_T_DISCARD, Buffer::kFirstRange, 12, 4, 0, 1},
        Case{"TypeReadBecomesLifetime", VIRTIO_BLK_T_IN, Buffer::kHeader, 0, 4, 0, 10},
        Case{"EraseSectorMoves", VIRTIO_BLK_T_SECURE_ERASE, Buffer::kFirstRange, 0, 8, 64, 72},
        Case{"EraseCountIsTooLarge", VIRTIO_BLK_T_SECURE_ERASE, Buffer::kSecondRange, 8, 4, 8, ~0U},
        Case{"EraseFlagsAreReserved", VIRTIO_BLK_T_SECURE_ERASE, Buffer::kFirstRange, 12, 4, 0, 1},
        Case{"ZeroingSectorMoves", VIRTIO_BLK_T_WRITE_ZEROES, Buffer::kFirstRange, 0, 8, 64, 72},
        Case{
            "ZeroingCountIsTooLarge", VIRTIO_BLK_T_WRITE_ZEROES, Buffer::kFirstRange, 8, 4, 8, ~0U},
        Case{"ZeroingMayUnmap", VIRTIO_BLK_T_WRITE_ZEROES, Buffer::kSecondRange, 12, 4, 0, 1},
        Case{"ZeroingFlagsAreReserved",
             VIRTIO_BLK_T_WRITE_ZEROES,
             Buffer::kSecondRange,
             12,
             4,
             1,
             3}),
    [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace outrigger::blk
