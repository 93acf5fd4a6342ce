// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/virtio/virtio_transport.h"

#include <linux/virtio_pci.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/notifier.h"

#include "tests/unit/vmm/fake_machine.h"

namespace outrigger::vmm {
namespace {

constexpr uint8_t kAcknowledge = 1;
constexpr uint8_t kDriver = 2;
constexpr uint8_t kDriverOk = 4;
constexpr uint8_t kFeaturesOk = 8;
constexpr uint8_t kNeedsReset = 64;
constexpr uint16_t kNoVector = 0xFFFF;
constexpr uint64_t kRing = 0x100000;

class VirtioTransportTest : public testing::Test {
  protected:
    VirtioTransportTest()
        : memory_(*GuestMemory::create({.bytes = kMemoryBytesMin})),
          transport_(*VirtioTransport::create(device_, memory_, interrupts_, doorbells_)) {}

    template <class T>
    void write(uint64_t at, T value) {
        transport_->write_common(at, std::as_bytes(std::span(&value, 1)));
    }

    template <class T>
    T read(uint64_t at) {
        T value{};
        transport_->read_common(at, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }

    void agree(uint64_t features) {
        write<uint8_t>(VIRTIO_PCI_COMMON_STATUS, kAcknowledge);
        write<uint8_t>(VIRTIO_PCI_COMMON_STATUS, kAcknowledge | kDriver);
        write<uint32_t>(VIRTIO_PCI_COMMON_GFSELECT, 0);
        write<uint32_t>(VIRTIO_PCI_COMMON_GF, static_cast<uint32_t>(features));
        write<uint32_t>(VIRTIO_PCI_COMMON_GFSELECT, 1);
        write<uint32_t>(VIRTIO_PCI_COMMON_GF, static_cast<uint32_t>(features >> 32U));
        write<uint8_t>(VIRTIO_PCI_COMMON_STATUS, kAcknowledge | kDriver | kFeaturesOk);
    }

    void set_up_queue(uint16_t queue, uint64_t at, uint16_t size = 256) {
        write<uint16_t>(VIRTIO_PCI_COMMON_Q_SELECT, queue);
        write<uint16_t>(VIRTIO_PCI_COMMON_Q_SIZE, size);
        write<uint64_t>(VIRTIO_PCI_COMMON_Q_DESCLO, at);
        write<uint64_t>(VIRTIO_PCI_COMMON_Q_AVAILLO, at + 0x1000);
        write<uint64_t>(VIRTIO_PCI_COMMON_Q_USEDLO, at + 0x2000);
        write<uint16_t>(VIRTIO_PCI_COMMON_Q_ENABLE, 1);
    }

    void start() {
        write<uint8_t>(VIRTIO_PCI_COMMON_STATUS, kAcknowledge | kDriver | kFeaturesOk | kDriverOk);
    }

    uint8_t status() { return read<uint8_t>(VIRTIO_PCI_COMMON_STATUS); }

    static constexpr uint64_t kVersion1 = 1ULL << 32U;

    FakeDevice device_;
    FakeInterrupts interrupts_;
    FakeDoorbells doorbells_;
    GuestMemory memory_;
    std::unique_ptr<VirtioTransport> transport_;
};

TEST_F(VirtioTransportTest, ActivatesTheQueuesThatAreEnabled) {
    agree(kVersion1 | 1);
    set_up_queue(1, kRing);
    start();
    ASSERT_EQ(device_.activations, 1);
    EXPECT_EQ(device_.agreed_features, kVersion1 | 1);
    ASSERT_EQ(device_.queues.size(), 2U);
    EXPECT_FALSE(device_.queues[0]);
    ASSERT_TRUE(device_.queues[1]);
    EXPECT_EQ(static_cast<uint64_t>(device_.queues[1]->device), kRing + 0x2000);
    EXPECT_EQ(device_.queues[1]->size, 256);
}

TEST_F(VirtioTransportTest, TellsOfNoMoreThanItCarries) {
    device_.features |= (1ULL << 33U) | (1ULL << 38U) | (1ULL << 40U);
    write<uint32_t>(VIRTIO_PCI_COMMON_DFSELECT, 1);
    EXPECT_EQ(read<uint32_t>(VIRTIO_PCI_COMMON_DF), (1U << 0U) | (1U << 2U));
}

TEST_F(VirtioTransportTest, ThereIsNoThirdHalfOfTheFeatures) {
    write<uint32_t>(VIRTIO_PCI_COMMON_DFSELECT, 2);
    EXPECT_EQ(read<uint32_t>(VIRTIO_PCI_COMMON_DF), 0U);
}

TEST_F(VirtioTransportTest, RefusesFeaturesThatWereNotOffered) {
    agree(kVersion1 | 2);
    EXPECT_EQ(status() & kFeaturesOk, 0);
}

TEST_F(VirtioTransportTest, RefusesDriversOfBeforeVersion1) {
    agree(1);
    EXPECT_EQ(status() & kFeaturesOk, 0);
}

TEST_F(VirtioTransportTest, FeaturesStayAsTheyWereAgreed) {
    agree(kVersion1);
    write<uint32_t>(VIRTIO_PCI_COMMON_GFSELECT, 0);
    write<uint32_t>(VIRTIO_PCI_COMMON_GF, 1);
    start();
    EXPECT_EQ(device_.agreed_features, kVersion1);
}

TEST_F(VirtioTransportTest, DoesNotStartWithoutFeatures) {
    start();
    // FEATURES_OK was not possible, because VERSION_1 was not taken.
    EXPECT_EQ(device_.activations, 0);
    EXPECT_EQ(status() & kDriverOk, 0);
}

TEST_F(VirtioTransportTest, StartsOnce) {
    agree(kVersion1);
    start();
    start();
    EXPECT_EQ(device_.activations, 1);
}

struct BadRing {
    const char* name;
    uint64_t at;
    uint16_t size;
};

class BadRingTest : public VirtioTransportTest, public testing::WithParamInterface<BadRing> {};

TEST_P(BadRingTest, BreaksTheDeviceAndIsNotEnabled) {
    agree(kVersion1);
    set_up_queue(0, GetParam().at, GetParam().size);
    EXPECT_EQ(read<uint16_t>(VIRTIO_PCI_COMMON_Q_ENABLE), 0);
    EXPECT_EQ(status() & kNeedsReset, kNeedsReset);
    start();
    EXPECT_EQ(device_.activations, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Rings,
    BadRingTest,
    testing::Values(BadRing{"OutsideOfMemory", kMemoryBytesMin, 256},
                    BadRing{"EndsOutside", kMemoryBytesMin - 0x2000 - 6 - 8 * 256 + 16, 256},
                    BadRing{"Wraps", UINT64_MAX - 0x1000, 256},
                    BadRing{"Unaligned", kRing + 8, 256},
                    BadRing{"NoPowerOfTwo", kRing, 255},
                    BadRing{"Empty", kRing, 0},
                    BadRing{"AboveTheMaximum", kRing, 512}),
    [](const auto& ring) { return ring.param.name; });

TEST_F(VirtioTransportTest, TakesARingThatEndsWhereMemoryEnds) {
    agree(kVersion1);
    set_up_queue(0, kMemoryBytesMin - 0x2000 - 0x1000, 256);
    EXPECT_EQ(read<uint16_t>(VIRTIO_PCI_COMMON_Q_ENABLE), 1);
}

TEST_F(VirtioTransportTest, AQueueIsNotChangedOnceItIsEnabled) {
    agree(kVersion1);
    set_up_queue(0, kRing);
    write<uint64_t>(VIRTIO_PCI_COMMON_Q_DESCLO, kMemoryBytesMin);
    write<uint16_t>(VIRTIO_PCI_COMMON_Q_SIZE, 2);
    start();
    ASSERT_TRUE(device_.queues[0]);
    EXPECT_EQ(static_cast<uint64_t>(device_.queues[0]->descriptors), kRing);
    EXPECT_EQ(device_.queues[0]->size, 256);
}

TEST_F(VirtioTransportTest, AQueueThatIsNotThereHasNoSize) {
    write<uint16_t>(VIRTIO_PCI_COMMON_Q_SELECT, 2);
    EXPECT_EQ(read<uint16_t>(VIRTIO_PCI_COMMON_Q_SIZE), 0);
    agree(kVersion1);
    set_up_queue(2, kRing);
    start();
    EXPECT_FALSE(device_.queues[0]);
    EXPECT_FALSE(device_.queues[1]);
}

TEST_F(VirtioTransportTest, AVectorThatIsNotThereReadsAsNone) {
    write<uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX, 3);  // of three: 0, 1 and 2
    EXPECT_EQ(read<uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX), kNoVector);
    write<uint16_t>(VIRTIO_PCI_COMMON_MSIX, 3);
    EXPECT_EQ(read<uint16_t>(VIRTIO_PCI_COMMON_MSIX), kNoVector);
}

// Firecracker 81b38b9 panics here: it takes the notifier of a vector that the queue does not have.
TEST_F(VirtioTransportTest, AQueueWithoutAVectorStartsAndIsCalledIntoNothing) {
    agree(kVersion1);
    set_up_queue(0, kRing);
    start();
    ASSERT_TRUE(device_.queues[0]);
    EXPECT_GE(device_.queues[0]->call_fd, 0);
}

TEST_F(VirtioTransportTest, ANewVectorIsTheDevicesAtOnce) {
    agree(kVersion1);
    set_up_queue(1, kRing);
    start();
    const int unread = device_.queues[1]->call_fd;
    write<uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX, 2);
    ASSERT_EQ(device_.calls.size(), 1U);
    EXPECT_EQ(device_.calls[0].first, 1);
    EXPECT_NE(device_.calls[0].second, unread);
    write<uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX, kNoVector);
    ASSERT_EQ(device_.calls.size(), 2U);
    EXPECT_EQ(device_.calls[1].second, unread);
}

