// SPDX-License-Identifier: Apache-2.0
#include "devices/net/user_port.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include <dlfcn.h>
#include <sys/epoll.h>

#include <slirp/libslirp.h>

#include "vhost-user-backend/base/error.h"

#include "devices/net/packet_layout.h"

namespace outrigger::net {
namespace {

constexpr size_t kQueueBytesMax = 4 << 20;
constexpr int64_t kNanosecondsPerMillisecond = 1'000'000;

/// Until a descriptor that the kernel did not take is tried again.
constexpr uint32_t kWatchRetryMs = 100;

uint32_t to_epoll(int events) {
    return ((events & SLIRP_POLL_IN) != 0 ? uint32_t{EPOLLIN} : 0) |
           ((events & SLIRP_POLL_OUT) != 0 ? uint32_t{EPOLLOUT} : 0) |
           ((events & SLIRP_POLL_PRI) != 0 ? uint32_t{EPOLLPRI} : 0);
}

int from_epoll(uint32_t events) {
    return ((events & EPOLLIN) != 0 ? SLIRP_POLL_IN : 0) |
           ((events & EPOLLOUT) != 0 ? SLIRP_POLL_OUT : 0) |
           ((events & EPOLLPRI) != 0 ? SLIRP_POLL_PRI : 0) |
           ((events & EPOLLERR) != 0 ? SLIRP_POLL_ERR : 0) |
           ((events & EPOLLHUP) != 0 ? SLIRP_POLL_HUP : 0);
}

/// GLib's own way of writing its messages asks the system for more than the sandbox allows. Guests
/// can cause some.
void on_library_message(const char* /*domain*/, int /*level*/, const char* text, void* /*data*/) {
    static LogLimiter limiter;
    limiter.log(LogLevel::kWarning, "net: the user network: {}", text != nullptr ? text : "");
}

/// By name, because nothing else of GLib is needed to build this: libslirp brings it along.
void take_library_messages() {
    using Handler = void (*)(const char*, int, const char*, void*);
    using SetHandler = Handler (*)(Handler, void*);
    // SAFETY: GLib's documentation has this signature, and its interface is stable.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    auto* const set =
        reinterpret_cast<SetHandler>(::dlsym(RTLD_DEFAULT, "g_log_set_default_handler"));
    if (set != nullptr) {
        set(on_library_message, nullptr);
    }
}

Endpoint endpoint_of(const in_addr& address) {
    return {.address4 = address, .port = kDnsPort};
}

Endpoint endpoint_of(const in6_addr& address) {
    return {.is_ip6 = true, .address6 = address, .port = kDnsPort};
}

/// An address as the sockets API takes it.
struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t bytes = 0;

    [[nodiscard]] const sockaddr* generic() const {
        // SAFETY: the sockets API takes every address family by this one pointer type; the length
        // goes with it.
        // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
        return reinterpret_cast<const sockaddr*>(&storage);
    }
};

SocketAddress to_socket_address(const Endpoint& endpoint) {
    SocketAddress made;
    if (endpoint.is_ip6) {
        sockaddr_in6 address{};
        address.sin6_family = AF_INET6;
        address.sin6_addr = endpoint.address6;
        address.sin6_port = htons(endpoint.port);
        std::memcpy(&made.storage, &address, sizeof address);
        made.bytes = sizeof address;
    } else {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr = endpoint.address4;
        address.sin_port = htons(endpoint.port);
        std::memcpy(&made.storage, &address, sizeof address);
        made.bytes = sizeof address;
    }
    return made;
}

/// Where the guest's answers at a forwarded datagram port come from.
std::string answering_source(const Forward& forward, const UserOptions& options) {
    const uint16_t port = htons(forward.guest.port);
    const auto port_bytes = std::as_bytes(std::span(&port, 1));
    if (forward.guest.is_ip6) {
        return ConnectionLimit::source_of(std::as_bytes(std::span(&forward.guest.address6, 1)),
                                          port_bytes);
    }
    in_addr address = forward.guest.address4;
    if (!forward.guest.has_address() && options.ip4) {
        address = options.ip4->host(kFirstGuestNumber);
    }
    return ConnectionLimit::source_of(std::as_bytes(std::span(&address, 1)), port_bytes);
}

}  // namespace

