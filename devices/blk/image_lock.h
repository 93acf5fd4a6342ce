// SPDX-License-Identifier: Apache-2.0
/// Two writers of one image destroy it. So an image is locked for as long as it is open, with the
/// locks that QEMU and its tools take and look for; other systems have a lock of the whole file.
#pragma once

#include <string>

namespace outrigger::blk {

struct ImageLockOutcome {
    int os_error = 0;      ///< 0: locked. EAGAIN: somebody uses the image. Otherwise errno.
    std::string holder{};  ///< EAGAIN: who that is, as "process 12 (qemu-io)" or
                           ///< "another disk of this process"; empty: nobody who can be seen
};

/// Locks what `fd` has open, until unlock_image_file() or until its last descriptor is closed.
/// Readers share; a writer is alone. What it has locked before it fails stays locked.
[[nodiscard]] ImageLockOutcome lock_image_file(int fd, bool read_only);

/// Also where nothing is locked.
void unlock_image_file(int fd);

}  // namespace outrigger::blk
