// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/qcow2_header.h"

#include <algorithm>
#include <bit>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"

#include "devices/blk/qcow2/big_endian.h"

namespace outrigger::blk {
namespace {

constexpr uint32_t kMagic = 0x514649fb;
constexpr size_t kHeaderBytesV2 = 72;
constexpr size_t kHeaderBytesV3 = 104;
constexpr uint32_t kClusterBitsMin = 9;
constexpr uint32_t kClusterBitsMax = 21;
constexpr uint32_t kRefcountOrderMax = 6;
constexpr uint32_t kNameBytesMax = 1023;
/// QEMU's limit; it also bounds what an image makes us keep in memory.
constexpr uint64_t kL1BytesMax = uint64_t{32} << 20;
/// Host offsets have 56 bits, so no disk can hold more; and off_t stays positive.
constexpr uint64_t kDiskBytesMax = uint64_t{1} << 62;

constexpr uint64_t kIncompatibleDirty = 1U << 0;
constexpr uint64_t kIncompatibleCorrupt = 1U << 1;
constexpr uint64_t kIncompatibleDataFile = 1U << 2;
constexpr uint64_t kIncompatibleCompression = 1U << 3;
constexpr uint64_t kIncompatibleExtendedL2 = 1U << 4;
/// Those that are served. Dirty means that reference counts may be stale, which no reader uses.
constexpr uint64_t kIncompatibleServed = kIncompatibleDirty | kIncompatibleCompression;

constexpr uint32_t kExtensionEnd = 0;
constexpr uint32_t kExtensionBackingFormat = 0xe2792aca;
constexpr uint32_t kExtensionFeatureNames = 0x6803f857;
constexpr size_t kFeatureNameBytes = 48;

/// The fields that are read by their place. All are present in version 2 but the last five.
struct Fields {
    uint64_t backing_offset = 0;
    uint32_t backing_bytes = 0;
    uint32_t crypt_method = 0;
    uint32_t l1_entries = 0;
    uint64_t incompatible = 0;
    uint32_t header_bytes = kHeaderBytesV2;
    uint8_t compression_type = 0;
    std::string_view feature_names;
};

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

std::string_view text_at(std::span<const std::byte> head, size_t offset, size_t bytes) {
    const std::span<const std::byte> part = head.subspan(offset, bytes);
    // SAFETY: characters may alias anything; the span bounds them.
    return {reinterpret_cast<const char*>(part.data()), part.size()};
}

/// What the image's own table calls an incompatible feature; empty when it does not.
std::string feature_name(std::string_view table, uint32_t bit) {
    for (; table.size() >= kFeatureNameBytes; table.remove_prefix(kFeatureNameBytes)) {
        if (table[0] == 0 && static_cast<uint8_t>(table[1]) == bit) {
            const std::string_view name = table.substr(2, kFeatureNameBytes - 2);
            return printable(name.substr(0, name.find('\0')));
        }
    }
    return {};
}

Result<void> check_version_3(std::span<const std::byte> head, Fields& fields) {
    if (head.size() < kHeaderBytesV3) {
        return refuse("is damaged: the file ends inside the header");
    }
    fields.incompatible = load_big_endian<uint64_t>(head, 72);
    fields.header_bytes = load_big_endian<uint32_t>(head, 100);
    const auto refcount_order = load_big_endian<uint32_t>(head, 96);
    if (refcount_order > kRefcountOrderMax) {
        return refuse(fmt::format(
            "is damaged: refcount_order is {}, the most is {}", refcount_order, kRefcountOrderMax));
    }
    if (fields.header_bytes < kHeaderBytesV3 || fields.header_bytes % 8 != 0 ||
        fields.header_bytes > head.size()) {
        return refuse(
            fmt::format("is damaged: header_length {} is not possible", fields.header_bytes));
    }
    if (fields.header_bytes > kHeaderBytesV3) {
        fields.compression_type = load_big_endian<uint8_t>(head, kHeaderBytesV3);
    }
    return {};
}

Result<void> check_features(const Fields& fields, Qcow2Header& header) {
    if (fields.crypt_method != 0) {
        const std::string method = fields.crypt_method == 1   ? "AES"
                                   : fields.crypt_method == 2 ? "LUKS"
                                                              : "an unknown method";
        return refuse(fmt::format("is encrypted ({}), which is not served", method));
    }
    if ((fields.incompatible & kIncompatibleCorrupt) != 0) {
        // Any table may be wrong, and then a guest is given another place's data as its own.
        return refuse("is marked corrupt: repair it with qemu-img check -r all");
    }
    if ((fields.incompatible & kIncompatibleDataFile) != 0) {
        return refuse("keeps its data in an external data file, which is not served");
    }
    if ((fields.incompatible & kIncompatibleExtendedL2) != 0) {
        return refuse(
            "has extended L2 entries, which are not served: convert it with qemu-img convert "
            "-O qcow2 -o extended_l2=off");
    }
    if (const uint64_t unknown = fields.incompatible & ~kIncompatibleServed; unknown != 0) {
        const auto bit = static_cast<uint32_t>(std::countr_zero(unknown));
        const std::string name = feature_name(fields.feature_names, bit);
        return refuse(fmt::format("needs the incompatible feature {} (bit {}), which is not served",
                                  name.empty() ? "without a name" : "'" + name + "'",
                                  bit));
    }
    const bool other_compression = (fields.incompatible & kIncompatibleCompression) != 0;
    if (other_compression != (fields.compression_type != 0)) {
        return refuse("is damaged: compression type and its feature bit disagree");
    }
    if (fields.compression_type > 1) {
        return refuse(fmt::format("uses compression type {}, which is not served",
                                  static_cast<unsigned>(fields.compression_type)));
    }
    header.compression = other_compression ? Qcow2Compression::kZstd : Qcow2Compression::kZlib;
    return {};
}

/// Checks the places of all tables, also of those that are not read: who damaged one may have
/// damaged more.
Result<void> check_geometry(std::span<const std::byte> head,
                            uint64_t file_bytes,
                            uint32_t l1_entries,
                            Qcow2Header& header) {
    const uint64_t cluster_bytes = uint64_t{1} << header.cluster_bits;
    header.l1_offset_bytes = load_big_endian<uint64_t>(head, 40);
    const auto refcount_offset = load_big_endian<uint64_t>(head, 48);
    const auto snapshot_offset = load_big_endian<uint64_t>(head, 64);
    for (const auto& [name, offset] : {std::pair("L1 table", header.l1_offset_bytes),
                                       std::pair("refcount table", refcount_offset),
                                       std::pair("snapshot table", snapshot_offset)}) {
        if (offset % cluster_bytes != 0) {
            return refuse(fmt::format("is damaged: its {} is not at a cluster's beginning", name));
        }
    }
    if (header.size_bytes > kDiskBytesMax) {
        return refuse("is damaged: its disk is larger than any image can hold");
    }
    const uint64_t l2_span_bytes = cluster_bytes / 8 * cluster_bytes;
    const uint64_t needed = (header.size_bytes + l2_span_bytes - 1) / l2_span_bytes;
    if (uint64_t{l1_entries} * 8 > kL1BytesMax) {
        return refuse(fmt::format(
            "has an L1 table of {} entries; at most {} are served", l1_entries, kL1BytesMax / 8));
    }
    if (needed > l1_entries) {
        return refuse(
            fmt::format("is damaged: its L1 table has {} entries, its size of {} bytes needs {}",
                        l1_entries,
                        header.size_bytes,
                        needed));
    }
    if (!range_fits<uint64_t>(header.l1_offset_bytes, uint64_t{l1_entries} * 8, file_bytes) ||
        (needed > 0 && header.l1_offset_bytes == 0)) {
        return refuse("is damaged: its L1 table is not inside the file");
    }
    header.l1_entries = static_cast<uint32_t>(needed);
    return {};
}

/// `first_cluster`: no longer than that, and it begins at the file's beginning.
Result<void> read_extensions(std::span<const std::byte> first_cluster,
                             Fields& fields,
                             Qcow2Header& header) {
    size_t position = fields.header_bytes;
    // The backing file's name, where there is one, ends the room for extensions.
    const size_t end = fields.backing_offset != 0 && fields.backing_offset < first_cluster.size()
                           ? static_cast<size_t>(fields.backing_offset)
                           : first_cluster.size();
    // Each turn goes on by 8 bytes or more.
    while (position <= end && end - position >= 8) {
        const auto type = load_big_endian<uint32_t>(first_cluster, position);
        const auto bytes = load_big_endian<uint32_t>(first_cluster, position + 4);
        position += 8;
        if (type == kExtensionEnd) {
            return {};
        }
        if (bytes > end - position) {
            return refuse("is damaged: a header extension does not end inside the header");
        }
        const std::string_view content = text_at(first_cluster, position, bytes);
        if (type == kExtensionBackingFormat) {
            header.backing_format = content;
        } else if (type == kExtensionFeatureNames) {
            fields.feature_names = content;
        }
        position += (size_t{bytes} + 7) / 8 * 8;
    }
    return {};
}

Result<void> read_backing_name(std::span<const std::byte> first_cluster,
                               const Fields& fields,
                               Qcow2Header& header) {
    if (fields.backing_offset == 0) {
        return {};
    }
    if (fields.backing_bytes == 0 || fields.backing_bytes > kNameBytesMax ||
        fields.backing_offset < fields.header_bytes ||
        !range_fits<uint64_t>(fields.backing_offset, fields.backing_bytes, first_cluster.size())) {
        return refuse("is damaged: the name of its backing file is not inside the header");
    }
    header.backing_name =
        text_at(first_cluster, static_cast<size_t>(fields.backing_offset), fields.backing_bytes);
    if (header.backing_name.contains('\0')) {
        return refuse("is damaged: the name of its backing file contains a NUL");
    }
    return {};
}

}  // namespace

std::string printable(std::string_view text) {
    constexpr size_t kBytesMax = 100;
    std::string result(text.substr(0, kBytesMax));
    std::ranges::replace_if(
        result, [](char character) { return character < ' ' || character > '~'; }, '?');
    return text.size() > kBytesMax ? result + "..." : result;
}

Result<Qcow2Header> parse_qcow2_header(std::span<const std::byte> head, uint64_t file_bytes) {
    if (head.size() < 8 || load_big_endian<uint32_t>(head, 0) != kMagic) {
        return refuse("is not a qcow2 image");
    }
    Qcow2Header header;
    header.version = load_big_endian<uint32_t>(head, 4);
    if (header.version != 2 && header.version != 3) {
        return refuse(fmt::format("has qcow2 version {}; 2 and 3 are served", header.version));
    }
    if (head.size() < kHeaderBytesV2) {
        return refuse("is damaged: the file ends inside the header");
    }
    Fields fields;
    fields.backing_offset = load_big_endian<uint64_t>(head, 8);
    fields.backing_bytes = load_big_endian<uint32_t>(head, 16);
    header.cluster_bits = load_big_endian<uint32_t>(head, 20);
    header.size_bytes = load_big_endian<uint64_t>(head, 24);
    fields.crypt_method = load_big_endian<uint32_t>(head, 32);
    fields.l1_entries = load_big_endian<uint32_t>(head, 36);
    if (header.version == 3) {
        OUTRIGGER_TRY(check_version_3(head, fields));
    }
    if (header.cluster_bits < kClusterBitsMin || header.cluster_bits > kClusterBitsMax) {
        return refuse(fmt::format("has clusters of 2^{} bytes; 2^{} to 2^{} are served",
                                  header.cluster_bits,
                                  kClusterBitsMin,
                                  kClusterBitsMax));
    }
    const std::span<const std::byte> first_cluster =
        head.first(std::min(head.size(), size_t{1} << header.cluster_bits));
    OUTRIGGER_TRY(read_extensions(first_cluster, fields, header));
    OUTRIGGER_TRY(check_features(fields, header));
    OUTRIGGER_TRY(read_backing_name(first_cluster, fields, header));
    OUTRIGGER_TRY(check_geometry(head, file_bytes, fields.l1_entries, header));
    return header;
}

}  // namespace outrigger::blk
