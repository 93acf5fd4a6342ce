// SPDX-License-Identifier: Apache-2.0
/// What a machine tells at --metrics. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "vhost-user-backend/control/metrics_http.h"

#include "vmm-lite/frontend/remote_device.h"
#include "vmm-lite/statistics.h"

namespace outrigger::vmm {

struct MachineMetrics {
    MachineStatistics statistics{};
    std::vector<std::array<uint64_t, kExitKinds>> exits_of_processors{};
    std::vector<RemoteDevice::Status> devices{};
    uint64_t memory_bytes = 0;
    bool paused = false;
};

[[nodiscard]] std::string machine_metrics_text(const MachineMetrics& machine, MetricsFormat format);

}  // namespace outrigger::vmm
