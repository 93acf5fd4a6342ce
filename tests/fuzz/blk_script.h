// SPDX-License-Identifier: Apache-2.0
/// Scripts for the block device: what its guest asks, and what its host answers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace outrigger::fuzz {

/// What begins a script: bits of its first byte, then the number of a ring size.
struct BlkOptions {
    static constexpr uint8_t kFile = 1;  ///< a file whose kernel the script plays; else no storage
    static constexpr uint8_t kReadOnly = 2;
    static constexpr uint8_t kNoDiscard = 4;
    static constexpr uint8_t kLargeBlocks = 8;  ///< 4096 bytes
    static constexpr uint8_t kDirect = 16;      ///< buffers must be aligned, or are bounced
    static constexpr uint8_t kBlockDevice = 32;
    static constexpr uint8_t kReadZeroes = 64;  ///< of the image without storage
    /// Of a file with kDirect: the host takes no less than 4096 bytes, whatever the disk's blocks.
    static constexpr uint8_t kLargeHostBlocks = 64;
    static constexpr uint8_t kWriteThrough = 128;
};

inline constexpr uint16_t kBlkRingSizes[] = {4, 16, 64, 128};
inline constexpr size_t kBlkRingSizeCount = 4;
inline constexpr uint64_t kBlkImageBytes = 64 << 10;

/// Arguments in order; u8 unless said otherwise.
enum class BlkOp : uint8_t {
    kRequest,  ///< type, sector (u16), count (to 12), segments; see BlkRequestScript
    kRanges,   ///< place, count (to 18), ranges: sector (u16), sectors (u16), flags
    kBytes,    ///< place, count (to 64), bytes
    kProcess,
    kAnswer,       ///< which call of the host is answered, BlkAnswer, argument (u16)
    kAnswerAll,    ///< every call is made, and what follows from it
    kNegotiate,    ///< feature bits (u64)
    kWriteConfig,  ///< offset, count (to 8), bytes
    kReadConfig,   ///< offset, count
    kRestart,      ///< the queue stops and starts again
    kReset,        ///< and in between the device is reset
    kTruncate,     ///< the image file's new size (u16)
    kAdoptMemory,  ///< which table
    kBreak,        ///< the driver's available index jumps
    kCount,
};

/// What the host makes of a system call.
enum class BlkAnswer : uint8_t {
    kDone,
    kShort,        ///< reads or writes fewer bytes: the argument modulo what was asked for
    kNothing,      ///< 0: the end of the file
    kTryAgain,     ///< EAGAIN; a few times in a script
    kInterrupted,  ///< EINTR; likewise
    kIoError,
    kNoSpace,
    kUnsupported,
    kInvalid,
    kFault,
    kCount,
};

/// A segment of a request in a script: bits, place (region, u16), length (u16). The first carries
/// the header: it is written at the place of the first segment, over as many segments as it takes.
struct BlkSegment {
    static constexpr uint8_t kWritable = 1;
    static constexpr uint8_t kHeader = 2;  ///< the header is written here, all 16 bytes
};

/// A type that stands for a u32 that follows.
inline constexpr uint8_t kBlkAnyType = 255;
/// A sector that stands for a u64 that follows.
inline constexpr uint16_t kBlkAnySector = 0xffff;

}  // namespace outrigger::fuzz
