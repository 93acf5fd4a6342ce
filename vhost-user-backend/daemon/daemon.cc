// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/daemon.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/daemon/io_end.h"
#include "vhost-user-backend/daemon/passed_descriptor.h"
#include "vhost-user-backend/daemon/privileges.h"
#include "vhost-user-backend/daemon/standard_descriptors.h"
#include "vhost-user-backend/daemon/termination.h"
#include "vhost-user-backend/session/session.h"

namespace outrigger {
namespace {

/// The store, with the names of one device.
class KeeperOfDevice final : public DeviceKeeper {
  public:
    KeeperOfDevice(DescriptorStore& store, std::string prefix)
        : store_(store), prefix_(std::move(prefix)) {}

    bool goes_on() const override { return store_.goes_on(); }

    bool can_hand_back() const override { return store_.takes_over(); }

    Result<UniqueFd> keep(std::string_view name, size_t bytes) override {
        return store_.keep_memory(full(name), bytes);
    }

    UniqueFd take(std::string_view name) override { return store_.take(full(name)); }

    bool keep_open(std::string_view name, int fd) override {
        return store_.keep_open(full(name), fd);
    }

    void forget(std::string_view name) override { store_.forget_open(full(name)); }

    Kept try_keep_open(std::string_view name, int fd) override {
        return store_.try_keep_open(full(name), fd);
    }

    bool try_forget(std::string_view name) override { return store_.try_forget_open(full(name)); }

  private:
    [[nodiscard]] std::string full(std::string_view name) const {
        return prefix_ + std::string(name);
    }

    DescriptorStore& store_;
    const std::string prefix_;
};

/// That this was a connection, which nobody is passed a second time.
std::string connection_mark(std::string_view key) {
    return std::string(kStorePrefix) + "l" + std::string(key) + ".connection";
}

/// Has a process before served that connection? Its session goes on, or it has gone.
bool was_connection(DescriptorStore& store, std::string_view key) {
    const std::string mark = connection_mark(key);
    if (store.open(mark).valid()) {
        store.claim(mark);
        return true;
    }
    // A device of then, of an older program.
    return !store.names(std::string(kStorePrefix) + "s" + std::string(key) + ".").empty();
}

void mark_connection(DescriptorStore& store, std::string_view key) {
    if (const UniqueFd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC)); nothing.valid()) {
        (void)store.keep(connection_mark(key), nothing.get());
    }
}

}  // namespace

Result<void> Daemon::run() {
    set_log_level(settings_.log_level);
    auto ended = run_stages();
    if (!ended && store_ != nullptr && store_->takes_over()) {
        hand_back(ended.error().message);
    }
    return ended;
}

/// Where we cannot go on with what the program before left, that one serves again: it finds all as
/// after a crash of its own. So nothing is closed, forgotten or removed here that is its.
void Daemon::hand_back(std::string_view reason) const {
    log(LogLevel::kError, "not taking over: {}", reason);
    std::_Exit(EXIT_FAILURE);
}

Result<void> Daemon::run_stages() {
    if (store_ != nullptr) {
        io_witness_ = OUTRIGGER_TRY(follow_io(*store_));
    }
    OUTRIGGER_TRY(open());
    OUTRIGGER_TRY(drop_what_threads_inherit());
    OUTRIGGER_TRY(start_workers());
    OUTRIGGER_TRY(confine_threads());
    OUTRIGGER_TRY(take_kept_sessions());
    accept();
    return {};
}

