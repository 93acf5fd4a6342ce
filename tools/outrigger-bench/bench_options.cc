// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/bench_options.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <utility>
#include <vector>

#include <sched.h>

#include "vhost-user-backend/daemon/option_parser.h"

#include "tools/driver/ring_types.h"

namespace outrigger::bench {
namespace {

constexpr std::array<std::string_view, 2> kWorkloadNames = {"blk", "rng"};
constexpr std::array<std::string_view, 6> kAccessNames = {
    "read", "write", "randread", "randwrite", "randrw", "flush"};
constexpr std::array<std::string_view, 2> kRingNames = {"split", "packed"};
constexpr std::array<std::string_view, 2> kCompletionNames = {"spin", "eventfd"};
constexpr std::array<std::string_view, 3> kWriteCacheNames = {"as-is", "writeback", "writethrough"};

// Linux has no more processes.
constexpr uint64_t kProcessMax = 1 << 22;
constexpr uint64_t kCpuMax = CPU_SETSIZE - 1;
// A split ring holds 32768 descriptors, and a request takes up to four of them.
constexpr uint64_t kDepthMax = 8192;

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
     .help = "What a disk is asked for: read, write, randread, randwrite, randrw or flush",
     .default_value = "randread",
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
     .help = "Bytes of one request: of a disk a multiple of 512",
     .default_value = "4096",
     .number_min = 1,
     .number_max = 64 << 20},
    {.name = "size",
     .kind = OptionKind::kSize,
     .value_name = "BYTES",
     .help = "Use only so much of a disk, from its beginning; 0: all of it, but with --verify 64M",
     .default_value = "0"},
    {.name = "write-cache",
     .kind = OptionKind::kChoice,
     .value_name = "HOW",
     .help = "Tell a disk that lets its driver choose: writeback, writethrough, or nothing (as-is)",
     .default_value = "as-is",
     .choices = kWriteCacheNames},
    {.name = "depth",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Requests in flight in each queue",
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
     .help = "Check what a disk reads: fill it first (what it held is lost), know what each block "
             "holds, and read all of it at the end"},
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

/// The value of an option that has a default, as the narrower type that its range fits.
template <class T>
T number(const OptionValues& values, std::string_view name) {
    return static_cast<T>(values.number(name).value_or(0));
}

Target target(const OptionValues& values, char side) {
    const std::string name(1, side);
    const auto integer = [&](std::string_view suffix) {
        const auto value = values.number(name + std::string(suffix));
        return value ? std::optional(static_cast<int>(*value)) : std::nullopt;
    };
    return {.socket = values.text(name).value_or(""),
            .pid = integer("-pid"),
            .command = values.text(name + "-command").value_or(""),
            .cpu = integer("-cpu")};
}

template <size_t N>
size_t position(const std::array<std::string_view, N>& names, std::string_view name) {
    return static_cast<size_t>(std::ranges::find(names, name) - names.begin());
}

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

BenchPlan plan_of(const OptionValues& values, WorkloadKind workload) {
    BenchPlan plan;
    plan.workload = workload;
    plan.a = target(values, 'a');
    if (values.has("b")) {
        plan.b = target(values, 'b');
    }
    plan.access = static_cast<Access>(position(kAccessNames, values.text("rw").value_or("")));
    plan.read_percent = number<uint32_t>(values, "rwmixread");
    plan.flush_every = number<uint32_t>(values, "flush-every");
    plan.area_bytes = number<uint64_t>(values, "size");
    plan.block_bytes = number<uint32_t>(values, "bs");
    plan.depth = number<uint32_t>(values, "depth");
    plan.queues = number<uint16_t>(values, "queues");
    plan.write_cache = static_cast<WriteCache>(
        position(kWriteCacheNames, values.text("write-cache").value_or("")));
    plan.ring_size = number<uint16_t>(values, "ring-size");
    plan.event_idx = !values.flag("no-event-idx");
    plan.patience = std::chrono::milliseconds(number<uint32_t>(values, "timeout"));
    plan.system_calls = values.flag("system-calls");
    if (const auto cpu = values.number("device-cpu")) {
        plan.device_cpu = static_cast<int>(*cpu);
    }
    plan.packed = values.text("ring") == "packed";
    plan.indirect = values.flag("indirect");
    plan.spin = values.text("completion") == "spin";
    plan.rounds = number<uint32_t>(values, "rounds");
    plan.round_time = std::chrono::milliseconds(number<uint32_t>(values, "round-ms"));
    plan.verify = values.flag("verify");
    plan.verify_state = values.text("verify-state").value_or("");
    plan.json = values.flag("json");
    return plan;
}

/// "1,3,5".
Result<std::vector<int>> parse_cpus(std::string_view text) {
    std::vector<int> cpus;
    const char* at = text.data();
    const char* const end = at + text.size();
    while (true) {
        int cpu = -1;
        const auto [rest, error] = std::from_chars(at, end, cpu);
        if (error != std::errc() || cpu < 0 || static_cast<uint64_t>(cpu) > kCpuMax ||
            (rest != end && *rest != ',')) {
            return refuse("--cpus takes numbers of processors with commas between them, not '" +
                          std::string(text) + "'");
        }
        cpus.push_back(cpu);
        if (rest == end) {
            return cpus;
        }
        at = rest + 1;
    }
}

/// The ring, when it is not given: with room for all requests at once.
Result<void> choose_ring_size(BenchPlan& plan) {
    constexpr uint32_t kUsualSize = 256;
    const uint32_t needed = plan.depth * descriptors_per_request(plan);
    if (plan.ring_size == 0) {
        plan.ring_size = static_cast<uint16_t>(std::max(kUsualSize, std::bit_ceil(needed)));
        return {};
    }
    if (!std::has_single_bit(plan.ring_size)) {
        return refuse("--ring-size is a power of two");
    }
    if (plan.ring_size < needed) {
        return refuse("--ring-size must be at least " + std::to_string(needed) +
                      ": a request takes up to " + std::to_string(descriptors_per_request(plan)) +
                      " descriptors");
    }
    return {};
}

Result<void> check_targets(const BenchPlan& plan, const OptionValues& given) {
    if (plan.a.socket.empty() && plan.action == BenchAction::kMeasure) {
        return refuse("--a is missing: the socket of the back end");
    }
    for (const std::string_view name : {"b-pid", "b-command", "b-cpu"}) {
        if (given.has(name) && !plan.b) {
            return refuse("--" + std::string(name) + " needs --b");
        }
    }
    if ((plan.a.cpu && plan.a.command.empty()) ||
        (plan.b && plan.b->cpu && plan.b->command.empty())) {
        return refuse("--a-cpu and --b-cpu are of what --a-command and --b-command start");
    }
    if (plan.device_cpu && plan.action != BenchAction::kCalibrate) {
        return refuse("--device-cpu needs --calibrate");
    }
    if (plan.verify && plan.action == BenchAction::kCalibrate) {
        return refuse("--verify needs a back end: leave --calibrate out");
    }
    if (!plan.verify_state.empty() && !plan.verify) {
        return refuse("--verify-state needs --verify");
    }
    if (!plan.verify_state.empty() && plan.b) {
        return refuse("--verify-state is of one back end: leave --b out");
    }
    return {};
}

Result<void> check_disk(const BenchPlan& plan) {
    if (plan.block_bytes % 512 != 0) {
        return refuse("--bs of a disk is a multiple of 512");
    }
    if (plan.area_bytes != 0 && plan.area_bytes < plan.block_bytes) {
        return refuse("--size has no room for one block of --bs");
    }
    return {};
}

/// What no option says alone.
Result<void> check_plan(BenchPlan& plan, const OptionValues& given) {
    OUTRIGGER_TRY(check_targets(plan, given));
    OUTRIGGER_TRY(choose_ring_size(plan));
    if (const auto cpus = given.text("cpus")) {
        plan.cpus = OUTRIGGER_TRY(parse_cpus(*cpus));
    }
    if (plan.workload == WorkloadKind::kBlk) {
        return check_disk(plan);
    }
    for (const std::string_view name :
         {"rw", "rwmixread", "flush-every", "size", "write-cache", "verify", "verify-state"}) {
        if (given.has(name)) {
            return refuse("--" + std::string(name) + " is of blk only");
        }
    }
    if (plan.queues != 1) {
        return refuse("an entropy device has one queue");
    }
    return {};
}

std::optional<WorkloadKind> workload_named(std::string_view name) {
    const size_t index = position(kWorkloadNames, name);
    return index < kWorkloadNames.size() ? std::optional(static_cast<WorkloadKind>(index))
                                         : std::nullopt;
}

}  // namespace

