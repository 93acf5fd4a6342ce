// SPDX-License-Identifier: Apache-2.0
/// A piece of the guest's RAM as others are told of it: KVM gets each as one slot, back ends get
/// them by SET_MEM_TABLE or ADD_MEM_REG.
#pragma once

#include <cstdint>

#include "vhost-user-backend/guest/addresses.h"

namespace outrigger::vmm {

struct MemoryRegion {
    GuestAddr guest_address{};
    uint64_t bytes = 0;
    uint64_t frontend_address = 0;  ///< where this process has it mapped
    uint64_t fd_offset = 0;         ///< where it begins in the file
    int fd = -1;  ///< borrowed from GuestMemory; sealed, so that nobody shortens it
};

}  // namespace outrigger::vmm
