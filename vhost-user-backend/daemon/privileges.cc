// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/privileges.h"

#include <sys/prctl.h>
#include <sys/stat.h>

#include "vhost-user-backend/daemon/sanitizers.h"

namespace outrigger {

Result<void> forbid_new_privileges() {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return failure(error_from_errno("cannot forbid new privileges"));
    }
    return {};
}

Result<void> drop_privileges() {
    ::umask(0077);
    // LeakSanitizer attaches to the process at its end, which this forbids.
    if (!kAddressSanitizer && ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
        return failure(error_from_errno("cannot hide the process's memory"));
    }
    return {};
}

}  // namespace outrigger
