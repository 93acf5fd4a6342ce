# SPDX-License-Identifier: Apache-2.0
"""Writes what was measured as a page with plots."""

from bar_chart import bar_chart

_SECTIONS = {
    "null": "Null image: everything but the storage",
    "copy": "Disk in memory (--blk-memory): against the cost of the copy alone",
    "memory": "File in memory (tmpfs): the cost of the copy is in it",
    "file": "Raw file in the page cache",
    "direct": "Raw file past the page cache (O_DIRECT)",
    "queues": "One disk on two threads",
}


def _label(result, with_peer):
    return f"{result.row.label} [{result.row.engine}]" if with_peer and result.row.engine else result.row.label


def _rate_plot(name, results):
    groups = [(_label(r, True), [(r.outcome[side]["rate_median"] / 1e6, r.outcome[side]["rate_best"] / 1e6)
                                 for side in "ab"]) for r in results]
    peer = "fio" if name == "direct" else "the copy alone" if name == "copy" else "outrigger-blk on one thread" if name == "queues" else "qemu-storage-daemon"
    return bar_chart(f"{_SECTIONS[name]}: million requests a second, median (best)", "M/s", ["outrigger-blk", peer],
                     groups)


def _cpu_plot(results):
    groups = []
    for result in results:
        costs = [result.outcome[side].get("cpu_seconds_per_million") for side in "ab"]
        if all(cost is not None for cost in costs):
            groups.append((_label(result, True), [(cost, None) for cost in costs]))
    return bar_chart("Processor seconds of the back end for a million requests (less is better)", "s",
                     ["outrigger-blk", "the other"], groups)


def _microseconds(side, name):
    latency = side.get("latency_ns")
    return f"{latency[name] / 1e3:.2f}" if latency else "-"


def _calls(side):
    count = side.get("system_calls_per_request")
    if count is None:
        return "-"
    return f"{count:.3f}" + ("" if side["system_calls_scope"] == "all" else " (r/w)")


