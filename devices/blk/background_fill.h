// SPDX-License-Identifier: Apache-2.0
/// An image that copies in the background what it stands on, until it does not need that any more:
/// what an operator sees of it and may ask of it.
#pragma once

#include <cstdint>

namespace outrigger::blk {

/// A moment's picture.
struct FillState {
    bool running = false;   ///< asked to fill, and not complete
    bool complete = false;  ///< everything was copied
    uint64_t clusters_done = 0;
    uint64_t clusters_total = 0;
    uint64_t cluster_bytes = 0;
    uint64_t rate_max = 0;  ///< bytes per second; 0: no limit
    int last_error = 0;     ///< errno of the last copy, if it failed; it is tried again
};

/// Any thread.
class BackgroundFill {
  public:
    /// From the first queue on.
    virtual void start() = 0;
    /// Copies under way are finished.
    virtual void stop() = 0;
    /// Bytes per second; 0: no limit.
    virtual void set_rate(uint64_t bytes_per_second) = 0;
    [[nodiscard]] virtual FillState state() const = 0;

  protected:
    ~BackgroundFill() = default;
};

}  // namespace outrigger::blk