std::span<const OptionSpec> bench_options() {
    return kOptions;
}

std::string_view name_of(WorkloadKind workload) {
    return kWorkloadNames[static_cast<size_t>(workload)];
}

std::string_view name_of(Access access) {
    return kAccessNames[static_cast<size_t>(access)];
}

uint32_t descriptors_per_request(const BenchPlan& plan) {
    // Of a disk: header, data, status. A back end may have no indirect tables, so they do not
    // count.
    return plan.workload == WorkloadKind::kBlk ? 3 : 1;
}

Result<BenchPlan> parse_bench_options(std::span<const char* const> arguments) {
    std::optional<WorkloadKind> workload;
    if (!arguments.empty() && arguments.front()[0] != '-') {
        workload = workload_named(arguments.front());
        if (!workload) {
            return refuse("there is no workload '" + std::string(arguments.front()) +
                          "': it is blk or rng");
        }
        arguments = arguments.subspan(1);
    }
    std::vector<const OptionSpec*> table;
    for (const OptionSpec& spec : kOptions) {
        table.push_back(&spec);
    }
    OptionValues given;
    for (const GivenOption& option : OUTRIGGER_TRY(split_arguments(arguments, table))) {
        OUTRIGGER_TRY(given.set(*option.spec, option.text));
    }
    if (given.flag("help") || given.flag("version")) {
        return BenchPlan{.action = given.flag("help") ? BenchAction::kHelp : BenchAction::kVersion};
    }
    if (const auto page = given.text("print-man-page")) {
        return BenchPlan{.action = BenchAction::kManPage, .man_page_template = *page};
    }
    if (!workload) {
        return refuse("the workload is missing: blk or rng, before all options");
    }
    OptionValues values = given;
    values.set_defaults(kOptions);
    BenchPlan plan = plan_of(values, *workload);
    plan.action = given.flag("calibrate") ? BenchAction::kCalibrate : BenchAction::kMeasure;
    OUTRIGGER_TRY(check_plan(plan, given));
    return plan;
}

}  // namespace outrigger::bench