const char* user_network_version() {
    return ::slirp_version_string();
}

struct UserPort::Callbacks {
    static UserPort& of(void* opaque) { return *static_cast<UserPort*>(opaque); }

    /// Never an error: the library would only log it.
    static ssize_t send_packet(const void* bytes, size_t count, void* opaque) {
        of(opaque).take_packet({static_cast<const std::byte*>(bytes), count});
        return static_cast<ssize_t>(count);
    }

    static void guest_error(const char* text, void* opaque) {
        of(opaque).limiter_.log(LogLevel::kWarning, "net: a packet of the guest: {}", text);
    }

    static int64_t clock_get_ns(void* /*opaque*/) { return now_ns(); }

    static void* timer_new(SlirpTimerId id, void* timer_opaque, void* opaque) {
        auto& timers = of(opaque).timers_;
        return timers.emplace_back(std::make_unique<Timer>(Timer{.id = id, .opaque = timer_opaque}))
            .get();
    }

    static void timer_free(void* timer, void* opaque) {
        std::erase_if(of(opaque).timers_, [&](const auto& each) { return each.get() == timer; });
    }

    static void timer_mod(void* timer, int64_t expires_ms, void* /*opaque*/) {
        static_cast<Timer*>(timer)->expires_ms = expires_ms;
    }

    static void register_poll_fd(int fd, void* opaque) { of(opaque).limit_.on_open(fd); }

    /// It is about to be closed, and its number to be used again.
    static void unregister_poll_fd(int fd, void* opaque) {
        of(opaque).polled_.forget(fd);
        of(opaque).limit_.on_close(fd);
    }

    static void notify(void* /*opaque*/) {}

    static int add_poll(int fd, int events, void* opaque) {
        UserPort& port = of(opaque);
        // Who connects to a forwarded port waits in the kernel's queue while there is no room.
        return port.polled_.add(fd, port.limit_.is_closed(fd) ? 0 : to_epoll(events));
    }

    static int get_revents(int index, void* opaque) {
        return from_epoll(of(opaque).polled_.ready(index));
    }

    static constexpr SlirpCb kTable = {.send_packet = send_packet,
                                       .guest_error = guest_error,
                                       .clock_get_ns = clock_get_ns,
                                       .timer_new = nullptr,
                                       .timer_free = timer_free,
                                       .timer_mod = timer_mod,
                                       .register_poll_fd = register_poll_fd,
                                       .unregister_poll_fd = unregister_poll_fd,
                                       .notify = notify,
                                       .init_completed = nullptr,
                                       .timer_new_opaque = timer_new};
};

Result<std::unique_ptr<UserPort>> UserPort::create(const UserOptions& options, Mapping kept) {
    std::unique_ptr<UserPort> port(new UserPort(options, std::move(kept)));
    OUTRIGGER_TRY(port->open(options));
    return port;
}

UserPort::UserPort(const UserOptions& options, Mapping kept)
    : limit_(options.sockets_max),
      connections_(std::move(kept)),
      merges_(options.merge),
      queue_(kQueueBytesMax),
      frame_(kFrameBytesMax) {
    if (options.ip4 && options.dns4) {
        dns4_.emplace(endpoint_of(options.ip4->host(kNameServerNumber)), *options.dns4);
    }
    if (options.ip6 && options.dns6) {
        dns6_.emplace(endpoint_of(options.ip6->host(kNameServerNumber)), *options.dns6);
    }
}

