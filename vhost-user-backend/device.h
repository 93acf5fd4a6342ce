// SPDX-License-Identifier: Apache-2.0
/// The one interface a device implements. A device says what it is and what a request means; the
/// framework does everything else: the protocol, rings, kicks and calls, memory, workers.
///
/// Threads. Two kinds call a device: the control thread (configuration, negotiation, reset) and
/// one worker per queue (start_queue, process_queue, stop_queue). A queue belongs to one worker
/// from start to stop, and several queues may share a worker; calls for different queues can run
/// at the same time. What both sides touch must be atomic or guarded by the device.
///
/// Moves. As work comes and goes, a queue that runs may go to another worker
/// (--queue-placement=balanced): stop_queue() on the old one, at a moment when the device has none
/// of its chains, then start_queue() on the new one, of the same Virtqueue. So a device needs to do
/// nothing for it, but must leave nothing behind that is bound to the old worker when it calls
/// `drained`. A start that fails there is followed by one on the old worker; when that fails, too,
/// the ring breaks.
///
/// Order. on_negotiated() comes before start_queue() where the front end keeps to the protocol, and
/// may come again while queues run (a front end re-sends features to switch dirty logging). One
/// that never sends features gets its queues started all the same: until on_negotiated() a device
/// must assume that nothing was agreed on. reset() comes only when no queue runs.
///
/// Chains. A device pops a request when it can begin it: one that is held until something comes
/// from outside holds up the removal of guest memory, and the end of the session, for as long.
///
/// Crashes. A chain that was in flight when its process died is popped again by the next one
/// (DescriptorChain::is_replayed()): whoever was told nothing may see a request carried out twice.
/// A device whose requests mind that says so by DeviceIdentity::outcome_bytes, and notes what it
/// does (DescriptorChain::earlier_run()).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/frontend.h"
#include "vhost-user-backend/guest/addresses.h"
#include "vhost-user-backend/io/worker.h"
#include "vhost-user-backend/state/section.h"
#include "vhost-user-backend/virtq/virtqueue.h"

namespace outrigger::control {
class DeviceControl;
}  // namespace outrigger::control

namespace outrigger {

struct DeviceIdentity {
    uint32_t virtio_id = 0;          ///< VIRTIO 1.3, 5: 2 block, 4 entropy, ...
    std::string_view name;           ///< for logs: "blk", "rng"
    uint16_t queue_count = 1;        ///< rings the device has, fixed for its life
    uint16_t queue_size_max = 1024;  ///< largest ring accepted
    uint16_t config_bytes = 0;       ///< size of the configuration space, at most 256
    /// What it notes of a request at a time, where requests must not be carried out twice
    /// (DescriptorChain::note_intent()); at most 512, 0: nothing. Fixed for the device's life.
    uint16_t outcome_bytes = 0;
    /// The first so many queues have a worker each that serves nothing else, where there are enough
    /// (VIRTIO 1.3, 5.11.2: a queue of high priority must not wait for others); --queue-threads
    /// counts the workers of the rest.
    uint16_t priority_queues = 0;
    /// All queues are on one worker, the first, because they share what is not locked.
    bool one_worker = false;
    /// process_queue() is called for rings that are started and not enabled, too, and asks
    /// Virtqueue::is_enabled(): a network device throws away what is sent on such a ring
    /// (vhost-user "Ring states").
    bool serves_disabled = false;
};

/// What else a device can do. The front end is offered the messages that belong to it.
struct DeviceAbilities {
    bool takes_mtu = false;       ///< set_mtu()
    bool announces = false;       ///< announce()
    bool shares_objects = false;  ///< shared_object(), and Frontend's calls for shared objects
    /// save_state() may be called while queues run, too, and speaks of all that messages change:
    /// the configuration that the driver wrote, and that it was shown. Then that survives this
    /// process (docs/keeper.md); of any other device only what was written does, by being written
    /// again.
    bool saves_while_running = false;
    /// All that messages change of it is in memory that outlives this process (DeviceKeeper), so
    /// nobody writes it down, nor says it again to another process.
    bool keeps_itself = false;
    /// Bytes of each shared memory region, multiples of the page size, at most 256; 0: not there.
    /// Fixed for the device's life.
    std::span<const uint64_t> shared_memory{};
};

/// What process_queue() leaves behind.
enum class QueueProgress : uint8_t {
    kDrained,  ///< pop() gave nothing more
    kMore,     ///< stopped at the batch limit; call again after the worker's other queues
    kWaiting,  ///< stopped for a reason of the device's own (tokens, a full submission queue);
               ///< nothing more until it calls Virtqueue::request_processing() on the worker
};

/// Why a configuration access fails.
enum class ConfigError : uint8_t {
    kReadOnly,  ///< the field cannot be written
    kValue,     ///< the field cannot take that value
};

using MacAddress = std::array<std::byte, 6>;

/// Byte offset into the device's configuration space, already checked against its size.
enum class ConfigOffset : uint32_t {};

class Device {
  public:
    virtual ~Device() = default;

