// SPDX-License-Identifier: Apache-2.0
/// The thread that serves the host's side of all ports of a device. It may wait for a disk; neither
/// the guest nor the front end waits for it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/console/host_loop.h"
#include "devices/console/host_port.h"

namespace outrigger::console {

class HostThread final {
  public:
    /// What the thread is to do in the life of the program, without one that runs yet.
    [[nodiscard]] static Result<std::unique_ptr<HostThread>> create();

    HostThread(const HostThread&) = delete;
    HostThread& operator=(const HostThread&) = delete;
    /// Stops and joins. No worker may start it any more.
    ~HostThread();

    /// Before start(). The port lives as long as this.
    [[nodiscard]] HostPort& add_port(std::unique_ptr<HostPort> port);

    /// On a worker, whose confinement the thread inherits. Once; more often does nothing.
    void start_from_worker();

    /// The ports have something to do. Any thread.
    void wake();

    /// From now on SIGHUP opens the files of all ports, of all devices, anew. Control thread.
    [[nodiscard]] static Result<void> reopen_on_hangup();

  private:
    explicit HostThread(HostLoop loop);

    void run();

    HostLoop loop_;
    std::vector<std::unique_ptr<HostPort>> ports_;
    std::atomic<bool> woken_ = false;
    std::atomic<bool> stopping_ = false;
    std::mutex thread_mutex_;  // what follows
    bool started_ = false;
    std::thread thread_;
};

}  // namespace outrigger::console
