// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/qcow2_file.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/error.h"

#include "devices/blk/qcow2/qcow2_decompress.h"
#include "tests/fuzz/qcow2_script.h"

namespace outrigger::fuzz {
namespace {

constexpr uint64_t kCopied = uint64_t{1} << 63;
constexpr uint64_t kIsCompressed = uint64_t{1} << 62;
constexpr uint64_t kOffset = ((uint64_t{1} << 56) - 1) & ~uint64_t{511};

std::vector<std::byte> compress(std::span<const std::byte> in, bool zstd) {
    std::vector<std::byte> out(in.size() + 4096);
    if (zstd) {
        const size_t size = ZSTD_compress(out.data(), out.size(), in.data(), in.size(), 1);
        OUTRIGGER_ASSERT(ZSTD_isError(size) == 0);
        out.resize(size);
        return out;
    }
    z_stream stream = {};
    OUTRIGGER_ASSERT(deflateInit2(&stream, 1, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) == Z_OK);
    // SAFETY: bytes are bytes; zlib does not write to its input.
    stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(in.data()));
    stream.avail_in = static_cast<uInt>(in.size());
    // SAFETY: bytes again.
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    OUTRIGGER_ASSERT(deflate(&stream, Z_FINISH) == Z_STREAM_END);
    out.resize(stream.total_out);
    deflateEnd(&stream);
    return out;
}

}  // namespace

Qcow2File::Qcow2File(ScriptReader& script, bool zstd, bool huge_disk)
    : fd_(::memfd_create("qcow2", MFD_CLOEXEC)), cluster_bits_(9) {
    OUTRIGGER_ASSERT(fd_.valid());
    cluster_bits_ += static_cast<uint32_t>(script.pick(13));
    const auto version = static_cast<uint32_t>(2 + script.pick(2));
    file_bytes_ = (3 + script.pick(14)) * cluster_bytes();
    OUTRIGGER_ASSERT(::ftruncate(fd_.get(), static_cast<off_t>(file_bytes_)) == 0);
    const uint64_t sectors = script.u32();
    put_header(version, sectors * kSectorBytes << (huge_disk ? 20 : 0), zstd && version == 3);
    constexpr size_t kOpsMax = 64;
    for (size_t i = 0; i < kOpsMax && !script.at_end(); ++i) {
        switch (next_op<Qcow2ImageOp>(script)) {
            case Qcow2ImageOp::kEnd:
                return;
            case Qcow2ImageOp::kBytes:
                change(script);
                break;
            case Qcow2ImageOp::kEntries:
                put_entries(script);
                break;
            case Qcow2ImageOp::kCompressed:
                put_compressed(script);
                break;
            case Qcow2ImageOp::kGarbage:
                put_garbage(script);
                break;
            case Qcow2ImageOp::kCount:
                break;
        }
    }
}

std::string Qcow2File::path() const {
    return fmt::format("/proc/self/fd/{}", fd_.get());
}

void Qcow2File::put_header(uint32_t version, uint64_t disk_bytes, bool zstd) {
    const uint64_t span = cluster_bytes() / 8 * cluster_bytes();
    put_number(0, 0x514649fb, 4);
    put_number(4, version, 4);
    put_number(20, cluster_bits_, 4);
    put_number(24, disk_bytes, 8);
    put_number(36, disk_bytes / span + (disk_bytes % span != 0 ? 1 : 0), 4);
    put_number(40, cluster_bytes(), 8);
    if (version == 3) {
        put_number(72, zstd ? 8 : 0, 8);
        put_number(96, 4, 4);
        put_number(100, 112, 4);
        put_number(104, zstd ? 1 : 0, 1);
    }
}

uint64_t Qcow2File::read_place(ScriptReader& script, uint64_t unit) const {
    const uint64_t cluster = script.u8() % (file_bytes_ / cluster_bytes());
    const uint64_t offset = script.u16() * unit;
    return cluster * cluster_bytes() + offset % cluster_bytes();
}

void Qcow2File::put(uint64_t offset, std::span<const std::byte> bytes) const {
    const size_t count = std::min<uint64_t>(bytes.size(), file_bytes_ - offset);
    OUTRIGGER_ASSERT(::pwrite(fd_.get(), bytes.data(), count, static_cast<off_t>(offset)) ==
                     static_cast<ssize_t>(count));
}

void Qcow2File::put_number(uint64_t offset, uint64_t value, size_t bytes) const {
    std::array<std::byte, 8> raw{};
    for (size_t i = 0; i < bytes; ++i) {
        raw[bytes - 1 - i] = static_cast<std::byte>(value >> (8 * i));
    }
    put(offset, std::span(raw).first(bytes));
}

void Qcow2File::change(ScriptReader& script) {
    const uint64_t place = read_place(script, 1);
    put(place, std::as_bytes(script.bytes(script.pick(65))));
}

void Qcow2File::shrink(ScriptReader& script) {
    const uint64_t clusters = script.u8() % (file_bytes_ / cluster_bytes() + 1);
    OUTRIGGER_ASSERT(::ftruncate(fd_.get(), static_cast<off_t>(clusters * cluster_bytes())) == 0);
}