/// Everything that has a name: files, devices, sockets. Sockets come last, because a front end
/// that sees one expects it to be answered.
Result<void> Daemon::open() {
    OUTRIGGER_TRY(ensure_standard_descriptors());
    (void)platform::kernel_counts_ticks();  // workers ask when its file is out of reach
    OUTRIGGER_TRY(forbid_new_privileges());
    OUTRIGGER_TRY(Termination::install());
    loop_ = OUTRIGGER_TRY(create_event_loop(LoopKind::kAsio));
    notifier_ = ServiceNotifier::from_environment(store_ != nullptr && store_->is_parent());
    for (const DeviceSettings& settings : settings_.devices) {
        served_.emplace_back();
        OUTRIGGER_TRY(create_device(served_.size() - 1));
        OUTRIGGER_TRY(take_drain_mark(served_.size() - 1));
        add_extras(settings.values);
    }
    OUTRIGGER_TRY(open_userfaults());
    for (size_t i = 0; i < served_.size(); ++i) {
        const DeviceSettings& settings = settings_.devices[i];
        served_[i].endpoint = OUTRIGGER_TRY(open_endpoint({.path = settings.socket_path,
                                                           .fd = settings.fd,
                                                           .activated = settings.activated,
                                                           .fd_option = "--fd",
                                                           .key = settings.key}));
    }
    const ControlSettings& control = settings_.control;
    if (control.fd || control.activated || !control.socket_path.empty()) {
        own_user_ = ::geteuid();
        control_endpoint_ = OUTRIGGER_TRY(open_endpoint({.path = control.socket_path,
                                                         .fd = control.fd,
                                                         .activated = control.activated,
                                                         .fd_option = "--control-fd",
                                                         .key = control.key}));
        control_is_private_ = is_private_control_socket();
    }
    OUTRIGGER_TRY(open_metrics());
    adopt_leftovers();
    return {};
}

Result<void> Daemon::create_device(size_t index) {
    Served& served = served_[index];
    const OptionValues& values = settings_.devices[index].values;
    if (store_ != nullptr) {
        served.keeper = std::make_unique<KeeperOfDevice>(
            *store_, std::string(kStorePrefix) + "d" + settings_.devices[index].key + ".");
    }
    const bool is_kept = served.keeper != nullptr && program_.create_kept_device != nullptr;
    served.device = OUTRIGGER_TRY(is_kept ? program_.create_kept_device(values, *served.keeper)
                                          : program_.create_device(values));
    return check_device(*served.device);
}

Daemon::ListenerNames Daemon::listener_names(std::string_view key) {
    const std::string name = std::string(kStorePrefix) + "l" + std::string(key);
    return {.socket = name, .file = name + ".file"};
}

Result<void> Daemon::open_userfaults() {
    if (std::ranges::none_of(settings_.devices, &DeviceSettings::postcopy)) {
        return {};
    }
    auto source = open_userfault_source();
    if (!source) {
        return failure(Error{.message = "--postcopy: " + source.error().message,
                             .os_error = source.error().os_error});
    }
    userfaults_ = *std::move(source);
    return {};
}

void Daemon::add_extras(const OptionValues& values) {
    if (program_.sandbox_extras == nullptr) {
        return;
    }
    const SandboxExtras more = program_.sandbox_extras(values);
    const auto append = [](auto& to, const auto& from) {
        to.insert(to.end(), from.begin(), from.end());
    };
    append(extra_calls_, more.system_calls);
    append(extra_operations_, more.uring_operations);
    append(extras_.connect_tcp_ports, more.connect_tcp_ports);
    extras_.any_tcp |= more.any_tcp;
    append(extras_.readable_paths, more.readable_paths);
    append(extras_.writable_trees, more.writable_trees);
    extras_.kept_capabilities |= more.kept_capabilities;
    extras_.opens_by_handle = extras_.opens_by_handle || more.opens_by_handle;
    append(extras_.removable_directories, more.removable_directories);
    append(extras_.writable_directories, more.writable_directories);
    append(extras_.connect_paths, more.connect_paths);
    extras_.keeps_network |= more.keeps_network;
    extras_.shows_owners |= more.shows_owners;
}

