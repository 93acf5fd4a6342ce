// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/wire/request_table.h"

#include <array>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger::wire {
namespace {

std::vector<std::byte> memory_table_payload(uint32_t region_count, size_t regions_present) {
    std::vector<std::byte> payload(sizeof(MemoryTableHeader) +
                                   regions_present * sizeof(MemoryRegion));
    std::memcpy(payload.data(), &region_count, sizeof region_count);
    return payload;
}

TEST(RequestTable, KnowsEveryFrontendRequestOfTheSpecification) {
    EXPECT_EQ(frontend_requests().size(), 45U);
    EXPECT_EQ(find_frontend_request(1)->name, "GET_FEATURES");
    EXPECT_EQ(find_frontend_request(45)->name, "GET_VRING_BASE_SKIP_DRAIN");
}

TEST(RequestTable, KnowsEveryBackendRequestOfTheSpecification) {
    EXPECT_EQ(backend_requests().size(), 10U);
    EXPECT_EQ(find_backend_request(2)->name, "CONFIG_CHANGE_MSG");
}

TEST(RequestTable, FindsNothingForNumbersOutsideTheSpecification) {
    EXPECT_EQ(find_frontend_request(0), nullptr);
    EXPECT_EQ(find_frontend_request(46), nullptr);
    EXPECT_EQ(find_backend_request(11), nullptr);
}

TEST(PayloadSize, MemoryTableMustMatchItsCount) {
    EXPECT_TRUE(payload_size_fits(PayloadRule::kMemoryTable, memory_table_payload(2, 2)));
    EXPECT_FALSE(payload_size_fits(PayloadRule::kMemoryTable, memory_table_payload(2, 1)));
    EXPECT_FALSE(payload_size_fits(PayloadRule::kMemoryTable, memory_table_payload(2, 3)));
}

TEST(PayloadSize, MemoryTableCountThatWouldWrapIsRefused) {
    EXPECT_FALSE(
        payload_size_fits(PayloadRule::kMemoryTable, memory_table_payload(0x8000'0000, 0)));
}

TEST(FdCount, Bit8SaysThatNoDescriptorComes) {
    const uint64_t with_fd = 3;
    const uint64_t without_fd = 3 | kVringFdNone;
    EXPECT_EQ(expected_fds(FdRule::kUnlessBit8, std::as_bytes(std::span(&with_fd, 1))).least, 1U);
    EXPECT_EQ(expected_fds(FdRule::kUnlessBit8, std::as_bytes(std::span(&without_fd, 1))).most, 0U);
}

}  // namespace
}  // namespace outrigger::wire
