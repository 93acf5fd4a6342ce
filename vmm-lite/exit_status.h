// SPDX-License-Identifier: Apache-2.0
/// How a machine ends, and what this program's exit status is then.
#pragma once

#include <cstdint>
#include <string_view>

namespace outrigger::vmm {

enum class MachineEnd : uint8_t {
    kPowerOff = 0,
    kFailure = 1,    ///< of the host: KVM, memory, descriptors
    kBadConfig = 2,  ///< options, kernel or initrd; nothing has run
    kReset = 3,      ///< the guest restarts
    kPanic = 4,      ///< it restarts without having shut down: Linux after a panic
    kTripleFault = 5,
    kBackendLost = 6,  ///< one was not there, or went and was not found again
    kStopped = 7,      ///< a signal, or an operator
};

[[nodiscard]] constexpr int exit_status(MachineEnd end) {
    return static_cast<int>(end);
}

/// One word, for statistics and scripts: "power-off".
[[nodiscard]] constexpr std::string_view describe(MachineEnd end) {
    switch (end) {
        case MachineEnd::kPowerOff:
            return "power-off";
        case MachineEnd::kFailure:
            return "failure";
        case MachineEnd::kBadConfig:
            return "bad-configuration";
        case MachineEnd::kReset:
            return "reset";
        case MachineEnd::kPanic:
            return "panic";
        case MachineEnd::kTripleFault:
            return "triple-fault";
        case MachineEnd::kBackendLost:
            return "backend-lost";
        case MachineEnd::kStopped:
            return "stopped";
    }
    return "";
}

}  // namespace outrigger::vmm