void Qcow2File::put_entries(ScriptReader& script) const {
    const uint64_t place = read_place(script, 8);
    const size_t count = script.pick(65);
    const auto kind = script.pick_enum<Qcow2Entry>(static_cast<size_t>(Qcow2Entry::kCount));
    const uint64_t argument = script.u64();
    for (size_t i = 0; i < count && place + 8 * i < file_bytes_; ++i) {
        uint64_t entry = 0;
        switch (kind) {
            case Qcow2Entry::kAsItIs:
                entry = argument;
                break;
            case Qcow2Entry::kCluster:
                entry = (((argument + i) << cluster_bits_) & kOffset) | kCopied;
                break;
            case Qcow2Entry::kZero:
                entry = 1;
                break;
            case Qcow2Entry::kZeroCluster:
                entry = (((argument + i) << cluster_bits_) & kOffset) | kCopied | 1;
                break;
            case Qcow2Entry::kCompressed:
                // One sector more for each: all are there where it ends.
                entry = kIsCompressed | (argument % file_bytes_) |
                        (uint64_t{i} % (uint64_t{1} << (cluster_bits_ - 8)))
                            << (62 - (cluster_bits_ - 8));
                break;
            case Qcow2Entry::kCount:
                break;
        }
        put_number(place + 8 * i, entry, 8);
    }
}

void Qcow2File::put_compressed(ScriptReader& script) const {
    const uint64_t place = read_place(script, 1);
    const uint8_t seed = script.u8();
    std::vector<std::byte> cluster(cluster_bytes());
    for (size_t i = 0; i < cluster.size(); ++i) {
        cluster[i] = static_cast<std::byte>(i / 700 + i % 7 * seed);
    }
    put(place, compress(cluster, get_number(104, 1) == 1));
}

void Qcow2File::put_garbage(ScriptReader& script) const {
    const uint64_t place = read_place(script, 1);
    uint32_t state = script.u8();
    std::vector<std::byte> bytes(script.u16());
    for (std::byte& byte : bytes) {
        state = state * 1664525 + 1013904223;
        byte = static_cast<std::byte>(state >> 24);
    }
    put(place, bytes);
}

std::vector<std::byte> Qcow2File::get(uint64_t offset, size_t bytes) const {
    std::vector<std::byte> result(bytes);
    (void)!::pread(fd_.get(), result.data(), bytes, static_cast<off_t>(offset));
    return result;
}

uint64_t Qcow2File::get_number(uint64_t offset, size_t bytes) const {
    uint64_t value = 0;
    for (const std::byte byte : get(offset, bytes)) {
        value = value << 8 | std::to_integer<uint64_t>(byte);
    }
    return value;
}

Qcow2File::Sector Qcow2File::read_sector(uint64_t sector, std::span<std::byte, kSectorBytes> out) {
    // Where the script wrote over the header, that counts.
    const auto bits = static_cast<uint32_t>(get_number(20, 4));
    OUTRIGGER_ASSERT(bits >= 9 && bits <= 21);
    const uint64_t cluster = uint64_t{1} << bits;
    const uint64_t at = sector * kSectorBytes;
    const uint64_t entries = cluster / 8;
    const uint64_t l1_entry = get_number(get_number(40, 8) + at / cluster / entries * 8, 8);
    const uint64_t table = l1_entry & kOffset;
    if ((l1_entry & ~(kOffset | kCopied)) != 0 || table % cluster != 0 ||
        (table != 0 && (table >= file_bytes_ || cluster > file_bytes_ - table))) {
        return Sector::kDamaged;
    }
    if (table == 0) {
        return Sector::kBelow;
    }
    const uint64_t entry = get_number(table + at / cluster % entries * 8, 8);
    if ((entry & kIsCompressed) != 0) {
        return read_compressed(entry, at % cluster, out);
    }
    const uint64_t data = entry & kOffset;
    if ((entry & ~(kOffset | kCopied | 1)) != 0 || data % cluster != 0 ||
        (data == 0 && (entry & kCopied) != 0)) {
        return Sector::kDamaged;
    }
    if ((entry & 1) != 0) {
        std::ranges::fill(out, std::byte{0});
        return get_number(4, 4) == 3 ? Sector::kFilled : Sector::kDamaged;
    }
    if (data == 0) {
        return Sector::kBelow;
    }
    if (data >= file_bytes_) {
        return Sector::kDamaged;
    }
    std::ranges::copy(get(data + at % cluster, kSectorBytes), out.begin());
    return Sector::kFilled;
}

Qcow2File::Sector Qcow2File::read_compressed(uint64_t entry,
                                             uint64_t offset_in_cluster,
                                             std::span<std::byte, kSectorBytes> out) {
    const auto bits = static_cast<uint32_t>(get_number(20, 4));
    const uint32_t offset_bits = 70 - bits;
    const uint64_t descriptor = entry & (kIsCompressed - 1);
    const uint64_t offset = descriptor & ((uint64_t{1} << offset_bits) - 1);
    const uint64_t sectors = (descriptor >> offset_bits) + 1;
    if ((entry & kCopied) != 0 || offset == 0 || offset >= file_bytes_ || offset >> 56 != 0) {
        return Sector::kDamaged;
    }
    const uint64_t end = std::min(file_bytes_, offset / 512 * 512 + sectors * 512);
    if (entry == expanded_entry_) {
        std::ranges::copy(std::span(expanded_).subspan(offset_in_cluster, kSectorBytes),
                          out.begin());
        return Sector::kFilled;
    }
    std::vector<std::byte> cluster(uint64_t{1} << bits);
    const bool zstd = get_number(4, 4) == 3 && get_number(100, 4) > 104 && get_number(104, 1) == 1;
    if (blk::decompress_qcow2_cluster(
            zstd ? blk::Qcow2Compression::kZstd : blk::Qcow2Compression::kZlib,
            get(offset, end - offset),
            cluster) != 0) {
        return Sector::kDamaged;
    }
    std::ranges::copy(std::span(cluster).subspan(offset_in_cluster, kSectorBytes), out.begin());
    expanded_ = std::move(cluster);
    expanded_entry_ = entry;
    return Sector::kFilled;
}

}  // namespace outrigger::fuzz
