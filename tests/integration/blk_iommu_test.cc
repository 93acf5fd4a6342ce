// SPDX-License-Identifier: Apache-2.0
// A disk behind a virtual IOMMU, of a guest whose maps change all the time: what is read and
// written is right to the byte, whatever is invalidated meanwhile.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <linux/virtio_blk.h>
#include <unistd.h>

#include "vhost-user-backend/base/build.h"

#include "devices/blk/blk_device.h"
#include "devices/blk/file_image.h"
#include "tests/support/iommu_test.h"
#include "tests/support/temporary_image.h"

namespace outrigger::testing {
namespace {

using namespace outrigger::blk;
using driver::offset_by;
using driver::Segment;

constexpr uint64_t kPage = Iommu::kPage;
constexpr uint32_t kPages = 4;  // of the largest request
constexpr uint32_t kSlots = 6;  // requests at one time
constexpr uint64_t kSlotDiskBytes = 16 * kPage;
constexpr uint64_t kRequests = 600;
constexpr GuestAddr kWindows{0x3'0000'0000};  // where the driver maps its data

using Bytes = std::vector<std::byte>;

/// One request at a time, on pages and sectors of its own.
struct Slot {
    GuestAddr header{};
    GuestAddr status{};
    std::array<GuestAddr, kPages> memory{};  // in the order in which the window shows it
    GuestAddr window{};
    uint64_t disk_start = 0;
    uint64_t disk_offset = 0;
    uint32_t bytes = 0;
    bool is_read = false;
};

class BlkIommuTest : public ::testing::TestWithParam<IommuTestOptions> {
  protected:
    void SetUp() override {
        for (std::byte& byte : disk_) {
            byte = random_byte();
        }
        ASSERT_EQ(::pwrite(backing_.fd(), disk_.data(), disk_.size(), 0),
                  static_cast<ssize_t>(disk_.size()));
        auto file = ImageFile::open({.path = backing_.path()});
        ASSERT_TRUE(file) << file.error().message;
        device_ = std::make_unique<BlkDevice>(
            std::make_unique<FileImage>(*std::move(file), IoEngineKind::kAuto), BlkDeviceOptions{});
        host_ = std::make_unique<SessionHost>(*device_, SessionHostOptions{});
        frontend_.emplace(host_->connect());
        guest_.emplace(*frontend_, GetParam());
        guest_->set_up();
        ASSERT_FALSE(HasFatalFailure());
        guest_->start_queues();
        ASSERT_FALSE(HasFatalFailure());
        make_slots();
    }

    void make_slots() {
        driver::GuestMemory& memory = guest_->memory();
        const GuestAddr small = memory.allocate(kSlots * 32, kPage).value();
        const GuestAddr data = memory.allocate(kSlots * kPages * kPage, kPage).value();
        for (uint32_t i = 0; i < kSlots; ++i) {
            Slot& slot = slots_[i];
            slot.header = offset_by(small, i * 32);
            slot.status = offset_by(small, i * 32 + 16);
            slot.window = offset_by(kWindows, i * 2 * kPages * kPage);
            slot.disk_start = i * kSlotDiskBytes;
            for (uint32_t page = 0; page < kPages; ++page) {
                slot.memory[page] = offset_by(data, (i * kPages + page) * kPage);
            }
        }
    }

    [[nodiscard]] std::byte random_byte() { return static_cast<std::byte>(random_()); }

    /// Maps the slot's pages anew, in another order.
    void remap(Slot& slot) {
        std::ranges::shuffle(slot.memory, random_);
        for (uint32_t page = 0; page < kPages; ++page) {
            EXPECT_EQ(guest_->iommu()
                          .lead(offset_by(slot.window, page * kPage), slot.memory[page])
                          .value_or(9),
                      0U);
        }
    }

    /// What the window shows.
    [[nodiscard]] Bytes load(const Slot& slot) {
        Bytes bytes(kPages * kPage);
        for (uint32_t page = 0; page < kPages; ++page) {
            guest_->memory().read(slot.memory[page], std::span(bytes).subspan(page * kPage, kPage));
        }
        return bytes;
    }

    void store(const Slot& slot, const Bytes& bytes) {
        for (uint32_t page = 0; page < kPages; ++page) {
            guest_->memory().write(slot.memory[page],
                                   std::span(bytes).subspan(page * kPage, kPage));
        }
    }

