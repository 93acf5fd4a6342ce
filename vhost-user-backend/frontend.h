// SPDX-License-Identifier: Apache-2.0
/// What a device may ask of the front end that it serves: to tell the guest that the configuration
/// changed, to keep shared objects, to map files into the device's shared memory regions.
///
/// A device gets one for each session (Device::on_frontend) and may keep it as long as it likes.
/// Every member may be called on any thread. Nothing waits: a request goes to the control thread,
/// and its callback comes there, once, when the front end has answered, or with the reason why it
/// never will. A front end that did not negotiate REPLY_ACK answers nothing: what was sent then
/// counts as done.
///
/// vhost-user "Back-end message types".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

/// Why the front end did not do what it was asked for.
enum class FrontendError : uint8_t {
    kNotNegotiated,  ///< the front end did not take the feature, or gave no channel for requests
    kSuspended,      ///< no ring is started: nothing may be sent now ("Suspended device state")
    kValue,          ///< impossible arguments; nothing was sent
    kTooMany,        ///< too many requests are unanswered; nothing was sent
    kRefused,        ///< the front end says that it failed
    kGone,           ///< the session or its channel ended before the answer came
};

/// RFC 4122, in the order of its bytes.
using Uuid = std::array<std::byte, 16>;

/// A stretch of one of the device's shared memory regions. VIRTIO 1.3, 2.10.
struct SharedMemoryRange {
    uint8_t region = 0;   ///< index into DeviceAbilities::shared_memory
    uint64_t offset = 0;  ///< from the start of the region; a multiple of the page size
    uint64_t bytes = 0;   ///< above 0; a multiple of the page size

    friend bool operator==(const SharedMemoryRange&, const SharedMemoryRange&) = default;
};

/// What is mapped there.
struct SharedMemorySource {
    UniqueFd fd;             ///< closed when it was sent
    uint64_t fd_offset = 0;  ///< a multiple of the page size
    bool writable = false;   ///< by the guest
};

class Frontend {
  public:
    using OnDone = std::move_only_function<void(Result<void, FrontendError>)>;
    using OnFound = std::move_only_function<void(Result<UniqueFd, FrontendError>)>;

    virtual ~Frontend() = default;

    /// The configuration space changed: the driver reads it again. Calls that come close together
    /// make one message; while no ring is started it is kept, and sent when one starts.
    virtual void config_changed() = 0;

    // The rest returns false when the session has ended; the callback is then not called. Where
    // the control thread itself asks, the callback may only come after the call has returned.

    /// Makes `object` known to other devices, which ask for it by Device::shared_object().
    [[nodiscard]] virtual bool add_shared_object(const Uuid& object, OnDone on_done) = 0;
    [[nodiscard]] virtual bool remove_shared_object(const Uuid& object, OnDone on_done) = 0;
    /// Asks for an object of another device. What comes is whatever descriptor the front end chose,
    /// but not its own end of a session, which could not end as long as the device held it.
    [[nodiscard]] virtual bool look_up_shared_object(const Uuid& object, OnFound on_found) = 0;

    /// Lets the guest see `source` at `range`. kValue: not aligned, outside the region, or over
    /// something that is mapped already. A reset of the device unmaps everything.
    [[nodiscard]] virtual bool map_shared_memory(const SharedMemoryRange& range,
                                                 SharedMemorySource source,
                                                 OnDone on_done) = 0;
    /// kValue: `range` is not the whole of one mapping.
    [[nodiscard]] virtual bool unmap_shared_memory(const SharedMemoryRange& range,
                                                   OnDone on_done) = 0;
    /// An earlier process of ours has asked for `range` on this session, and the front end has it,
    /// or may have: from now on it is taken for mapped (DeviceAbilities::keeps_itself). What could
    /// not be mapped there is not adopted, either.
    virtual void adopt_shared_memory(const SharedMemoryRange& range) = 0;
};

}  // namespace outrigger
