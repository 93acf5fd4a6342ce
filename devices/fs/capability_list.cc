// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/capability_list.h"

#include <algorithm>
#include <iterator>
#include <string>

#include <fmt/core.h>

namespace outrigger::fs {
namespace {

/// By number, as the kernel has them.
constexpr std::string_view kNames[] = {"chown",
                                       "dac_override",
                                       "dac_read_search",
                                       "fowner",
                                       "fsetid",
                                       "kill",
                                       "setgid",
                                       "setuid",
                                       "setpcap",
                                       "linux_immutable",
                                       "net_bind_service",
                                       "net_broadcast",
                                       "net_admin",
                                       "net_raw",
                                       "ipc_lock",
                                       "ipc_owner",
                                       "sys_module",
                                       "sys_rawio",
                                       "sys_chroot",
                                       "sys_ptrace",
                                       "sys_pacct",
                                       "sys_admin",
                                       "sys_boot",
                                       "sys_nice",
                                       "sys_resource",
                                       "sys_time",
                                       "sys_tty_config",
                                       "mknod",
                                       "lease",
                                       "audit_write",
                                       "audit_control",
                                       "setfcap",
                                       "mac_override",
                                       "mac_admin",
                                       "syslog",
                                       "wake_alarm",
                                       "block_suspend",
                                       "audit_read",
                                       "perfmon",
                                       "bpf",
                                       "checkpoint_restore"};

}  // namespace

Result<CapabilityChanges> parse_capability_changes(std::string_view text) {
    CapabilityChanges changes;
    while (true) {
        const std::string_view part = text.substr(0, text.find(':'));
        const bool adds = part.starts_with('+');
        const auto* const name =
            adds || part.starts_with('-') ? std::ranges::find(kNames, part.substr(1)) : nullptr;
        if (name == nullptr || name == std::end(kNames)) {
            return failure(Error{
                .message = fmt::format("--modcaps takes +NAME and -NAME with colons between, where "
                                       "NAME is a capability in small letters: '{}' is not",
                                       part)});
        }
        const uint64_t bit = uint64_t{1} << (name - std::begin(kNames));
        (adds ? changes.added : changes.removed) |= bit;
        (adds ? changes.removed : changes.added) &= ~bit;
        if (part.size() == text.size()) {
            return changes;
        }
        text.remove_prefix(part.size() + 1);
    }
}

}  // namespace outrigger::fs
