// SPDX-License-Identifier: Apache-2.0
/// All places at which KASLR may put a kernel, for every size of the memory, and initrds of many
/// sizes: whatever overlapped would be a guest that falls over once in a while.
#include "vmm-lite/boot/placement.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <vector>

#include <gtest/gtest.h>

#include "vmm-lite/boot/layout.h"
#include "vmm-lite/mem/guest_memory.h"

namespace outrigger::vmm {
namespace {

constexpr uint64_t kMebibyte = 1ULL << 20U;
constexpr uint64_t kLinkedAt = 16 * kMebibyte;
constexpr uint64_t kInitrdMax = 0x7FFFFFFF;

struct Span {
    uint64_t begin;
    uint64_t end;
};

constexpr bool apart(Span one, Span other) {
    return one.end <= other.begin || other.end <= one.begin;
}

/// Where a kernel of these bytes ends, as linked.
constexpr std::array<uint64_t, 4> kKernelBytes = {
    0x3378000ULL,  // Debian 12
    0x37DD000ULL,  // Debian 13
    0x1000ULL,
    300 * kMebibyte + 0x1000,
};

std::vector<uint64_t> initrd_sizes(uint64_t room) {
    std::vector<uint64_t> sizes = {0, 1, 4095, 4096, 4097, 2 * kMebibyte - 1, 2 * kMebibyte};
    for (uint64_t bytes = 4 * kMebibyte; bytes < room; bytes = bytes * 3 / 2 + 4097) {
        sizes.push_back(bytes);
    }
    for (const uint64_t less :
         std::initializer_list<uint64_t>{0, 1, 4095, 4096, kKernelAlignment}) {
        if (room > less) {
            sizes.push_back(room - less);
        }
    }
    return sizes;
}

/// What is wrong with one of the places, or "".
const char* examine(uint64_t memory_end, uint64_t kernel_bytes, uint64_t initrd_bytes) {
    const uint64_t kernel_end = kLinkedAt + kernel_bytes;
    const auto initrd = initrd_place(
        initrd_bytes,
        {.kernel_end = kernel_end, .memory_end = memory_end, .address_max = kInitrdMax});
    Span initrd_span{memory_end, memory_end};
    if (initrd_bytes != 0) {
        if (!initrd) {
            return "no place for an initrd that fits";
        }
        initrd_span = {*initrd, *initrd + initrd_bytes};
        if (initrd_span.begin % 4096 != 0 || initrd_span.end > memory_end ||
            initrd_span.end > kInitrdMax + 1) {
            return "an initrd outside of its memory";
        }
    }
    const uint64_t places = kernel_places(kernel_end, initrd_span.begin);
    for (uint64_t place = 0; place < places; ++place) {
        const uint64_t distance = place * kKernelAlignment;
        const Span kernel{kLinkedAt + distance, kernel_end + distance};
        if (kernel.begin < layout::kKernelMin || kernel.end > memory_end ||
            kernel.end > kKernelSpaceEnd || kernel.begin % kKernelAlignment != 0) {
            return "a kernel outside of its memory";
        }
        if (!apart(kernel, initrd_span)) {
            return "a kernel in the initrd";
        }
    }
    // And none was left out.
    const uint64_t next = kernel_end + places * kKernelAlignment;
    return next <= std::min(initrd_span.begin, kKernelSpaceEnd) ? "a place left out" : "";
}

TEST(Placement, NoPlaceOverlapsAnything) {
    for (uint64_t memory_end = kMemoryBytesMin; memory_end <= kLowMemoryEnd;
         memory_end += kMemoryGranularity) {
        for (const uint64_t kernel_bytes : kKernelBytes) {
            const uint64_t kernel_end = kLinkedAt + kernel_bytes;
            if (kernel_end > memory_end) {
                continue;
            }
            const uint64_t room = std::min(memory_end, kInitrdMax + 1) - kernel_end;
            for (const uint64_t initrd_bytes : initrd_sizes(room)) {
                if (initrd_bytes > room) {
                    continue;
                }
                ASSERT_STREQ(examine(memory_end, kernel_bytes, initrd_bytes), "")
                    << memory_end << " " << kernel_bytes << " " << initrd_bytes;
            }
        }
    }
}

TEST(Placement, TablesLieBelowEveryKernel) {
    for (const uint64_t end :
         std::initializer_list<uint64_t>{layout::kAcpiEnd,
                                         layout::kResetVector + 16,
                                         layout::kCommandLine + layout::kCommandLineBytesMax,
                                         layout::kPageTables + 6 * 0x1000ULL}) {
        EXPECT_LE(end, layout::kKernelMin);
    }
    EXPECT_LE(layout::kPageTables + 6 * 0x1000ULL, layout::kRandomSeed);
    EXPECT_LE(layout::kCommandLine + layout::kCommandLineBytesMax, layout::kLowReserved);
}

TEST(Placement, AnInitrdThatDoesNotFitHasNoPlace) {
    const InitrdSpace space{
        .kernel_end = 20 * kMebibyte, .memory_end = 64 * kMebibyte, .address_max = kInitrdMax};
    EXPECT_EQ(initrd_place(44 * kMebibyte, space), 20 * kMebibyte);
    EXPECT_FALSE(initrd_place(44 * kMebibyte + 1, space));
    EXPECT_FALSE(initrd_place(0, space));
    EXPECT_FALSE(initrd_place(UINT64_MAX, space));
    EXPECT_FALSE(initrd_place(
        4096, {.kernel_end = 65 * kMebibyte, .memory_end = 64 * kMebibyte, .address_max = 1}));
    EXPECT_EQ(initrd_place(4096,
                           {.kernel_end = 20 * kMebibyte,
                            .memory_end = 64 * kMebibyte,
                            .address_max = UINT64_MAX}),
              64 * kMebibyte - 4096);
    EXPECT_EQ(initrd_place(
                  1, {.kernel_end = 0, .memory_end = 64 * kMebibyte, .address_max = 0x200123 - 1}),
              0x1FF000U)
        << "the last page that the kernel takes all of";
}

TEST(Placement, AKernelAlwaysHasAPlace) {
    EXPECT_EQ(kernel_places(20 * kMebibyte, 20 * kMebibyte), 1U);
    EXPECT_EQ(kernel_places(20 * kMebibyte, 0), 1U);
    EXPECT_EQ(kernel_places(20 * kMebibyte, 22 * kMebibyte - 1), 1U);
    EXPECT_EQ(kernel_places(20 * kMebibyte, 22 * kMebibyte), 2U);
    EXPECT_EQ(kernel_places(20 * kMebibyte, UINT64_MAX), (1024 - 20) / 2 + 1U);
}

}  // namespace
}  // namespace outrigger::vmm
