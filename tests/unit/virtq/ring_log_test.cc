// SPDX-License-Identifier: Apache-2.0
// What rings mark in the front end's dirty log. vhost-user "Migration".
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/guest/dirty_log.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/support/dirty_log_file.h"
#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {
namespace {

using testing::DirtyLogFile;
using testing::kLogPage;
using Pages = std::set<uint64_t>;

constexpr uint64_t kLogPages = 512;
constexpr uint64_t kDataPage = 0x100;       // region 1
constexpr uint64_t kNeighbourPage = 0x110;  // region 2 follows it at once
constexpr uint32_t kFreshPackedBase = 0x80008000;

uint64_t address(uint64_t page, uint64_t offset = 0) {
    return page * kLogPage + offset;
}

std::shared_ptr<const DirtyLog> map_log(const DirtyLogFile& file) {
    return DirtyLog::map({.offset = file.offset(), .size = file.bytes()}, file.fd()).value();
}

/// A buffer of a chain, for either format.
struct Buffer {
    uint64_t address;
    uint32_t length;
    bool writable;
};

class RingLogTest : public ::testing::Test {
  protected:
    void create(VirtqueueConfig config, uint32_t base = 0) {
        config.may_log = true;
        queue_ = Virtqueue::create(config, VringBase{base}, memory_.snapshot(1)).value();
        queue_->set_log(map_log(log_), std::nullopt);
        areas_ = log_.take_pages();
        (void)queue_->take_log_change();
    }

    /// Pops one chain and completes it; what became visible is published.
    void serve(uint32_t written = 0) {
        auto chain = queue_->pop();
        ASSERT_TRUE(chain);
        chain->complete(written);
        (void)queue_->publish();
    }

    /// Pops one chain and completes it by letting go of it.
    void drop() {
        const auto chain = queue_->pop();
        ASSERT_TRUE(chain);
    }

    GuestMemory memory_{
        {{0, 0x40000}, {address(kDataPage), 0x10000}, {address(kNeighbourPage), 0x10000}}};
    DirtyLogFile log_{kLogPages};
    std::unique_ptr<Virtqueue> queue_;
    Pages areas_;  // what was marked as soon as there was a log
};

// --- Split -------------------------------------------------------------------------------------

/// 256 entries: the table is page 1, the available ring begins page 2, where the used ring is too.
class SplitRingLog : public RingLogTest {
  protected:
    static constexpr uint16_t kSize = 256;
    static constexpr uint64_t kUsedPage = 2;

    void SetUp() override { create(ring_.config()); }

    void offer(uint16_t head, const std::vector<Buffer>& buffers) {
        for (uint16_t i = 0; i < buffers.size(); ++i) {
            const auto index = static_cast<uint16_t>(head + i);
            const bool last = i + 1U == buffers.size();
            ring_.set_descriptor(index,
                                 {.address = buffers[i].address,
                                  .length = buffers[i].length,
                                  .flags = static_cast<uint16_t>(
                                      (buffers[i].writable ? kWrite : 0) | (last ? 0 : kNext)),
                                  .next = static_cast<uint16_t>(index + 1)});
        }
        ring_.offer(head);
    }

