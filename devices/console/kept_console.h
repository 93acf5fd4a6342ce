// SPDX-License-Identifier: Apache-2.0
/// What of a console is there again when its process was killed: one piece of memory for all that
/// it knows, and where each part of it lies. Its descriptors are the keeper's, under names of
/// their own (KeptPort).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/device_keeper.h"

#include "devices/console/port_options.h"

namespace outrigger::console {

class Conduit;

/// Of one port; without a keeper everything is empty. Borrowed from KeptConsole.
struct KeptPort {
    DeviceKeeper* keeper = nullptr;
    uint32_t port = 0;
    std::span<std::byte> stream{};
    std::span<std::byte> viewers{};
    std::span<std::byte> size_tellers{};
    std::span<std::byte> file{};
    std::span<std::byte> log{};

    /// "p3.v17" for what == "v" and number == "17".
    [[nodiscard]] std::string name(std::string_view what) const;
};

/// Lives as long as the device.
class KeptConsole final {
  public:
    /// An error: what another process left is not of this build.
    [[nodiscard]] static Result<KeptConsole> open(DeviceKeeper& keeper,
                                                  std::span<const PortOptions> ports);

    [[nodiscard]] std::span<std::byte> control() const { return control_; }

    /// What the process before was at is brought to its end: before anybody reads the rest.
    [[nodiscard]] Result<std::unique_ptr<Conduit>> open_conduit(std::span<const PortOptions> ports);

    [[nodiscard]] const KeptPort& port(size_t index) const { return ports_[index]; }

  private:
    KeptConsole(DeviceKeeper& keeper, std::span<const PortOptions> ports);

    /// Lays everything out from `memory` on, or, where that is null, only counts.
    size_t lay_out(std::byte* memory, std::span<const PortOptions> ports);

    DeviceKeeper* keeper_;
    Mapping memory_;
    std::span<std::byte> control_;
    std::span<std::byte> conduit_;
    std::vector<KeptPort> ports_;
};

}  // namespace outrigger::console
