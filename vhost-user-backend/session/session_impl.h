// SPDX-License-Identifier: Apache-2.0
/// Inside of Session: its state, and one handler per request. Included by the room's own files.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/session/backend_requests.h"
#include "vhost-user-backend/session/connection.h"
#include "vhost-user-backend/session/device_state_exchange.h"
#include "vhost-user-backend/session/iotlb_misses.h"
#include "vhost-user-backend/session/postcopy.h"
#include "vhost-user-backend/session/queue_placement.h"
#include "vhost-user-backend/session/queue_runner.h"
#include "vhost-user-backend/session/saved_session.h"
#include "vhost-user-backend/session/session.h"
#include "vhost-user-backend/session/session_facts.h"
#include "vhost-user-backend/wire/request_table.h"

namespace outrigger {

/// What the front end said of one ring, and the ring itself while it runs.
struct Vring {
    std::optional<uint16_t> size = std::nullopt;
    std::optional<wire::VringAddress> address = std::nullopt;
    std::optional<VringBase> base = std::nullopt;
    RingDescriptors descriptors{};
    bool started = false;  ///< SET_VRING_KICK or VRING_KICK came, GET_VRING_BASE did not
    bool enabled = false;  ///< SET_VRING_ENABLE 1 came
    bool broken = false;
    bool polled = false;       ///< the last SET_VRING_KICK said that no kicks will come
    bool call_is_set = false;  ///< SET_VRING_CALL came: no in-band call, with or without descriptor
    bool err_is_set = false;   ///< likewise
    std::unique_ptr<QueueRunner> runner = nullptr;  ///< set while the queue is lent to the device
    bool running = false;                           ///< `runner` has been started
    bool moving = false;                            ///< to another worker
    bool stopped_here = false;  ///< it ran in this session, and `base` says where it stands
    /// It runs, but the front end has taken its memory away: it stands there meanwhile.
    std::optional<VringBase> without_memory = std::nullopt;
    /// Of a session that goes on: it ran without memory, and starts when it has some.
    bool waits_for_memory = false;
    bool must_start = false;  ///< of a session that goes on: it ran
    /// Where it notes what it has in flight, since it was started last.
    std::shared_ptr<const InflightBuffer> noted_in = nullptr;
    std::move_only_function<void(bool)> move_done{};
    IntakeGate::Count quiet_at = 0;  ///< the last closing of the gate at which it became quiet
};

class Session::Impl final : public Connection::Handler,
                            public BackendRequests::Handler,
                            public IotlbMisses::Handler,
                            public QueuePlacement::Handler {
  public:
    Impl(const Environment& environment,
         UniqueFd socket,
         const SessionOptions& options,
         OnClosed on_closed,
         std::optional<SavedSession> saved);
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;
    ~Impl();

    void close(CloseReason reason);

    void leave(std::move_only_function<void(bool)> left);

    [[nodiscard]] bool on_message(wire::Message message) override;

    void on_end(CloseReason reason) override { close(reason); }

    [[nodiscard]] bool negotiated(wire::ProtocolFeature feature) const override {
        return protocol_features_.has(wire::bit(feature));
    }

    [[nodiscard]] bool suspended() const override;

    void on_channel_violated() override { close(CloseReason::kChannelViolated); }

    [[nodiscard]] bool translates(const TranslationMiss& miss) const override {
        return memory_->translates(miss);
    }

    [[nodiscard]] bool is_busy() const override { return handling_ || waiting_; }

    void on_misses_answered(size_t index,
                            std::vector<TranslationMiss> misses,
                            bool refused) override;

    [[nodiscard]] std::optional<uint64_t> ring_work(size_t index) const override;
    void move_ring(size_t index, size_t to) override;

    using MoveDone = std::move_only_function<void(bool)>;
    void move_queue(size_t index, size_t to, MoveDone done);

    [[nodiscard]] std::vector<std::optional<size_t>> queue_workers() const;

    void on_gate_changed();
    [[nodiscard]] bool is_quiet() const;

  private:
    /// The bytes of a reply; empty means "no reply of its own".
    using Payload = std::vector<std::byte>;

    /// What a handler comes to: a payload, a refusal, or kLater, after which finish() is called.
    struct Outcome {
        enum class Kind : uint8_t { kDone, kReply, kRefused, kLater };
        Kind kind = Kind::kDone;
        Payload payload{};
        Refusal refusal{};
        UniqueFd fd{};  ///< with the payload
    };

    static Outcome done() { return {}; }

    static Outcome later() { return {.kind = Outcome::Kind::kLater}; }

    static Outcome refuse(Refusal refusal) {
        return {.kind = Outcome::Kind::kRefused, .refusal = refusal};
    }

    static Outcome reply(Payload payload) {
        return {.kind = Outcome::Kind::kReply, .payload = std::move(payload), .refusal = {}};
    }

    template <class T>
    static Outcome reply_object(const T& object) {
        const auto bytes = std::as_bytes(std::span(&object, 1));
        return reply(Payload(bytes.begin(), bytes.end()));
    }

    static Outcome reply_u64(uint64_t value) { return reply_object(value); }

    /// The payload as a wire struct; its size was checked against the request table.
    template <class T>
    static T payload_as(const wire::Message& message) {
        T object;
        OUTRIGGER_ASSERT(message.payload.size() >= sizeof object);
        std::memcpy(&object, message.payload.data(), sizeof object);
        return object;
    }

    // session.cc: the frame around every request
    [[nodiscard]] std::optional<CloseReason> malformed(const wire::RequestDescription& request,
                                                       const wire::Message& message) const;
    [[nodiscard]] std::optional<Refusal> not_now(const wire::RequestDescription& request,
                                                 const wire::Message& message) const;
    [[nodiscard]] std::optional<Refusal> forbidden_now(const wire::RequestDescription& request,
                                                       const wire::Message& message) const;
    [[nodiscard]] Outcome dispatch(wire::Message& message);
    void finish(Outcome outcome);
    void answer(const Outcome& outcome);
    void answer_refusal(Refusal refusal);
    void acknowledge(uint64_t value);
    void send(std::span<const std::byte> payload, int fd = -1);

    void send_u64(uint64_t value) { send(std::as_bytes(std::span(&value, 1))); }

    void begin_close();
    void end_close();

    // session_survival.cc: what the next process needs, and what the one before left
    void note_device();
    void note_facts(std::vector<RingPlaceKnown> places);
    void on_transfer_ended(bool loaded);
    void note_now();

    /// What changes now the journal does not hear of by a message that is restored, or later.
    [[nodiscard]] bool is_noting() const { return !close_reason_ && !is_restoring() && !leaving_; }

    [[nodiscard]] RingPlaceKnown place_known(const Vring& ring) const;
    [[nodiscard]] std::vector<RingPlaceKnown> places_known() const;
    [[nodiscard]] Outcome restore_device(std::span<const std::byte> bytes);
    [[nodiscard]] Outcome restore_facts(std::span<const std::byte> bytes);

    /// Judges a ring only where it starts, as the process before did with what came to it first.
    [[nodiscard]] bool is_restoring() const { return saved_.has_value(); }

    [[nodiscard]] std::optional<uint32_t> ring_in_doubt(const wire::Message& message) const;
    void settle(std::span<const std::byte> reply, int reply_fd, bool has_reply);
    void restore_next();
    [[nodiscard]] Outcome restore(SavedSession::Message& saved);
    [[nodiscard]] bool was_restored(const Outcome& outcome);
    void end_restore();

    // ring_control.cc: starting and stopping rings, waiting for their workers
    using RunnerTask = std::move_only_function<void(QueueRunner&, QueueRunner::Done)>;
    using Continuation = std::move_only_function<void()>;
    using RingStarted = std::move_only_function<void(std::optional<Refusal>)>;
    /// Runs `task` for each running ring on its worker; `then` here, once all called their Done.
    void for_each_runner(const std::shared_ptr<RunnerTask>& task, Continuation then);
    void for_one_runner(QueueRunner& runner, RunnerTask task, Continuation then);
    void stop_ring(size_t index, QueueRunner::StopKind kind, Continuation then);
    enum class StopCause : uint8_t { kReset, kClose };
    void stop_all_rings(StopCause cause, Continuation then);
    /// Wakes workers that the front end put to sleep, now and again until the session has ended.
    void release_workers();
    [[nodiscard]] bool any_ring_running() const;
    void on_ring_broken(size_t index, RingError error);
    void poison(size_t first_index);
    void on_ring_stopped(size_t index);
    void on_ring_quiet(size_t index, IntakeGate::Count closing);
    void on_in_band_call(size_t index);
    [[nodiscard]] QueueRunner::Events runner_events(size_t index);
    [[nodiscard]] RingDescriptors runner_descriptors(const Vring& ring) const;
    /// Starts every ring that was told to start and now has all it needs; `then` gets the refusal
    /// of ring `asked`, if it could not start.
    void start_ready_rings(std::optional<size_t> asked, RingStarted then);
    [[nodiscard]] bool ring_is_ready(const Vring& ring) const;
    void start_ring(size_t index, RingStarted then);
    /// The second half: `queue` is made.
    void run_ring(size_t index, Worker& worker, std::unique_ptr<Virtqueue> queue, RingStarted then);
    [[nodiscard]] bool effectively_enabled(const Vring& ring) const;
    [[nodiscard]] VringBase base_of(const Vring& ring) const;

    // ring_moves.cc
    [[nodiscard]] bool is_movable(size_t index) const;
    void begin_move(size_t index, size_t to, MoveDone done);
    void on_quiet(size_t index, size_t to, bool quiet);
    void join_worker(size_t index, size_t worker);
    void end_move(size_t index, bool moved);

    // device_requests.cc
    Outcome handle_set_features(const wire::Message& message);
    Outcome handle_set_protocol_features(const wire::Message& message);
    Outcome handle_get_config(const wire::Message& message);
    Outcome handle_set_config(const wire::Message& message);
    Outcome handle_set_status(const wire::Message& message);
    Outcome handle_get_status();
    Outcome handle_reset_device();
    /// What asks for a reset: SET_STATUS 0 may only mean that the machine stops.
    enum class ResetBy : uint8_t { kRequest, kStatus };
    void reset_device(ResetBy by, Continuation then);
    Outcome handle_net_set_mtu(const wire::Message& message);
    Outcome handle_send_rarp(const wire::Message& message);
    Outcome handle_get_shared_object(const wire::Message& message);
    Outcome handle_get_shmem_config();
    Outcome handle_set_backend_req_fd(wire::Message& message);

    // state_requests.cc
    Outcome handle_set_device_state_fd(wire::Message& message);
    Outcome handle_check_device_state();
    [[nodiscard]] Outcome state_verdict() const;
    /// Everything but the device's sections.
    [[nodiscard]] DeviceState describe_state() const;
    [[nodiscard]] FeatureSet driver_features() const;
    /// Is the ring what the state that was loaded says? Without a base it gets that of the state.
    [[nodiscard]] std::optional<Refusal> admit_ring(size_t index);

    // memory_requests.cc
    Outcome handle_set_mem_table(const wire::Message& message);
    Outcome handle_add_mem_reg(const wire::Message& message);
    Outcome repeat_region(const wire::Message& message, const MemoryRegion& region);
    Outcome handle_rem_mem_reg(const wire::Message& message);
    /// Where there is an IOMMU: the same memory with what is known of its translations.
    [[nodiscard]] std::shared_ptr<const MemorySnapshot> translated(
        std::shared_ptr<const MemorySnapshot> memory, MemorySnapshot::Withdrawn withdrawn) const;
    Outcome take_memory(std::shared_ptr<const MemorySnapshot> memory, bool drain);
    void note_lost_memory(size_t index, std::optional<VringBase> base);

    /// What a message brings: its regions, and its payload with our addresses of them.
    struct NewMemory {
        std::span<const MemorySnapshot::RegionPointer> regions;
        Payload bases;
    };

    /// take_memory(), in postcopy when the front end has acknowledged our addresses.
    Outcome change_memory(std::shared_ptr<const MemorySnapshot> memory,
                          bool drain,
                          NewMemory added);

    // postcopy_requests.cc
    Outcome handle_postcopy_advise();
    Outcome handle_postcopy_listen();
    Outcome handle_postcopy_end();
    Outcome handle_postcopy_ack(const wire::Message& message);

    // iotlb_requests.cc
    [[nodiscard]] AddressMode address_mode() const;
    /// Memory as at the start of a device, in the mode that is negotiated. No ring runs.
    void forget_translations();
    Outcome handle_iotlb_msg(const wire::Message& message);
    Outcome update_iotlb(const wire::Iotlb& iotlb);
    Outcome invalidate_iotlb(const wire::Iotlb& iotlb);
    void on_ring_misses(size_t index, const std::vector<TranslationMiss>& misses, MissTurn turn);

    // log_requests.cc
    Outcome handle_set_log_base(const wire::Message& message);
    Outcome handle_set_log_fd(wire::Message& message);
    /// Has every ring keep the log that the front end's log and features ask for; `then` follows
    /// when all do, and none writes to another one.
    void update_logging(Continuation then);

    /// A ring that runs keeps what it needs for one.
    [[nodiscard]] bool log_may_come() const;

    [[nodiscard]] bool logging_is_up_to_date() const { return log_in_use_ == wanted_log(); }

    [[nodiscard]] const std::shared_ptr<const DirtyLog>& wanted_log() const;
    [[nodiscard]] std::optional<GuestAddr> used_log_address(const Vring& ring) const;
    Outcome move_used_log(Vring& ring, const wire::VringAddress& address);

    // vring_requests.cc
    [[nodiscard]] std::optional<size_t> ring_index(uint64_t raw) const;
    Outcome handle_set_vring_num(const wire::Message& message);
    Outcome handle_set_vring_addr(const wire::Message& message);
    Outcome handle_set_vring_base(const wire::Message& message);
    Outcome handle_get_vring_base(const wire::Message& message);
    Outcome handle_set_vring_kick(wire::Message& message);
    Outcome handle_vring_kick(const wire::Message& message);
    void start_kicked_ring(size_t index, Continuation then);
    void kick_in_band(size_t index);
    Outcome start_if_complete(size_t index);
    Outcome handle_set_vring_call(wire::Message& message);
    Outcome handle_set_vring_err(wire::Message& message);
    Outcome handle_set_vring_enable(const wire::Message& message);

    // inflight_requests.cc
    Outcome handle_get_inflight_fd(const wire::Message& message);
    Outcome handle_set_inflight_fd(wire::Message& message);
    [[nodiscard]] std::shared_ptr<const InflightBuffer> make_inflight_buffer(uint16_t queue_count,
                                                                             uint16_t entries);
    /// What a ring that starts is given.
    [[nodiscard]] InflightArea inflight_area(size_t index);
    [[nodiscard]] OutcomeBuffer::Shape outcome_shape() const;
    void make_outcome_buffer();
    [[nodiscard]] Outcome restore_outcomes(SavedSession::Message& saved);
    void make_own_inflight_buffer();
    /// Does the front end have a buffer for that ring, and has it when we are gone?
    [[nodiscard]] bool frontend_keeps_inflight(size_t index) const;
    /// Is it the one that the ring, which runs, notes its requests in?
    [[nodiscard]] bool frontend_keeps_requests(size_t index) const;
    /// Does the request in hand, which stops that ring, let its requests stay unanswered?
    [[nodiscard]] bool may_suspend(size_t index) const;

    struct RingFd {
        size_t index = 0;
        SharedFd fd;
    };

    [[nodiscard]] Result<RingFd, Refusal> take_ring_fd(wire::Message& message);
    [[nodiscard]] SharedFd share_fd(UniqueFd fd, NotificationKind kind);
    [[nodiscard]] bool address_is_possible(const wire::VringAddress& address,
                                           std::optional<uint16_t> size) const;
    [[nodiscard]] VirtqueueConfig queue_config(size_t index) const;

    Environment environment_;
    SessionOptions options_;
    OnClosed on_closed_;
    DeviceIdentity identity_;
    DeviceAbilities abilities_;
    FeatureSet offered_;
    FeatureSet protocol_offered_;
    FeatureSet features_;
    FeatureSet protocol_features_;
    bool features_known_ = false;
    bool features_refused_ = false;
    uint8_t status_ = 0;
    bool used_ = false;             // a ring has run since the last reset
    bool device_is_reset_ = false;  // since features_ were told
    std::shared_ptr<const MemorySnapshot> memory_ = MemorySnapshot::empty();
    Iotlb iotlb_;                                 // what memory_ was made with
    std::shared_ptr<const DirtyLog> log_;         // what SET_LOG_BASE brought last
    std::shared_ptr<const DirtyLog> log_in_use_;  // by the rings: log_, or none
    SharedFd log_call_;                           // SET_LOG_FD
    bool log_is_incomplete_ = false;              // a ring broke on it since logging began
    bool regions_repeated_ = false;               // ADD_MEM_REG of one that was there
    Postcopy postcopy_;
    // Of the rings that start from now on: the front end's, and ours for those that it has none
    // for.
    std::shared_ptr<const InflightBuffer> inflight_;
    std::shared_ptr<const InflightBuffer> own_inflight_;
    std::shared_ptr<const OutcomeBuffer> outcomes_;  // beside them
    QueuePlacement placement_;                       // the runners in rings_ use it
    std::vector<Vring> rings_;

    // By ring: on_in_band_call() is on its way. Worker and control thread.
    std::vector<std::atomic<bool>> call_posted_;

    // The request in hand: answers go to it.
    uint32_t request_ = 0;
    bool needs_reply_ = false;
    wire::ReplyRule reply_rule_ = wire::ReplyRule::kAck;
    Payload request_payload_;          // where the answer repeats it
    bool handling_ = false;            // on_message() is on the stack
    std::optional<Outcome> finished_;  // finish() came while it was
    bool waiting_ = false;             // for finish()
    bool draining_ = false;            // for rings that adopt memory, each still there
    bool carried_out_ = false;         // the request in hand, else it was refused
    bool said_before_ = false;         // it changes nothing, because another did
    bool settled_ = false;             // the journal has it, and the socket has it no more
    bool acknowledges_ = false;        // the request in hand is none, but of postcopy
    // What the journal has of SessionFacts, but for the exchange, and that one's version.
    std::array<bool, 5> facts_noted_{};
    std::vector<RingPlaceKnown> places_noted_;  // empty: none were
    uint64_t exchange_noted_ = 0;
    bool device_was_reset_ = false;          // by the request in hand
    std::optional<uint32_t> ring_in_doubt_;  // which it names, if it was a start that may fail
    std::optional<SavedSession> saved_;      // while it is restored
    size_t restored_ = 0;                    // of its messages, those that were begun
    std::optional<CloseReason> close_reason_;
    bool closing_ = false;
    bool leaving_ = false;                     // or left: another process has the session
    bool stops_to_leave_ = false;              // rings are stopping for that
    std::atomic<uint32_t> memory_losses_ = 0;  // read by the workers
    // Every descriptor of a ring that we or a worker hold; release_workers() needs them.
    std::vector<std::weak_ptr<const NotificationFd>> ring_fds_;
    std::optional<TimerId> release_timer_;
    BackendRequests requests_;
    IotlbMisses misses_;
    DeviceStateExchange state_;
    Connection connection_;  // last: it may call back as soon as it exists
};

}  // namespace outrigger
