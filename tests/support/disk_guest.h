// SPDX-License-Identifier: Apache-2.0
/// A guest of a block device: many requests in flight, of any size, their data in several uneven
/// segments; what came back is theirs to look at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tools/driver/bring_up.h"

namespace outrigger::testing {

/// One request and, after DiskGuest::run(), its answer.
struct DiskRequest {
    uint32_t type = 0;  ///< VIRTIO_BLK_T_*
    uint64_t offset_bytes = 0;
    /// Read: as long as what is read, and then that. Written: the data; of a discard or a zeroing:
    /// the segments.
    std::vector<std::byte> data{};
    int status = -1;  ///< -1: not answered
};

class DiskGuest final {
  public:
    /// The longest data of a request.
    static constexpr uint32_t kDataBytesMax = uint32_t{1} << 20;

    struct Options {
        uint16_t queue_count = 1;
        uint32_t in_flight_max = 16;  ///< of each queue
        /// For so many queues the front end has a buffer of what is in flight; 0: it knows of none.
        uint16_t inflight_queues = 0;
    };

    DiskGuest(driver::Frontend connected, const Options& options);

    explicit DiskGuest(driver::Frontend connected) : DiskGuest(std::move(connected), Options{}) {}

    [[nodiscard]] uint64_t disk_bytes();

    [[nodiscard]] bool has_feature(uint32_t bit) const {
        return running_.agreement.features.has(bit);
    }

    /// Runs them all, in order of submission, over the queues in turn. False when one was not
    /// answered within `patience`, or a ring broke.
    [[nodiscard]] bool run(std::span<DiskRequest> requests, std::chrono::seconds patience);
    [[nodiscard]] bool run(std::span<DiskRequest> requests);

    /// One request alone; its status.
    int run_one(DiskRequest& request);

    /// The whole disk, by reads of `step_bytes`. Requests that failed are expected to be none.
    [[nodiscard]] std::vector<std::byte> read_all(uint32_t step_bytes);

    // --- Any thread, while no process of the device runs ----------------------------------------

    /// Requests that the driver has made available, and the device not answered.
    [[nodiscard]] size_t outstanding() const;

    /// Those of the first queue that the device has begun, as the front end's buffer says.
    [[nodiscard]] size_t noted_in_flight() const;

    [[nodiscard]] driver::Frontend& frontend() { return frontend_; }

    [[nodiscard]] std::vector<std::byte> config(uint32_t bytes) {
        return frontend_.get_config(0, bytes).value();
    }

  private:
    struct Slot {
        GuestAddr header{};
        GuestAddr data{};
        GuestAddr status{};
        DiskRequest* request = nullptr;
    };

    void note_in_flight(uint16_t queue_count);
    void submit(size_t queue_index, size_t slot_index, DiskRequest& request);
    size_t take_answers(size_t queue_index);

    driver::Frontend frontend_;
    driver::InflightRegion inflight_;
    driver::GuestMemory memory_;
    driver::RunningDevice running_;
    std::vector<std::vector<Slot>> slots_;         // of each queue
    std::vector<std::vector<size_t>> free_slots_;  // of each queue
};

}  // namespace outrigger::testing