Result<void> UserPort::open(const UserOptions& options) {
    if (!polled_.valid()) {
        return failure(error_from_errno("cannot create an epoll instance"));
    }
    take_library_messages();
    SlirpConfig config{};
    config.version = SLIRP_CONFIG_VERSION_MAX;
    config.restricted = options.restricted ? 1 : 0;
    config.in_enabled = options.ip4.has_value();
    if (options.ip4) {
        config.vnetwork = options.ip4->network;
        config.vnetmask = options.ip4->mask;
        config.vhost = options.ip4->host(kRouterNumber);
        config.vnameserver = options.ip4->host(kNameServerNumber);
        config.vdhcp_start = options.ip4->host(kFirstGuestNumber);
    }
    config.in6_enabled = options.ip6.has_value();
    if (options.ip6) {
        config.vprefix_addr6 = options.ip6->prefix;
        config.vprefix_len = options.ip6->prefix_bits;
        config.vhost6 = options.ip6->host(kRouterNumber);
        config.vnameserver6 = options.ip6->host(kNameServerNumber);
    }
    config.vhostname = options.host_name.empty() ? nullptr : options.host_name.c_str();
    std::vector<const char*> search;
    for (const std::string& domain : options.search) {
        search.push_back(domain.c_str());
    }
    search.push_back(nullptr);
    config.vdnssearch = options.search.empty() ? nullptr : search.data();
    config.if_mtu = options.mtu;
    config.if_mru = options.mtu;
    config.disable_host_loopback = !options.host_loopback;
    slirp_ = ::slirp_new(&config, &Callbacks::kTable, this);
    if (slirp_ == nullptr) {
        return failure(Error{.message = "libslirp cannot make the user network"});
    }
    limit_.begin_own();
    for (const Forward& forward : options.forwards) {
        OUTRIGGER_TRY(add_forward(forward));
        if (forward.udp) {
            limit_.add_forwarded_source(answering_source(forward, options));
        }
    }
    limit_.end_own();
    note_listeners();
    return {};
}

/// The library does not say which sockets it opens for forwarded ports, but waits for all of them,
/// and has no others yet.
void UserPort::note_listeners() {
    uint32_t timeout_ms = UINT32_MAX;
    polled_.begin_round();
    ::slirp_pollfds_fill(slirp_, &timeout_ms, Callbacks::add_poll, this);
    for (const int fd : polled_.all()) {
        int is_listener = 0;
        socklen_t bytes = sizeof is_listener;
        if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listener, &bytes) == 0 &&
            is_listener != 0) {
            limit_.add_listener(fd);
        }
    }
}

Result<void> UserPort::add_forward(const Forward& forward) {
    const SocketAddress host = to_socket_address(forward.host);
    const SocketAddress guest = to_socket_address(forward.guest);
    const int flags =
        (forward.udp ? SLIRP_HOSTFWD_UDP : 0) | (forward.host.is_ip6 ? SLIRP_HOSTFWD_V6ONLY : 0);
    if (::slirp_add_hostxfwd(
            slirp_, host.generic(), host.bytes, guest.generic(), guest.bytes, flags) != 0) {
        return failure(error_from_errno("cannot forward port " + std::to_string(forward.host.port) +
                                        " of the host"));
    }
    return {};
}

UserPort::~UserPort() {
    if (slirp_ != nullptr) {
        ::slirp_cleanup(slirp_);
    }
}

int64_t UserPort::now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               EventLoop::Clock::now().time_since_epoch())
        .count();
}

void UserPort::attach(EventLoop& loop, PortEvents& events) {
    loop_ = &loop;
    events_ = &events;
    ask_about_connections();
    watch_descriptors();
}

void UserPort::detach() {
    if (watch_) {
        loop_->unwatch(*std::exchange(watch_, std::nullopt));
    }
    if (timer_) {
        loop_->cancel_timer(*std::exchange(timer_, std::nullopt));
    }
    if (question_timer_) {
        loop_->cancel_timer(*std::exchange(question_timer_, std::nullopt));
    }
    telling_.cancel();
    awaited_ = false;
    loop_ = nullptr;
    events_ = nullptr;
}