    SplitRing ring_{memory_, kSize, 0x1000};
};

TEST_F(SplitRingLog, WritableBuffersAreMarkedWhateverTheDeviceSays) {
    offer(0,
          {{address(kDataPage, 100), 50, false},
           {address(kDataPage + 2, 4000), 100, true},
           {address(kDataPage + 8, 4095), 1, true}});
    serve(0);
    EXPECT_EQ(log_.pages(), Pages({kUsedPage, kDataPage + 2, kDataPage + 3, kDataPage + 8}));
}

TEST_F(SplitRingLog, BuffersAreMarkedWhenTheChainIsBackAndTheRingWhenItIsVisible) {
    offer(0, {{address(kDataPage), 1, true}});
    auto chain = queue_->pop();
    ASSERT_TRUE(chain);
    EXPECT_EQ(log_.pages(), Pages());
    chain->complete(1);
    EXPECT_EQ(log_.pages(), Pages({kDataPage}));
    (void)queue_->publish();
    EXPECT_EQ(log_.pages(), Pages({kDataPage, kUsedPage}));
}

TEST_F(SplitRingLog, ReadableBuffersAloneMarkTheRingOnly) {
    offer(0, {{address(kDataPage), 512, false}});
    serve();
    EXPECT_EQ(log_.pages(), Pages({kUsedPage}));
}

TEST_F(SplitRingLog, DroppedChainIsMarkedToo) {
    offer(0, {{address(kDataPage), 1, true}});
    drop();
    EXPECT_EQ(log_.pages(), Pages({kDataPage}));
}

TEST_F(SplitRingLog, BufferThatTheDeviceConsumedInPiecesIsMarkedWhole) {
    offer(0, {{address(kDataPage), 3 * kLogPage, true}});
    auto chain = queue_->pop();
    ASSERT_TRUE(chain);
    ChainWriter writer = chain->take_writer();
    const std::vector<std::byte> data(kLogPage + 1);
    EXPECT_EQ(writer.write(data), data.size());
    chain->complete(0);
    EXPECT_EQ(log_.pages(), Pages({kDataPage, kDataPage + 1, kDataPage + 2}));
}

TEST_F(SplitRingLog, BufferAcrossTwoRegionsIsMarkedInBoth) {
    offer(0, {{address(kNeighbourPage) - 1, 2, true}});
    serve();
    EXPECT_EQ(log_.pages(), Pages({kUsedPage, kNeighbourPage - 1, kNeighbourPage}));
}

TEST_F(SplitRingLog, BuffersOfAnIndirectTableAreMarkedAndTheTableIsNot) {
    write_table<SplitDescriptor>(
        memory_,
        address(kDataPage),
        {{.address = address(kDataPage + 4), .length = 1, .flags = kWrite | kNext, .next = 1},
         {.address = address(kDataPage + 6), .length = 1, .flags = kWrite}});
    ring_.set_descriptor(0, {.address = address(kDataPage), .length = 32, .flags = kIndirect});
    ring_.offer(0);
    serve();
    EXPECT_EQ(log_.pages(), Pages({kUsedPage, kDataPage + 4, kDataPage + 6}));
}

TEST_F(SplitRingLog, NotificationFieldsAreMarked) {
    (void)queue_->enable_kicks();
    EXPECT_EQ(log_.take_pages(), Pages({kUsedPage}));
    queue_->suppress_kicks();
    EXPECT_EQ(log_.pages(), Pages({kUsedPage}));
}

TEST_F(SplitRingLog, ChangeIsToldOnce) {
    EXPECT_FALSE(queue_->take_log_change());
    offer(0, {{address(kDataPage), 1, true}});
    serve();
    EXPECT_TRUE(queue_->take_log_change());
    EXPECT_FALSE(queue_->take_log_change());
}

TEST_F(SplitRingLog, NothingIsMarkedWithoutALog) {
    queue_->set_log(nullptr, std::nullopt);
    offer(0, {{address(kDataPage), 1, true}});
    serve();
    (void)queue_->enable_kicks();
    EXPECT_EQ(log_.pages(), Pages());
    EXPECT_FALSE(queue_->take_log_change());
}

TEST_F(SplitRingLog, ChainInFlightMarksTheLogThatIsThereWhenItIsBack) {
    offer(0, {{address(kDataPage), 1, true}});
    auto chain = queue_->pop();
    ASSERT_TRUE(chain);
    const DirtyLogFile other(kLogPages);
    queue_->set_log(map_log(other), std::nullopt);
    chain->complete(0);
    (void)queue_->publish();
    EXPECT_EQ(log_.pages(), Pages());
    EXPECT_EQ(other.pages(), Pages({kDataPage, kUsedPage}));
}

TEST_F(SplitRingLog, OldLogIsUnmappedWhenItIsReplaced) {
    const auto old = map_log(log_);
    const std::weak_ptr<const DirtyLog> watch = old;
    queue_->set_log(old, std::nullopt);
    const DirtyLogFile other(kLogPages);
    queue_->set_log(map_log(other), std::nullopt);
    EXPECT_EQ(watch.use_count(), 1);
}

TEST_F(SplitRingLog, ChainInFlightWhenLoggingEndsMarksNothing) {
    offer(0, {{address(kDataPage), 1, true}});
    auto chain = queue_->pop();
    ASSERT_TRUE(chain);
    queue_->set_log(nullptr, std::nullopt);
    chain->complete(0);
    (void)queue_->publish();
    EXPECT_EQ(log_.pages(), Pages());
}

TEST_F(SplitRingLog, ChainFromBeforeTheLogIsMarkedWhole) {
    queue_->set_log(nullptr, std::nullopt);
    offer(0, {{address(kDataPage), 2 * kLogPage, true}});
    auto chain = queue_->pop();
    ASSERT_TRUE(chain);
    ChainWriter writer = chain->take_writer();
    writer.skip(kLogPage + 1);  // the device has consumed the first page
    queue_->set_log(map_log(log_), std::nullopt);
    EXPECT_EQ(log_.take_pages(), Pages({kUsedPage}));
    EXPECT_TRUE(queue_->old_memory_released()) << "and nobody waits for it";
    chain->complete(0);
    EXPECT_EQ(log_.pages(), Pages({kDataPage, kDataPage + 1}));
}

TEST_F(SplitRingLog, OnlyTheChainItselfIsMarked) {
    offer(0, {{address(kDataPage), 1, true}});
    serve();
    (void)log_.take_pages();
    offer(1, {{address(kDataPage + 5), 1, true}});
    auto chain = queue_->pop();  // takes the same slot
    ASSERT_TRUE(chain);
    chain->complete(0);
    EXPECT_EQ(log_.pages(), Pages({kDataPage + 5}));
}

TEST_F(SplitRingLog, LogTooSmallForABufferBreaksTheRing) {
    const DirtyLogFile small(kDataPage);  // up to the page before
    queue_->set_log(map_log(small), std::nullopt);
    offer(0, {{address(kDataPage), 1, true}});
    serve();
    EXPECT_EQ(queue_->broken(), RingError::kDirtyLog);
    EXPECT_EQ(ring_.used_index(), 1);
    EXPECT_TRUE(small.margins_are_untouched());
}

TEST_F(SplitRingLog, LogThatEndsBehindTheLastBufferIsLargeEnough) {
    const DirtyLogFile exact(kDataPage + 8);
    queue_->set_log(map_log(exact), std::nullopt);
    offer(0, {{address(kDataPage + 7), kLogPage, true}});
    serve();
    EXPECT_EQ(queue_->broken(), std::nullopt);
}

TEST_F(SplitRingLog, TruncatedLogBreaksTheRing) {
    DirtyLogFile file(kLogPages, 0, DirtyLogFile::Kind::kTruncatable);
    queue_->set_log(map_log(file), std::nullopt);
    file.truncate();
    offer(0, {{address(kDataPage), 1, true}});
    serve();
    queue_->check_memory();
    EXPECT_EQ(queue_->broken(), RingError::kDirtyLog);
    EXPECT_FALSE(queue_->memory_was_lost());
}

TEST_F(SplitRingLog, LogThatIsGoneAlreadyBreaksTheRing) {
    DirtyLogFile file(kLogPages, 0, DirtyLogFile::Kind::kTruncatable);
    const auto log = map_log(file);
    file.truncate();
    (void)log->mark(GuestAddr{0}, 1);
    queue_->set_log(log, std::nullopt);
    EXPECT_EQ(queue_->broken(), RingError::kDirtyLog);
}

TEST_F(SplitRingLog, UsedRingIsMarkedAtTheLogAddressToo) {
    queue_->set_log(map_log(log_), GuestAddr{address(0x180, 4)});
    offer(0, {{address(kDataPage), 1, true}});
    serve();
    EXPECT_EQ(log_.pages(), Pages({kUsedPage, kDataPage, 0x180}));
}

TEST_F(SplitRingLog, LogAddressOutsideOfTheLogBreaksTheRing) {
    queue_->set_log(map_log(log_), GuestAddr{address(kLogPages)});
    offer(0, {{address(kDataPage), 1, true}});
    serve();
    EXPECT_EQ(queue_->broken(), RingError::kDirtyLog);
}

TEST_F(SplitRingLog, InOrderChainIsMarkedWhenItIsDoneAndNotWhenItIsUsed) {
    VirtqueueConfig config = ring_.config();
    config.in_order = true;
    create(config);
    offer(0, {{address(kDataPage), 1, true}});
    offer(1, {{address(kDataPage + 1), 1, true}});
    auto first = queue_->pop();
    auto second = queue_->pop();
    ASSERT_TRUE(first && second);
    second->complete(0);
    EXPECT_EQ(log_.pages(), Pages({kDataPage + 1}));
    first->complete(0);
    (void)queue_->publish();
    EXPECT_EQ(log_.pages(), Pages({kUsedPage, kDataPage, kDataPage + 1}));
}

TEST_F(SplitRingLog, RingWhoseMemoryGoesIsMarkedWhereItWas) {
    offer(0, {{address(kDataPage), 1, true}});
    auto chain = queue_->pop();
    ASSERT_TRUE(chain);
    queue_->set_log(nullptr, std::nullopt);
    queue_->adopt_memory(memory_.snapshot_without(0, 2));
    // The log comes when only the old memory knows where the ring is.
    queue_->set_log(map_log(log_), std::nullopt);
    chain->complete(0);
    (void)queue_->publish();
    EXPECT_EQ(log_.pages(), Pages({kUsedPage, kDataPage}));
    EXPECT_TRUE(queue_->old_memory_released());
}

/// 1024 entries: the used ring begins at 0x5808. Its index is on page 5, entries from 255 on are on
/// page 6, those from 767 and avail_event on page 7.
class LargeSplitRingLog : public RingLogTest {
  protected:
    static constexpr uint16_t kSize = 1024;

