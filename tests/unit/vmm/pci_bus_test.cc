// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/pci/pci_bus.h"

#include <gtest/gtest.h>

#include "tests/unit/vmm/fake_machine.h"
#include "vmm-lite/virtio/virtio_pci_function.h"

namespace outrigger::vmm {
namespace {

constexpr AddressWindow kLow = {.start = 0xC0000000, .bytes = 0x20000000};
constexpr AddressWindow kHigh = {.start = 0x100000000, .bytes = 0x100000000};
constexpr uint64_t kSlot1 = 1U << 15U;
constexpr uint64_t kSlot2 = 2U << 15U;

class PciBusTest : public testing::Test {
  protected:
    PciBusTest() {
        for (size_t i = 0; i < 2; ++i) {
            functions_.push_back(*VirtioPciFunction::create(
                devices_[i], memory_, interrupts_, doorbells_, slots_, {}));
            EXPECT_TRUE(bus_.add(*functions_.back()));
        }
    }

    template <class T>
    T read(uint64_t at) {
        T value = static_cast<T>(-1);
        bus_.ecam().read(at, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }

    template <class T>
    void write(uint64_t at, T value) {
        bus_.ecam().write(at, std::as_bytes(std::span(&value, 1)));
    }

    void switch_on(uint64_t slot) { write<uint16_t>(slot + 4, 2); }

    /// The number of queues, read through the BAR: 2 when the device answers there.
    uint16_t queues_at(uint64_t address) {
        uint16_t value = 0xFFFF;
        const auto bytes = std::as_writable_bytes(std::span(&value, 1));
        if (address >= kHigh.start) {
            bus_.high_window().read(address - kHigh.start + 0x12, bytes);
        } else {
            bus_.low_window().read(address - kLow.start + 0x12, bytes);
        }
        return value;
    }

    /// The offset of the capability with this id (and kind of virtio), 0 for none.
    uint16_t capability(uint8_t id, int kind = -1) {
        for (uint8_t at = read<uint8_t>(kSlot1 + 0x34); at != 0;
             at = read<uint8_t>(kSlot1 + at + 1)) {
            if (read<uint8_t>(kSlot1 + at) == id &&
                (kind < 0 || read<uint8_t>(kSlot1 + at + 3) == kind)) {
                return at;
            }
        }
        return 0;
    }

    FakeDevice devices_[2];
    FakeInterrupts interrupts_;
    FakeDoorbells doorbells_;
    FakeSlots slots_;
    GuestMemory memory_ = *GuestMemory::create({.bytes = kMemoryBytesMin});
    PciBus bus_{kLow, kHigh};
    std::vector<std::unique_ptr<VirtioPciFunction>> functions_;
};

TEST_F(PciBusTest, IdentifiesDevicesAndEmptySlots) {
    EXPECT_EQ(read<uint32_t>(kSlot1), 0x10421AF4U);
    EXPECT_EQ(read<uint32_t>(0), UINT32_MAX);
    EXPECT_EQ(read<uint32_t>(3U << 15U), UINT32_MAX);
    EXPECT_EQ(read<uint32_t>(kSlot1 + (1U << 12U)), UINT32_MAX);  // function 1
}

TEST_F(PciBusTest, AccessesOfOtherSizesReadOnes) {
    EXPECT_EQ(read<uint64_t>(kSlot1), UINT64_MAX);
    EXPECT_EQ(read<uint16_t>(kSlot1 + 1), UINT16_MAX);
}

TEST_F(PciBusTest, TellsTheSizeOfABar) {
    write<uint32_t>(kSlot1 + 0x10, UINT32_MAX);
    write<uint32_t>(kSlot1 + 0x14, UINT32_MAX);
    EXPECT_EQ(read<uint32_t>(kSlot1 + 0x10), ~uint32_t{VirtioPciFunction::kBarBytes - 1} | 4U);
    EXPECT_EQ(read<uint32_t>(kSlot1 + 0x14), UINT32_MAX);
}

TEST_F(PciBusTest, ABarAnswersWhenMemoryIsOn) {
    EXPECT_EQ(queues_at(kHigh.start), 0xFFFF);
    switch_on(kSlot1);
    EXPECT_EQ(queues_at(kHigh.start), 2);
    write<uint16_t>(kSlot1 + 4, 0);
    EXPECT_EQ(queues_at(kHigh.start), 0xFFFF);
}

TEST_F(PciBusTest, ABarMovesWithinAWindow) {
    switch_on(kSlot1);
    write<uint32_t>(kSlot1 + 0x10, 0x40000000);
    EXPECT_EQ(queues_at(kHigh.start), 0xFFFF);
    EXPECT_EQ(queues_at(kHigh.start + 0x40000000), 2);
}

TEST_F(PciBusTest, ABarMovesBelow4GiBInTwoHalves) {
    switch_on(kSlot1);
    write<uint32_t>(kSlot1 + 0x14, 0);
    EXPECT_EQ(queues_at(kHigh.start), 0xFFFF);
    write<uint32_t>(kSlot1 + 0x10, 0xC0000000);
    EXPECT_EQ(queues_at(0xC0000000), 2);
}

TEST_F(PciBusTest, ABarOverMemoryAnswersNowhere) {
    switch_on(kSlot1);
    write<uint32_t>(kSlot1 + 0x14, 0);
    write<uint32_t>(kSlot1 + 0x10, 0x100000);
    EXPECT_EQ(functions_[0]->bars()[0].mapped_at, std::nullopt);
}

TEST_F(PciBusTest, ABarOverAnotherAnswersNowhere) {
    switch_on(kSlot1);
    switch_on(kSlot2);
    const uint64_t second = kHigh.start + VirtioPciFunction::kBarBytes;
    EXPECT_EQ(functions_[1]->bars()[0].mapped_at, second);
    write<uint32_t>(kSlot1 + 0x10, static_cast<uint32_t>(second));
    EXPECT_EQ(functions_[0]->bars()[0].mapped_at, std::nullopt);
    EXPECT_EQ(functions_[1]->bars()[0].mapped_at, second);
}

TEST_F(PciBusTest, AnAccessAcrossTheEndOfABarReadsOnes) {
    switch_on(kSlot1);
    uint64_t value = UINT64_MAX;
    bus_.high_window().read(VirtioPciFunction::kBarBytes - 4,
                            std::as_writable_bytes(std::span(&value, 1)));
    EXPECT_EQ(value, UINT64_MAX);
}

TEST_F(PciBusTest, HasTheCapabilitiesOfAModernDevice) {
    for (const int kind : {1, 2, 3, 4, 5}) {
        EXPECT_NE(capability(9, kind), 0) << kind;
    }
    EXPECT_NE(capability(0x11), 0);
    EXPECT_EQ(read<uint16_t>(static_cast<uint64_t>(kSlot1 + capability(0x11) + 2U)), 2);
}

TEST_F(PciBusTest, IdentityAndCapabilitiesCannotBeWritten) {
    write<uint32_t>(kSlot1, 0);
    EXPECT_EQ(read<uint32_t>(kSlot1), 0x10421AF4U);
    const uint64_t msix = kSlot1 + capability(0x11);
    write<uint32_t>(msix, 0);
    write<uint32_t>(msix + 4, 0);
    EXPECT_EQ(read<uint8_t>(msix), 0x11);
    EXPECT_EQ(read<uint32_t>(msix + 4), VirtioPciFunction::kMsixTable);
}

TEST_F(PciBusTest, TheWindowReachesTheBar) {
    const uint64_t window = kSlot1 + capability(9, 5);
    write<uint32_t>(window + 8, 0x12);
    write<uint32_t>(window + 12, 2);
    EXPECT_EQ(read<uint16_t>(window + 16), 2);
    write<uint32_t>(window + 8, VirtioPciFunction::kBarBytes);
    EXPECT_EQ(read<uint16_t>(window + 16), 2);  // as it was: that is outside
    write<uint8_t>(window + 4, 1);              // another BAR
    write<uint32_t>(window + 8, 0x14);
    write<uint32_t>(window + 12, 1);
    write<uint8_t>(window + 16, 1);
    EXPECT_EQ(functions_[0]->config().byte(0), 0xF4);
}

TEST_F(PciBusTest, MsixIsSwitchedOnInTheCapability) {
    switch_on(kSlot1);
    const uint32_t unmasked = 0;
    bus_.high_window().write(VirtioPciFunction::kMsixTable + 12,
                             std::as_bytes(std::span(&unmasked, 1)));
    EXPECT_TRUE(interrupts_.connected.empty());
    write<uint16_t>(kSlot1 + capability(0x11) + 2U, 0x8000);
    EXPECT_EQ(interrupts_.connected.size(), 1U);
}

}  // namespace
}  // namespace outrigger::vmm