/// What a service manager, or a keeper in its place, passes to each process is nothing to keep.
Result<Endpoint> Daemon::open_endpoint(const EndpointSource& source) {
    const bool comes_again = source.activated && has_activated_listener(*source.activated);
    if (store_ == nullptr || comes_again) {
        return make_endpoint(source);
    }
    const ListenerNames names = listener_names(source.key);
    if (UniqueFd kept = store_->open(names.socket); kept.valid()) {
        Endpoint endpoint;
        endpoint.listener =
            OUTRIGGER_TRY(listen_on(std::move(kept), source.path, store_->open(names.file)));
        store_->claim(names.socket);
        store_->claim(names.file);
        return endpoint;
    }
    // What a file names later, and nobody has named before, is passed still. Without a file it was
    // named before, also to an older program, which left no mark.
    const bool may_be_named_again = store_->takes_over() && !settings_.config_path.empty();
    const bool is_of_before = source.activated || (source.fd && !is_passed(*source.fd));
    if (is_of_before && store_->goes_on() && store_->is_parent() &&
        (was_connection(*store_, source.key) || source.activated || !may_be_named_again)) {
        return Endpoint();
    }
    Endpoint endpoint = OUTRIGGER_TRY(make_endpoint(source));
    if (endpoint.connection.valid() && store_->is_parent()) {
        mark_connection(*store_, source.key);
    }
    if (endpoint.listener && endpoint.listener->file) {
        const UniqueFd file = SocketFile::open_file(source.path);
        (void)store_->keep(names.file, file.get());
    }
    // A service manager gives its own sockets again by itself.
    if (endpoint.listener && (!source.fd || store_->is_parent())) {
        (void)store_->keep(names.socket, endpoint.listener->fd.get());
    }
    return endpoint;
}

Result<Endpoint> Daemon::make_endpoint(const EndpointSource& source) {
    Endpoint endpoint;
    if (source.activated) {
        ActivatedSocket socket = OUTRIGGER_TRY(take_activated_socket(*source.activated));
        if (socket.listening) {
            endpoint.listener = ListeningSocket{.fd = std::move(socket.fd)};
        } else {
            endpoint.connection = std::move(socket.fd);
        }
        return endpoint;
    }
    if (!source.fd) {
        endpoint.listener = OUTRIGGER_TRY(listen_at(source.path));
        return endpoint;
    }
    InheritedSocket socket = OUTRIGGER_TRY(take_inherited_socket(*source.fd, source.fd_option));
    if (socket.listening) {
        endpoint.listener = ListeningSocket{.fd = std::move(socket.fd)};
    } else {
        endpoint.connection = std::move(socket.fd);
    }
    return endpoint;
}

/// Socket files of devices that the process before had and this one has not: they go when it is
/// certain that this one serves.
void Daemon::adopt_leftovers() {
    if (store_ == nullptr) {
        return;
    }
    // Where one is passed, what was made in its place before is left over.
    const auto is_ours = [this](std::string_view key) {
        const auto device = std::ranges::find(settings_.devices, key, &DeviceSettings::key);
        return (key == settings_.control.key && !settings_.control.activated) ||
               key == settings_.metrics.key ||
               (device != settings_.devices.end() && !device->activated);
    };
    for (const std::string& name : store_->names(kStorePrefix)) {
        // "outrigger.lKEY.file" of a front end, "outrigger.dKEY.NAME-file" of the device itself.
        // What a device that is ours wanted of its own, it has taken by now.
        const std::string_view rest = std::string_view(name).substr(kStorePrefix.size());
        if (!name.ends_with("file") || (rest[0] != 'l' && rest[0] != 'd') ||
            (rest[0] == 'l' && is_ours(rest.substr(1, rest.find('.') - 1)))) {
            continue;
        }
        // The name is the socket's own, and not for whoever kept the file to say.
        constexpr size_t kSuffixBytes = std::string_view(".file").size();
        const UniqueFd socket = store_->open(name.substr(0, name.size() - kSuffixBytes));
        const UniqueFd file = store_->open(name);
        const std::string path = socket.valid() ? bound_path(socket.get()) : std::string();
        if (auto adopted = path.empty() ? std::nullopt : SocketFile::adopt_kept(path, file.get())) {
            leftovers_.push_back(*std::move(adopted));
        }
    }
}

