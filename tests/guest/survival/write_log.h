// SPDX-License-Identifier: Apache-2.0
/// What reached an image, and in which order: a file that is mapped and shared, so that it holds
/// all that was noted before a process was killed. tests/guest/survival/write_log.py reads it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"

namespace outrigger::testing {

/// Any thread, and one process after the other. The file has native byte order.
class WriteLog final {
  public:
    /// Opens or makes the file. What processes before this one noted stays; what they had in flight
    /// does not count any more.
    [[nodiscard]] static Result<std::unique_ptr<WriteLog>> open(const std::string& path);

    /// A block of the guest's verifier is about to be written. Noted before the write begins, so a
    /// write that is not here did not happen.
    void note(uint64_t block, uint64_t generation);

    /// Requests that the image has and has not answered.
    void begin_request() { header().in_flight.fetch_add(1, std::memory_order_relaxed); }

    void end_request() { header().in_flight.fetch_sub(1, std::memory_order_relaxed); }

  private:
    struct Header {
        std::atomic<uint64_t> records;    // noted or about to be
        std::atomic<uint64_t> in_flight;  // of the process that runs, or ran last
        std::atomic<uint64_t> opened;     // processes so far
        uint64_t reserved;
    };

    struct Record {
        uint64_t block;
        std::atomic<uint64_t> generation;  // 0: not noted in full
    };

    static constexpr uint64_t kRecordsMax = uint64_t{1} << 24;
    static constexpr size_t kBytes = sizeof(Header) + kRecordsMax * sizeof(Record);

    explicit WriteLog(Mapping mapping) : mapping_(std::move(mapping)) {}

    [[nodiscard]] Header& header() const;
    [[nodiscard]] Record* records() const;

    Mapping mapping_;
};

}  // namespace outrigger::testing
