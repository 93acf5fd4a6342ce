// SPDX-License-Identifier: Apache-2.0
/// The states of the network device that are kept, as this version writes them.
#pragma once

#include <map>
#include <string>

namespace outrigger::testing {

/// By their names below tests/states: "v1/net.state".
[[nodiscard]] std::map<std::string, std::string> sample_net_states();

}  // namespace outrigger::testing
