// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/standard_descriptors.h"

#include <fcntl.h>
#include <unistd.h>

namespace outrigger {

Result<void> ensure_standard_descriptors() {
    // open() takes the lowest free number, so one is enough for each that is missing.
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
        if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) < 0) {
            return failure(error_from_errno("cannot open /dev/null"));
        }
    }
    return {};
}

}  // namespace outrigger
