// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/boot/payload.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include <zstd.h>

#include <lz4.h>

namespace outrigger::vmm {
namespace {

constexpr uint32_t kLz4LegacyMagic = 0x184C2102;
constexpr uint32_t kZstdMagic = 0xFD2FB528;
constexpr size_t kLz4BlockBytes = 8U << 20U;
constexpr uint64_t kUnpackedBytesMax = 512ULL << 20U;
constexpr size_t kSizeFieldBytes = 4;  // behind what is compressed

std::string_view damaged() {
    return "is damaged: its payload does not unpack; copy it again";
}

/// The compressed part, copied: a mapped file that somebody shortens meanwhile raises SIGBUS.
Result<std::vector<std::byte>> read_packed(const KernelFile& file, const BzImage& image) {
    std::vector<std::byte> packed(image.payload_bytes - kSizeFieldBytes);
    OUTRIGGER_TRY(file.read(image.payload_offset, packed));
    return packed;
}

uint32_t number_at(std::span<const std::byte> bytes, size_t at) {
    uint32_t value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof(value));
    return value;
}

bool unpack_lz4(std::span<const std::byte> packed, std::span<std::byte> out) {
    size_t at = 4;  // the magic
    size_t written = 0;
    while (at < packed.size()) {
        if (packed.size() - at < 4) {
            return false;
        }
        const uint32_t block = number_at(packed, at);
        at += 4;
        if (block == kLz4LegacyMagic) {
            continue;  // the next frame
        }
        const size_t room = std::min(out.size() - written, kLz4BlockBytes);
        if (block == 0 || block > packed.size() - at ||
            block > static_cast<uint32_t>(LZ4_compressBound(kLz4BlockBytes))) {
            return false;
        }
        // SAFETY: std::byte and char may alias; both ranges are inside their spans.
        const int got = LZ4_decompress_safe(reinterpret_cast<const char*>(packed.data() + at),
                                            reinterpret_cast<char*>(out.data() + written),
                                            static_cast<int>(block),
                                            static_cast<int>(room));
        if (got <= 0) {
            return false;
        }
        at += block;
        written += static_cast<size_t>(got);
    }
    return written == out.size();
}

bool unpack_zstd(std::span<const std::byte> packed, std::span<std::byte> out) {
    const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context(ZSTD_createDCtx(),
                                                                     ZSTD_freeDCtx);
    if (!context) {
        return false;
    }
    ZSTD_inBuffer input = {.src = packed.data(), .size = packed.size(), .pos = 0};
    ZSTD_outBuffer output = {.dst = out.data(), .size = out.size(), .pos = 0};
    // One call suffices unless the output is full; a frame that wants more input is cut short.
    const size_t left = ZSTD_decompressStream(context.get(), &output, &input);
    return ZSTD_isError(left) == 0 && left == 0 && output.pos == out.size();
}

}  // namespace

Result<PayloadInfo> examine_payload(const KernelFile& file, const BzImage& image) {
    PayloadInfo info;
    if (image.payload_bytes < 2 * kSizeFieldBytes) {
        return info;
    }
    std::array<std::byte, 4> bytes{};
    OUTRIGGER_TRY(file.read(image.payload_offset, bytes));
    const uint32_t magic = number_at(bytes, 0);
    OUTRIGGER_TRY(file.read(image.payload_offset + image.payload_bytes - kSizeFieldBytes, bytes));
    info.unpacked_bytes = number_at(bytes, 0);
    if (magic == kLz4LegacyMagic) {
        info.format = PayloadFormat::kLz4;
    } else if (magic == kZstdMagic) {
        info.format = PayloadFormat::kZstd;
    } else {
        return info;
    }
    if (info.unpacked_bytes == 0 || info.unpacked_bytes > kUnpackedBytesMax) {
        return failure(file.error(damaged()));
    }
    return info;
}

Result<void> unpack_payload(const KernelFile& file,
                            const BzImage& image,
                            PayloadFormat format,
                            std::span<std::byte> out) {
    const auto packed = OUTRIGGER_TRY(read_packed(file, image));
    bool whole = false;
    switch (format) {
        case PayloadFormat::kLz4:
            whole = packed.size() > 4 && unpack_lz4(packed, out);
            break;
        case PayloadFormat::kZstd:
            whole = unpack_zstd(packed, out);
            break;
        case PayloadFormat::kUnknown:
            break;
    }
    if (!whole) {
        return failure(file.error(damaged()));
    }
    return {};
}

}  // namespace outrigger::vmm
