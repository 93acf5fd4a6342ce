// SPDX-License-Identifier: Apache-2.0
/// The switch between a guest's packets and the sockets of the host: everything that a vsock device
/// does, once its queues run. VIRTIO 1.3, 5.10.6.
///
/// The guest's packets are taken as they come, whatever the host does: what a socket does not take
/// at once waits in its connection's backlog, which the connection's window bounds. Packets for the
/// guest are made when there is a buffer for them: a connection only notes which control packets it
/// owes (Connection::pending) and whether its socket has bytes. So nothing here grows with what the
/// guest sends or does not take, but for the resets that answer packets of no connection: these are
/// counted, and beyond kResetsMax no more packets are taken (VIRTIO 1.3, 5.10.6.5.1).
///
/// Sockets are watched by an epoll instance of the engine's own, edge-triggered: a connection whose
/// bytes the guest cannot take costs nothing until it can.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/activated_sockets.h"
#include "vhost-user-backend/daemon/device_keeper.h"
#include "vhost-user-backend/daemon/listening_socket.h"
#include "vhost-user-backend/device.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "devices/vsock/connection_table.h"
#include "devices/vsock/host_socket.h"
#include "devices/vsock/ledger.h"
#include "devices/vsock/packet.h"
#include "devices/vsock/siblings.h"
#include "devices/vsock/vsock_counters.h"

