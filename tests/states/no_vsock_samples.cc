// SPDX-License-Identifier: Apache-2.0
// For builds without a socket device.
#include "tests/states/vsock_samples.h"

namespace outrigger::testing {

std::map<std::string, std::string> sample_vsock_states() {
    return {};
}

}  // namespace outrigger::testing