    void SetUp() override {
        VirtqueueConfig config = ring_.config();
        config.event_idx = true;
        ring_.start_at(1022);
        create(config, 1022);
        ring_.set_descriptor(0, {.address = address(kDataPage), .length = 1, .flags = 0});
        ring_.set_descriptor(1, {.address = address(kDataPage), .length = 1, .flags = 0});
        ring_.set_descriptor(2, {.address = address(kDataPage), .length = 1, .flags = 0});
    }

    SplitRing ring_{memory_, kSize, 0x1000};
};

// Whoever ran the ring before may have died between a store and its mark.
TEST_F(LargeSplitRingLog, WholeUsedRingIsMarkedWhenLoggingBegins) {
    EXPECT_EQ(areas_, Pages({5, 6, 7}));
}

TEST_F(LargeSplitRingLog, NothingIsMarkedWhenTheLogIsReplaced) {
    const DirtyLogFile other(kLogPages);
    queue_->set_log(map_log(other), std::nullopt);
    EXPECT_EQ(other.pages(), Pages());
}

TEST_F(LargeSplitRingLog, UsedEntryAndIndexAreMarkedWhereTheyAre) {
    ring_.offer(0);
    serve();
    EXPECT_EQ(log_.pages(), Pages({5, 7}));
}

TEST_F(LargeSplitRingLog, BatchThatWrapsMarksBothEnds) {
    ring_.offer(0);
    ring_.offer(1);
    ring_.offer(2);
    for (int i = 0; i < 3; ++i) {
        drop();
    }
    (void)queue_->publish();
    EXPECT_EQ(log_.pages(), Pages({5, 7}));
}

TEST_F(LargeSplitRingLog, AvailEventIsMarkedWhereItIs) {
    (void)queue_->enable_kicks();
    EXPECT_EQ(log_.pages(), Pages({5, 7}));
}

// --- Packed ------------------------------------------------------------------------------------

/// 512 entries are pages 1 and 2, and both event areas are on page 3.
class PackedRingLog : public RingLogTest {
  protected:
    static constexpr uint16_t kSize = 512;
    static constexpr uint64_t kEventPage = 3;

