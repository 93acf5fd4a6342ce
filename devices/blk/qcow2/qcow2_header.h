// SPDX-License-Identifier: Apache-2.0
/// The header of a qcow2 file, checked: what it says about itself, or in words why it is not
/// served. Pure: no I/O. QEMU's docs/interop/qcow2.txt, "Header" and "Header extensions".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "vhost-user-backend/base/result.h"

namespace outrigger::blk {

enum class Qcow2Compression : uint8_t { kZlib, kZstd };

/// The most that parse_qcow2_header() looks at: the largest cluster, which is QEMU's limit too.
inline constexpr uint64_t kQcow2HeadBytesMax = uint64_t{2} << 20;

struct Qcow2Header {
    uint32_t version = 0;       ///< 2 or 3
    uint32_t cluster_bits = 0;  ///< 9 to 21
    uint64_t size_bytes = 0;    ///< of the disk
    /// Where the active L1 table stands; inside the file.
    uint64_t l1_offset_bytes = 0;
    /// Entries that the disk's size needs; the table may have more (a saved machine's state).
    uint32_t l1_entries = 0;
    Qcow2Compression compression = Qcow2Compression::kZlib;
    std::string backing_name;    ///< empty: none
    std::string backing_format;  ///< empty: not said
};

/// `head` is the beginning of the file: all of it, or at least kQcow2HeadBytesMax. Errors are the
/// end of a sentence that begins with the image.
[[nodiscard]] Result<Qcow2Header> parse_qcow2_header(std::span<const std::byte> head,
                                                     uint64_t file_bytes);

/// Text of an image for a message: what does not print becomes '?', and it is cut to 100 bytes.
[[nodiscard]] std::string printable(std::string_view text);

}  // namespace outrigger::blk
