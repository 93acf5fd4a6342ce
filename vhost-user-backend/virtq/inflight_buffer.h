// SPDX-License-Identifier: Apache-2.0
/// The buffer in which a device notes which requests it has in hand, so that whoever serves the
/// rings after a crash knows. It is shared with the front end, which keeps it through the crash, or
/// kept by our own keeper. vhost-user "Inflight I/O tracking".
///
/// The layout inside is a contract between versions of this program: a change needs a new version
/// number in the header of a queue's part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/guest/sigbus_guard.h"
#include "vhost-user-backend/virtq/outcome_buffer.h"

namespace outrigger {

/// What GET_INFLIGHT_FD and SET_INFLIGHT_FD carry. vhost-user "Inflight description".
struct InflightDescription {
    uint64_t bytes = 0;   ///< of all queues
    uint64_t offset = 0;  ///< in the file
    uint16_t queue_count = 0;
    uint16_t queue_size = 0;
};

/// Why a description cannot be served.
enum class InflightBufferError : uint8_t {
    kQueueCount,  ///< none, or more than the device has
    kQueueSize,   ///< 0, or beyond kQueueSizeLimit
    kSize,        ///< the bytes do not hold as many queues of that size
    kOffset,      ///< not aligned to 8 bytes, or offset and bytes wrap
    kFile,        ///< no file, not writable, shorter than the description says, or cannot be mapped
};

/// Mapped as long as a ring or the session uses it. Any thread may look at it; what is inside
/// belongs to the worker of each queue.
class InflightBuffer final {
  public:
    /// Room that each queue is given at least, whatever the front end asks for: QEMU 10 asks for
    /// the size of the device's queues and then lets a guest make rings of 1024.
    static constexpr uint16_t kEntriesAtLeast = 1024;

    /// A new one in a sealed file of our own: zeroed, which means that nothing is noted in it.
    /// `entries` of each queue, rounded up to kEntriesAtLeast; `queue_count` is not 0.
    [[nodiscard]] static Result<std::shared_ptr<const InflightBuffer>> create(uint16_t queue_count,
                                                                              uint16_t entries);

    /// One that was made before, by us or by another back end. `device_queues`: how many queues
    /// the device has. What it says is not looked at before a ring starts.
    [[nodiscard]] static Result<std::shared_ptr<const InflightBuffer>, InflightBufferError> map(
        UniqueFd file, const InflightDescription& description, uint16_t device_queues);

    InflightBuffer(UniqueFd file, const InflightDescription& description, Mapping mapping);

    [[nodiscard]] int fd() const { return file_.get(); }

    [[nodiscard]] const InflightDescription& description() const { return description_; }

    /// The part of one queue; empty for a queue that the buffer does not have.
    [[nodiscard]] std::span<std::byte> part(uint16_t queue) const;

    /// Did the front end truncate the file? What it says may then be zeroes of our own.
    [[nodiscard]] bool lost() const { return guard_.lost(); }

  private:
    UniqueFd file_;
    InflightDescription description_;
    Mapping mapping_;
    GuardedRange guard_;
};

/// What one ring is given of it. Without a buffer nothing is noted.
struct InflightArea {
    std::shared_ptr<const InflightBuffer> buffer = nullptr;
    uint16_t queue = 0;
    /// The ring was stopped in this very session, after which the front end was told where it
    /// stands: if nothing is in flight, what it says of the base counts.
    bool base_is_known = false;
    /// Of a device that notes outcomes, and null where there is none.
    std::shared_ptr<const OutcomeBuffer> outcomes = nullptr;

    [[nodiscard]] std::span<std::byte> bytes() const {
        return buffer == nullptr ? std::span<std::byte>() : buffer->part(queue);
    }
};

}  // namespace outrigger
