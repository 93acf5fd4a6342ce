// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/io_engine_kind.h"

#include "devices/blk/uring_engine.h"

namespace outrigger::blk {

Result<bool> choose_uring(IoEngineKind kind, Worker& worker) {
    const bool can_serve = uring_engine_can_serve(worker);
    if (kind == IoEngineKind::kUring && !can_serve) {
        return failure(Error{.message = "io_uring is not available here: use --io-engine=auto, or "
                                        "--io-engine=threads"});
    }
    return can_serve && kind != IoEngineKind::kThreads;
}

}  // namespace outrigger::blk
