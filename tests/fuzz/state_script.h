// SPDX-License-Identifier: Apache-2.0
/// What a script of the target device-state begins with. New ones go to the end.
#pragma once

#include <cstdint>

namespace outrigger::fuzz {

enum class StateScript : uint8_t {
    kBytes,   ///< the rest is what came
    kFields,  ///< fields and sections, put together with checksums that are right
    kDamage,  ///< the same, and then one byte of it is changed
    kCount,
};

}  // namespace outrigger::fuzz
