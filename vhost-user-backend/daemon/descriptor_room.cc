// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/descriptor_room.h"

#include <algorithm>

#include <sys/resource.h>

namespace outrigger {

size_t make_room_for_descriptors(size_t count, size_t spared) {
    static rlim_t granted_before = 0;
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return 0;
    }
    const rlim_t wanted = std::max(spared, kDescriptorsOfProgram) + granted_before + count;
    if (limit.rlim_cur < wanted) {
        rlimit raised = limit;
        raised.rlim_cur = std::min(wanted, limit.rlim_max);
        if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) {
            limit = raised;
        }
    }
    const rlim_t taken = spared + granted_before;
    const rlim_t room = limit.rlim_cur - std::min(limit.rlim_cur, taken);
    const rlim_t granted = std::min<rlim_t>(count, room);
    granted_before += granted;
    return granted;
}

}  // namespace outrigger
