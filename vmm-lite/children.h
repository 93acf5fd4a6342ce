// SPDX-License-Identifier: Apache-2.0
/// Daemons of our own: started when a device looks for its back end, started again when they die,
/// and gone when we are, however we end.
///
/// A small process that was split off before anything else existed starts them. So the loop's
/// thread can give the right to start programs away, and a daemon inherits nothing of the machine.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "vmm-lite/frontend/backend_source.h"
#include "vmm-lite/loop/event_loop.h"

namespace outrigger::vmm {

/// Thread-bound: the loop's, but for start(), take_down() and the destructor, which run when the
/// loop does not.
class Children final {
  public:
    struct Command {
        std::string name{};     ///< of the device, for messages: "blk0"
        std::string program{};  ///< looked for beside this program, then in $PATH
        std::vector<std::string> arguments{};
    };

    /// Splits the process off. Called once, while this one has a single thread.
    [[nodiscard]] static Result<std::unique_ptr<Children>> start(EventLoop& loop);

    Children(const Children&) = delete;
    Children& operator=(const Children&) = delete;
    /// Takes the daemons down.
    ~Children();

    /// Where a device finds the daemon that `command` starts. Each open() starts it anew; what was
    /// there before is ended. The source is destroyed before this object.
    [[nodiscard]] std::unique_ptr<BackendSource> source(Command command);

    /// Ends all daemons, by SIGTERM and, if they do not follow, by SIGKILL after two seconds, and
    /// waits for that.
    void take_down();

    /// The process of a device's daemon; 0 when there is none, or it is not known yet.
    [[nodiscard]] pid_t process_of(const std::string& name) const;

  private:
    class Source;

    struct Child {
        pid_t pid = 0;  // 0: not started yet, or ended
        bool ended = false;
        int status = 0;       // as waitpid() gives it
        UniqueFd complaints;  // what it writes to stderr
        EventLoop::Watch watch;
        std::string line;  // not whole yet
        std::string last_line;
        bool serving = false;
        std::vector<std::string> early_lines;  // said before it served
    };

    Children(EventLoop& loop, UniqueFd starter, pid_t starter_pid);

    [[nodiscard]] Result<UniqueFd> launch(uint32_t id, const Command& command);
    [[nodiscard]] std::string obituary(uint32_t id, const Command& command) const;
    [[nodiscard]] bool obituary_due(uint32_t id) const;
    void on_report();
    void on_complaint(uint32_t id);
    void on_serving(uint32_t id);
    void end(uint32_t id);

    void forget(uint32_t id) { children_.erase(id); }

    EventLoop& loop_;
    UniqueFd starter_;  // a socket to the process that starts them
    pid_t starter_pid_;
    EventLoop::Watch reports_;
    bool watching_ = false;
    uint32_t next_id_ = 0;
    std::map<uint32_t, Child> children_;     // by number of the source
    std::map<std::string, uint32_t> names_;  // of the sources
};

/// outrigger-blk for the image at `path`.
[[nodiscard]] Children::Command blk_daemon(std::string name, std::string path, bool read_only);

/// outrigger-fs for the directory at `path`, which the guest mounts by `tag`.
[[nodiscard]] Children::Command fs_daemon(std::string name,
                                          std::string path,
                                          const std::string& tag,
                                          bool read_only);

/// outrigger-vsock for the guest `cid`, whose host side is the socket at `path` and those beside
/// it.
[[nodiscard]] Children::Command vsock_daemon(std::string name, std::string path, uint32_t cid);

/// outrigger-console with one port, shown at the socket at `path`.
[[nodiscard]] Children::Command console_daemon(std::string name, const std::string& path);

/// outrigger-rng with the host's entropy, or the file's at `path`.
[[nodiscard]] Children::Command rng_daemon(std::string name, std::string path);

}  // namespace outrigger::vmm
