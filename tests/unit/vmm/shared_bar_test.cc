// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/virtio/shared_bar.h"

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/unit/vmm/fake_machine.h"
#include "vmm-lite/pci/pci_bus.h"
#include "vmm-lite/virtio/virtio_pci_function.h"

namespace outrigger::vmm {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kBar = 0x8000000000;

class SharedBarTest : public testing::Test {
  protected:
    SharedBarTest() : memory_(16 * kPage) { device_.shared_sizes = {0, 3 * kPage, 5ULL << 20U}; }

    [[nodiscard]] std::unique_ptr<SharedBar> create() {
        return *SharedBar::create(device_, slots_);
    }

    [[nodiscard]] DeviceProxy::SharedPiece piece(uint8_t region,
                                                 uint64_t offset,
                                                 uint64_t bytes = kPage) {
        return {.region = region,
                .offset = offset,
                .memory = std::span(memory_).first(bytes),
                .bytes_there = bytes,
                .writable = true};
    }

    FakeDevice device_;
    FakeSlots slots_;
    std::vector<std::byte> memory_;
};

TEST_F(SharedBarTest, IsThereForSharedMemoryOnly) {
    FakeDevice none;
    none.shared_sizes = {0, 0};
    EXPECT_EQ(*SharedBar::create(none, slots_), nullptr);
    EXPECT_EQ(none.shared_observer, nullptr);
    FakeDevice many;
    many.shared_sizes = {kPage, kPage, kPage, kPage};
    EXPECT_FALSE(SharedBar::create(many, slots_));
}

TEST_F(SharedBarTest, PutsRegionsOneBehindTheOther) {
    const auto bar = create();
    ASSERT_EQ(bar->regions().size(), 2U);
    EXPECT_EQ(bar->regions()[0].id, 1);
    EXPECT_EQ(bar->regions()[0].bytes, 3 * kPage);
    EXPECT_EQ(bar->regions()[1].offset, SharedBar::kAlignment);
    EXPECT_EQ(bar->bytes(), 8ULL << 20U);
}

TEST_F(SharedBarTest, ShowsWhatIsMappedWhereTheBarIs) {
    const auto bar = create();
    EXPECT_TRUE(bar->on_mapped(piece(1, kPage)));
    EXPECT_TRUE(slots_.shown.empty()) << "the BAR is nowhere yet";
    bar->place(kBar);
    ASSERT_NE(slots_.at(kBar + kPage), nullptr);
    EXPECT_TRUE(slots_.at(kBar + kPage)->writable);
    auto read_only = piece(2, 0);
    read_only.writable = false;
    EXPECT_TRUE(bar->on_mapped(read_only));
    ASSERT_NE(slots_.at(kBar + SharedBar::kAlignment), nullptr);
    EXPECT_FALSE(slots_.at(kBar + SharedBar::kAlignment)->writable);
}

TEST_F(SharedBarTest, MovesWithTheBar) {
    const auto bar = create();
    bar->place(kBar);
    EXPECT_TRUE(bar->on_mapped(piece(1, 0)));
    bar->place(2 * kBar);
    EXPECT_EQ(slots_.at(kBar), nullptr);
    EXPECT_NE(slots_.at(2 * kBar), nullptr);
    bar->place(std::nullopt);
    EXPECT_TRUE(slots_.shown.empty());
    bar->place(kBar);
    EXPECT_EQ(slots_.shown.size(), 1U);
}

TEST_F(SharedBarTest, HidesWhatIsUnmapped) {
    const auto bar = create();
    bar->place(kBar);
    EXPECT_TRUE(bar->on_mapped(piece(1, 0)));
    bar->on_unmapping(1, kPage);  // not known
    bar->on_unmapping(0, 0);      // no region
    EXPECT_EQ(slots_.shown.size(), 1U);
    bar->on_unmapping(1, 0);
    EXPECT_TRUE(slots_.shown.empty());
    bar->place(2 * kBar);
    EXPECT_TRUE(slots_.shown.empty());
}

TEST_F(SharedBarTest, RefusesWhatTheMachineCannotShow) {
    const auto bar = create();
    bar->place(kBar);
    EXPECT_FALSE(bar->on_mapped(piece(0, 0))) << "a region of no size";
    slots_.slots_max = 1;
    EXPECT_TRUE(bar->on_mapped(piece(1, 0)));
    EXPECT_FALSE(bar->on_mapped(piece(1, kPage)));
    bar->on_unmapping(1, 0);
    EXPECT_TRUE(bar->on_mapped(piece(1, kPage))) << "what was refused left nothing behind";
}

TEST_F(SharedBarTest, TakesItsSlotsAlongAtItsEnd) {
    auto bar = create();
    EXPECT_EQ(device_.shared_observer, bar.get());
    bar->place(kBar);
    EXPECT_TRUE(bar->on_mapped(piece(1, 0)));
    bar.reset();
    EXPECT_TRUE(slots_.shown.empty());
    EXPECT_EQ(device_.shared_observer, nullptr);
}

// --- Files that are shorter than what is mapped of them ------------------------------------------

/// A piece of two pages whose file has one.
class ShortFileTest : public SharedBarTest {
  protected:
    static constexpr uint64_t kAt = kPage;  // in region 1, which is the first of the BAR

