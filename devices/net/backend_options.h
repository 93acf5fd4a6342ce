// SPDX-License-Identifier: Apache-2.0
/// Which options are of some back ends only. Given with another one they would do nothing, and
/// nobody would notice.
#pragma once

#include <span>
#include <string_view>

#include "vhost-user-backend/daemon/option_table.h"

namespace outrigger::net {

struct BackendOption {
    std::string_view name;
    std::span<const std::string_view> backends;
};

/// Those of the table (net_options.h) that are not of all back ends.
extern const std::span<const BackendOption> kBackendOptions;

/// An error names the first option that was given and is not of `backend`.
[[nodiscard]] Result<void> check_backend_options(std::string_view backend,
                                                 const OptionValues& values);

}  // namespace outrigger::net
