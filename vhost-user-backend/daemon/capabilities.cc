// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/capabilities.h"

#include <array>
#include <cerrno>

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace outrigger {
namespace {

/// What execve() could give back; no_new_privs forbids that already. Needs CAP_SETPCAP, which is
/// why it comes first, and why a process without capabilities is none the worse for failing.
Result<void> drop_bounding_set() {
    // The kernel knows more capabilities than the headers, or fewer: it says where they end.
    constexpr int kCapabilitiesMax = 64;
    for (int capability = 0; capability < kCapabilitiesMax; ++capability) {
        if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0 || errno == EPERM) {
            continue;
        }
        if (errno == EINVAL) {
            break;
        }
        return failure(error_from_errno("cannot shrink the bounding set of capabilities"));
    }
    return {};
}

}  // namespace

Result<void> drop_capabilities(uint64_t kept) {
    OUTRIGGER_TRY(drop_bounding_set());
    // EINVAL: before Linux 4.3 there is no ambient set.
    if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 && errno != EINVAL) {
        return failure(error_from_errno("cannot clear the ambient capabilities"));
    }
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    // The C library has no functions for these.
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> left{};
    if (kept != 0 && ::syscall(SYS_capget, &header, left.data()) != 0) {
        return failure(error_from_errno("cannot read the capabilities"));
    }
    for (__user_cap_data_struct& half : left) {
        half.permitted &= static_cast<uint32_t>(kept);
        half.effective = half.permitted;
        half.inheritable = 0;
        kept >>= 32;
    }
    if (::syscall(SYS_capset, &header, left.data()) != 0) {
        return failure(error_from_errno("cannot drop capabilities"));
    }
    return {};
}

}  // namespace outrigger
