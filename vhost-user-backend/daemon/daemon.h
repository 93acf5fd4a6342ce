// SPDX-License-Identifier: Apache-2.0
/// The life of a daemon in named stages: parse, open, drop privileges, start, sandbox, accept.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/userfault.h"
#include "vhost-user-backend/daemon/command_line.h"
#include "vhost-user-backend/daemon/control_server.h"
#include "vhost-user-backend/daemon/descriptor_store.h"
#include "vhost-user-backend/daemon/device_program.h"
#include "vhost-user-backend/daemon/device_server.h"
#include "vhost-user-backend/daemon/io_end.h"
#include "vhost-user-backend/daemon/kept_session.h"
#include "vhost-user-backend/daemon/metrics_server.h"
#include "vhost-user-backend/daemon/program_description.h"
#include "vhost-user-backend/daemon/service_notifier.h"
#include "vhost-user-backend/daemon/socket_file.h"
#include "vhost-user-backend/device.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"

namespace outrigger {

/// Thread-bound: the main thread, which becomes the control thread.
class Daemon final {
  public:
    /// `store`: what the process before left, and where this one keeps its own; null: no keeper.
    Daemon(const DeviceProgram& program,
           const CommandLine& settings,
           std::unique_ptr<DescriptorStore> store)
        : program_(program), settings_(settings), store_(std::move(store)) {}

    Daemon(const Daemon&) = delete;
    Daemon& operator=(const Daemon&) = delete;
    ~Daemon();

    /// The names under which the store has the listening socket and its file of the device with
    /// that key (DeviceSettings), or of the control socket.
    struct ListenerNames {
        std::string socket;
        std::string file;
    };

    [[nodiscard]] static ListenerNames listener_names(std::string_view key);

    /// All stages behind "parse", until a signal or the last disconnect ends the last of them. An
    /// error is one of run time: what was opened is closed and removed when the daemon goes.
    [[nodiscard]] Result<void> run();

  private:
    /// Destroyed in the reverse order: server, workers, device.
    struct Served {
        std::unique_ptr<DeviceKeeper> keeper;  // null: there is none
        std::unique_ptr<Device> device;
        Endpoint endpoint;
        KeptSession kept;
        std::vector<std::shared_ptr<Worker>> workers;  // some devices share them
        std::vector<Worker*> worker_list;
        std::unique_ptr<DeviceServer> server;
        bool departed = false;  // from what its command line says
        UniqueFd drain_mark;    // kept while the device is drained
        bool starts_drained = false;
    };

    [[nodiscard]] Result<void> run_stages();
    [[noreturn]] void hand_back(std::string_view reason) const;
    [[nodiscard]] Result<void> open();
    [[nodiscard]] Result<void> create_device(size_t index);
    [[nodiscard]] Result<void> open_userfaults();
    void add_extras(const OptionValues& values);

    /// Where a socket comes from, as in DeviceSettings.
    struct EndpointSource {
        const std::string& path;
        const std::optional<int>& fd;
        const std::optional<ActivatedRequest>& activated;
        std::string_view fd_option;
        std::string_view key;
    };

    [[nodiscard]] Result<Endpoint> open_endpoint(const EndpointSource& source);
    [[nodiscard]] Result<Endpoint> make_endpoint(const EndpointSource& source);
    void adopt_leftovers();
    [[nodiscard]] Result<void> take_kept_sessions();
    [[nodiscard]] Result<void> drop_what_threads_inherit();
    [[nodiscard]] Result<void> start_workers();
    [[nodiscard]] const Served* find_thread_group(size_t index) const;
    [[nodiscard]] std::vector<Worker*> all_workers() const;
    [[nodiscard]] Result<void> confine_threads();
    [[nodiscard]] Result<void> open_metrics();
    void describe_program();
    [[nodiscard]] bool is_private_control_socket() const;
    void start_control();
    void start_metrics();
    void watch_keeper();
    [[nodiscard]] bool on_departure(Served& served, bool departed);
    [[nodiscard]] std::string drain_mark_name(size_t index) const;
    [[nodiscard]] Result<void> take_drain_mark(size_t index);
    [[nodiscard]] bool on_drain(size_t index, bool drained);
    void leave();
    void begin_notifications();
    void show_status() const;
    void accept();

    const DeviceProgram& program_;
    const CommandLine& settings_;
    IoWitness io_witness_;                    // all our io_urings hold it, too
    std::unique_ptr<DescriptorStore> store_;  // servers use it to their end
    std::unique_ptr<EventLoop> loop_;
    std::unique_ptr<UserfaultSource> userfaults_;  // null: no device has --postcopy
    std::vector<Served> served_;
    bool is_leaving_ = false;
    SandboxExtras extras_;  // of all devices, but for what the next two have
    std::vector<SystemCallRule> extra_calls_;
    UringOperations extra_operations_;
    std::optional<Endpoint> control_endpoint_;
    std::vector<SocketFile> leftovers_;  // of devices that are not there any more
    std::optional<ListeningSocket> metrics_listener_;
    uid_t own_user_ = 0;  // the sandbox does not let us ask
    bool control_is_private_ = false;
    /// What the control socket's connections say of root: in a user namespace not 0.
    uid_t root_looks_like_ = 0;
    ProgramDescription description_;
    std::unique_ptr<ControlServer> control_;     // goes before the devices that it asks
    std::unique_ptr<MetricsServer> metrics_;     // likewise
    std::unique_ptr<ServiceNotifier> notifier_;  // null: nobody wants to know
    std::optional<WatchId> keeper_watch_;
    size_t begun_ = 0;  // of the servers
    size_t finished_ = 0;
};

}  // namespace outrigger
