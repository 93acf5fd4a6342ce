// SPDX-License-Identifier: Apache-2.0
/// The states of the socket device that are kept, as this version writes them.
#pragma once

#include <map>
#include <string>

namespace outrigger::testing {

/// As sample_states() has them; none where there is no such device.
[[nodiscard]] std::map<std::string, std::string> sample_vsock_states();

}  // namespace outrigger::testing
