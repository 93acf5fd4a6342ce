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
            .cpu = integer("-cpu"),
            .host_path = values.text(name + "-host").value_or("")};
}

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

constexpr std::array kDiskAccesses = {Access::kRandRead,
                                      Access::kRead,
                                      Access::kWrite,
                                      Access::kRandWrite,
                                      Access::kRandRw,
                                      Access::kFlush};
// What is asked for of a device that has nothing to choose.
constexpr std::array kOneAccess = {Access::kRead};
constexpr std::array kSocketAccesses = {Access::kToHost, Access::kToGuest, Access::kRoundTrip};
constexpr std::array kShareAccesses = {Access::kRandRead,
                                       Access::kRead,
                                       Access::kWrite,
                                       Access::kRandWrite,
                                       Access::kRandRw,
                                       Access::kGetattr,
                                       Access::kLookup,
                                       Access::kStat,
                                       Access::kCreate,
                                       Access::kReadDirectory};
constexpr std::array kConsoleAccesses = {
    Access::kToHost, Access::kToGuest, Access::kRoundTrip, Access::kStalled};
constexpr std::array kNetworkAccesses = {
    Access::kToHost, Access::kToGuest, Access::kRoundTrip, Access::kStalled, Access::kEcho};

constexpr std::array<std::string_view, 8> kDiskOptions = {
    "rw", "rwmixread", "flush-every", "size", "write-cache", "verify", "verify-state", "calibrate"};
constexpr std::array<std::string_view, 1> kEntropyOptions = {"calibrate"};
constexpr std::array<std::string_view, 5> kSocketOptions = {
    "rw", "verify", "connections", "a-host", "b-host"};
constexpr std::array<std::string_view, 7> kShareOptions = {
    "rw", "rwmixread", "size", "verify", "files", "direct", "calibrate"};
constexpr std::array<std::string_view, 6> kConsoleOptions = {
    "rw", "verify", "port", "rate", "a-host", "b-host"};
constexpr std::array<std::string_view, 5> kNetworkOptions = {
    "rw", "verify", "rate", "a-host", "b-host"};

/// What is particular to devices of one type.
struct Kinds {
    std::span<const Access> accesses;           ///< the first is the default
    std::span<const std::string_view> options;  ///< of those that are not for all devices
};

Kinds kinds_of(WorkloadKind workload) {
    switch (workload) {
        case WorkloadKind::kBlk:
            return {.accesses = kDiskAccesses, .options = kDiskOptions};
        case WorkloadKind::kVsock:
            return {.accesses = kSocketAccesses, .options = kSocketOptions};
        case WorkloadKind::kFs:
            return {.accesses = kShareAccesses, .options = kShareOptions};
        case WorkloadKind::kConsole:
            return {.accesses = kConsoleAccesses, .options = kConsoleOptions};
        case WorkloadKind::kNet:
            return {.accesses = kNetworkAccesses, .options = kNetworkOptions};
        case WorkloadKind::kRng:
            break;
    }
    return {.accesses = kOneAccess, .options = kEntropyOptions};
}

/// "blk, rng or vsock".
std::string all_workloads() {
    const auto names = workload_names();
    std::string text(names.front());
    for (size_t i = 1; i < names.size(); ++i) {
        text += i + 1 < names.size() ? ", " : " or ";
        text += names[i];
    }
    return text;
}