    [[nodiscard]] virtual DeviceIdentity identity() const = 0;

    /// Most devices have none. Read once for each session.
    [[nodiscard]] virtual DeviceAbilities abilities() const { return {}; }

    /// The device's own bits (0 to 23 and 50 and up). Ring and transport bits are the framework's.
    [[nodiscard]] virtual FeatureSet offered_features() const = 0;

    /// Can the device be worked by a driver that takes just these bits of the offer? Where it
    /// cannot, SET_FEATURES is refused and FEATURES_OK not shown (VIRTIO 1.3, 2.2.2). The default
    /// says yes, whatever they are. Control thread.
    [[nodiscard]] virtual bool accepts(FeatureSet wanted) const;

    /// What the driver took, always a subset of the offer. Control thread.
    virtual void on_negotiated(FeatureSet agreed) = 0;

    /// A session begins: `frontend` is the one to ask, any time from now. Null when the session has
    /// ended, before its last reset(). Control thread.
    virtual void on_frontend(std::shared_ptr<Frontend> frontend);

    /// Fills `out`; [at, at + out.size()) lies inside config_bytes. Control thread.
    virtual void read_config(ConfigOffset at, std::span<std::byte> out) const;

    /// Control thread. The default refuses: most devices have nothing to write.
    [[nodiscard]] virtual Result<void, ConfigError> write_config(ConfigOffset at,
                                                                 std::span<const std::byte> in);

    /// The program's threads run and are confined, and front ends are about to be let in: a device
    /// that also serves somebody else (the clients of a host socket) begins to, on threads that it
    /// has one of `workers` start (io/helper_thread.h), or on the workers themselves. They outlive
    /// every queue, and end before the device does. Once; not in programs that have no
    /// run_device_program(). Control thread.
    virtual void on_serving(std::span<Worker* const> workers);

    /// Lends a queue that is about to run on `worker`, whose thread calls this. On failure the
    /// queue does not start, and the front end is told.
    [[nodiscard]] virtual Result<void> start_queue(QueueIndex index,
                                                   Virtqueue& queue,
                                                   Worker& worker) = 0;

    /// Pops and answers requests until the ring is empty or the batch limit. Queue's worker.
    [[nodiscard]] virtual QueueProgress process_queue(QueueIndex index) = 0;

    /// Ends the loan: pop nothing more (what an earlier process left in the ring was popped before:
    /// see Virtqueue::is_ending()), bring every chain back (finish or cancel its I/O), then
    /// call `drained` once on the queue's worker, at once or later. The queue is gone afterwards.
    virtual void stop_queue(QueueIndex index, std::move_only_function<void()> drained) = 0;

