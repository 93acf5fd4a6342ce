// SPDX-License-Identifier: Apache-2.0
// The options as a table, and the names of what they choose between.
#include <algorithm>
#include <array>

#include <sched.h>

#include "tools/driver/ring_types.h"
#include "tools/outrigger-bench/bench_options.h"

namespace outrigger::bench {
namespace {

constexpr std::array<std::string_view, 6> kWorkloadNames = {
    "blk", "rng", "vsock", "fs", "console", "net"};
constexpr auto kAccessNames = std::to_array<std::string_view>({"read",
                                                               "write",
                                                               "randread",
                                                               "randwrite",
                                                               "randrw",
                                                               "flush",
                                                               "to-host",
                                                               "to-guest",
                                                               "round-trip",
                                                               "stalled",
                                                               "echo",
                                                               "getattr",
                                                               "lookup",
                                                               "stat",
                                                               "create",
                                                               "readdirplus"});
constexpr std::array<std::string_view, 2> kRingNames = {"split", "packed"};
constexpr std::array<std::string_view, 2> kCompletionNames = {"spin", "eventfd"};
constexpr std::array<std::string_view, 3> kWriteCacheNames = {"as-is", "writeback", "writethrough"};

// Linux has no more processes.
constexpr uint64_t kProcessMax = 1 << 22;
constexpr uint64_t kCpuMax = CPU_SETSIZE - 1;
// A split ring holds 32768 descriptors, and a request of a disk takes up to three of them.
constexpr uint64_t kDepthMax = 8192;
constexpr uint64_t kConnectionsMax = 256;
// VIRTIO 1.3, 5.3.2: max_nr_ports of Linux and of ours.
constexpr uint64_t kPortMax = 30;
constexpr uint64_t kFilesMax = 100'000;

constexpr std::array kOptions = std::to_array<OptionSpec>({
    {.name = "a", .value_name = "SOCKET", .help = "Unix socket of the back end A"},
    {.name = "b",
     .value_name = "SOCKET",
     .help = "Unix socket of the back end B, which takes turns with A; without it only A is "
             "measured"},
    {.name = "a-pid",
     .kind = OptionKind::kNumber,
     .value_name = "PID",
     .help = "Process of A, whose processor time is measured; without it the one that listens on "
             "its socket",
     .number_min = 1,
     .number_max = kProcessMax},
    {.name = "a-command",
     .value_name = "COMMAND",
     .help = "Start A with this command, one program and its arguments as a shell reads them, "
             "and end it when all is measured"},
    {.name = "a-cpu",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Processor on which what --a-command starts runs",
     .number_max = kCpuMax},
    {.name = "b-pid",
     .kind = OptionKind::kNumber,
     .value_name = "PID",
     .help = "Process of B, whose processor time is measured; without it the one that listens on "
             "its socket",
     .number_min = 1,
     .number_max = kProcessMax},
    {.name = "b-command",
     .value_name = "COMMAND",
     .help = "Start B with this command, one program and its arguments as a shell reads them, "
             "and end it when all is measured"},
    {.name = "b-cpu",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Processor on which what --b-command starts runs",
     .number_max = kCpuMax},
    {.name = "rw",
     .kind = OptionKind::kChoice,
     .value_name = "ACCESS",
     .help =
         "What is asked for. Of a disk: read, write, randread (unless it is said), randwrite, "
         "randrw or flush. Of a share: the same but for flush, or getattr, lookup, stat (both), "
         "create (and write, close, unlink, forget) or readdirplus (all of a directory). Of "
         "sockets, a console and a network: to-host (unless it is said), to-guest or round-trip; "
         "of the latter two also stalled: nobody reads at the host, or nobody is there; of a "
         "network also echo: the back end itself sends frames back",
     .choices = kAccessNames},
    {.name = "rwmixread",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Percentage of reads of randrw",
     .default_value = "50",
     .number_max = 100},
    {.name = "flush-every",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Ask a disk for a flush in place of each Nth request; 0: never",
     .default_value = "0",
     .number_max = UINT32_MAX},
    {.name = "bs",
     .kind = OptionKind::kSize,
     .value_name = "BYTES",
     .help = "Bytes of one request, 4096 unless it is said: of a disk and a share a multiple of "
             "512; of sockets and a console what is written at a time, which counts as a request "
             "when all of it has arrived; of a network those of a frame, 1514 unless it is said",
     .number_min = 1,
     .number_max = 64 << 20},
    {.name = "size",
     .kind = OptionKind::kSize,
     .value_name = "BYTES",
     .help = "Use only so much of a disk, from its beginning; 0: all of it, but with --verify 64M. "
             "Of a share, whose queues have a file each: all files together; 0: 64M",
     .default_value = "0"},
    {.name = "write-cache",
     .kind = OptionKind::kChoice,
     .value_name = "HOW",
     .help = "Tell a disk that lets its driver choose: writeback, writethrough, or nothing (as-is)",
     .default_value = "as-is",
     .choices = kWriteCacheNames},
    {.name = "a-host",
     .value_name = "PATH",
     .help =
         "The host's side of A: of sockets what its --uds-path is, of a console the Unix socket "
         "of its port, of a network the Unix stream socket at which it listens"},
    {.name = "b-host",
     .value_name = "PATH",
     .help =
         "The host's side of B: of sockets what its --uds-path is, of a console the Unix socket "
         "of its port, of a network the Unix stream socket at which it listens"},
    {.name = "port",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Number of a console's port; without it the one port of a console without numbers",
     .number_max = kPortMax},
    {.name = "rate",
     .kind = OptionKind::kSize,
     .value_name = "BYTES",
     .help = "Bytes that the guest sends in a second through a console or into a network, for "
             "to-host, stalled and echo; 0: as many as it can",
     .default_value = "0"},
    {.name = "files",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Files of the directory in which a share is asked for names and attributes",
     .default_value = "1000",
     .number_min = 1,
     .number_max = kFilesMax},
    {.name = "direct",
     .kind = OptionKind::kFlag,
     .help = "Open the files of a share with O_DIRECT, for their data"},
    {.name = "connections",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Connections between guest and host, which take turns",
     .default_value = "1",
     .number_min = 1,
     .number_max = kConnectionsMax},
    {.name = "depth",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Requests in flight in each queue; of sockets, a console and a network buffers that "
             "the guest sends",
     .default_value = "32",
     .number_min = 1,
     .number_max = kDepthMax},
    {.name = "queues",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Queues, each driven by a thread of its own",
     .default_value = "1",
     .number_min = 1,
     .number_max = 128},
    {.name = "cpus",
     .value_name = "LIST",
     .help =
         "Processors of the driver's threads, one for each queue and then from the first again: "
         "1,3,5. Without it they run where this program may"},
    {.name = "ring-size",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Descriptors of a ring, a power of two; 0: 256, or as many as --depth needs",
     .default_value = "0",
     .number_max = driver::kRingSizeMax},
    {.name = "ring",
     .kind = OptionKind::kChoice,
     .value_name = "FORMAT",
     .help = "Rings: split, or packed where the back end has them",
     .default_value = "split",
     .choices = kRingNames},
    {.name = "indirect",
     .kind = OptionKind::kFlag,
     .help = "Describe each request by an indirect table where the back end takes them"},
    {.name = "no-event-idx",
     .kind = OptionKind::kFlag,
     .help = "Do without EVENT_IDX: kicks and calls are switched on and off by flags"},
    {.name = "completion",
     .kind = OptionKind::kChoice,
     .value_name = "HOW",
     .help = "How completions are found: spin looks at the rings all the time, eventfd sleeps "
             "until the back end calls",
     .default_value = "spin",
     .choices = kCompletionNames},
    {.name = "rounds",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Rounds for each back end, after one that does not count",
     .default_value = "20",
     .number_min = 1,
     .number_max = 100'000},
    {.name = "round-ms",
     .kind = OptionKind::kNumber,
     .value_name = "MS",
     .help = "Milliseconds of one round",
     .default_value = "250",
     .number_min = 1,
     .number_max = 3'600'000},
    {.name = "timeout",
     .kind = OptionKind::kNumber,
     .value_name = "MS",
     .help = "Milliseconds without any answer after which a back end is given up, also when it is "
             "connected to",
     .default_value = "10000",
     .number_min = 100,
     .number_max = 3'600'000},
    {.name = "system-calls",
     .kind = OptionKind::kFlag,
     .help = "Count the system calls of the back ends, in a round of its own for each: counting "
             "them takes time. It needs the kernel's trace points, and with them mostly root; "
             "without, only reads and writes are counted"},
    {.name = "calibrate",
     .kind = OptionKind::kFlag,
     .help = "Measure only what this program itself costs, with a device that answers at once in "
             "the same thread; no back end is needed"},
    {.name = "device-cpu",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help =
         "With --calibrate: the device has a thread of its own on this processor, and waits as "
         "--completion says: what two processors can do at most, the floor under every back end",
     .number_max = kCpuMax},
    {.name = "verify",
     .kind = OptionKind::kFlag,
     .help = "Check the content of all answers. A disk is filled first (what it held is lost), "
             "it is known what each block holds, and all of it is read at the end; each byte of a "
             "stream must be the one that was sent. Not of create and stalled, whose answers hold "
             "nothing"},
    {.name = "verify-state",
     .value_name = "FILE",
     .help =
         "With --verify: keep what each block must hold in a file, also when the back end is "
         "lost. When the file exists, the disk is not filled but must hold what was flushed, "
         "or something newer; then the file is removed until the end. With more queues than one "
         "each has its own, FILE.0 and so on"},
    {.name = "json", .kind = OptionKind::kFlag, .help = "Print one JSON object"},
    {.name = "help", .kind = OptionKind::kFlag, .help = "Print this and exit"},
    {.name = "version", .kind = OptionKind::kFlag, .help = "Print the version and exit"},
    {.name = "print-man-page",
     .value_name = "TEMPLATE",
     .help = "Print the man page",
     .hidden = true},
});

template <class T, size_t N>
std::optional<T> named(const std::array<std::string_view, N>& names, std::string_view name) {
    const auto found = std::ranges::find(names, name);
    return found == names.end() ? std::nullopt
                                : std::optional(static_cast<T>(found - names.begin()));
}

}  // namespace

std::span<const OptionSpec> bench_options() {
    return kOptions;
}

std::span<const std::string_view> workload_names() {
    return kWorkloadNames;
}

std::string_view name_of(WorkloadKind workload) {
    return kWorkloadNames[static_cast<size_t>(workload)];
}

std::string_view name_of(Access access) {
    return kAccessNames[static_cast<size_t>(access)];
}

std::optional<WorkloadKind> workload_named(std::string_view name) {
    return named<WorkloadKind>(kWorkloadNames, name);
}

std::optional<Access> access_named(std::string_view name) {
    return named<Access>(kAccessNames, name);
}

std::optional<WriteCache> write_cache_named(std::string_view name) {
    return named<WriteCache>(kWriteCacheNames, name);
}

}  // namespace outrigger::bench
