// SPDX-License-Identifier: Apache-2.0
/// Puts the kernel and all that it is told into the guest's memory. Thread: start-up.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "vhost-user-backend/base/result.h"

#include "vmm-lite/boot/acpi_tables.h"
#include "vmm-lite/kvm/entry_state.h"
#include "vmm-lite/mem/guest_memory.h"

namespace outrigger::vmm {

struct LoadOptions {
    std::string kernel{};
    std::string initrd{};  ///< "": none
    std::string command_line{};
    bool prepared = true;                    ///< unpack the kernel here, where its format is known
    bool kaslr = true;                       ///< and move it
    std::optional<uint64_t> kernel_place{};  ///< there: kernel_places(); nothing: at random
    std::string cache_directory{};           ///< of unpacked kernels; "": none
    AcpiOptions acpi{};
};

struct LoadedGuest {
    enum class Way : uint8_t { kBzImage, kUnpacked, kFromCache };

    EntryState entry;
    Way way = Way::kBzImage;
    uint64_t kernel_address = 0;
};

/// Errors say what is wrong with which file, or how much memory would do.
[[nodiscard]] Result<LoadedGuest> load_guest(const GuestMemory& memory, const LoadOptions& options);

}  // namespace outrigger::vmm