def _table(results):
    lines = ["| work | against | M/s A | M/s B | floor | ratio | p50 us A / B | p99 us A / B | CPU s a million A / B | CPU ratio "
             "| kicks A / B | calls A / B | system calls A / B | others |",
             "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for result in results:
        a, b, outcome = result.outcome["a"], result.outcome["b"], result.outcome
        rates = [f"{side['rate_median'] / 1e6:.4g} ({side['rate_best'] / 1e6:.4g})" for side in (a, b)]
        cpu = [f"{side['cpu_seconds_per_million']:.3g}" if side.get("cpu_seconds_per_million") is not None else "-"
               for side in (a, b)]
        cpu_ratio = f"{outcome['ratio_cpu']:.2f}" if outcome.get("ratio_cpu") is not None else "-"
        kicks = [f"{side['kicks_per_request']:.3f}" if "kicks_per_request" in side else "-" for side in (a, b)]
        calls = [f"{side['calls_per_request']:.3f}" if "calls_per_request" in side else "-" for side in (a, b)]
        floor = f"{outcome['floor'] / 1e6:.4g}" if "floor" in outcome else "-"
        others = f"{100 * outcome['others_load']:.0f} %" if outcome.get("others_load") is not None else "-"
        lines.append(
            f"| {result.row.label} | {result.row.peer} | {rates[0]} | {rates[1]} | {floor} "
            f"| {outcome['ratio_median']:.2f} "
            f"| {_microseconds(a, 'p50')} / {_microseconds(b, 'p50')} | {_microseconds(a, 'p99')} / "
            f"{_microseconds(b, 'p99')} | {cpu[0]} / {cpu[1]} | {cpu_ratio} | {kicks[0]} / {kicks[1]} "
            f"| {calls[0]} / {calls[1]} | {_calls(a)} / {_calls(b)} | {others} |")
    return lines


def _goal_rows(results):
    """(work, goal, measured, whether it is met) for each row that has a goal."""
    for result in results:
        row, outcome = result.row, result.outcome
        if not row.goal:
            continue
        measured, met = f"{outcome['ratio_median']:.2f}x", outcome["ratio_median"] >= row.ratio_goal
        if row.section == "null" and row.depth > 1:
            best = outcome["a"]["rate_best"] / 1e6
            measured += f", best {best:.2f} M/s"
            met = met and best >= 8
        elif row.section == "null":
            mean = 1e6 / outcome["a"]["rate_best"]
            measured = f"{mean:.2f} us in the best round ({outcome['ratio_median']:.2f}x)"
            floor = 1e6 / outcome["floor"]
            measured += f", floor {floor:.2f} us"
            # The goal, or the measured floor and 0.4 us.
            met = mean <= max(float(row.goal.split()[1]), floor + 0.4)
        elif row.section == "direct":
            measured += f", CPU {outcome['ratio_cpu']:.2f}x"
            met = met and outcome["ratio_cpu"] < 1
        yield f"{row.label}, {row.peer}", row.goal, measured, met
    for result in results:
        cpu = result.outcome.get("ratio_cpu")
        if result.row.section in ("null", "memory", "file") and cpu is not None:
            yield f"CPU per request: {result.row.label}, {result.row.peer}", "<= 0.5x", f"{cpu:.2f}x", cpu <= 0.5


def _goals(results):
    lines = ["## Against the goals", "", "| work | goal | measured | met |", "|---|---|---|---|"]
    lines += [f"| {work} | {goal} | {measured} | {'yes' if met else 'no'} |"
              for work, goal, measured, met in _goal_rows(results)]
    return lines + [""]


def _profiles(results):
    lines = []
    for result in results:
        if result.profile:
            lines += [f"### {result.row.label}", "", "| part | function |", "|---|---|"]
            lines += [f"| {part} | `{name.replace('|', ' ')}` |" for part, name in result.profile]
            lines.append("")
    if lines:
        lines = ["## Where outrigger-blk spends the time", "",
                 "Samples of the processor's clock in the daemon (perf), its waiting left out.", ""] + lines
    return lines


def turns(rounds):
    """Runs of each side where outrigger-bench cannot drive both."""
    return max(3, rounds // 4)


def fio_seconds(round_ms):
    """fio counts whole seconds."""
    return max(1, round_ms // 1000)


def _head(machine, run, results):
    own = min(result.outcome["own"]["ns_per_request"] for result in results if result.outcome.get("own"))
    return [
        "# Performance", "",
        f"Made by `{run['command']}` on {machine['date']}: {machine['version']} on {machine['processor']}, "
        f"Linux {machine['kernel']}; against {', '.join(machine['peers'])}. Run it again to have the figures of "
        "another machine: nothing here is written by hand.", "",
        "Each row is a run of outrigger-bench. Both back ends have one processor, the driver has another, and the two "
        f"take turns: {run['rounds']} rounds of {run['round_ms']} ms each. A is outrigger-blk, B the peer. Rates are "
        "the median of the rounds, with the best in parentheses; the ratio is the median of the rounds' own ratios. "
        "Where the peer is fio or the copy alone, runs of 4 such rounds take turns with runs of the peer, "
        f"{turns(run['rounds'])} of each: of fio for {fio_seconds(run['round_ms'])} s, of the copy for 0.5 s. Their "
        "rates are the medians of the runs, and the ratio is the median of the runs' own ratios. "
        "The floor is a device that answers at once, in a thread on the back ends' processor: its best "
        "millisecond. Latencies are from the moment the answer which a request follows was found to the moment its own "
        "answer is: the driver's own work on all that is found together is in it. System calls are "
        "counted in a round of their own. The last column is the part of the machine that neither of the two nor the "
        "driver used: where it is not near zero, the figures say little.", "",
        f"The driver itself costs {own:.0f} ns a request at best, against a device in the same thread.", ""]


def write_page(output, results, left_out, machine, run):
    """`performance.md` and a plot for each section, in the directory `output`."""
    output.mkdir(parents=True, exist_ok=True)
    lines = _head(machine, run, results)
    if left_out:
        lines += ["Not measured here:", ""] + [f"- {reason}" for reason in left_out] + [""]
    lines += _goals(results)
    for section, title in _SECTIONS.items():
        of_section = [result for result in results if result.row.section == section]
        if not of_section:
            continue
        plot = f"performance-{section}.svg"
        (output / plot).write_text(_rate_plot(section, of_section), encoding="utf-8")
        lines += [f"## {title}", "", f"![{title}]({plot})", ""] + _table(of_section) + [""]
    (output / "performance-cpu.svg").write_text(_cpu_plot(results), encoding="utf-8")
    lines += ["## Processor time", "", "![Processor time](performance-cpu.svg)", ""]
    lines += _profiles(results)
    (output / "performance.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"written: {output / 'performance.md'}")