    void SetUp() override { create(ring_.config(), kFreshPackedBase); }

    void offer(uint16_t id, const std::vector<Buffer>& buffers) {
        std::vector<PackedDescriptor> chain;
        for (const Buffer& buffer : buffers) {
            chain.push_back({.address = buffer.address,
                             .length = buffer.length,
                             .flags = buffer.writable ? kWrite : uint16_t{0}});
        }
        ring_.offer(id, chain);
    }

    PackedRing ring_{memory_, kSize, 0x1000};
};

TEST_F(PackedRingLog, DescriptorsAndEventsAreMarkedWhenLoggingBegins) {
    EXPECT_EQ(areas_, Pages({1, 2, kEventPage}));
}

TEST_F(PackedRingLog, WritableBuffersAndTheUsedDescriptorAreMarked) {
    offer(0, {{address(kDataPage), 1, false}, {address(kDataPage + 1), kLogPage + 1, true}});
    serve();
    EXPECT_EQ(log_.pages(), Pages({1, kDataPage + 1, kDataPage + 2}));
}

TEST_F(PackedRingLog, NothingOfTheRingIsMarkedBeforeItIsVisible) {
    offer(0, {{address(kDataPage), 1, true}});
    drop();
    EXPECT_EQ(log_.take_pages(), Pages({kDataPage}));
    (void)queue_->publish();
    EXPECT_EQ(log_.pages(), Pages({1}));
}

TEST_F(PackedRingLog, BatchOverTwoPagesMarksBoth) {
    for (uint16_t id = 0; id < 300; ++id) {
        offer(id, {{address(kDataPage), 1, false}});
    }
    for (uint16_t id = 0; id < 300; ++id) {
        drop();
    }
    (void)queue_->publish();
    EXPECT_EQ(log_.pages(), Pages({1, 2}));
}

TEST_F(PackedRingLog, BatchThatWrapsMarksBothEnds) {
    for (uint16_t id = 0; id < 511; ++id) {
        offer(id, {{address(kDataPage), 1, false}});
        serve();
    }
    (void)log_.take_pages();
    offer(0, {{address(kDataPage), 1, false}});
    offer(1, {{address(kDataPage), 1, false}});
    drop();
    drop();
    (void)queue_->publish();
    EXPECT_EQ(log_.pages(), Pages({1, 2}));
}

TEST_F(PackedRingLog, EventSuppressionIsMarked) {
    (void)queue_->enable_kicks();
    EXPECT_EQ(log_.take_pages(), Pages({kEventPage}));
    queue_->suppress_kicks();
    EXPECT_EQ(log_.pages(), Pages({kEventPage}));
}

TEST_F(PackedRingLog, LogTooSmallForTheRingBreaksIt) {
    const DirtyLogFile small(8);
    queue_->set_log(map_log(small), std::nullopt);
    offer(0, {{address(kDataPage), 1, false}});
    serve();
    EXPECT_EQ(queue_->broken(), std::nullopt);
    offer(1, {{address(kDataPage), 1, true}});
    serve();
    EXPECT_EQ(queue_->broken(), RingError::kDirtyLog);
}

// --- Both: whatever happens, no page changes without its mark ----------------------------------

struct Formats {
    bool packed;
    bool in_order;
};

class AnyRingLog : public RingLogTest, public ::testing::WithParamInterface<Formats> {
  protected:
    static constexpr uint16_t kSize = 16;
    static constexpr uint64_t kPages = 0x10;  // of each region