TEST_F(VirtioTransportTest, DoorbellsAreThereWhileTheDriverIs) {
    transport_->place_doorbells(0x1000000);
    agree(kVersion1);
    set_up_queue(1, kRing);
    EXPECT_TRUE(doorbells_.connected.empty());
    start();
    ASSERT_EQ(doorbells_.connected.size(), 1U);
    EXPECT_EQ(doorbells_.connected.begin()->first, 0x1000004U);
    EXPECT_EQ(doorbells_.connected.begin()->second, device_.queues[1]->kick_fd);
    transport_->place_doorbells(0x2000000);
    ASSERT_EQ(doorbells_.connected.size(), 1U);
    EXPECT_EQ(doorbells_.connected.begin()->first, 0x2000004U);
    write<uint8_t>(VIRTIO_PCI_COMMON_STATUS, 0);
    EXPECT_TRUE(doorbells_.connected.empty());
}

TEST_F(VirtioTransportTest, AKickWithoutADoorbellReachesTheDevice) {
    agree(kVersion1);
    set_up_queue(1, kRing);
    start();
    transport_->notify(4);
    EXPECT_EQ(drain_notification(device_.queues[1]->kick_fd), DrainResult::kSignalled);
    transport_->notify(5);
    transport_->notify(8);
    EXPECT_EQ(drain_notification(device_.queues[1]->kick_fd), DrainResult::kEmpty);
}

