// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/credentials.h"

#include <array>

#include <sys/syscall.h>
#include <unistd.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::fs {
namespace {

using CapabilityData = std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3>;

constexpr uint64_t bit(int capability) {
    return uint64_t{1} << capability;
}

/// What a change of the file system user from root to another takes from the effective set.
constexpr uint64_t kOfFileSystems =
    bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_DAC_READ_SEARCH) | bit(CAP_FOWNER) |
    bit(CAP_FSETID) | bit(CAP_LINUX_IMMUTABLE) | bit(CAP_MKNOD) | bit(CAP_MAC_OVERRIDE);

}  // namespace

OwnCapabilities OwnCapabilities::read(uint32_t user) {
    OwnCapabilities own;
    own.user_ = user;
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    CapabilityData data{};
    if (::syscall(SYS_capget, &header, data.data()) == 0) {
        own.permitted_ = data[0].permitted | uint64_t{data[1].permitted} << 32;
    }
    return own;
}

bool OwnCapabilities::change_users() const {
    return user_ == 0 && has(CAP_SETUID) && has(CAP_SETGID);
}

void OwnCapabilities::set_effective(uint64_t effective) const {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    CapabilityData data{};
    data[0].permitted = static_cast<uint32_t>(permitted_);
    data[1].permitted = static_cast<uint32_t>(permitted_ >> 32);
    data[0].effective = static_cast<uint32_t>(effective & permitted_);
    data[1].effective = static_cast<uint32_t>((effective & permitted_) >> 32);
    // Only narrower or what is permitted: the kernel has no reason to refuse.
    OUTRIGGER_ASSERT(::syscall(SYS_capset, &header, data.data()) == 0);
}

void OwnCapabilities::set_effective_without(uint64_t dropped) const {
    set_effective(permitted_ & ~dropped);
}

namespace {

/// These calls return what was before, and never an error: a second one tells what came of it.
constexpr auto kAskOnly = static_cast<uint32_t>(-1);

bool change_id(long number, uint32_t id) {
    (void)::syscall(number, id);
    return static_cast<uint32_t>(::syscall(number, kAskOnly)) == id;
}

}  // namespace

ScopedUser::ScopedUser(const OwnCapabilities& own, const GuestUser& user) {
    if (!own.change_users() || (user.uid == 0 && user.gid == 0)) {
        return;
    }
    if (user.group) {
        const gid_t group = *user.group;
        // Where it fails the host refuses more, not less.
        groups_ = ::syscall(SYS_setgroups, 1, &group) == 0;
    }
    if (user.gid != 0) {
        holds_ = change_id(SYS_setfsgid, user.gid) && holds_;
        gid_ = true;
    }
    if (user.uid != 0) {
        holds_ = change_id(SYS_setfsuid, user.uid) && holds_;
        uid_ = true;
        // Where the user stays root nobody gives back what is taken here.
        if (holds_ && !user.checks_access) {
            own.set_effective((own.permitted() & ~kOfFileSystems) | bit(CAP_DAC_OVERRIDE));
        }
    }
}

ScopedUser::~ScopedUser() {
    // Back to root, which gives the effective set back what the change took.
    if (uid_) {
        (void)::syscall(SYS_setfsuid, 0);
    }
    if (gid_) {
        (void)::syscall(SYS_setfsgid, 0);
    }
    if (groups_) {
        (void)::syscall(SYS_setgroups, 0, nullptr);
    }
}

ScopedWithoutFsetid::ScopedWithoutFsetid(const OwnCapabilities& own, bool wanted) {
    if (wanted && own.has(CAP_FSETID)) {
        own.set_effective_without(bit(CAP_FSETID));
        own_ = &own;
    }
}

ScopedWithoutFsetid::~ScopedWithoutFsetid() {
    if (own_ != nullptr) {
        own_->set_effective_without(0);
    }
}

}  // namespace outrigger::fs
