// SPDX-License-Identifier: Apache-2.0
/// The keeper: a small parent process that starts the program again when it is killed, and has its
/// descriptors meanwhile, so that front ends that cannot connect again do not notice
/// (docs/keeper.md). One thread, a few hundred lines, no guest memory.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace outrigger {

struct KeeperSettings {
    std::string_view program;                          ///< for log lines
    size_t restarts_max = 5;                           ///< in 10 seconds
    bool is_confined = true;                           ///< false: --sandbox=none
    std::span<const std::string_view> needed_calls{};  ///< DeviceProgram::keeper_calls
    std::vector<std::string> arguments;                ///< argv of the program that is started

    /// Sockets that the program makes, and the names under which it keeps a descriptor of each
    /// file: to remove them when no worker can any more.
    struct SocketPath {
        std::string path;
        std::string file_name;
    };

    /// What a program's options name.
    struct Named {
        std::vector<SocketPath> socket_paths{};
        /// Numbers of inherited descriptors that it takes (--fd, --tap-fd): as long as we had them
        /// open, too, nobody would see a socket closed, and queues of a tap would be there that
        /// nobody reads.
        std::vector<int> inherited{};
    };

    Named named;

    /// The file that each program is to find as the keeper has read it ($OUTRIGGER_CONFIG, see
    /// config_file.h); SIGHUP has it read anew, and the program started with it, in place of being
    /// passed on. Empty: there is none.
    std::string config_path{};
    /// `named` of a program that finds that text there.
    std::function<Named(const std::string& config_text)> named_with{};
};

/// Runs the program under a keeper, which this process becomes; returns when the program has ended
/// for good: its exit status. If a signal killed it, that signal kills this process, too.
[[nodiscard]] int run_keeper(const KeeperSettings& settings);

/// --take-over: asks keeper `keeper` to go on with the program that calls this, and waits. Returns
/// the exit status: 0 when it does; 1 when it does not and nothing has changed, 3 when it has gone
/// back to the program before, for reasons that are printed.
[[nodiscard]] int take_over(std::string_view program, pid_t keeper);

}  // namespace outrigger
