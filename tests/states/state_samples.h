// SPDX-License-Identifier: Apache-2.0
/// The devices whose states are kept, and those states as this version writes them.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "devices/blk/blk_device.h"
#include "devices/rng/rng_device.h"

namespace outrigger::testing {

[[nodiscard]] std::unique_ptr<blk::BlkDevice> sample_disk();
[[nodiscard]] std::unique_ptr<rng::RngDevice> sample_entropy();

/// By their names below tests/states: "v1/blk.state".
[[nodiscard]] std::map<std::string, std::string> sample_states();

}  // namespace outrigger::testing
