// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/virtio/ring_layout.h"

namespace outrigger::vmm {
namespace {

bool area_is_in_memory(const GuestMemory& memory,
                       GuestAddr at,
                       uint64_t bytes,
                       uint64_t alignment) {
    return static_cast<uint64_t>(at) % alignment == 0 && memory.contains(at, bytes);
}

}  // namespace

bool ring_is_in_memory(const GuestMemory& memory,
                       const DeviceProxy::QueueSetup& setup,
                       bool packed) {
    const uint64_t entries = setup.size;
    constexpr uint64_t kDescriptorBytes = 16;
    if (!area_is_in_memory(memory, setup.descriptors, kDescriptorBytes * entries, 16)) {
        return false;
    }
    if (packed) {
        // Two event suppression structures.
        return area_is_in_memory(memory, setup.driver, 4, 4) &&
               area_is_in_memory(memory, setup.device, 4, 4);
    }
    // Flags and index, an entry each, and the event index behind them.
    return area_is_in_memory(memory, setup.driver, 6 + 2 * entries, 2) &&
           area_is_in_memory(memory, setup.device, 6 + 8 * entries, 4);
}

}  // namespace outrigger::vmm
