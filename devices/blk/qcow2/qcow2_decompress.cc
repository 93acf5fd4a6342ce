// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/qcow2_decompress.h"

#include <cerrno>
#include <memory>

#include <zlib.h>
#include <zstd.h>

namespace outrigger::blk {
namespace {

/// Raw deflate data, without zlib's header; any window.
constexpr int kRawDeflateWindowBits = -15;

/// A frame may ask for a window as large as it likes. Beyond 8 MiB none is of use for a cluster of
/// at most 2 MiB, and QEMU's writer stays at 2 MiB.
constexpr int kWindowLogMax = 23;

int inflate_cluster(std::span<const std::byte> in, std::span<std::byte> out) {
    z_stream stream = {};
    // SAFETY: zlib reads and writes bytes; it does not write to its input, the cast is for its C
    // interface.
    stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(in.data()));
    stream.avail_in = static_cast<uInt>(in.size());
    // SAFETY: bytes again.
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    if (inflateInit2(&stream, kRawDeflateWindowBits) != Z_OK) {
        return ENOMEM;
    }
    const int result = inflate(&stream, Z_FINISH);
    const bool filled = stream.avail_out == 0;
    inflateEnd(&stream);
    // Z_BUF_ERROR with a full buffer: the end mark of the stream was not reached, all data was.
    return filled && (result == Z_STREAM_END || result == Z_BUF_ERROR || result == Z_OK) ? 0 : EIO;
}

struct ReleaseContext {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

int decompress_zstd(std::span<const std::byte> in, std::span<std::byte> out) {
    const std::unique_ptr<ZSTD_DCtx, ReleaseContext> context(ZSTD_createDCtx());
    if (!context || ZSTD_isError(ZSTD_DCtx_setParameter(
                        context.get(), ZSTD_d_windowLogMax, kWindowLogMax)) != 0) {
        return ENOMEM;
    }
    ZSTD_inBuffer input = {.src = in.data(), .size = in.size(), .pos = 0};
    ZSTD_outBuffer output = {.dst = out.data(), .size = out.size(), .pos = 0};
    while (output.pos < output.size) {
        const size_t input_before = input.pos;
        const size_t output_before = output.pos;
        if (ZSTD_isError(ZSTD_decompressStream(context.get(), &output, &input)) != 0) {
            return EIO;
        }
        // Neither moved: the data ends too early. Otherwise each turn comes nearer to an end.
        if (input.pos == input_before && output.pos == output_before) {
            return EIO;
        }
    }
    return 0;
}

}  // namespace

int decompress_qcow2_cluster(Qcow2Compression compression,
                             std::span<const std::byte> in,
                             std::span<std::byte> out) {
    switch (compression) {
        case Qcow2Compression::kZlib:
            return inflate_cluster(in, out);
        case Qcow2Compression::kZstd:
            return decompress_zstd(in, out);
    }
    return EIO;
}

}  // namespace outrigger::blk
