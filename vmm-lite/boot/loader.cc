// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/boot/loader.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include <sys/random.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/log.h"

#include "vmm-lite/boot/bzimage.h"
#include "vmm-lite/boot/elf_kernel.h"
#include "vmm-lite/boot/kernel_file.h"
#include "vmm-lite/boot/layout.h"
#include "vmm-lite/boot/parameters.h"
#include "vmm-lite/boot/payload.h"
#include "vmm-lite/boot/placement.h"
#include "vmm-lite/boot/prepared_kernel.h"
#include "vmm-lite/boot/relocations.h"

namespace outrigger::vmm {
namespace {

uint64_t mebibytes(uint64_t bytes) {
    return (bytes + (1U << 20U) - 1) >> 20U;
}

Error too_little_memory(std::string_view what, uint64_t needed_end) {
    if (needed_end > kLowMemoryEnd) {
        return {.message = fmt::format("{} is too large: no memory of a guest is enough", what)};
    }
    return {.message = fmt::format(
                "{} needs more memory: give at least --memory {}M",
                what,
                mebibytes(align_up(needed_end, kMemoryGranularity).value_or(needed_end)))};
}

/// Loads the initrd at the top of the memory below 4 GiB. `kernel_end` is what it stays above.
Result<void> load_initrd(const GuestMemory& memory,
                         const std::string& path,
                         const BzImage& image,
                         uint64_t kernel_end,
                         BootParameters& parameters) {
    const auto file = OUTRIGGER_TRY(KernelFile::open(path, "the initrd"));
    const uint64_t bytes = file.bytes();
    if (bytes == 0) {
        return failure(file.error("is empty"));
    }
    const auto place = initrd_place(bytes,
                                    {.kernel_end = kernel_end,
                                     .memory_end = memory.low_end(),
                                     .address_max = image.initrd_address_max});
    if (!place) {
        return failure(too_little_memory(fmt::format("the initrd '{}'", path),
                                         checked_add(kernel_end, bytes).value_or(UINT64_MAX)));
    }
    parameters.initrd_address = *place;
    parameters.initrd_bytes = bytes;
    return file.read(0, memory.view(GuestAddr{parameters.initrd_address}, bytes));
}

/// One of so many places.
uint64_t random_place(uint64_t places) {
    uint64_t random = 0;
    if (::getrandom(&random, sizeof(random), 0) != sizeof(random)) {
        return 0;
    }
    // 2^64 is so much more than the places that none is preferred by an amount that shows.
    return random % places;
}

struct Unpacked {
    EntryState entry;
    bool from_cache = false;
    uint64_t address = 0;
};

/// Segments to their places, `distance` further up.
Result<void> copy_segments(const GuestMemory& memory,
                           std::span<const std::byte> bytes,
                           const ElfKernel& elf,
                           uint64_t distance) {
    for (const ElfSegment& segment : elf.segments) {
        const auto place = memory.view(GuestAddr{segment.address + distance}, segment.memory_bytes);
        if (place.empty()) {
            return failure(too_little_memory("the kernel", segment.address + segment.memory_bytes));
        }
        // What is behind the file's part is zero: nobody has written there yet.
        std::memcpy(place.data(), bytes.data() + segment.offset, segment.file_bytes);
    }
    return {};
}

/// nullopt when the kernel has to unpack itself: of a format, or without an entry, that we know.
Result<std::optional<Unpacked>> load_unpacked(const GuestMemory& memory,
                                              const KernelFile& file,
                                              const BzImage& image,
                                              const LoadOptions& options,
                                              uint64_t limit) {
    const PayloadInfo payload = OUTRIGGER_TRY(examine_payload(file, image));
    if (payload.format == PayloadFormat::kUnknown) {
        log(LogLevel::kDebug, "the kernel is packed in a way that only it can unpack");
        return std::nullopt;
    }
    const auto kernel =
        OUTRIGGER_TRY(PreparedKernel::open(file, image, payload, options.cache_directory));
    const auto elf = parse_elf_kernel(kernel.bytes());
    if (!elf) {
        return failure(file.error(elf.error().message));
    }
    if (!elf->pvh_entry || elf->lowest < layout::kKernelMin) {
        log(LogLevel::kDebug, "the kernel has no entry for PVH; it unpacks itself");
        return std::nullopt;
    }
    // What the decompressor is promised, the kernel needs as well: it allocates behind its end.
    const uint64_t end = std::max(elf->highest, elf->lowest + image.init_bytes);
    if (end > limit) {
        return failure(too_little_memory("the kernel", end));
    }
    Result<Relocations> relocations = failure(Error{});
    uint64_t distance = 0;
    if (options.kaslr) {
        relocations = parse_relocations(kernel.bytes().subspan(elf->file_end));
        if (relocations) {
            const uint64_t places = kernel_places(end, limit);
            distance = std::min(options.kernel_place.value_or(random_place(places)), places - 1) *
                       kKernelAlignment;
        } else {
            log(LogLevel::kInfo, "the kernel cannot be moved: it {}", relocations.error().message);
        }
    }
    OUTRIGGER_TRY(copy_segments(memory, kernel.bytes(), *elf, distance));
    if (distance != 0 && !apply_relocations(*relocations,
                                            memory.view(GuestAddr{elf->lowest + distance},
                                                        elf->highest - elf->lowest),
                                            elf->lowest,
                                            distance)) {
        return failure(file.error("has a table of relocations that is not its own"));
    }
    return Unpacked{.entry = {.mode = EntryState::Mode::kProtected32,
                              .instruction = *elf->pvh_entry + distance,
                              .parameters = layout::kStartInfo,
                              .gdt = layout::kGdt},
                    .from_cache = kernel.from_cache(),
                    .address = elf->lowest + distance};
}

Result<std::string> command_line(const LoadOptions& options, const BzImage& image) {
    std::string line = options.command_line;
    if (!options.kaslr) {
        // The kernel's own switch, for what it does itself: its decompressor moves it, too.
        line += line.empty() ? "nokaslr" : " nokaslr";
    }
    const uint64_t bytes_max =
        std::min<uint64_t>(image.command_line_bytes_max, layout::kCommandLineBytesMax - 1);
    if (line.size() > bytes_max) {
        return failure(Error{.message = fmt::format("the command line has {} characters; this "
                                                    "kernel takes {}",
                                                    line.size(),
                                                    bytes_max)});
    }
    return line;
}

}  // namespace

Result<LoadedGuest> load_guest(const GuestMemory& memory, const LoadOptions& options) {
    const auto file = OUTRIGGER_TRY(KernelFile::open(options.kernel, "the kernel"));
    const BzImage image = OUTRIGGER_TRY(parse_bzimage(file));
    BootParameters parameters = {.command_line = OUTRIGGER_TRY(command_line(options, image))};
    const uint64_t kernel_end = image.preferred_address + image.init_bytes;
    if (kernel_end > memory.low_end()) {
        return failure(too_little_memory("the kernel", kernel_end));
    }
    if (!options.initrd.empty()) {
        OUTRIGGER_TRY(load_initrd(memory, options.initrd, image, kernel_end, parameters));
    }
    const AcpiTables acpi = make_acpi_tables(options.acpi);
    const auto acpi_place = memory.view(GuestAddr{layout::kAcpi}, acpi.bytes.size());
    if (acpi_place.empty() || acpi.bytes.size() > layout::kAcpiEnd - layout::kAcpi) {
        return failure(Error{.message = "the machine has more devices than its tables can name"});
    }
    std::memcpy(acpi_place.data(), acpi.bytes.data(), acpi.bytes.size());
    parameters.acpi_root_pointer = acpi.root_pointer;

    LoadedGuest guest;
    if (options.prepared) {
        const uint64_t limit =
            parameters.initrd_bytes != 0 ? parameters.initrd_address : memory.low_end();
        const auto unpacked = OUTRIGGER_TRY(load_unpacked(memory, file, image, options, limit));
        if (unpacked) {
            guest.entry = unpacked->entry;
            guest.way =
                unpacked->from_cache ? LoadedGuest::Way::kFromCache : LoadedGuest::Way::kUnpacked;
            guest.kernel_address = unpacked->address;
            write_common(memory, parameters, guest.entry.mode);
            write_start_info(memory, parameters);
            return guest;
        }
    }
    const auto place = memory.view(GuestAddr{image.preferred_address}, image.code_bytes);
    OUTRIGGER_TRY(file.read(image.code_offset, place));
    guest.entry = {.mode = EntryState::Mode::kLong64,
                   .instruction = image.preferred_address + BzImage::kEntry64,
                   .parameters = layout::kZeroPage,
                   .page_table = layout::kPageTables,
                   .gdt = layout::kGdt};
    guest.kernel_address = image.preferred_address;
    write_common(memory, parameters, guest.entry.mode);
    write_zero_page(memory, image, parameters);
    return guest;
}

}  // namespace outrigger::vmm
