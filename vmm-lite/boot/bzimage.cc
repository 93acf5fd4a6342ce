// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/boot/bzimage.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include <asm/bootparam.h>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger::vmm {
namespace {

constexpr uint32_t kMagic = 0x53726448;  // "HdrS"
constexpr uint16_t kOldestVersion = 0x020C;
constexpr uint64_t kSector = 512;
constexpr uint64_t kFirstBytes = 0x400;  // header and what other formats are known by
constexpr uint64_t kInitBytesMax = 1ULL << 30U;
constexpr uint64_t kAddressMax = 1ULL << 30U;

template <class T>
T field(std::span<const std::byte> bytes, size_t at) {
    T value{};
    std::memcpy(&value, bytes.data() + at, sizeof(value));
    return value;
}

bool has_text(std::span<const std::byte> bytes, size_t at, std::string_view text) {
    return std::memcmp(bytes.data() + at, text.data(), text.size()) == 0;
}

/// In words, what a file is that is no bzImage.
std::string_view other_format(std::span<const std::byte> first) {
    if (has_text(first,
                 0,
                 "\x7f"
                 "ELF")) {
        return "is an ELF file; vmm-lite loads a bzImage, which distributions call vmlinuz";
    }
    if (has_text(first, 56, "ARM\x64")) {
        return "is for arm64; vmm-lite runs x86-64";
    }
    if (has_text(first, 56, "RSC\x05")) {
        return "is for riscv64; vmm-lite runs x86-64";
    }
    return "is no Linux kernel (a bzImage, which distributions call vmlinuz)";
}

}  // namespace

Result<BzImage> parse_bzimage(const KernelFile& file) {
    std::array<std::byte, kFirstBytes> first{};
    if (file.bytes() < first.size()) {
        return failure(file.error("is no Linux kernel: it has not even a header"));
    }
    OUTRIGGER_TRY(file.read(0, first));
    const auto setup = field<setup_header>(first, BzImage::kHeaderOffset);
    if (setup.header != kMagic || setup.boot_flag != 0xAA55) {
        return failure(file.error(other_format(first)));
    }
    if (setup.version < kOldestVersion || (setup.loadflags & LOADED_HIGH) == 0) {
        return failure(file.error("is too old: its boot protocol is before 2.12 (Linux 3.8)"));
    }
    if ((setup.xloadflags & XLF_KERNEL_64) == 0) {
        return failure(file.error("is for 32-bit processors; vmm-lite runs x86-64"));
    }
    BzImage image;
    const uint64_t sectors = setup.setup_sects == 0 ? 4 : setup.setup_sects;
    image.code_offset = (sectors + 1) * kSector;
    image.code_bytes = uint64_t{setup.syssize} * 16;
    // The last paragraph may be one that the file has only the beginning of.
    if (file.bytes() <= image.code_offset ||
        file.bytes() + 15 < image.code_offset + image.code_bytes) {
        return failure(file.error("is cut short; copy it again"));
    }
    image.code_bytes = std::min(image.code_bytes, file.bytes() - image.code_offset);
    if (image.code_bytes <= BzImage::kEntry64 ||
        !range_fits<uint64_t>(setup.payload_offset, setup.payload_length, image.code_bytes)) {
        return failure(file.error("contradicts itself: its payload is not inside of it"));
    }
    image.payload_offset = image.code_offset + setup.payload_offset;
    image.payload_bytes = setup.payload_length;
    image.preferred_address = setup.pref_address;
    image.init_bytes = std::max<uint64_t>(setup.init_size, image.code_bytes);
    if (image.preferred_address < 0x100000 || image.preferred_address > kAddressMax ||
        image.preferred_address % 0x1000 != 0 || image.init_bytes > kInitBytesMax) {
        return failure(file.error("contradicts itself: it asks for an impossible place"));
    }
    image.initrd_address_max = setup.initrd_addr_max;
    image.command_line_bytes_max = setup.cmdline_size;
    // The byte behind the jump's opcode says how far the header goes.
    const uint64_t header_end = 0x202 + uint64_t{field<uint8_t>(first, 0x201)};
    image.header.assign(
        first.begin() + BzImage::kHeaderOffset,
        first.begin() + static_cast<std::ptrdiff_t>(std::min<uint64_t>(
                            header_end, BzImage::kHeaderOffset + sizeof(setup_header))));
    return image;
}

}  // namespace outrigger::vmm
