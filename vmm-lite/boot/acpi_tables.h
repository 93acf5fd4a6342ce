// SPDX-License-Identifier: Apache-2.0
/// The ACPI tables of the machine: some 800 bytes that tell the guest all it has to know.
/// docs/boot.md explains them.
#pragma once

#include <cstdint>
#include <vector>

namespace outrigger::vmm {

struct AcpiOptions {
    unsigned vcpus = 1;
    bool serial = false;        ///< COM1
    bool power_button = false;  ///< one that an operator can press
    uint64_t mmio64 = 0;        ///< the window for BARs above 4 GiB
    uint64_t mmio64_bytes = 0;
};

struct AcpiTables {
    std::vector<uint8_t> bytes;  ///< to lie at layout::kAcpi
    uint64_t root_pointer = 0;   ///< the RSDP in it, physical
};

[[nodiscard]] AcpiTables make_acpi_tables(const AcpiOptions& options);

}  // namespace outrigger::vmm
