// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/boot/placement.h"

#include <algorithm>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger::vmm {
namespace {

constexpr uint64_t kPage = 0x1000;

}  // namespace

std::optional<uint64_t> initrd_place(uint64_t bytes, const InitrdSpace& space) {
    const uint64_t accepted_end =
        checked_add<uint64_t>(space.address_max, 1).value_or(space.memory_end);
    const uint64_t top = align_down(std::min(space.memory_end, accepted_end), kPage);
    const auto padded = align_up<uint64_t>(bytes, kPage);
    if (bytes == 0 || !padded || top < space.kernel_end || *padded > top - space.kernel_end) {
        return std::nullopt;
    }
    return top - *padded;
}

uint64_t kernel_places(uint64_t kernel_end, uint64_t limit) {
    const uint64_t end = std::min(limit, kKernelSpaceEnd);
    return end <= kernel_end ? 1 : (end - kernel_end) / kKernelAlignment + 1;
}

}  // namespace outrigger::vmm