// --- From the guest ----------------------------------------------------------------------------

std::optional<DropReason> UserPort::refusal_of(std::span<const std::byte> frame) {
    if (is_to_loopback(frame)) {
        return DropReason::kPeerRefused;
    }
    if (!limit_.admits(frame)) {
        limiter_.log(LogLevel::kWarning,
                     "net: the guest has as many connections as it may (--max-connections)");
        return DropReason::kConnections;
    }
    return std::nullopt;
}

size_t UserPort::send(std::span<const Frame> frames) {
    // Its clock goes when it is asked about its descriptors, and only then: without that, what it
    // opens for these frames would be as old as the last time that it had anything to do.
    ::slirp_pollfds_poll(slirp_, 1, Callbacks::get_revents, this);
    for (const Frame& frame : frames) {
        // A copy, because the guest may write the frame while it is looked at.
        auto bytes = std::span(frame_).first(copy_front(frame, frame_));
        if (Ip4Reassembler::is_fragment(bytes)) {
            const auto taken = reassembler_.add(bytes, Ip4Reassembler::Clock::now());
            if (taken.refused) {
                counters_.dropped.add(DropReason::kFragment);
                continue;
            }
            if (taken.whole.empty()) {
                note_sent(frame);
                continue;
            }
            bytes = taken.whole;
        }
        if (const auto reason = refusal_of(bytes)) {
            counters_.dropped.add(*reason);
            continue;
        }
        connections_.note_sent(bytes);
        if (dns4_) {
            dns4_->rewrite_from_guest(bytes);
        }
        if (dns6_) {
            dns6_->rewrite_from_guest(bytes);
        }
        // SAFETY: bytes are bytes.
        // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
        const auto* const data = reinterpret_cast<const uint8_t*>(bytes.data());
        ::slirp_input(slirp_, data, static_cast<int>(bytes.size()));
        limit_.end_packet();
        note_sent(frame);
    }
    // Nothing of the host's: what waited for an address of the guest goes on now.
    ::slirp_pollfds_poll(slirp_, 1, Callbacks::get_revents, this);
    if (loop_ != nullptr) {
        watch_descriptors();
        tell_later();
    }
    return frames.size();
}

void UserPort::note_sent(const Frame& frame) {
    counters_.frames_sent.add();
    counters_.bytes_sent.add(frame.bytes);
}

// --- To the guest ------------------------------------------------------------------------------

void UserPort::take_packet(std::span<const std::byte> packet) {
    if (packet.size() > frame_.size()) {
        counters_.dropped.add(DropReason::kGiant);
        return;
    }
    // The library keeps what it sends for when it has to send it again.
    std::array<std::byte, kFrameBytesMax> copy;
    const auto bytes = std::span(copy).first(packet.size());
    std::ranges::copy(packet, bytes.begin());
    if (dns4_) {
        dns4_->rewrite_to_guest(bytes);
    }
    if (dns6_) {
        dns6_->rewrite_to_guest(bytes);
    }
    connections_.note_received(bytes);
    give_to_guest(bytes);
}

void UserPort::give_to_guest(std::span<const std::byte> bytes) {
    if (!merger_.push(bytes)) {
        counters_.dropped.add(DropReason::kQueueFull);
    }
}

/// Those that ended with another process: whoever only waits would not hear of it. More than once,
/// because the guest's link may be down.
void UserPort::ask_about_connections() {
    if (questions_left_ == 0) {
        return;
    }
    const size_t count = connections_.ask([this](auto frame) { give_to_guest(frame); });
    if (count == 0) {
        questions_left_ = 0;
        return;
    }
    if (questions_left_ == kQuestionsMax) {
        log(LogLevel::kInfo, "net: {} connections of the guest ended with another process", count);
    }
    const std::chrono::seconds wait{1U << (kQuestionsMax - questions_left_)};
    if (--questions_left_ > 0) {
        question_timer_ = loop_->start_timer(EventLoop::Clock::now() + wait, [this] {
            question_timer_.reset();
            ask_about_connections();
            tell_later();
        });
    }
}

