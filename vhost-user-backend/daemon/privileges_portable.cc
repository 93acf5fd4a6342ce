// SPDX-License-Identifier: Apache-2.0
// In place of privileges.cc where the build uses nothing of Linux alone.
#include <sys/stat.h>

#include "vhost-user-backend/daemon/privileges.h"

namespace outrigger {

Result<void> forbid_new_privileges() {
    return {};
}

Result<void> drop_privileges() {
    ::umask(0077);
    return {};
}

}  // namespace outrigger