    /// Offers another request of random kind, size and place.
    void offer(uint32_t index) {
        Slot& slot = slots_[index];
        remap(slot);
        slot.is_read = random_() % 2 == 0;
        slot.bytes = static_cast<uint32_t>((1 + random_() % (kPages * kPage / 512)) * 512);
        slot.disk_offset =
            slot.disk_start + random_() % ((kSlotDiskBytes - slot.bytes) / 512 + 1) * 512;
        Bytes bytes(kPages * kPage);
        std::ranges::generate(bytes, [this] { return random_byte(); });
        store(slot, bytes);
        if (!slot.is_read) {
            std::copy_n(bytes.begin(), slot.bytes, at_disk(slot));
        }
        const virtio_blk_outhdr header = {
            .type = slot.is_read ? uint32_t{VIRTIO_BLK_T_IN} : uint32_t{VIRTIO_BLK_T_OUT},
            .ioprio = 0,
            .sector = slot.disk_offset / 512};
        guest_->memory().write(slot.header, std::as_bytes(std::span(&header, 1)));
        guest_->memory().write(slot.status, std::array{std::byte{0xee}});
        const std::array chain = {
            Segment{.address = slot.header, .length = sizeof header},
            Segment{.address = slot.window, .length = slot.bytes, .device_writable = slot.is_read},
            Segment{.address = slot.status, .length = 1, .device_writable = true}};
        ASSERT_TRUE(guest_->queue().try_add(
            chain,
            index,
            random_() % 2 == 0 ? driver::ChainLayout::kDirect : driver::ChainLayout::kIndirect));
    }

    [[nodiscard]] Bytes::iterator at_disk(const Slot& slot) {
        return disk_.begin() + static_cast<std::ptrdiff_t>(slot.disk_offset);
    }

    void check(const Slot& slot) {
        std::byte status{};
        guest_->memory().read(slot.status, std::span(&status, 1));
        EXPECT_EQ(std::to_integer<int>(status), VIRTIO_BLK_S_OK);
        if (slot.is_read) {
            const Bytes bytes = load(slot);
            EXPECT_TRUE(std::equal(at_disk(slot), at_disk(slot) + slot.bytes, bytes.begin()))
                << "read " << slot.bytes << " bytes at " << slot.disk_offset;
        }
    }

    /// Keeps all slots busy until so many requests were checked.
    void work() {
        for (uint32_t index = 0; index < kSlots; ++index) {
            ASSERT_NO_FATAL_FAILURE(offer(index));
        }
        guest_->queue().publish_and_kick();
        uint64_t in_flight = kSlots;
        for (uint64_t done = 0; in_flight > 0;) {
            ASSERT_EQ(guest_->queue().wait_used(driver::after(kPatience)),
                      driver::WaitResult::kUsed);
            while (const auto used = guest_->queue().poll_used()) {
                const auto index = static_cast<uint32_t>(used->token);
                ++done;
                --in_flight;
                ASSERT_NO_FATAL_FAILURE(check(slots_[index]));
                ASSERT_FALSE(HasFailure()) << "request " << done;
                if (done + in_flight < kRequests) {
                    ASSERT_NO_FATAL_FAILURE(offer(index));
                    ++in_flight;
                }
            }
            guest_->queue().publish_and_kick();
        }
    }

    /// Takes pages away that requests are using, and now and then everything.
    void invalidate_at_random() {
        std::mt19937 random(11);
        while (!over_) {
            const Slot& slot = slots_[random() % kSlots];
            EXPECT_EQ(guest_->iommu()
                          .invalidate(offset_by(slot.window, random() % kPages * kPage), kPage)
                          .value_or(9),
                      0U);
            if (random() % 16 == 0) {
                EXPECT_EQ(guest_->iommu().invalidate(GuestAddr{0}, 0).value_or(9), 0U);
            }
            std::this_thread::sleep_for(std::chrono::microseconds(random() % 500));
        }
    }

    std::mt19937 random_{3};
    Bytes disk_ = Bytes(kSlots * kSlotDiskBytes);  // what it should hold
    TemporaryImage backing_{kSlots * kSlotDiskBytes};
    std::unique_ptr<BlkDevice> device_;
    std::unique_ptr<SessionHost> host_;
    std::optional<driver::Frontend> frontend_;
    std::optional<IommuGuest> guest_;
    std::array<Slot, kSlots> slots_;
    std::atomic<bool> over_ = false;
};

std::vector<IommuTestOptions> shapes() {
    std::vector<IommuTestOptions> list = {{}, {.packed = true}};
    if (!kPortableBuild) {
        // A ring over scattered pages needs what only Linux has.
        list.push_back({.scattered = true});
        list.push_back({.packed = true, .scattered = true});
    }
    return list;
}

std::string shape_name(const ::testing::TestParamInfo<IommuTestOptions>& info) {
    return std::string(info.param.packed ? "Packed" : "Split") +
           (info.param.scattered ? "Scattered" : "");
}

INSTANTIATE_TEST_SUITE_P(Shapes, BlkIommuTest, ::testing::ValuesIn(shapes()), shape_name);

TEST_P(BlkIommuTest, DataStaysRightWhileMapsChange) {
    std::thread invalidator([this] { invalidate_at_random(); });

    work();

    over_ = true;
    invalidator.join();
    ASSERT_FALSE(HasFailure());
    EXPECT_EQ(host_->counters().rings_broken.total(), 0U);
    EXPECT_GT(host_->counters().iotlb_misses.value(), kRequests);
    Bytes held(disk_.size());
    ASSERT_EQ(::pread(backing_.fd(), held.data(), held.size(), 0),
              static_cast<ssize_t>(held.size()));
    EXPECT_TRUE(held == disk_);
}

}  // namespace
}  // namespace outrigger::testing