    /// As stop_queue(), for a queue that whoever comes next goes on with: GET_VRING_BASE_INFLIGHT,
    /// or the end of a session whose front end has the in-flight buffer. Requests that have not
    /// begun, or that wait for something, may be given back unanswered by set_aside() of their
    /// chain. What is under way with guest memory ends first. The default answers them all.
    virtual void suspend_queue(QueueIndex index, std::move_only_function<void()> drained);

    /// Somebody waits for the requests in flight: the front end takes memory away, or the ring
    /// stops and has some of an earlier process, which process_queue() is to pop first. Requests
    /// that the device holds for reasons of its own are begun or answered now. Queue's worker.
    virtual void hurry_queue(QueueIndex index);

    /// The memory that the queue's chains are popped under from now on: behind start_queue(), and
    /// with each change. Chains in flight keep theirs. What a device keeps of it, it lets go of
    /// before this returns when the next one comes, and when the queue has stopped: the front end
    /// waits for its memory. A ring that breaks is given an empty one. Queue's worker.
    virtual void use_memory(QueueIndex index, const std::shared_ptr<const MemorySnapshot>& memory);

    /// NET_SET_MTU: the guest's link has this MTU. False when it cannot be. Control thread.
    [[nodiscard]] virtual bool set_mtu(uint16_t mtu);

    /// SEND_RARP: the guest has moved here; the network must learn that `address` is reached this
    /// way. False when it cannot be told. Control thread.
    [[nodiscard]] virtual bool announce(const MacAddress& address);

    /// GET_SHARED_OBJECT: a descriptor of an object that this device shares, for another device;
    /// nothing when there is none. Control thread.
    [[nodiscard]] virtual std::optional<UniqueFd> shared_object(const Uuid& object);

    /// What an operator may ask for while the device runs (control/device_control.h), or null.
    /// Lives as long as the device. Control thread.
    [[nodiscard]] virtual control::DeviceControl* control();

    /// The sections that a saved state of this device may have, fixed for its life; docs/state.md
    /// has the rules by which they may change. The default has none, which is right for a device
    /// that keeps nothing of its driver: features and rings are saved by the framework.
    [[nodiscard]] virtual std::span<const StateSectionKind> state_sections() const;

    /// SET_DEVICE_STATE_FD, save: what another process needs to go on as this device, at most one
    /// section of each kind and 64 MiB in all. Changes nothing: when the migration fails, the
    /// queues start here again. An Error refuses it. All queues are stopped, but see
    /// DeviceAbilities::saves_while_running. Must not wait. Control thread.
    [[nodiscard]] virtual Result<std::vector<StateSection>> save_state() const;

    /// SET_DEVICE_STATE_FD, load: takes up what save_state() of another process gave, in place of
    /// what is here. All of it or, with an Error that says why not (a clause like "the disk is
    /// smaller here"), nothing. Anybody may have written the bytes. Comes are only kinds of
    /// state_sections(), each once at most, in the version that this build writes or an older one;
    /// a kind may be missing. All queues are stopped; features and memory mostly come later, and
    /// reset() may come at any time. Behind a keeper it is also how a new process takes up what the
    /// one before gave save_state() last. Must not wait. Control thread.
    [[nodiscard]] virtual Result<void> load_state(std::span<const StateSection> sections);

    /// The front end has stopped the last queue that it had started: the virtual machine is paused,
    /// moves to another host or program, or is gone. Or one could not start, and no other runs. A
    /// queue that moves between workers is not stopped. start_queue() may follow. Control thread.
    virtual void on_suspended();

    /// Another process of ours takes over at once, and nothing is begun here any more: lets go of
    /// what that one opens before it may, like the lock of an image. All queues have stopped. It
    /// may be killed meanwhile. Control thread.
    virtual void on_leaving();

    /// Back to the state before the driver touched the device: virtio reset, RESET_DEVICE, or a new
    /// session. All queues are stopped. Control thread.
    virtual void reset() = 0;
};

}  // namespace outrigger
