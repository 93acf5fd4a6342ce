// SPDX-License-Identifier: Apache-2.0
/// Scripts for qcow2 images: what stands in one or two files, what is read of them, and what the
/// host answers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace outrigger::fuzz {

/// What begins a script: bits of its first byte. Then each image: cluster bits (9 + one of 13),
/// version (2 + one of 2), clusters of the file (3 + one of 14), sectors of the disk (u32), and
/// Qcow2ImageOp until kEnd; then Qcow2Op.
struct Qcow2Options {
    static constexpr uint8_t kTwoLayers = 1;  ///< a second image stands below the first
    static constexpr uint8_t kZstd = 2;       ///< of the first
    static constexpr uint8_t kHugeDisk = 4;   ///< sectors of the disk count 2^20 times
};

/// The header is sound, its L1 table is cluster 1, and everything else is zero. Arguments in order;
/// u8 unless said otherwise. A place is a cluster (modulo the file) and an offset in it (u16).
enum class Qcow2ImageOp : uint8_t {
    kEnd,
    kBytes,       ///< place, count (to 64), bytes
    kEntries,     ///< place (offset in entries), count (to 64), Qcow2Entry, argument (u64)
    kCompressed,  ///< place, seed: a cluster of a pattern, compressed
    kGarbage,     ///< place, seed, length (u16)
    kCount,
};

/// Entries of L1 and L2 tables, one after the other, counting up from the argument.
enum class Qcow2Entry : uint8_t {
    kAsItIs,       ///< the argument itself, each time
    kCluster,      ///< a cluster of the file, with the bit COPIED
    kZero,         ///< reads as zeroes
    kZeroCluster,  ///< the same, allocated
    kCompressed,   ///< at that byte of the file; the same each time
    kCount,
};

/// While the disk is served.
enum class Qcow2Op : uint8_t {
    kRead,       ///< sector (u32), sectors (1 + one of 200), bytes of a segment (u16)
    kAnswer,     ///< which call, Qcow2Answer, argument (u16)
    kAnswerAll,  ///< every call is made, and what follows from it
    kChange,     ///< the first file's place, count (to 64), bytes: somebody writes it
    kShrink,     ///< the first file's size in clusters
    kCount,
};

enum class Qcow2Answer : uint8_t {
    kDone,
    kShort,     ///< fewer bytes: the argument modulo what was asked for
    kNothing,   ///< 0: the end of the file
    kTryAgain,  ///< EAGAIN; a few times in a script
    kIoError,
    kCount,
};

}  // namespace outrigger::fuzz
