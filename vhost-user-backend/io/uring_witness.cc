// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/uring_witness.h"

#include <atomic>

namespace outrigger {
namespace {

/// Rings are made by several threads.
std::atomic<int> witness = -1;

}  // namespace

void set_uring_witness(int fd) {
    // Relaxed, here and below: whoever makes rings was started behind this.
    witness.store(fd, std::memory_order_relaxed);
}

int uring_witness() {
    return witness.load(std::memory_order_relaxed);
}

}  // namespace outrigger