BenchPlan plan_of(const OptionValues& values, WorkloadKind workload) {
    BenchPlan plan;
    plan.workload = workload;
    plan.a = target(values, 'a');
    if (values.has("b")) {
        plan.b = target(values, 'b');
    }
    plan.access =
        access_named(values.text("rw").value_or("")).value_or(kinds_of(workload).accesses.front());
    plan.connections = number<uint32_t>(values, "connections");
    if (const auto port = values.number("port")) {
        plan.port = static_cast<uint32_t>(*port);
    }
    plan.bytes_per_second = number<uint64_t>(values, "rate");
    plan.files = number<uint32_t>(values, "files");
    plan.direct = values.flag("direct");
    plan.read_percent = number<uint32_t>(values, "rwmixread");
    plan.flush_every = number<uint32_t>(values, "flush-every");
    plan.area_bytes = number<uint64_t>(values, "size");
    plan.block_bytes = workload == WorkloadKind::kNet ? kFrameBytesDefault : kBlockBytesDefault;
    if (values.has("bs")) {
        plan.block_bytes = number<uint32_t>(values, "bs");
    }
    plan.depth = number<uint32_t>(values, "depth");
    plan.queues = number<uint16_t>(values, "queues");
    plan.write_cache =
        write_cache_named(values.text("write-cache").value_or("")).value_or(WriteCache::kAsItIs);
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
        if (error != std::errc() || cpu < 0 || cpu >= CPU_SETSIZE ||
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
    const uint32_t needed = plan.depth * descriptors_per_request(plan) +
                            (plan.workload == WorkloadKind::kVsock ? kControlPacketsMax : 0);
    if (needed > driver::kRingSizeMax) {
        return refuse("--depth of " + std::string(name_of(plan.workload)) + " is at most " +
                      std::to_string(driver::kRingSizeMax / descriptors_per_request(plan)) +
                      ": a ring has no room for more");
    }
    if (plan.ring_size == 0) {
        plan.ring_size = static_cast<uint16_t>(std::max(kUsualSize, std::bit_ceil(needed)));
        return {};
    }
    if (!std::has_single_bit(plan.ring_size)) {
        return refuse("--ring-size is a power of two");
    }
    if (plan.ring_size < needed) {
        return refuse(
            "--ring-size must be at least " + std::to_string(needed) + ": a request takes up to " +
            std::to_string(descriptors_per_request(plan)) + " descriptors" +
            (plan.workload == WorkloadKind::kVsock ? ", and there are other packets" : ""));
    }
    return {};
}

Result<void> check_targets(const BenchPlan& plan, const OptionValues& given) {
    if (plan.a.socket.empty() && plan.action == BenchAction::kMeasure) {
        return refuse("--a is missing: the socket of the back end");
    }
    for (const std::string_view name : {"b-pid", "b-command", "b-cpu", "b-host"}) {
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

/// Of a disk and a share.
Result<void> check_blocks(const BenchPlan& plan) {
    if (plan.block_bytes % 512 != 0) {
        return refuse("--bs of a disk or a share is a multiple of 512");
    }
    if (plan.area_bytes != 0 && plan.area_bytes < plan.block_bytes) {
        return refuse("--size has no room for one block of --bs");
    }
    return {};
}

/// Accesses for which nobody need be at the host.
bool is_without_host(Access access) {
    return access == Access::kStalled || access == Access::kEcho;
}

Result<void> check_streams(const BenchPlan& plan) {
    if (plan.workload == WorkloadKind::kNet &&
        (plan.block_bytes < 60 || plan.block_bytes > 65535)) {
        return refuse("--bs of net is a frame's: 60 to 65535");
    }
    const uint32_t bytes_max = plan.access == Access::kRoundTrip ? 64 << 10 : 1 << 20;
    if (plan.block_bytes > bytes_max) {
        return refuse("--bs of " + std::string(name_of(plan.workload)) + " " +
                      std::string(name_of(plan.access)) + " is at most " +
                      std::to_string(bytes_max));
    }
    if (!is_without_host(plan.access) &&
        (plan.a.host_path.empty() || (plan.b && plan.b->host_path.empty()))) {
        return refuse("the host's side is missing: --a-host, and --b-host with --b");
    }
    return {};
}

/// Options and values that another type of device has.
Result<void> check_kind(const BenchPlan& plan, const OptionValues& given) {
    const Kinds own = kinds_of(plan.workload);
    for (const std::string_view name : workload_names()) {
        for (const std::string_view option : kinds_of(*workload_named(name)).options) {
            if (given.has(option) && std::ranges::find(own.options, option) == own.options.end()) {
                return refuse("--" + std::string(option) + " is not of " +
                              std::string(name_of(plan.workload)));
            }
        }
    }
    if (std::ranges::find(own.accesses, plan.access) == own.accesses.end()) {
        return refuse("--rw=" + std::string(name_of(plan.access)) + " is not of " +
                      std::string(name_of(plan.workload)));
    }
    if (plan.queues != 1 && plan.workload != WorkloadKind::kBlk &&
        plan.workload != WorkloadKind::kFs) {
        return refuse("--queues above 1 is not of " + std::string(name_of(plan.workload)));
    }
    return {};
}

/// An option, and the accesses that it changes nothing of.
struct Effect {
    std::string_view option;
    bool (*lacks)(Access access);
};

constexpr std::array kEffects = std::to_array<Effect>({
    {"rwmixread", [](Access access) { return access != Access::kRandRw; }},
    {"flush-every", [](Access access) { return access == Access::kFlush; }},
    {"files", [](Access access) { return !asks_for_names(access); }},
    {"size", asks_for_names},
    {"direct", asks_for_names},
    {"bs",
     [](Access access) {
         return access == Access::kGetattr || access == Access::kLookup || access == Access::kStat;
     }},
    {"verify",
     [](Access access) { return access == Access::kStalled || access == Access::kCreate; }},
    {"depth", [](Access access) { return access == Access::kToGuest; }},
    {"rate",
     [](Access access) { return access == Access::kToGuest || access == Access::kRoundTrip; }},
    {"a-host", [](Access access) { return access == Access::kEcho; }},
    {"b-host", [](Access access) { return access == Access::kEcho; }},
});

Result<void> check_effects(const BenchPlan& plan, const OptionValues& given) {
    for (const Effect& effect : kEffects) {
        if (given.has(effect.option) && effect.lacks(plan.access)) {
            return refuse("--" + std::string(effect.option) +
                          " changes nothing of --rw=" + std::string(name_of(plan.access)));
        }
    }
    return {};
}

/// What no option says alone.
Result<void> check_plan(BenchPlan& plan, const OptionValues& given) {
    OUTRIGGER_TRY(check_kind(plan, given));
    OUTRIGGER_TRY(check_effects(plan, given));
    OUTRIGGER_TRY(check_targets(plan, given));
    OUTRIGGER_TRY(choose_ring_size(plan));
    if (const auto cpus = given.text("cpus")) {
        plan.cpus = OUTRIGGER_TRY(parse_cpus(*cpus));
    }
    if (plan.workload == WorkloadKind::kBlk || plan.workload == WorkloadKind::kFs) {
        return check_blocks(plan);
    }
    return has_streams(plan.workload) ? check_streams(plan) : Result<void>();
}

}  // namespace

bool has_streams(WorkloadKind workload) {
    return workload == WorkloadKind::kVsock || workload == WorkloadKind::kConsole ||
           workload == WorkloadKind::kNet;
}

bool asks_for_names(Access access) {
    return access >= Access::kGetattr;
}

uint32_t descriptors_per_request(const BenchPlan& plan) {
    // A back end may have no indirect tables, so they do not count.
    switch (plan.workload) {
        case WorkloadKind::kBlk:
            return 3;  // header, data, status
        case WorkloadKind::kVsock:
        case WorkloadKind::kNet:
            return 2;  // header, data
        case WorkloadKind::kFs:
            return 6;  // header, two arguments, and the same of the answer
        case WorkloadKind::kRng:
        case WorkloadKind::kConsole:
            break;
    }
    return 1;
}

Result<BenchPlan> parse_bench_options(std::span<const char* const> arguments) {
    std::optional<WorkloadKind> workload;
    if (!arguments.empty() && arguments.front()[0] != '-') {
        workload = workload_named(arguments.front());
        if (!workload) {
            return refuse("there is no workload '" + std::string(arguments.front()) + "': it is " +
                          all_workloads());
        }
        arguments = arguments.subspan(1);
    }
    std::vector<const OptionSpec*> table;
    for (const OptionSpec& spec : bench_options()) {
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
        return refuse("the workload is missing: " + all_workloads() + ", before all options");
    }
    OptionValues values = given;
    values.set_defaults(bench_options());
    BenchPlan plan = plan_of(values, *workload);
    plan.action = given.flag("calibrate") ? BenchAction::kCalibrate : BenchAction::kMeasure;
    OUTRIGGER_TRY(check_plan(plan, given));
    return plan;
}

}  // namespace outrigger::bench