    void SetUp() override {
        ASSERT_EQ(::ftruncate(file_.get(), kPage), 0);
        void* const base =
            ::mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
        ASSERT_NE(base, MAP_FAILED);
        mapped_ = {static_cast<std::byte*>(base), 2 * kPage};
        mapped_[0] = std::byte{1};
        bar_ = *SharedBar::create(device_, slots_, [this] { ++alarms_; });
        bar_->place(kBar);
    }

    void TearDown() override { ::munmap(mapped_.data(), mapped_.size()); }

    [[nodiscard]] DeviceProxy::SharedPiece short_piece(bool writable = true) const {
        return {.region = 1,
                .offset = kAt,
                .memory = mapped_,
                .bytes_there = kPage,
                .writable = writable};
    }

    [[nodiscard]] std::byte read(uint64_t offset) {
        std::array<std::byte, 4> out{};
        bar_->read(offset, out);
        return out[0];
    }

    void write(uint64_t offset, std::byte value) { bar_->write(offset, std::span(&value, 1)); }

    // Not sealed, like a file of a disk.
    const UniqueFd file_{::memfd_create("short", MFD_CLOEXEC)};
    std::span<std::byte> mapped_;
    std::unique_ptr<SharedBar> bar_;
    int alarms_ = 0;
};

TEST_F(ShortFileTest, OnlyWhatTheFileHasIsInASlot) {
    ASSERT_TRUE(bar_->on_mapped(short_piece()));
    ASSERT_NE(slots_.at(kBar + kAt), nullptr);
    EXPECT_EQ(slots_.at(kBar + kAt)->memory.size(), kPage);
    bar_->on_resized(1, kAt, 2 * kPage);
    EXPECT_EQ(slots_.at(kBar + kAt)->memory.size(), 2 * kPage);
    bar_->on_resized(1, kAt, 0);
    EXPECT_TRUE(slots_.shown.empty());
    bar_->place(2 * kBar);
    EXPECT_TRUE(slots_.shown.empty());
    bar_->on_resized(1, kAt, kPage);
    EXPECT_NE(slots_.at(2 * kBar + kAt), nullptr);
    bar_->on_resized(1, 0, kPage);  // not known
    bar_->on_resized(0, 0, kPage);  // no region
    EXPECT_EQ(slots_.shown.size(), 1U);
}

TEST_F(ShortFileTest, AnAccessOfAPageThatIsNotThereIsAnAlarm) {
    ASSERT_TRUE(bar_->on_mapped(short_piece()));
    EXPECT_EQ(read(kAt + kPage), std::byte{0xFF});
    EXPECT_EQ(alarms_, 1);
    write(kAt + kPage, std::byte{7});
    EXPECT_EQ(alarms_, 2);
}

/// Before it was looked at again, and while a slot is made anew.
TEST_F(ShortFileTest, AnAccessOfAPageThatHasComeIsServed) {
    ASSERT_TRUE(bar_->on_mapped(short_piece()));
    ASSERT_EQ(::ftruncate(file_.get(), 2 * kPage), 0);
    EXPECT_EQ(read(kAt), std::byte{1});
    EXPECT_EQ(read(kAt + kPage), std::byte{0});
    write(kAt + kPage, std::byte{7});
    EXPECT_EQ(mapped_[kPage], std::byte{7});
    EXPECT_EQ(alarms_, 0);
}

TEST_F(ShortFileTest, WhereNothingIsMappedThereIsNoAlarm) {
    ASSERT_TRUE(bar_->on_mapped(short_piece(false)));
    EXPECT_EQ(read(0), std::byte{0xFF});
    EXPECT_EQ(read(kAt - 2), std::byte{0xFF}) << "half of it";
    EXPECT_EQ(read(kAt + 2 * kPage), std::byte{0xFF});
    EXPECT_EQ(read(kAt + 2 * kPage - 2), std::byte{0xFF}) << "half of it";
    EXPECT_EQ(read(SharedBar::kAlignment), std::byte{0xFF}) << "another region";
    write(kAt, std::byte{9});  // read-only
    write(kAt + kPage, std::byte{9});
    EXPECT_EQ(mapped_[0], std::byte{1});
    bar_->on_unmapping(1, kAt);
    EXPECT_EQ(read(kAt + kPage), std::byte{0xFF});
    EXPECT_EQ(alarms_, 0);
}

/// VIRTIO 1.3, 4.1.4.7: the capability has the BAR, the region's id, and 64 bits of each.
// A back end replaces a piece by taking it away and mapping another one.
TEST_F(SharedBarTest, AnAccessToWhatIsBeingReplacedWaitsForIt) {
    const auto bar = create();
    bar->place(kBar);
    memory_[7] = std::byte{0x42};
    ASSERT_TRUE(bar->on_mapped(piece(2, 0, 2 * kPage)));
    bar->on_unmapping(2, 0);
    const uint64_t start = bar->regions()[1].offset;
    std::array<std::byte, 4> out{};
    std::atomic<bool> is_read = false;
    std::thread vcpu([&] {
        bar->read(start + 4, out);
        is_read = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(is_read);
    EXPECT_TRUE(bar->on_mapped(piece(2, 0, 2 * kPage)));
    vcpu.join();
    EXPECT_EQ(out[3], std::byte{0x42});
}

TEST_F(SharedBarTest, AnAccessToWhatIsGoneWaitsOnceAndNotForEver) {
    const auto bar = create();
    bar->place(kBar);
    ASSERT_TRUE(bar->on_mapped(piece(2, 0, kPage)));
    bar->on_unmapping(2, 0);
    const uint64_t start = bar->regions()[1].offset;
    std::array<std::byte, 2> out{};
    bar->read(start, out);
    EXPECT_EQ(out[0], std::byte{0xFF});
    // Nothing was mapped behind it, nor is it a while later.
    const auto began = std::chrono::steady_clock::now();
    for (int i = 0; i < 1000; ++i) {
        bar->read(start + kPage, out);
        bar->read(start, out);
    }
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(20));
}

TEST_F(SharedBarTest, IsDescribedByACapability) {
    FakeInterrupts interrupts;
    FakeDoorbells doorbells;
    const GuestMemory memory = *GuestMemory::create({.bytes = kMemoryBytesMin});
    device_.shared_sizes = {6ULL << 30U};
    PciBus bus({.start = 0xC0000000, .bytes = 0x20000000}, {.start = kBar, .bytes = 32ULL << 30U});
    const auto function =
        *VirtioPciFunction::create(device_, memory, interrupts, doorbells, slots_, {});
    ASSERT_TRUE(bus.add(*function));
    ASSERT_EQ(function->bars().size(), 2U);
    EXPECT_EQ(function->bars()[1].bytes, 8ULL << 30U);
    ConfigSpace& config = function->config();
    EXPECT_EQ(config.bar(2) % (8ULL << 30U), 0U);
    uint8_t at = config.byte(0x34);
    while (at != 0 && (config.byte(at) != 9 || config.byte(static_cast<uint16_t>(at + 3)) != 8)) {
        at = config.byte(static_cast<uint16_t>(at + 1));
    }
    ASSERT_NE(at, 0);
    const auto dword = [&](unsigned offset) {
        return config.dword(static_cast<uint16_t>(at + offset));
    };
    EXPECT_EQ(dword(4), 2U);            // BAR 2, id 0
    EXPECT_EQ(dword(8), 0U);            // offset
    EXPECT_EQ(dword(12), 0x80000000U);  // length
    EXPECT_EQ(dword(16), 0U);
    EXPECT_EQ(dword(20), 1U);
    std::array<std::byte, 4> ones{};
    function->read_bar(2, 0, ones);
    EXPECT_EQ(ones[3], std::byte{0xFF});
    function->write_bar(2, 0, ones);  // and nothing happens
}

}  // namespace
}  // namespace outrigger::vmm
