// SPDX-License-Identifier: Apache-2.0
/// The end of all I/O of a process that was killed: behind its own end, when the kernel has ended
/// what its io_urings had begun. A process that goes on with its sessions begins with them anew,
/// and a write of then must not reach the image behind one of now.
///
/// Each process leaves the reading end of a pipe in the store, and its rings hold the writing end
/// (io/uring_witness.h): the pipe hangs up when the last of them has gone.
#pragma once

#include <string>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/descriptor_store.h"

namespace outrigger {

struct IoWitness {
    UniqueFd writing_end{};  ///< for as long as this process lives
    /// Of the reading end in the store. Who forgets it there has ended all I/O itself, and the next
    /// process does not wait for the kernel to take down the rings.
    std::string name{};
};

/// Waits, for as long as it takes, until nothing of the processes before is under way, and leaves a
/// pipe for the next one. Before the first io_uring is made, and before signals are handled: a
/// SIGTERM ends the wait.
[[nodiscard]] Result<IoWitness> follow_io(DescriptorStore& store);

}  // namespace outrigger
