// SPDX-License-Identifier: Apache-2.0
// Rows 11 to 15 of the catalogue: memory regions.
#include <array>
#include <string>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"

#include "tests/integration/catalogue.h"
#include "tests/support/process_counts.h"

namespace outrigger::testing {
namespace {

using wire::MemoryRegion;

class CatalogueMemory : public Catalogue {
  protected:
    CatalogueMemory() { run(); }

    // The table is refused for that reason, and the one before it still serves.
    void expect_table_refused(Refusal refusal, std::span<const MemoryRegion> regions) {
        const std::vector<int> fds(regions.size(), first_region_fd());
        expect_refusal(refusal, [&] { return frontend().set_mem_table(regions, fds); });
        expect_echo();
    }

    void expect_file_refused(int fd) {
        const auto region = first_region();
        expect_refusal(Refusal::kMemoryFile, [&] {
            return frontend().set_mem_table(std::span(&region, 1), std::span(&fd, 1));
        });
        expect_echo();
    }

    // A second region, whose file is truncated while a request names buffers in it.
    driver::RegionId lose_buffer_memory() {
        const auto lost = memory_
                              .add_region({.guest_address = GuestAddr{0x4000'0000},
                                           .size = 1 << 20,
                                           .backing = driver::RegionBacking::kUnlinkedFile})
                              .value();
        EXPECT_EQ(frontend().add_mem_reg(memory_, lost), Answer::kAccepted);
        EchoBuffers buffers(memory_, lost);
        buffers.fill();
        EXPECT_TRUE(queue().try_add(buffers.chain(), 1));
        EXPECT_EQ(::ftruncate(memory_.fd(lost), 0), 0);
        queue().publish_and_kick();
        expect_broken(RingError::kMemoryLost);
        return lost;
    }

    // A copy of the guest's region that begins `bytes` further in all address spaces.
    [[nodiscard]] MemoryRegion moved(uint64_t bytes) const {
        MemoryRegion region = first_region();
        region.guest_address += bytes;
        region.user_address += bytes;
        return region;
    }
};

TEST_F(CatalogueMemory, Row11MemTableWithoutRegionsIsRefusedAndTheOldTableKept) {
    expect_table_refused(Refusal::kMemoryTable, {});
}

TEST_F(CatalogueMemory, Row11MemTableOfMoreRegionsThanTheTableHasIsRefused) {
    std::vector<MemoryRegion> regions;
    for (uint64_t i = 0; i < wire::kMemTableRegionsMax + 1; ++i) {
        regions.push_back(moved(i * kMemoryBytes));
    }
    expect_table_refused(Refusal::kMemoryTable, regions);
}

TEST_F(CatalogueMemory, Row11MemTableOverlapIsRefusedAndTheOldTableKept) {
    auto second = moved(kMemoryBytes - 1);
    second.user_address += kMemoryBytes;
    expect_table_refused(Refusal::kMemoryTable, std::array{first_region(), second});
}

TEST_F(CatalogueMemory, Row11MemTableOverlapInUserAddressesIsRefused) {
    auto second = moved(kMemoryBytes - 1);
    second.guest_address += kMemoryBytes;
    expect_table_refused(Refusal::kMemoryTable, std::array{first_region(), second});
}

TEST_F(CatalogueMemory, Row11NeighboursDoNotOverlap) {
    const std::array regions = {first_region(), moved(kMemoryBytes)};
    const std::vector<int> fds(2, first_region_fd());
    EXPECT_EQ(frontend().set_mem_table(regions, fds), Answer::kAccepted);
    expect_echo();
}

TEST_F(CatalogueMemory, Row11RegionWhoseGuestAddressesWrapIsRefused) {
    auto region = first_region();
    region.guest_address = ~uint64_t{0} - 0xfff;
    expect_table_refused(Refusal::kMemoryFile, std::array{region});
}

TEST_F(CatalogueMemory, Row11RegionWhoseUserAddressesWrapIsRefused) {
    auto region = first_region();
    region.user_address = ~uint64_t{0} - 0xfff;
    expect_table_refused(Refusal::kMemoryFile, std::array{region});
}

TEST_F(CatalogueMemory, Row11RegionWhoseFileOffsetWrapsIsRefused) {
    auto region = first_region();
    region.mmap_offset = ~uint64_t{0} - 0xfff;
    expect_table_refused(Refusal::kMemoryFile, std::array{region});
}

TEST_F(CatalogueMemory, Row11EmptyRegionIsRefused) {
    auto region = first_region();
    region.size = 0;
    expect_table_refused(Refusal::kMemoryFile, std::array{region});
}

TEST_F(CatalogueMemory, Row12RegionOfAPipeIsRefused) {
    const auto pipe = Notifier::create(Notifier::Kind::kPipe).value();
    expect_file_refused(pipe.read_fd());
}

TEST_F(CatalogueMemory, Row12RegionOfADirectoryIsRefused) {
    const UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    expect_file_refused(directory.get());
}

TEST_F(CatalogueMemory, Row12RegionOfADeviceIsRefused) {
    const UniqueFd zero(::open("/dev/zero", O_RDWR | O_CLOEXEC));
    expect_file_refused(zero.get());
}

TEST_F(CatalogueMemory, Row12RegionOfASocketIsRefused) {
    expect_file_refused(frontend().socket());
}

TEST_F(CatalogueMemory, Row12RegionOfAReadOnlyFileIsRefused) {
    const std::string path = "/proc/self/fd/" + std::to_string(first_region_fd());
    const UniqueFd read_only(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(read_only.valid());
    expect_file_refused(read_only.get());
}

TEST_F(CatalogueMemory, Row12RegionLargerThanItsFileIsRefused) {
    auto region = first_region();
    region.size += 1;
    expect_table_refused(Refusal::kMemoryFile, std::array{region});
}

TEST_F(CatalogueMemory, Row12RegionThatBeginsBehindItsFileIsRefused) {
    auto region = first_region();
    region.mmap_offset = region.size;
    expect_table_refused(Refusal::kMemoryFile, std::array{region});
}

TEST_F(CatalogueMemory, Row12OneBadRegionOfTwoRefusesTheTableAndLeavesNothingMapped) {
    const ProcessCounts before = ProcessCounts::now();
    auto bad = moved(kMemoryBytes);
    bad.size += 1;
    expect_table_refused(Refusal::kMemoryFile, std::array{first_region(), bad});
    // The message goes a moment after its answer.
    EXPECT_TRUE(eventually([&] { return ProcessCounts::now() == before; }));
}

TEST_F(CatalogueMemory, Row13TruncatedBufferMemoryBreaksTheRingAndLeavesTheRest) {
    const driver::RegionId lost = lose_buffer_memory();
    ASSERT_EQ(frontend().rem_mem_reg(memory_, lost), Answer::kAccepted);
    expect_containment_and_recovery();
}

TEST_F(CatalogueMemory, Row13ARingCannotComeBackOnMemoryThatWasTruncated) {
    (void)lose_buffer_memory();
    EXPECT_TRUE(queue().stop(frontend()));
    queue().reset();
    EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    EXPECT_TRUE(queue().wait_error(driver::after(kPatience)));
    EXPECT_TRUE(
        eventually([&] { return counters().rings_broken.value(RingError::kMemoryLost) == 2; }));
}

TEST_F(CatalogueMemory, Row13TruncatedRingMemoryEndsThatRingAndNotTheDaemon) {
    frontend().close();
    ASSERT_TRUE(host_->wait_closed());
    reconnect();
    memory_ = driver::GuestMemory();
    const auto lost = memory_
                          .add_region({.guest_address = kMemoryStart,
                                       .size = kMemoryBytes,
                                       .backing = driver::RegionBacking::kUnlinkedFile})
                          .value();
    run();
    expect_echo();
    ASSERT_EQ(::ftruncate(memory_.fd(lost), 0), 0);
    // This process must not touch that memory either: the kick alone makes the device look.
    queue().kick();
    expect_broken(RingError::kMemoryLost);
    frontend().close();
    ASSERT_TRUE(host_->wait_closed());
    reconnect();
    expect_echo();
}

class RequireSealed : public Catalogue {
  protected:
    RequireSealed()
        : Catalogue(EchoDeviceOptions{},
                    SessionHostOptions{
                        .session = {.message_timeout = kPatience, .require_sealed = true}}) {}

    void SetUp() override {
        // Without seals all memory is refused, and no ring comes up.
        if (kPortableBuild) {
            negotiate({});
        } else {
            run();
        }
    }

    void expect_echo_where_sealed() {
        if (!kPortableBuild) {
            expect_echo();
        }
    }

    [[nodiscard]] driver::RegionId add_backed_by(driver::RegionBacking backing) {
        return memory_
            .add_region(
                {.guest_address = GuestAddr{0x4000'0000}, .size = 0x1000, .backing = backing})
            .value();
    }
};

TEST_F(RequireSealed, MemfdThatCannotShrinkIsAccepted) {
    const auto sealed = add_backed_by(driver::RegionBacking::kDefault);
    if (kPortableBuild) {
        expect_refusal(Refusal::kMemoryFile,
                       [&] { return frontend().add_mem_reg(memory_, sealed); });
        return;
    }
    EXPECT_EQ(frontend().add_mem_reg(memory_, sealed), Answer::kAccepted);
    EXPECT_EQ(frontend().set_mem_table(memory_), Answer::kAccepted);
    expect_echo();
}

TEST_F(RequireSealed, Row13MemoryWithoutASealIsRefused) {
    const auto unsealed = add_backed_by(driver::RegionBacking::kPosixObject);
    expect_refusal(Refusal::kMemoryFile, [&] { return frontend().add_mem_reg(memory_, unsealed); });
    expect_refusal(Refusal::kMemoryFile, [&] { return frontend().set_mem_table(memory_); });
    expect_echo_where_sealed();
}

TEST_F(RequireSealed, Row13FileIsRefused) {
    const auto file = add_backed_by(driver::RegionBacking::kUnlinkedFile);
    expect_refusal(Refusal::kMemoryFile, [&] { return frontend().add_mem_reg(memory_, file); });
    expect_echo_where_sealed();
}

TEST_F(CatalogueMemory, Row14RemMemRegIsAnsweredOnlyAfterTheRequestsInFlight) {
    device_.hold(true);
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish_and_kick();
    ASSERT_TRUE(eventually([&] { return device_.held() == 1; }));
    const wire::SingleMemoryRegion payload{.padding = 0, .region = first_region()};
    const wire::Header header{.request = number(FrontendRequest::kRemMemReg),
                              .flags = wire::kVersion | wire::kFlagNeedReply,
                              .size = sizeof payload};
    EXPECT_EQ(frontend().send(header, bytes_of(payload)), Answer::kUnasked);
    give_others_a_moment();
    EXPECT_FALSE(frontend().has_input());
    device_.hold(false);
    device_.release_held(QueueIndex{0});
    EXPECT_EQ(frontend().receive_ack(header.request), Answer::kAccepted);
    // The answer came through the memory that was about to go.
    EXPECT_TRUE(buffers().answered());
    EXPECT_EQ(frontend().add_mem_reg(memory_, memory_.regions()[0]), Answer::kAccepted);
    EXPECT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_TRUE(queue().poll_used());
    expect_echo();
}

TEST_F(CatalogueMemory, Row14MemTableIsReplacedOnlyAfterTheRequestsInFlight) {
    device_.hold(true);
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish_and_kick();
    ASSERT_TRUE(eventually([&] { return device_.held() == 1; }));
    frontend().set_ack_policy(driver::AckPolicy::kNever);
    EXPECT_EQ(frontend().set_mem_table(memory_), Answer::kUnasked);
    const wire::Header get_features{.request = 1, .flags = wire::kVersion, .size = 0};
    EXPECT_EQ(frontend().send(get_features), Answer::kUnasked);
    give_others_a_moment();
    EXPECT_FALSE(frontend().has_input());
    device_.hold(false);
    device_.release_held(QueueIndex{0});
    EXPECT_TRUE(frontend().receive());
    EXPECT_TRUE(buffers().answered());
}

TEST_F(CatalogueMemory, Row15RemMemRegOfAnUnknownRegionIsRefused) {
    expect_refusal(Refusal::kMemoryTable,
                   [&] { return frontend().rem_mem_reg(moved(kMemoryBytes)); });
    expect_echo();
}

TEST_F(CatalogueMemory, Row15RemMemRegTwiceIsRefusedTheSecondTime) {
    const auto id =
        memory_.add_region({.guest_address = GuestAddr{0x4000'0000}, .size = 0x1000}).value();
    EXPECT_EQ(frontend().add_mem_reg(memory_, id), Answer::kAccepted);
    EXPECT_EQ(frontend().rem_mem_reg(memory_, id), Answer::kAccepted);
    expect_refusal(Refusal::kMemoryTable, [&] { return frontend().rem_mem_reg(memory_, id); });
    expect_echo();
}

// QEMU before 8.0 sends a network device's regions once for each pair of its queues. Another file
// at the same addresses: MemoryMessages.WhatLiesThereInAnotherFileIsNotTheSameRegion.
TEST_F(CatalogueMemory, Row15AddMemRegTwiceIsOneRegion) {
    const ProcessCounts before = ProcessCounts::now();
    for (int i = 0; i < 10; ++i) {
        EXPECT_EQ(frontend().add_mem_reg(memory_, memory_.regions()[0]), Answer::kAccepted);
    }
    EXPECT_TRUE(eventually([&] { return ProcessCounts::now() == before; }));
    EXPECT_EQ(counters().refused.total(), 0U);
    expect_echo();
}

TEST_F(CatalogueMemory, Row15DescriptorOnRemMemRegIsClosed) {
    const auto id =
        memory_.add_region({.guest_address = GuestAddr{0x4000'0000}, .size = 0x1000}).value();
    const ProcessCounts before = ProcessCounts::now();
    for (int i = 0; i < 10; ++i) {
        EXPECT_EQ(frontend().add_mem_reg(memory_, id), Answer::kAccepted);
        EXPECT_EQ(frontend().rem_mem_reg(memory_.description(id), memory_.fd(id)),
                  Answer::kAccepted);
    }
    EXPECT_TRUE(eventually([&] { return ProcessCounts::now() == before; }));
    expect_echo();
}

}  // namespace
}  // namespace outrigger::testing
