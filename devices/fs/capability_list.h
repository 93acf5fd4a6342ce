// SPDX-License-Identifier: Apache-2.0
/// virtiofsd's --modcaps: which of root's powers the process keeps beside, or without, those that
/// it keeps by itself. Pure.
#pragma once

#include <cstdint>
#include <string_view>

#include "vhost-user-backend/base/result.h"

namespace outrigger::fs {

/// One bit each; CAP_CHOWN is bit 0.
struct CapabilityChanges {
    uint64_t added = 0;
    uint64_t removed = 0;

    [[nodiscard]] uint64_t apply(uint64_t capabilities) const {
        return (capabilities | added) & ~removed;
    }
};

/// `text`: names as in capabilities(7), in small letters and without "CAP_", a '+' or '-' in front
/// of each, colons between: "+sys_admin:-chown".
[[nodiscard]] Result<CapabilityChanges> parse_capability_changes(std::string_view text);

}  // namespace outrigger::fs
