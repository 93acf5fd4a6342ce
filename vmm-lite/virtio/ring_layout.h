// SPDX-License-Identifier: Apache-2.0
/// How large the three areas of a queue are, and whether a driver may have put them where it did.
/// VIRTIO 1.3, 2.7 and 2.8.
#pragma once

#include <cstdint>

#include "vmm-lite/mem/guest_memory.h"
#include "vmm-lite/virtio/device_proxy.h"

namespace outrigger::vmm {

/// Whether each area lies, aligned and whole, in one region of the guest's memory. `setup.size` is
/// a power of two (packed: not 0).
[[nodiscard]] bool ring_is_in_memory(const GuestMemory& memory,
                                     const DeviceProxy::QueueSetup& setup,
                                     bool packed);

}  // namespace outrigger::vmm
