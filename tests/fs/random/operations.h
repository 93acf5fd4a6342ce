// SPDX-License-Identifier: Apache-2.0
/// The operations that are done to both directories, by chance.
#pragma once

#include "tests/fs/random/twin.h"

namespace outrigger::randomops {

/// Does one. False when the two sides differ.
[[nodiscard]] bool step(Twin& twin, Dice& dice);

}  // namespace outrigger::randomops