std::optional<Frame> UserPort::next_frame() {
    return queue_.front();
}

void UserPort::drop_frame() {
    counters_.frames_received.add();
    counters_.bytes_received.add(queue_.front()->bytes);
    queue_.pop();
}

/// The host's sockets are read as long as the guest takes what comes of it.
void UserPort::await_frames() {
    awaited_ = true;
    if (!watch_) {
        watch_ = loop_->watch_readable(polled_.fd(), [this] { look(); });
    }
}

/// Not from within a call of the device.
void UserPort::tell_later() {
    if (!awaited_ || queue_.empty()) {
        return;
    }
    telling_.call_soon(*loop_, [this] {
        if (!awaited_) {
            return;
        }
        // The guest's acknowledgements have made the library send what it had. What they made room
        // for comes along, so that the guest has one turn of both.
        if (find_ready() > 0) {
            serve();
        }
        awaited_ = false;
        events_->on_frames();
    });
}

// --- The host's sockets ------------------------------------------------------------------------

void UserPort::look() {
    if (!awaited_) {
        // What is on its way to the guest comes first, until await_frames().
        loop_->unwatch(*std::exchange(watch_, std::nullopt));
        return;
    }
    (void)find_ready();
    serve();
    if (!queue_.empty() && std::exchange(awaited_, false)) {
        events_->on_frames();
    }
}

/// Notes which descriptors are ready, and says how many.
int UserPort::find_ready() {
    counters_.system_calls.add();
    return polled_.find_ready();
}

void UserPort::serve() {
    ::slirp_pollfds_poll(slirp_, 0, Callbacks::get_revents, this);
    polled_.forget_ready();
    watch_descriptors();
}

/// Asks the library what it waits for, and has the kernel watch that.
void UserPort::watch_descriptors() {
    uint32_t timeout_ms = UINT32_MAX;
    polled_.begin_round();
    ::slirp_pollfds_fill(slirp_, &timeout_ms, Callbacks::add_poll, this);
    const PolledDescriptors::Told told = polled_.end_round();
    counters_.system_calls.add(told.system_calls);
    if (told.os_error != 0) {
        limiter_.log(LogLevel::kWarning,
                     "net: cannot watch a connection of the guest: {}",
                     std::strerror(told.os_error));
        timeout_ms = std::min(timeout_ms, kWatchRetryMs);
    }
    update_timer(timeout_ms);
}

void UserPort::update_timer(uint32_t timeout_ms) {
    const int64_t now_ms = now_ns() / kNanosecondsPerMillisecond;
    int64_t wait_ms = timeout_ms == UINT32_MAX ? INT64_MAX : int64_t{timeout_ms};
    for (const auto& timer : timers_) {
        if (timer->expires_ms) {
            wait_ms = std::min(wait_ms, std::max<int64_t>(0, *timer->expires_ms - now_ms));
        }
    }
    if (timer_) {
        loop_->cancel_timer(*std::exchange(timer_, std::nullopt));
    }
    if (wait_ms == INT64_MAX) {
        return;
    }
    timer_ =
        loop_->start_timer(EventLoop::Clock::now() + std::chrono::milliseconds(wait_ms), [this] {
            timer_.reset();
            run_timers();
        });
}

/// Also the library's own, which it looks at whenever it is asked.
void UserPort::run_timers() {
    const int64_t now_ms = now_ns() / kNanosecondsPerMillisecond;
    for (size_t i = 0; i < timers_.size(); ++i) {
        if (timers_[i]->expires_ms && *timers_[i]->expires_ms <= now_ms) {
            timers_[i]->expires_ms.reset();
            ::slirp_handle_timer(
                slirp_, static_cast<SlirpTimerId>(timers_[i]->id), timers_[i]->opaque);
        }
    }
    serve();
    tell_later();
}

}  // namespace outrigger::net
