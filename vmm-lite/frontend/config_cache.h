// SPDX-License-Identifier: Apache-2.0
/// The configuration space as the driver sees it: read and written here, by virtual CPUs, while the
/// back end is asked and told at its own pace.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/wire/messages.h"

namespace outrigger::vmm {

/// Thread: any. Holds its lock for a copy of at most 256 bytes.
class ConfigCache final {
  public:
    /// What the driver wrote and the back end has not been told.
    struct Write {
        uint32_t offset = 0;
        std::vector<std::byte> bytes{};
    };

    /// The space is at most wire::kConfigBytesMax long.
    void reset(std::span<const std::byte> content);

    [[nodiscard]] uint32_t bytes() const;

    /// Zeroes behind the end.
    void read(uint32_t at, std::span<std::byte> out) const;

    /// What lies behind the end is dropped. True when there is something to tell that there was not
    /// before: however often a driver writes, it is told once.
    [[nodiscard]] bool write(uint32_t at, std::span<const std::byte> in);

    /// The next run of written bytes, which counts as told from now on.
    [[nodiscard]] std::optional<Write> take_write();

    /// What the back end says now. True, and another generation, when that is not what was there;
    /// bytes that were written and not told stay as the driver wrote them.
    [[nodiscard]] bool update(std::span<const std::byte> content);

    /// Everything that the driver wrote since forget_driver() is to be told to another back end.
    void tell_again();

    /// The device was reset: what the driver wrote is void.
    void forget_driver();

    /// Changes with every update. VIRTIO 1.3, 4.1.4.3.
    [[nodiscard]] uint8_t generation() const;

  private:
    mutable std::mutex mutex_;  // what follows
    std::vector<std::byte> content_;
    std::bitset<wire::kConfigBytesMax> written_;  // and not told
    std::bitset<wire::kConfigBytesMax> of_driver_;
    uint8_t generation_ = 0;
};

}  // namespace outrigger::vmm
