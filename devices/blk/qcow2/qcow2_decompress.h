// SPDX-License-Identifier: Apache-2.0
/// One compressed cluster of a qcow2 image, expanded.
#pragma once

#include <cstddef>
#include <span>

#include "devices/blk/qcow2/qcow2_header.h"

namespace outrigger::blk {

/// Fills `out`, a whole cluster, from the beginning of `in`; what follows there belongs to others.
/// 0, or an errno value: EIO when `in` is not such data or too little of it. Never writes beyond
/// `out`, and takes at most a few MiB of memory whatever `in` asks for. Any thread; blocking.
[[nodiscard]] int decompress_qcow2_cluster(Qcow2Compression compression,
                                           std::span<const std::byte> in,
                                           std::span<std::byte> out);

}  // namespace outrigger::blk