/// Before the first worker exists.
Result<void> Daemon::drop_what_threads_inherit() {
    OUTRIGGER_TRY(drop_privileges());
    if (settings_.sandbox == SandboxMode::kNone) {
        return {};
    }
    std::vector<int> socket_directories;
    for (const Served& served : served_) {
        if (served.endpoint.listener && served.endpoint.listener->file) {
            socket_directories.push_back(served.endpoint.listener->file->directory_fd());
        }
    }
    if (control_endpoint_ && control_endpoint_->listener && control_endpoint_->listener->file) {
        socket_directories.push_back(control_endpoint_->listener->file->directory_fd());
    }
    if (metrics_listener_ && metrics_listener_->file) {
        socket_directories.push_back(metrics_listener_->file->directory_fd());
    }
    for (const SocketFile& leftover : leftovers_) {
        socket_directories.push_back(leftover.directory_fd());
    }
    const DroppedAccess dropped = OUTRIGGER_TRY(
        drop_access(settings_.sandbox, socket_directories, extras_, program_.isolate));
    // Where nobody but our user and root gets as far as a connection.
    if (control_is_private_) {
        root_looks_like_ = dropped.others_look_like.value_or(0);
    } else if (control_endpoint_ && control_endpoint_->listener &&
               dropped.others_look_like == own_user_) {
        // We are the user that all others look like: nobody can be told from them.
        own_user_ = static_cast<uid_t>(-1);
        log(LogLevel::kWarning,
            "control: nobody may use the socket, because others may connect to it, and look like "
            "this program's user in a user namespace: run it as another user");
    } else if (control_endpoint_ && control_endpoint_->listener && dropped.others_look_like) {
        log(LogLevel::kInfo,
            "control: only this program's user may use it, because others may connect to the "
            "socket, and cannot be told from root in a user namespace");
    }
    for (size_t i = 0; i < served_.size(); ++i) {
        const auto& listener = served_[i].endpoint.listener;
        if (listener && listener->file && !listener->file->is_removable()) {
            log(LogLevel::kWarning,
                "{} will stay behind: this process, without capabilities, may not remove it",
                settings_.devices[i].socket_path);
        }
    }
    return {};
}

/// What the process before left: nothing of it is trusted, so it is looked at in here.
Result<void> Daemon::take_kept_sessions() {
    if (store_ == nullptr) {
        return {};
    }
    const auto prefix = [this](size_t index) {
        return std::string(kStorePrefix) + "s" + settings_.devices[index].key;
    };
    for (size_t i = 0; i < served_.size(); ++i) {
        auto kept = claim_kept_session(*store_, prefix(i));
        if (kept) {
            served_[i].kept = *std::move(kept);
            continue;
        }
        Error error{.message =
                        "a session of the process before cannot go on: " + kept.error().message};
        if (store_->takes_over()) {
            return failure(std::move(error));
        }
        log(LogLevel::kError, "{}", error.message);
    }
    store_->release();
    for (size_t i = 0; i < served_.size(); ++i) {
        Device& device = *served_[i].device;
        if (store_->goes_on() && !served_[i].kept.saved && device.abilities().keeps_itself) {
            device.reset();  // of a session that nobody goes on with
        }
        begin_journal(*store_, prefix(i), served_[i].kept);
    }
    return {};
}

void Daemon::watch_keeper() {
    if (store_->channel() < 0) {
        return;
    }
    keeper_watch_ = loop_->watch_readable(store_->channel(), [this] {
        const DescriptorStore::Word word = store_->take_word();
        if (word == DescriptorStore::Word::kCrossed) {
            return;
        }
        // Once is all there is to say, and its end comes by a signal.
        loop_->unwatch(*std::exchange(keeper_watch_, std::nullopt));
        if (word == DescriptorStore::Word::kLeave) {
            leave();
        }
    });
}

/// Killed we are anyway: but what the kernel has to end for us then (io_uring's requests, and so
/// what has the image's file open) takes it longer than it takes us to end them, and the guest
/// waits for as long.
void Daemon::leave() {
    is_leaving_ = true;
    if (control_ != nullptr) {
        control_->leave();
    }
    if (metrics_ != nullptr) {
        metrics_->leave();
    }

    struct Leaving {
        size_t outstanding = 0;
        bool all = true;
    };

    auto leaving = std::make_shared<Leaving>(Leaving{.outstanding = served_.size()});
    for (const Served& served : served_) {
        served.server->leave([this, leaving](bool left) {
            leaving->all = leaving->all && left;
            if (--leaving->outstanding > 0) {
                return;
            }
            if (leaving->all) {
                for (const Served& each : served_) {
                    each.device->on_leaving();
                }
                store_->forget(io_witness_.name);
            }
            store_->notify_left();
        });
    }
}

