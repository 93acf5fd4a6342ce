// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/boot/parameters.h"

#include <array>
#include <cstring>
#include <span>

#include <sys/random.h>

#include <asm/bootparam.h>

#include "vhost-user-backend/base/error.h"

#include "vmm-lite/boot/layout.h"

namespace outrigger::vmm {
namespace {

constexpr uint32_t kRam = 1;
constexpr uint32_t kReserved = 2;

constexpr uint8_t kUnknownLoader = 0xFF;
constexpr uint32_t kSetupDataRandomSeed = 9;
constexpr size_t kSeedBytes = 32;

constexpr uint64_t kPresentWritable = 0x3;
constexpr uint64_t kLargePage = 0x80;
constexpr uint64_t kLargePageBytes = 2ULL << 20U;
constexpr size_t kTableEntries = 512;
constexpr size_t kDirectories = 4;  // of a GiB

struct StartInfo {
    uint32_t magic = 0x336EC578;
    uint32_t version = 1;
    uint32_t flags = 0;
    uint32_t module_count = 0;
    uint64_t modules = 0;
    uint64_t command_line = 0;
    uint64_t root_pointer = 0;
    uint64_t memory_map = 0;
    uint32_t memory_map_entries = 0;
    uint32_t reserved = 0;
};

static_assert(sizeof(StartInfo) == 56);

struct StartModule {
    uint64_t address = 0;
    uint64_t bytes = 0;
    uint64_t command_line = 0;
    uint64_t reserved = 0;
};

struct StartMemory {
    uint64_t start = 0;
    uint64_t bytes = 0;
    uint32_t type = 0;
    uint32_t reserved = 0;
};

void write(const GuestMemory& memory, uint64_t at, std::span<const std::byte> bytes) {
    const auto place = memory.view(GuestAddr{at}, bytes.size());
    OUTRIGGER_ASSERT(place.size() == bytes.size());
    std::memcpy(place.data(), bytes.data(), bytes.size());
}

template <class T>
void write_value(const GuestMemory& memory, uint64_t at, const T& value) {
    write(memory, at, std::as_bytes(std::span(&value, 1)));
}

/// 4 GiB of guest addresses where they are.
void write_page_tables(const GuestMemory& memory) {
    using Table = std::array<uint64_t, kTableEntries>;
    constexpr uint64_t kPointers = layout::kPageTables + 0x1000;
    constexpr uint64_t kDirectoryBase = layout::kPageTables + 0x2000;
    Table top{};
    top[0] = kPointers | kPresentWritable;
    write_value(memory, layout::kPageTables, top);
    Table pointers{};
    for (size_t i = 0; i < kDirectories; ++i) {
        pointers[i] = (kDirectoryBase + i * 0x1000) | kPresentWritable;
        Table directory{};
        for (size_t j = 0; j < kTableEntries; ++j) {
            directory[j] =
                (i * kTableEntries + j) * kLargePageBytes | kPresentWritable | kLargePage;
        }
        write_value(memory, kDirectoryBase + i * 0x1000, directory);
    }
    write_value(memory, kPointers, pointers);
}

/// The guest's random numbers are good from its first moment on.
bool write_random_seed(const GuestMemory& memory) {
    struct Seed {
        uint64_t next = 0;
        uint32_t type = kSetupDataRandomSeed;
        uint32_t bytes = kSeedBytes;
        std::array<std::byte, kSeedBytes> seed{};
    } seed;

    if (::getrandom(seed.seed.data(), seed.seed.size(), 0) !=
        static_cast<ssize_t>(seed.seed.size())) {
        return false;
    }
    write_value(memory, layout::kRandomSeed, seed);
    return true;
}

}  // namespace

std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory) {
    std::vector<MemoryMapEntry> map = {
        {.start = 0, .bytes = layout::kLowReserved, .type = kRam},
        {.start = layout::kLowReserved,
         .bytes = layout::kKernelMin - layout::kLowReserved,
         .type = kReserved},
        {.start = layout::kKernelMin, .bytes = memory.low_end() - layout::kKernelMin, .type = kRam},
    };
    for (const MemoryRegion& region : memory.regions().subspan(1)) {
        map.push_back({.start = static_cast<uint64_t>(region.guest_address),
                       .bytes = region.bytes,
                       .type = kRam});
    }
    return map;
}

void write_common(const GuestMemory& memory,
                  const BootParameters& parameters,
                  EntryState::Mode mode) {
    write_value(memory, layout::kGdt, boot_gdt(mode));
    const std::string& line = parameters.command_line;
    write(memory, layout::kCommandLine, std::as_bytes(std::span(line.c_str(), line.size() + 1)));
    // mov al, 0xFE; out 0x64, al; hlt: Linux comes here to restart, because the firmware that it
    // looks for would. Without them it would execute zeroes for ever.
    constexpr std::array<uint8_t, 5> kReset = {
        0xB0, layout::kKeyboardReset, 0xE6, layout::kKeyboardPort, 0xF4};
    write_value(memory, layout::kResetVector, kReset);
}

void write_zero_page(const GuestMemory& memory,
                     const BzImage& image,
                     const BootParameters& parameters) {
    write_page_tables(memory);
    boot_params page = {};
    std::memcpy(&page.hdr, image.header.data(), image.header.size());
    page.hdr.type_of_loader = kUnknownLoader;
    page.hdr.cmd_line_ptr = static_cast<uint32_t>(layout::kCommandLine);
    page.hdr.ramdisk_image = static_cast<uint32_t>(parameters.initrd_address);
    page.hdr.ramdisk_size = static_cast<uint32_t>(parameters.initrd_bytes);
    page.hdr.setup_data = write_random_seed(memory) ? layout::kRandomSeed : 0;
    page.acpi_rsdp_addr = parameters.acpi_root_pointer;
    for (const MemoryMapEntry& entry : memory_map(memory)) {
        page.e820_table[page.e820_entries++] = {
            .addr = entry.start, .size = entry.bytes, .type = entry.type};
    }
    write_value(memory, layout::kZeroPage, page);
}

void write_start_info(const GuestMemory& memory, const BootParameters& parameters) {
    StartInfo info;
    info.command_line = layout::kCommandLine;
    info.root_pointer = parameters.acpi_root_pointer;
    uint64_t at = layout::kZeroPage;
    info.memory_map = at;
    for (const MemoryMapEntry& entry : memory_map(memory)) {
        write_value(memory,
                    at,
                    StartMemory{.start = entry.start, .bytes = entry.bytes, .type = entry.type});
        at += sizeof(StartMemory);
        ++info.memory_map_entries;
    }
    if (parameters.initrd_bytes != 0) {
        info.module_count = 1;
        info.modules = at;
        write_value(
            memory,
            at,
            StartModule{.address = parameters.initrd_address, .bytes = parameters.initrd_bytes});
    }
    write_value(memory, layout::kStartInfo, info);
}

}  // namespace outrigger::vmm