    /// Copies all memory, as a migration that begins now.
    void copy_all() {
        for (const uint64_t first : {uint64_t{0}, kDataPage, kNeighbourPage}) {
            for (uint64_t page = first; page < first + kPages; ++page) {
                copy_page(page);
            }
        }
    }

    void copy_page(uint64_t page) {
        copy_[page].resize(kLogPage);
        std::memcpy(copy_[page].data(), memory_.at(address(page)), kLogPage);
    }

    /// Copies what is marked; nothing else may have changed.
    [[nodiscard]] Pages changed_without_mark() {
        Pages missed;
        for (const uint64_t page : log_.take_pages()) {
            copy_page(page);
        }
        for (const auto& [page, bytes] : copy_) {
            if (std::memcmp(bytes.data(), memory_.at(address(page)), kLogPage) != 0) {
                missed.insert(page);
            }
        }
        return missed;
    }

    std::map<uint64_t, std::vector<std::byte>> copy_;
};

std::string name_of(const ::testing::TestParamInfo<Formats>& info) {
    return std::string(info.param.packed ? "Packed" : "Split") +
           (info.param.in_order ? "InOrder" : "");
}

INSTANTIATE_TEST_SUITE_P(Formats,
                         AnyRingLog,
                         ::testing::Values(Formats{false, false},
                                           Formats{true, false},
                                           Formats{false, true},
                                           Formats{true, true}),
                         name_of);

TEST_P(AnyRingLog, NoPageChangesWithoutItsMark) {
    std::mt19937 random(GetParam().packed ? 7 : 8);
    const auto below = [&random](uint64_t limit) {
        return std::uniform_int_distribution<uint64_t>(0, limit - 1)(random);
    };
    SplitRing split(memory_, kSize, 0x1ff0);  // across pages
    PackedRing packed(memory_, kSize, 0x1f80);
    VirtqueueConfig config = GetParam().packed ? packed.config() : split.config();
    config.in_order = GetParam().in_order;
    config.event_idx = true;
    create(config, GetParam().packed ? kFreshPackedBase : 0);
    std::vector<DescriptorChain> out;
    std::deque<uint16_t> ids;  // that the driver may use
    for (uint16_t id = 0; id < kSize; ++id) {
        ids.push_back(id);
    }
    std::deque<uint16_t> used;  // that it may use again when the ring has taken them back
    for (int round = 0; round < 2000; ++round) {
        // The driver's part, which is not the log's affair.
        const uint64_t offers = below(kSize / 2 - queue_->in_flight() + 1);
        for (uint64_t i = 0; i < offers; ++i) {
            const uint16_t id = ids.front();
            ids.pop_front();
            const auto length = static_cast<uint32_t>(1 + below(3 * kLogPage));
            const uint64_t start = address(kDataPage) + below(0x20000 - length);
            if (GetParam().packed) {
                packed.offer(id, {{.address = start, .length = length, .flags = kWrite}});
            } else {
                split.set_descriptor(id, {.address = start, .length = length, .flags = kWrite});
                split.offer(id);
            }
        }
        copy_all();
        (void)log_.take_pages();
        // The device's part.
        while (auto chain = queue_->pop()) {
            if (GetParam().in_order) {
                used.push_back(chain->id());
            }
            out.push_back(*std::move(chain));
        }
        ASSERT_EQ(queue_->broken(), std::nullopt);
        for (uint64_t i = below(out.size() + 1); i > 0; --i) {
            const size_t index = below(out.size());
            DescriptorChain chain = std::move(out[index]);
            if (!GetParam().in_order) {
                ids.push_back(chain.id());
            }
            out.erase(out.begin() + static_cast<std::ptrdiff_t>(index));
            const std::vector<std::byte> data(chain.writable_bytes(),
                                              static_cast<std::byte>(round | 1));
            const size_t written = chain.take_writer().write(data);
            chain.complete(static_cast<uint32_t>(written));
        }
        (void)queue_->publish();
        if (below(2) == 0) {
            (void)queue_->enable_kicks();
        } else {
            queue_->suppress_kicks();
        }
        ASSERT_EQ(changed_without_mark(), Pages()) << "round " << round;
        while (used.size() > queue_->in_flight()) {
            ids.push_back(used.front());
            used.pop_front();
        }
    }
}

}  // namespace
}  // namespace outrigger::test
