// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/pci/msix_table.h"

#include <gtest/gtest.h>

#include "tests/unit/vmm/fake_machine.h"

namespace outrigger::vmm {
namespace {

class MsixTableTest : public testing::Test {
  protected:
    void write(uint64_t at, uint32_t value) {
        table_.write(at, std::as_bytes(std::span(&value, 1)));
    }

    uint32_t read(uint64_t at) {
        uint32_t value = 0;
        table_.read(at, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }

    uint64_t pending() {
        uint64_t value = 0;
        table_.read_pending(0, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }

    void set_up(uint64_t vector, uint32_t data) {
        write(vector * 16, 0xFEE00000);
        write(vector * 16 + 4, 0);
        write(vector * 16 + 8, data);
        write(vector * 16 + 12, 0);
    }

    FakeInterrupts interrupts_;
    MsixTable table_ = *MsixTable::create(interrupts_, 3);
};

TEST_F(MsixTableTest, ConnectsWhatIsUnmaskedAndRoutesItBefore) {
    table_.set_control(true, false);
    set_up(1, 0x41);
    ASSERT_EQ(interrupts_.connected.size(), 1U);
    EXPECT_EQ(interrupts_.connected[24], table_.eventfd(1));
    EXPECT_EQ(interrupts_.routes[24], (MsiMessage{.address = 0xFEE00000, .data = 0x41}));
    EXPECT_TRUE(interrupts_.routed_first);
}

TEST_F(MsixTableTest, NothingIsConnectedBeforeItIsSwitchedOn) {
    set_up(1, 0x41);
    EXPECT_TRUE(interrupts_.connected.empty());
    table_.set_control(true, true);
    EXPECT_TRUE(interrupts_.connected.empty());
    table_.set_control(true, false);
    EXPECT_EQ(interrupts_.connected.size(), 1U);
}

TEST_F(MsixTableTest, KeepsWhatComesWhileItIsMasked) {
    table_.set_control(true, false);
    set_up(2, 0x41);
    write(2 * 16 + 12, 1);
    EXPECT_TRUE(interrupts_.connected.empty());
    EXPECT_EQ(pending(), 0U);
    table_.signal(2);
    EXPECT_EQ(pending(), 4U);
    write(2 * 16 + 12, 0);
    EXPECT_EQ(interrupts_.connected.size(), 1U);  // KVM finds the signal when it is connected
    EXPECT_EQ(pending(), 0U);
}

TEST_F(MsixTableTest, FollowsAMessageThatChanges) {
    table_.set_control(true, false);
    set_up(0, 0x41);
    write(8, 0x42);
    EXPECT_EQ(interrupts_.routes[24].data, 0x42U);
    EXPECT_EQ(interrupts_.connected.size(), 1U);
}

TEST_F(MsixTableTest, OnlyAlignedWordsCount) {
    const uint16_t half = 0;
    table_.write(12, std::as_bytes(std::span(&half, 1)));
    EXPECT_EQ(read(12), 1U);  // still masked
    write(14, 0);
    EXPECT_EQ(read(12), 1U);
    const uint64_t data_and_control = 0x41;
    table_.write(8, std::as_bytes(std::span(&data_and_control, 1)));
    EXPECT_EQ(read(8), 0x41U);
    EXPECT_EQ(read(12), 0U);
}

TEST_F(MsixTableTest, BehindTheTableIsNothing) {
    write(3 * 16, 0xFEE00000);
    EXPECT_EQ(read(3 * 16), 0U);
    EXPECT_EQ(table_.eventfd(3), -1);
    EXPECT_EQ(table_.eventfd(0xFFFF), -1);
    table_.signal(0xFFFF);
}

TEST_F(MsixTableTest, AMachineWithoutMoreInterruptsGoesOn) {
    interrupts_.exhausted = true;
    table_.set_control(true, false);
    set_up(0, 0x41);
    EXPECT_TRUE(interrupts_.connected.empty());
}

TEST(MsixTable, GivesItsInterruptsBack) {
    FakeInterrupts interrupts;
    {
        auto table = *MsixTable::create(interrupts, 1);
        table.set_control(true, false);
        const uint32_t unmasked = 0;
        table.write(12, std::as_bytes(std::span(&unmasked, 1)));
        EXPECT_EQ(interrupts.connected.size(), 1U);
    }
    EXPECT_TRUE(interrupts.connected.empty());
    EXPECT_EQ(interrupts.released.count(24), 1U);
}

}  // namespace
}  // namespace outrigger::vmm
