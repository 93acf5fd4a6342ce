// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/report.h"

#include <array>

#include <sys/utsname.h>
#include <unistd.h>

#include <fmt/core.h>

#include "tools/outrigger-bench/json_writer.h"
#include "tools/outrigger-bench/statistics.h"

namespace outrigger::bench {
namespace {

struct Quantile {
    std::string_view name;
    double part;
};

constexpr std::array<Quantile, 5> kQuantiles = {
    {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99_9", 0.999}, {"p99_99", 0.9999}}};

double per_request(const SideReport& side, uint64_t count) {
    return ratio(static_cast<double>(count), static_cast<double>(side.counts.completed));
}

double cpu_per_million(const SideReport& side) {
    return ratio(side.cpu_seconds * 1e6, static_cast<double>(side.counts.completed));
}

double system_calls_per_request(const SideReport& side) {
    return ratio(static_cast<double>(side.system_calls->calls),
                 static_cast<double>(side.system_calls_requests));
}

double cpu_ratio(const RunReport& report) {
    return ratio(cpu_per_million(report.a), cpu_per_million(*report.b));
}

std::string load_text(const BenchPlan& plan) {
    std::string text = std::string(name_of(plan.workload));
    if (plan.workload != WorkloadKind::kRng) {
        text += fmt::format(" {}", name_of(plan.access));
        text += plan.connections > 1 ? fmt::format(", {} connections", plan.connections) : "";
        text +=
            plan.access == Access::kRandRw ? fmt::format(" ({} % reads)", plan.read_percent) : "";
        text += plan.flush_every != 0 ? fmt::format(", each {}th a flush", plan.flush_every) : "";
    }
    text += plan.bytes_per_second != 0
                ? fmt::format(", {} bytes a second at most", plan.bytes_per_second)
                : "";
    text += fmt::format(", {} bytes", plan.block_bytes);
    text += plan.access != Access::kToGuest ? fmt::format(", depth {}", plan.depth) : "";
    return text + fmt::format(", queues {}, {}", plan.queues, plan.spin ? "spin" : "eventfd");
}

std::string own_text(const OwnCost& own) {
    return fmt::format(
        "own cost of a request {:.1f} ns: {:.1f} M/s for each queue against a device in the same "
        "thread\n",
        own.nanoseconds_per_request,
        own.rate / 1e6);
}

void append_side(std::string& out,
                 const BenchPlan& plan,
                 const SideReport& side,
                 std::string_view name) {
    const double middle = median(side.rates);
    const auto microseconds = [&](double part) {
        return static_cast<double>(side.counts.latency.quantile(part)) / 1e3;
    };
    out += fmt::format(
        "{}  best {:.4f} M/s  median {:.4f} M/s", name, best(side.rates) / 1e6, middle / 1e6);
    out += asks_for_names(plan.access)
               ? ""
               : fmt::format(" ({:.1f} MiB/s)", middle * plan.block_bytes / (1 << 20));
    out += side.pid ? fmt::format("  cpu {:.3f} s a million", cpu_per_million(side)) : "";
    out += fmt::format("  ({} ring, {})\n", side.packed ? "packed" : "split", side.socket);
    if (side.counts.latency.count() > 0) {
        out += fmt::format(
            "   latency us: mean {:.2f}  p50 {:.2f}  p99 {:.2f}  p99.9 {:.2f}  max {:.1f}\n",
            side.counts.latency.mean() / 1e3,
            microseconds(0.5),
            microseconds(0.99),
            microseconds(0.999),
            static_cast<double>(side.counts.latency.max()) / 1e3);
    }
    out += fmt::format("   for each request: kicks {:.4f}  calls {:.4f}",
                       per_request(side, side.counts.kicks),
                       per_request(side, side.counts.calls));
    if (side.system_calls) {
        out += fmt::format(
            "  system calls {:.4f}{}",
            system_calls_per_request(side),
            side.system_calls->scope == CallScope::kAll ? "" : " (reads and writes only)");
    } else if (plan.system_calls) {
        out += "  system calls unknown";
    }
    out += "\n";
    if (plan.verify) {
        out += fmt::format("   verified: {} {} as they must be\n",
                           side.compared,
                           plan.workload == WorkloadKind::kBlk ? "blocks" : "answers");
    }
    if (side.counts.failed > 0) {
        out += fmt::format(
            "   FAILED: {} of {} requests\n", side.counts.failed, side.counts.completed);
    }
}

void append_plan(JsonWriter& json, const BenchPlan& plan) {
    json.begin_object("options");
    if (plan.workload != WorkloadKind::kRng) {
        json.text("rw", name_of(plan.access));
    }
    switch (plan.workload) {
        case WorkloadKind::kBlk:
            json.integer("rwmixread", plan.read_percent);
            json.integer("flush_every", plan.flush_every);
            json.integer("size", plan.area_bytes);
            break;
        case WorkloadKind::kRng:
            break;
        case WorkloadKind::kVsock:
            json.integer("connections", plan.connections);
            break;
        case WorkloadKind::kFs:
            json.integer("rwmixread", plan.read_percent);
            json.integer("size", plan.area_bytes);
            json.integer("files", plan.files);
            json.boolean("direct", plan.direct);
            break;
        case WorkloadKind::kConsole:
            plan.port ? json.integer("port", *plan.port) : json.null("port");
            json.integer("rate", plan.bytes_per_second);
            break;
        case WorkloadKind::kNet:
            json.integer("rate", plan.bytes_per_second);
            break;
    }
    json.integer("bs", plan.block_bytes);
    json.integer("depth", plan.depth);
    json.integer("queues", plan.queues);
    json.integer("ring_size", plan.ring_size);
    json.text("ring", plan.packed ? "packed" : "split");
    json.text("completion", plan.spin ? "spin" : "eventfd");
    json.integer("rounds", plan.rounds);
    json.integer("round_ms", static_cast<uint64_t>(plan.round_time.count()));
    json.boolean("verify", plan.verify);
    json.end_object();
}

void append_machine(JsonWriter& json) {
    utsname name{};
    json.begin_object("machine");
    if (::uname(&name) == 0) {
        json.text("kernel", name.release);
        json.text("architecture", name.machine);
    }
    json.integer("processors", static_cast<uint64_t>(::sysconf(_SC_NPROCESSORS_ONLN)));
    json.end_object();
}

void append_own(JsonWriter& json, const OwnCost& own, std::string_view name = "own") {
    json.begin_object(name);
    json.number("ns_per_request", own.nanoseconds_per_request);
    json.number("rate", own.rate);
    json.end_object();
}

void append_head(JsonWriter& json, const BenchPlan& plan) {
    json.text("program", "outrigger-bench");
    json.text("version", OUTRIGGER_VERSION);
    json.text("workload", name_of(plan.workload));
    append_plan(json, plan);
    append_machine(json);
}

/// What the guest receives unasked took no time that it knows of.
void append_latency(JsonWriter& json, const LatencyHistogram& latency) {
    if (latency.count() == 0) {
        json.null("latency_ns");
        return;
    }
    json.begin_object("latency_ns");
    json.number("mean", latency.mean());
    for (const Quantile& quantile : kQuantiles) {
        json.integer(quantile.name, latency.quantile(quantile.part));
    }
    json.integer("max", latency.max());
    json.end_object();
}

void append_system_calls(JsonWriter& json, const BenchPlan& plan, const SideReport& side) {
    if (!plan.system_calls) {
        return;
    }
    if (!side.system_calls) {
        json.null("system_calls_per_request");
        return;
    }
    json.number("system_calls_per_request", system_calls_per_request(side));
    json.text("system_calls_scope",
              side.system_calls->scope == CallScope::kAll ? "all" : "reads and writes");
}

void append_side(JsonWriter& json,
                 const BenchPlan& plan,
                 const SideReport& side,
                 std::string_view name) {
    json.begin_object(name);
    json.text("socket", side.socket);
    side.pid ? json.integer("pid", static_cast<uint64_t>(*side.pid)) : json.null("pid");
    json.text("ring", side.packed ? "packed" : "split");
    json.boolean("event_idx", side.event_idx);
    json.boolean("indirect", side.indirect);
    json.number("rate_best", best(side.rates));
    json.number("rate_median", median(side.rates));
    if (asks_for_names(plan.access)) {
        json.null("bytes_per_second_median");
    } else {
        json.number("bytes_per_second_median", median(side.rates) * plan.block_bytes);
    }
    json.begin_array("rates");
    for (const double rate : side.rates) {
        json.number({}, rate);
    }
    json.end_array();
    json.integer("requests", side.counts.completed);
    json.integer("failed", side.counts.failed);
    append_latency(json, side.counts.latency);
    if (side.pid) {
        json.number("cpu_seconds", side.cpu_seconds);
        json.number("cpu_seconds_per_million", cpu_per_million(side));
    } else {
        json.null("cpu_seconds");
        json.null("cpu_seconds_per_million");
    }
    json.number("kicks_per_request", per_request(side, side.counts.kicks));
    json.number("calls_per_request", per_request(side, side.counts.calls));
    append_system_calls(json, plan, side);
    if (plan.verify) {
        json.integer("verified", side.compared);
    }
    json.end_object();
}

}  // namespace

std::string report_text(const BenchPlan& plan, const RunReport& report) {
    std::string out = fmt::format(
        "{}, {} rounds of {} ms\n", load_text(plan), plan.rounds, plan.round_time.count());
    out += report.own ? own_text(*report.own) : "";
    append_side(out, plan, report.a, "A");
    if (report.b) {
        append_side(out, plan, *report.b, "B");
    }
    if (report.others_load) {
        out += fmt::format("others used {:.0f} % of the machine\n", *report.others_load * 100);
    }
    if (report.b) {
        out += fmt::format("ratio A/B  median of the rounds {:.2f}  of the medians {:.2f}",
                           median_ratio(report.a.rates, report.b->rates),
                           ratio(median(report.a.rates), median(report.b->rates)));
        out += fmt::format("  of the bests {:.2f}",
                           ratio(best(report.a.rates), best(report.b->rates)));
        if (report.a.pid && report.b->pid) {
            out += fmt::format("  of the processor time {:.2f}", cpu_ratio(report));
        }
        out += "\n";
    }
    return out;
}

std::string report_json(const BenchPlan& plan, const RunReport& report) {
    JsonWriter json;
    json.begin_object();
    append_head(json, plan);
    if (report.own) {
        append_own(json, *report.own);
    }
    append_side(json, plan, report.a, "a");
    if (report.b) {
        append_side(json, plan, *report.b, "b");
        json.number("ratio_median", median_ratio(report.a.rates, report.b->rates));
        json.number("ratio_of_medians", ratio(median(report.a.rates), median(report.b->rates)));
        json.number("ratio_of_bests", ratio(best(report.a.rates), best(report.b->rates)));
        if (report.a.pid && report.b->pid) {
            json.number("ratio_cpu", cpu_ratio(report));
        } else {
            json.null("ratio_cpu");
        }
    }
    if (report.others_load) {
        json.number("others_load", *report.others_load);
    } else {
        json.null("others_load");
    }
    report.complaint.empty() ? json.null("complaint") : json.text("complaint", report.complaint);
    json.end_object();
    return json.take();
}

std::string failure_json(const BenchPlan& plan, std::string_view error) {
    JsonWriter json;
    json.begin_object();
    append_head(json, plan);
    json.text("error", error);
    json.end_object();
    return json.take();
}

std::string calibration_text(const BenchPlan& plan,
                             const OwnCost& own,
                             const std::optional<OwnCost>& copy) {
    if (!plan.device_cpu) {
        return load_text(plan) + "\n" + own_text(own);
    }
    std::string text =
        load_text(plan) + fmt::format(
                              "\nfloor of a request {:.1f} ns: {:.2f} M/s against a device "
                              "that answers at once on processor {}\n",
                              own.nanoseconds_per_request,
                              own.rate / 1e6,
                              *plan.device_cpu);
    if (copy) {
        text += fmt::format("copy of a block {:.1f} ns: {:.2f} M/s on that processor\n",
                            copy->nanoseconds_per_request,
                            copy->rate / 1e6);
    }
    return text;
}

std::string calibration_json(const BenchPlan& plan,
                             const OwnCost& own,
                             const std::optional<OwnCost>& copy) {
    JsonWriter json;
    json.begin_object();
    append_head(json, plan);
    append_own(json, own, plan.device_cpu ? "floor" : "own");
    if (copy) {
        append_own(json, *copy, "copy");
    }
    json.end_object();
    return json.take();
}

}  // namespace outrigger::bench