namespace outrigger::vsock {

/// Streams between the guest and AF_VSOCK of the host.
struct ForwardOptions {
    std::optional<uint32_t> cid{};      ///< where the guest's calls to the host go; none: nowhere
    std::vector<uint32_t> listen_at{};  ///< ports of the host that lead to the guest's
    /// How to reach a port of `cid`. For tests, which may have no AF_VSOCK.
    std::function<Dialled(uint32_t cid, uint32_t port)> dial = dial_vsock;
};

struct VsockOptions {
    uint64_t guest_cid = kGuestCidMin;
    std::string uds_path{};  ///< empty: the guest's calls lead to no Unix sockets
    /// Where programs of the host connect is passed to us, and not made at `uds_path`.
    std::optional<ActivatedRequest> activated{};
    ForwardOptions forward{};
    size_t connections_max = 1023;
    uint32_t window_bytes = 256 * 1024;       ///< advertised to the guest at first, a connection
    uint32_t window_bytes_max = 1024 * 1024;  ///< and at most; not below window_bytes
    std::chrono::milliseconds greeting_timeout{5000};
    /// From REQUEST to the guest's RESPONSE.
    std::chrono::milliseconds guest_answer_timeout{5000};
    /// The guest has closed, and the host has not taken all: Linux's guests wait eight seconds for
    /// RST.
    std::chrono::milliseconds guest_close_timeout{6000};
    /// The host has closed both directions: for the guest's RST.
    std::chrono::milliseconds host_close_timeout{10'000};
    /// How long bytes of the guest wait, once it has gone, for a program that takes none of them.
    std::chrono::milliseconds linger_timeout{30'000};
    /// How long packets of new connections wait for a driver that is to be told that the old ones
    /// are gone: first for a buffer for the event, and then for another one, which says that it has
    /// taken that in.
    std::chrono::milliseconds event_timeout{1000};
    SiblingRules siblings{};
};

/// Which of the guest's packets are allowed; see packet.h.
struct NegotiatedTypes {
    bool stream = true;
    bool seqpacket = false;
};

/// Where programs of the host connect.
struct HostListeners {
    ListeningSocket stream;     ///< invalid: there is none
    ListeningSocket seqpacket;  ///< likewise
    /// Of the guest's port with the same place in ForwardOptions::listen_at.
    std::vector<UniqueFd> forwards{};
};

/// What another process of the daemon is to find. By default there is none.
struct Keeping {
    std::optional<Ledger> ledger{};  ///< none: the engine has one of its own
    DeviceKeeper* keeper = nullptr;  ///< of sockets; null: nobody keeps them
    /// Of the connections in the ledger, by slot.
    std::vector<UniqueFd> found{};
    Mailbox mailbox{};
};

/// Of a connection's socket, for the keeper.
[[nodiscard]] std::string kept_name(ConnectionId id);

/// Thread-bound to one worker from attach() to detach(), and to the control thread otherwise.
class VsockEngine final {
  public:
    /// Resets that wait for buffers of the guest, of packets that belong to no connection.
    static constexpr size_t kResetsMax = 256;
    /// Programs of the host that have not said which port they want.
    static constexpr size_t kGreetingsMax = 128;

    /// Takes up what `keeping` has of another process.
    [[nodiscard]] static Result<std::unique_ptr<VsockEngine>> create(const VsockOptions& options,
                                                                     HostListeners listeners,
                                                                     Keeping keeping = {});

    [[nodiscard]] static Ledger::Shape ledger_shape(const VsockOptions& options);

    VsockEngine(const VsockEngine&) = delete;
    VsockEngine& operator=(const VsockEngine&) = delete;
    ~VsockEngine();

    void attach(EventLoop& loop);
    void detach();

    /// Null: the queue does not run. While both do, programs of the host are let in.
    void set_receive_queue(Virtqueue* queue);
    void set_transmit_queue(Virtqueue* queue);

    /// Device::process_queue() of the two.
    [[nodiscard]] QueueProgress fill_receive_queue();
    [[nodiscard]] QueueProgress take_transmit_queue();

    /// The guest is a new one, or has forgotten all: every connection ends. Nothing runs.
    void forget_guest();

    /// The guest still has these connections of an earlier process of ours, and is to be told that
    /// they are gone. Nothing runs.
    void reset_later(std::span<const ConnectionKey> keys);

    /// How many of them it can tell, where it has no connections.
    [[nodiscard]] size_t reset_later_max() const;

    /// What the device has to remember with the connections: kNumber...
    [[nodiscard]] bool has_flag(uint32_t flag) const {
        return (ledger_.numbers().flags & flag) != 0;
    }

    void set_flag(uint32_t flag, bool on);

    /// Of a queue that has run, and does not.
    [[nodiscard]] uint32_t stopped_at(uint16_t queue) const {
        return ledger_.numbers().stopped_at[queue];
    }

    /// `base`: as SET_VRING_BASE says it.
    void note_stopped(uint16_t queue, uint32_t base);

    /// Those that the guest has now, as far as it has not been told otherwise. Nothing runs.
    [[nodiscard]] std::vector<ConnectionKey> open_keys();

    [[nodiscard]] uint32_t next_port() const { return ledger_.numbers().next_port; }

    void set_next_port(uint32_t port);

    void set_types(NegotiatedTypes types) { types_ = types; }

    void note_transport_reset() { counters_.transport_resets.add(); }

    /// The driver has yet to be told that all its connections are gone: nothing of new ones goes to
    /// it before release_news(), or `is_known` says that it has taken that in (asked now and then,
    /// where it is given), or for longer than `at_most`. Attached.
    void hold_news(std::chrono::milliseconds at_most, std::function<bool()> is_known = {});
    void release_news();

    /// Any thread.
    [[nodiscard]] const VsockCounters& counters() const { return counters_; }

    /// Any thread: see Ledger::look_at().
    [[nodiscard]] ConnectionRecord look_at(uint32_t slot) const { return ledger_.look_at(slot); }

  private:
    /// Data packets of one connection, one behind the other, that go to its socket in one call.
    struct Gathered {
        Connection* connection = nullptr;
        std::vector<iovec> pieces;
        std::vector<DescriptorChain> chains;
        uint32_t bytes = 0;
    };

    /// A receive buffer that bytes of a stream are read into.
    struct Landing {
        DescriptorChain chain;
        std::span<const iovec> segments;
        uint32_t room = 0;   // for payload
        uint32_t bytes = 0;  // of payload
    };

    enum class Filled : uint8_t { kYes, kNothing, kNoBuffer };

    /// What became of a data packet, and whether the backlog is to be written once that is true.
    enum class Taken : uint8_t { kGathered, kDone, kDoneAndWrite };

    /// What epoll says of the listening sockets. Ids of connections never are that: slots are below
    /// 2^32 - 1.
    static constexpr uint64_t kStreamListener = ~uint64_t{0};
    static constexpr uint64_t kSeqpacketListener = ~uint64_t{0} - 1;
    static constexpr uint64_t kMailbox = ~uint64_t{0} - 2;
    static constexpr uint64_t kBell = ~uint64_t{0} - 3;
    /// And from there down, a listener of forwards each.
    static constexpr uint64_t kForwardLast = ~uint64_t{0} - 4;

    VsockEngine(const VsockOptions& options,
                HostListeners listeners,
                std::shared_ptr<Sibling> self,
                Ledger ledger,
                DeviceKeeper* keeper,
                UniqueFd epoll);

    // --- engine_survival.cc: what another process finds
    void resume(std::vector<UniqueFd> sockets);
    void resume_connection(uint32_t slot, UniqueFd socket);
    void resume_phase(Connection& connection);
    void commit(const Connection& connection);
    void commit_if_there(ConnectionId id);

    void commit_numbers() { ledger_.commit(); }

    void expect(const Connection& connection);
    void adopt(Connection& connection, UniqueFd socket);
    [[nodiscard]] bool keep_socket(Connection& connection);
    void try_again_later();
    void try_again();
    void keep_the_rest();
    void write_starved();
    void let_go(ConnectionId id, UniqueFd socket, bool is_kept);
    void release_backlog(Connection& connection, size_t kept);
    void find_place(Virtqueue& queue, bool& is_found, uint64_t& next);

    // --- vsock_engine.cc: life of connections
    [[nodiscard]] Connection& begin_connection();
    [[nodiscard]] std::unique_ptr<Connection> make_connection(ConnectionId id) const;
    void on_sockets_ready();
    void on_socket_event(Connection& connection, uint32_t events);
    void watch_socket(Connection& connection);
    void set_waits_to_write(Connection& connection, bool waits);
    void set_deadline(Connection& connection, std::chrono::milliseconds delay);
    void clear_deadline(Connection& connection);
    void on_deadline();
    void expire(Connection& connection);
    void restart_timer();
    void owe(Connection& connection, uint32_t pending);
    void mark_readable(Connection& connection);
    void close_socket(Connection& connection);
    void destroy(Connection& connection);
    void end(Connection& connection, EndReason reason);
    void begin_reset(Connection& connection);
    void linger(Connection& connection);
    void linger_untold(Connection& connection);
    void linger_on(Connection& connection);
    void note_end(EndReason reason, std::string_view what);
    [[nodiscard]] std::string name_of(const Connection& connection) const;
    void wake_receive();
    void wait_with_news();
    [[nodiscard]] size_t resets_waiting() const;
    void add_reset(const PacketAddresses& answered);

    // --- engine_host.cc: programs of the host
    void update_listeners();
    void accept_clients(SocketType type);
    void accept_forwarded(size_t listener);
    [[nodiscard]] UniqueFd accept_from(int listener);
    void on_dialled(Connection& connection, uint32_t events);
    void note_dial(DialOutcome outcome, int os_error, const std::string& where);
    void take_host_port(Connection& connection, uint32_t guest_port);
    [[nodiscard]] bool is_to_forward(const Connection& connection) const;
    [[nodiscard]] std::string name_of_listener() const;
    [[nodiscard]] std::string name_of_called(const Connection& connection) const;
    [[nodiscard]] bool watch_listeners();
    void read_greeting(Connection& connection);
    void ask_guest(Connection& connection, std::string_view line, size_t taken);
    [[nodiscard]] bool take_whole(Connection& connection, size_t bytes);
    void drop_client(Connection& connection, EndReason reason);
    void dial_host(Connection& connection);
    void confirm_to_client(Connection& connection);
    void open_to_socket(Connection& connection);

    // --- engine_siblings.cc: other guests
    [[nodiscard]] bool is_still_allowed(const Connection& connection) const;
    void end_forbidden();
    void call_sibling(Connection& connection);
    void take_calls();
    [[nodiscard]] std::optional<EndReason> take_call(SiblingCall& call);
    void on_sibling_answer(Connection& connection);
    void join_sibling(Connection& connection, LinkSide side);
    static void fit_messages(Connection& connection);
    void leave_sibling(Connection& connection);
    void ring_sibling(Connection& connection);
    void take_rings();
    void hear_sibling(Connection& connection);
    bool free_room(Connection& connection);
    void await_room(Connection& connection);
    void note_taken_by_guest(Connection& connection, uint32_t before);
    void ask_guest(Connection& connection);
    void set_question(Connection& connection);
    void drop_question(Connection& connection);
    void ask_again();

    void on_host_deaf(Connection& connection);

    // --- engine_transmit.cc: from the guest
    void take_packet(DescriptorChain chain);
    void take_packet_of(const ParsedPacket& parsed, DescriptorChain& chain, ChainReader& reader);
    void take_stray(const ParsedPacket& parsed, const ConnectionKey& key);
    void take_control(Connection& connection, const Packet& packet);
    void answer_with_reset(const ParsedPacket& parsed, EndReason reason);
    void begin_from_guest(const ConnectionKey& key, const Packet& packet);
    void take_response(Connection& connection);
    void take_shutdown(Connection& connection, uint32_t flags);
    void take_reset(Connection& connection);

    void note_taken() { ledger_.numbers().transmit_next = sequence_ + 1; }

    [[nodiscard]] Taken take_data(Connection& connection,
                                  const Packet& packet,
                                  DescriptorChain& chain,
                                  ChainReader& reader);
    [[nodiscard]] Taken take_bytes(Connection& connection, uint32_t bytes, ChainReader& reader);
    [[nodiscard]] Taken take_part(Connection& connection,
                                  const Packet& packet,
                                  ChainReader& reader);
    [[nodiscard]] Taken gather(Connection& connection,
                               const Packet& packet,
                               DescriptorChain& chain,
                               ChainReader& reader);
    void keep_for_later(Connection& connection, uint32_t bytes, ChainReader& reader);
    void flush_gathered();
    void keep_rest(Connection& connection, size_t written);
    void write_backlog(Connection& connection);
    [[nodiscard]] ssize_t send_stream(Connection& connection);
    [[nodiscard]] ssize_t send_message(Connection& connection, const HostBacklog::Message& front);
    [[nodiscard]] bool on_write_error(Connection& connection, int os_error);
    void on_forwarded(Connection& connection, uint32_t bytes);
    void offer_room(Connection& connection);
    void after_backlog(Connection& connection);

    // --- engine_receive.cc: to the guest
    [[nodiscard]] bool finish_resumed();
    [[nodiscard]] bool finish_landed();
    [[nodiscard]] QueueProgress end_receive_queue();
    [[nodiscard]] std::optional<DescriptorChain> put_header(const PacketHeader& header);
    [[nodiscard]] bool send_reset();
    [[nodiscard]] bool send_control(Connection& connection);
    [[nodiscard]] PacketHeader header_for(Connection& connection,
                                          Operation operation,
                                          uint32_t length = 0,
                                          uint32_t flags = 0);
    [[nodiscard]] Filled fill_from(Connection& connection);
    [[nodiscard]] Filled fill_stream(Connection& connection);
    [[nodiscard]] Filled fill_message(Connection& connection);
    [[nodiscard]] bool was_told_of_reset(Connection& connection, int os_error);
    [[nodiscard]] bool fetch_message(Connection& connection);
    [[nodiscard]] bool has_credit(Connection& connection);
    [[nodiscard]] bool collect_landings(size_t bytes);
    void drop_landings();
    void drop_from_socket(Connection& connection);
    void finish_landings(Connection& connection, size_t bytes);
    void on_host_ended(Connection& connection);
    void on_nothing_readable(Connection& connection);
    void on_nothing_left(Connection& connection, bool is_end);
    [[nodiscard]] std::optional<DescriptorChain> pop_receive_chain();

    const VsockOptions options_;
    HostListeners listeners_;
    const std::shared_ptr<Sibling> self_;
    UniqueFd epoll_;
    Ledger ledger_;
    DeviceKeeper* const keeper_;
    ConnectionTable table_;
    NegotiatedTypes types_{};
    VsockCounters counters_;
    std::array<LogLimiter, kEndReasonCount> limiters_;
    LogLimiter malformed_limiter_;

    EventLoop* loop_ = nullptr;
    std::optional<WatchId> watch_;
    std::optional<TimerId> timer_;
    std::chrono::steady_clock::time_point timer_due_{};
    Deadlines deadlines_;
    Deadlines questions_;

    Virtqueue* receive_ = nullptr;
    Virtqueue* transmit_ = nullptr;
    bool transmit_waits_ = false;  // for room among the resets
    bool receive_found_ = false;   // where the queue stands in the ledger
    bool transmit_found_ = false;
    uint64_t sequence_ = 0;  // of the chain in hand
    bool news_are_held_ = false;
    std::optional<TimerId> news_timer_;
    std::chrono::steady_clock::time_point news_until_{};
    std::function<bool()> news_are_known_;
    LinkId next_link_ = first_link_id(options_.guest_cid);
    bool is_returning_ = false;  // the queues of the process before are about to run again

    IntrusiveList<Connection, &Connection::control_hook> owing_;
    IntrusiveList<Connection, &Connection::data_hook> readable_;
    // Sockets that the keeper, which did not read, is yet to be given, and to forget.
    IntrusiveList<Connection, &Connection::keeping_hook> unkept_;
    std::vector<ConnectionId> unforgotten_;
    /// With a backlog that the kernel had no memory for.
    IntrusiveList<Connection, &Connection::starved_hook> starved_;
    std::optional<TimerId> again_timer_;
    Gathered gathered_;
    std::vector<Landing> landings_;
    size_t landing_room_ = 0;
    std::vector<iovec> pieces_;
    size_t greetings_ = 0;
    bool listening_ = false;       // for programs that have yet to say what they want
    bool takes_forwards_ = false;  // programs of AF_VSOCK
    bool takes_calls_ = false;     // of other guests
    bool accept_pauses_ = false;   // the process has no descriptors left
    LogLimiter keeping_limiter_;
    LogLimiter late_limiter_;
};

}  // namespace outrigger::vsock
