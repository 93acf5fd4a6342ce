// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/common_options.h"

#include <array>
#include <string_view>

#include "vhost-user-backend/base/build.h"

namespace outrigger {
namespace {

constexpr std::array<std::string_view, 2> kQueuePlacements = {"balanced", "fixed"};

constexpr std::array<OptionSpec, 10> kDeviceCommonOptions = {{
    {.name = "socket-path",
     .value_name = "PATH",
     .help = "Listen for the front end on a Unix socket at PATH; a stale socket there is replaced"},
    {.name = "fd",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Take the socket from inherited descriptor N, which listens or is already connected",
     .number_min = 3,
     .number_max = 1'000'000},
    {.name = "fd-name",
     .value_name = "NAME",
     .help = "Take the socket that the service manager passes under this name "
             "(FileDescriptorName= of a socket unit of systemd)"},
    {.name = "name",
     .value_name = "TEXT",
     .help =
         "What the control socket and metrics call the device; without it the kind and a number, "
         "like blk0"},
    {.name = "queue-threads",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Serve the queues with N threads, at most one a queue; queues of "
             "high priority, where a device has such, get one each besides",
     .default_value = "1",
     .number_min = 1,
     .number_max = 64},
    {.name = "queue-placement",
     .kind = OptionKind::kChoice,
     .value_name = "WAY",
     .help =
         "Which thread serves a queue: balanced, where a thread that has much to do hands one "
         "of its queues to one that has little, as the guest's work goes; or fixed, where queue "
         "I stays with thread I modulo their number",
     .default_value = "balanced",
     .choices = kQueuePlacements},
    {.name = "cpus",
     .value_name = "LIST",
     .help = kPortableBuild ? "Refused: this build cannot pin the queue threads to processors"
                            : "Pin the queue threads to these processors in turn, like 0-3,6; "
                              "without it they run anywhere"},
    {.name = "poll-us",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Look for requests for up to N microseconds before sleeping, less when they come "
             "seldom; 0 never looks",
     // Measured with the null block device, server and driver each on a processor of its own, one
     // run, A against B in turn. 50 against none: 22 times the requests at depth 1 and 3.6 times at
     // depth 32 with a driver that looks at its used ring. 100 against 50: the same there, and 2.6
     // and 3.2 times with a driver that sleeps, whose wake-ups take longer than 50 here. 200 gives
     // no more than 100.
     .default_value = "100",
     .number_max = 1'000'000},
    {.name = "poll-cpu",
     .kind = OptionKind::kNumber,
     .value_name = "PERCENT",
     .help = "Spend at most so much of each queue thread's time on looking for requests; then it "
             "sleeps at once, as with --poll-us=0, until the share allows more",
     .default_value = "100",
     .number_min = 1,
     .number_max = 100},
    {.name = "postcopy",
     .kind = OptionKind::kFlag,
     .help = kPortableBuild
                 ? "Refused: this build has no userfaultfd"
                 : "Let guests migrate here by postcopy, where they run before their memory has "
                   "come; needs access to /dev/userfaultfd or vm.unprivileged_userfaultfd=1, and "
                   "then no virtual IOMMU is offered"},
}};

constexpr std::array<std::string_view, 3> kLoops = {"auto", "asio", "uring"};
/// The portable build takes a name less.
constexpr std::span<const std::string_view> kLoopChoices =
    std::span(kLoops).first(kPortableBuild ? 2 : 3);
constexpr std::string_view kLoopHelp =
    kPortableBuild ? "How threads wait and do I/O: asio (the portable way), or auto, which is the "
                     "same here: this build has no io_uring"
                   : "How threads wait and do I/O: uring (io_uring), asio (the portable way), or "
                     "auto: io_uring where the kernel allows it";
constexpr std::array<std::string_view, 6> kLogLevels = {
    "off", "error", "warning", "info", "debug", "trace"};

constexpr std::array<std::string_view, 4> kKeepers = {"none", "auto", "fork", "systemd"};
/// The portable build has none.
constexpr std::span<const std::string_view> kKeeperChoices =
    std::span(kKeepers).first(kPortableBuild ? 1 : 4);
constexpr std::string_view kKeeperHelp =
    kPortableBuild
        ? "Who starts the program again when it is killed: none; this build knows nobody"
        : "Who starts the program again when it is killed, so that front ends do not notice: fork, "
          "a small parent process; systemd, by its descriptor store; auto: systemd where "
          "$FDSTORE says that it has one, else fork; or none";

constexpr std::array<std::string_view, 5> kSandboxModes = {
    "standard", "strict", "log", "none", "on"};

constexpr std::array<OptionSpec, 22> kProcessOptions = {{
    {.name = "device",
     .value_name = "KEY=VALUE,...",
     .help = "Serve one device with these options (names as above, without dashes; a comma in a "
             "value is doubled); may be repeated, and options outside are then defaults for all",
     .is_of_command_line = true},
    {.name = "config",
     .value_name = "FILE",
     .help =
         "Serve devices that are sections of FILE, [NAME], whose lines are KEY = VALUE with the "
         "keys of --device; keys before the first section are for all, and options of the process "
         "without their dashes, like sandbox or metrics, where the command line does not have them "
         "(a flag takes on or off). With --keeper=fork, SIGHUP has FILE read again: sections that "
         "are new are served, and those that are gone are not any more, while all others go on; "
         "where FILE is wrong, nothing changes",
     .is_of_command_line = true},
    {.name = "check",
     .kind = OptionKind::kFlag,
     .help = "Only look at the options and the file of --config: nothing is opened or served. The "
             "exit status is 0 when nothing is wrong with them, else 2, and a line says what, with "
             "the line of FILE",
     .is_of_command_line = true},
    {.name = "control-socket",
     .value_name = "PATH",
     .help = "Listen for outriggerctl on a Unix socket at PATH, for the user of this program and "
             "root alone"},
    {.name = "control-fd",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Take that socket from inherited descriptor N, which listens or is already connected",
     .number_min = 3,
     .number_max = 1'000'000},
    {.name = "control-fd-name",
     .value_name = "NAME",
     .help = "Take that socket from the service manager, as --fd-name does"},
    {.name = "metrics",
     .value_name = "WHERE",
     .help = "Tell Prometheus, by HTTP at /metrics, what the queues and devices count and how long "
             "requests take: on a Unix socket for our own user (unix:PATH), or for whoever reaches "
             "an address and a port like 127.0.0.1:9100"},
    {.name = "metrics-fd-name",
     .value_name = "NAME",
     .help = "Tell that on the socket that the service manager passes under this name, of Unix or "
             "TCP, for whoever its unit lets in"},
    {.name = "io",
     .kind = OptionKind::kChoice,
     .value_name = "KIND",
     .help = kLoopHelp,
     .default_value = "auto",
     .choices = kLoopChoices},
    {.name = "sandbox",
     .kind = OptionKind::kChoice,
     .value_name = "MODE",
     .help = "Once everything is open, give up all capabilities, the file system, the network and "
             "every system call that is not needed: standard, also called on, with whatever of "
             "that can be had here, and what cannot is logged; strict, which does not start "
             "without all of it; log, which is standard where a line says which system call was "
             "not allowed, and the exit status is 1 in place of SIGSYS; or none",
     .default_value = "standard",
     .choices = kSandboxModes},
    {.name = "keeper",
     .kind = OptionKind::kChoice,
     .value_name = "KIND",
     .help = kKeeperHelp,
     .default_value = kPortableBuild ? "none" : "auto",
     .choices = kKeeperChoices},
    {.name = "keeper-restarts",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "With --keeper=fork, start the program again at most N times in 10 seconds; a kill "
             "beyond ends it, with exit status 1, and its front ends see the sockets closed",
     .default_value = "5",
     .number_max = 1'000'000},
    {.name = "take-over",
     .kind = OptionKind::kNumber,
     .value_name = "PID",
     .help = "Serve nothing, but have the keeper that is process PID go on with this binary in "
             "place of the one that runs, and exit when it does; if it does not serve within 2 "
             "seconds the keeper goes back, and the exit status is 3; 1 when nothing has changed",
     .number_min = 1,
     .number_max = 0x7fff'ffff,
     .is_of_command_line = true},
    {.name = "exit-on-disconnect",
     .kind = OptionKind::kFlag,
     .help = "Exit when the front end of every device has come and gone, instead of listening "
             "again"},
    {.name = "message-timeout-ms",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Close a session whose front end began a message and does not go on for N "
             "milliseconds; let another front end wait for a device in use up to twice as long",
     .default_value = "10000",
     .number_min = 1,
     .number_max = 3'600'000},
    {.name = "require-sealed",
     .kind = OptionKind::kFlag,
     .help = "Refuse guest memory, and dirty logs, whose file could be truncated: only memfds "
             "sealed against shrinking are accepted (QEMU: memory-backend-memfd)"},
    {.name = "log-level",
     .kind = OptionKind::kChoice,
     .value_name = "LEVEL",
     .help = "Write log lines of this level and above: error (cannot go on), warning (a peer or "
             "the host misbehaved), info (connections), debug (messages), trace (requests), or "
             "off for none",
     .default_value = "info",
     .choices = kLogLevels},
    {.name = "print-capabilities",
     .kind = OptionKind::kFlag,
     .help = "Print what this program is, as JSON, and exit; all else is ignored",
     .is_of_command_line = true},
    {.name = "help",
     .kind = OptionKind::kFlag,
     .help = "Print this help and exit",
     .is_of_command_line = true},
    {.name = "version",
     .kind = OptionKind::kFlag,
     .help = "Print the version and exit",
     .is_of_command_line = true},
    {.name = "socket",
     .value_name = "PATH",
     .help = "The same as --socket-path, as other daemons call it",
     .hidden = true,
     .is_of_command_line = true},
    {.name = "print-man-page",
     .value_name = "TEMPLATE",
     .help = "Print the man page made from this file",
     .hidden = true,
     .is_of_command_line = true},
}};

}  // namespace

std::span<const OptionSpec> device_common_options() {
    return kDeviceCommonOptions;
}

std::span<const OptionSpec> process_options() {
    return kProcessOptions;
}

}  // namespace outrigger