void Daemon::begin_notifications() {
    if (notifier_ == nullptr) {
        return;
    }
    // A page of a guest that moves here by postcopy may come late, and a share's disk, too.
    std::vector<Worker*> asked = all_workers();
    for (size_t i = 0; i < served_.size(); ++i) {
        if (settings_.devices[i].postcopy || program_.workers_may_wait) {
            std::erase_if(asked, [&](Worker* worker) {
                return std::ranges::find(served_[i].worker_list, worker) !=
                       served_[i].worker_list.end();
            });
        }
    }
    notifier_->begin(*loop_, std::move(asked));
    show_status();
}

void Daemon::show_status() const {
    if (notifier_ == nullptr || Termination::requested() != 0) {
        return;
    }
    const auto connected = std::ranges::count_if(
        served_, [](const Served& served) { return served.server->connected(); });
    notifier_->show_status(served_.size() > 1
                               ? std::to_string(connected) + " of " +
                                     std::to_string(served_.size()) + " devices have a front end"
                           : connected > 0 ? "a front end is connected"
                                           : "waiting for a front end");
}

/// The last stage: from here on nothing is opened but what a front end sends.
void Daemon::accept() {
    for (size_t i = 0; i < served_.size(); ++i) {
        const DeviceSettings& settings = settings_.devices[i];
        Served& served = served_[i];
        served.server = std::make_unique<DeviceServer>(
            DeviceServer::Environment{
                .loop = *loop_,
                .device = *served.device,
                .workers = served.worker_list,
                .session = {.message_timeout = settings_.message_timeout,
                            .require_sealed = settings_.require_sealed,
                            .notes_in_flight = store_ != nullptr,
                            .balances_queues = settings.balances_queues,
                            .measures_latency = control_endpoint_ || metrics_listener_,
                            .userfaults = settings.postcopy ? userfaults_.get() : nullptr},
                .exit_on_disconnect = settings_.exit_on_disconnect,
                .starts_drained = served.starts_drained,
                .label = std::string(program_.type) + " " + settings.where(),
                .keeper = store_.get(),
                .listener_names = {listener_names(settings.key).socket,
                                   listener_names(settings.key).file},
                .on_not_restored =
                    [this] {
                        if (store_->takes_over()) {
                            hand_back("a session of the process before cannot go on");
                        }
                    },
                .on_front_end = [this] { show_status(); }},
            std::move(served.endpoint),
            std::move(served.kept),
            [this] { ++finished_; });
    }
    std::optional<WatchId> termination;
    termination = loop_->watch_readable(Termination::request_fd(), [&] {
        loop_->unwatch(*termination);
        log(LogLevel::kInfo,
            "stopping: {}",
            Termination::requested() == SIGINT ? "SIGINT" : "SIGTERM");
        if (notifier_ != nullptr) {
            notifier_->stopping();
        }
        if (control_ != nullptr) {
            control_->stop_listening();
        }
        if (metrics_ != nullptr) {
            metrics_->stop_listening();
        }
        for (const Served& served : served_) {
            served.server->shut_down();
        }
    });
    describe_program();
    start_control();
    start_metrics();
    begin_notifications();
    for (const Served& served : served_) {
        served.device->on_serving(served.worker_list);
    }
    for (const Served& served : served_) {
        served.server->start([this] {
            if (++begun_ < served_.size()) {
                return;
            }
            if (store_ != nullptr) {
                leftovers_.clear();
                store_->notify_ready();
                watch_keeper();
            }
            if (notifier_ != nullptr) {
                notifier_->ready();
            }
        });
    }
    while (finished_ < served_.size()) {
        (void)loop_->run_once(EventLoop::Clock::time_point::max());
    }
}

}  // namespace outrigger