TEST_F(VirtioTransportTest, ShowsTheOldStatusUntilTheDeviceHasLetGo) {
    agree(kVersion1);
    set_up_queue(0, kRing);
    start();
    write<uint8_t>(VIRTIO_PCI_COMMON_STATUS, 0);
    EXPECT_NE(status(), 0);
    write<uint8_t>(VIRTIO_PCI_COMMON_STATUS, kAcknowledge);
    ASSERT_TRUE(device_.on_reset);
    device_.on_reset();
    EXPECT_EQ(status(), 0);
    write<uint16_t>(VIRTIO_PCI_COMMON_Q_SELECT, 0);
    EXPECT_EQ(read<uint16_t>(VIRTIO_PCI_COMMON_Q_ENABLE), 0);
}

TEST_F(VirtioTransportTest, ResetsWithoutTheDeviceWhenItWasNotStarted) {
    agree(kVersion1);
    write<uint8_t>(VIRTIO_PCI_COMMON_STATUS, 0);
    EXPECT_EQ(status(), 0);
    EXPECT_FALSE(device_.on_reset);
}

TEST_F(VirtioTransportTest, AResetThatEndsBehindTheTransportHurtsNobody) {
    agree(kVersion1);
    start();
    write<uint8_t>(VIRTIO_PCI_COMMON_STATUS, 0);
    transport_.reset();
    device_.on_reset();
}

TEST_F(VirtioTransportTest, AKickFromBeforeAResetIsNotForTheNextDriver) {
    agree(kVersion1);
    set_up_queue(0, kRing);
    start();
    const int kick = device_.queues[0]->kick_fd;
    transport_->notify(0);
    write<uint8_t>(VIRTIO_PCI_COMMON_STATUS, 0);
    device_.on_reset();
    EXPECT_EQ(drain_notification(kick), DrainResult::kEmpty);
}

TEST_F(VirtioTransportTest, ALostDeviceNeedsAReset) {
    agree(kVersion1);
    start();
    device_.observer->on_needs_reset();
    EXPECT_EQ(status() & kNeedsReset, kNeedsReset);
    EXPECT_EQ(transport_->read_isr(), 2);
    EXPECT_EQ(transport_->read_isr(), 0);
}

TEST_F(VirtioTransportTest, TheConfigurationSpaceEndsWhereItEnds) {
    uint64_t value = 1;
    transport_->read_device_config(0, std::as_writable_bytes(std::span(&value, 1)));
    EXPECT_EQ(value, 0x5A5A5A5A5A5A5A5AU);
    transport_->read_device_config(8, std::as_writable_bytes(std::span(&value, 1)));
    EXPECT_EQ(value, 0U);
    const uint16_t half_outside = 0x1111;
    transport_->write_device_config(7, std::as_bytes(std::span(&half_outside, 1)));
    EXPECT_EQ(device_.config[7], std::byte{0x5A});
}

TEST_F(VirtioTransportTest, AccessesThatAreNoFieldsDoNothing) {
    EXPECT_EQ(read<uint32_t>(1), 0U);
    EXPECT_EQ(read<uint64_t>(0x3C), 0U);
    write<uint8_t>(VIRTIO_PCI_COMMON_Q_SELECT, 1);  // a byte of a field of two
    EXPECT_EQ(read<uint16_t>(VIRTIO_PCI_COMMON_Q_SELECT), 0);
}

}  // namespace
}  // namespace outrigger::vmm
