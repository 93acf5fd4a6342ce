# SPDX-License-Identifier: Apache-2.0
"""Writes what was measured as a page with plots."""

from bar_chart import bar_chart
from bench_rows import INODES

_SECTIONS = {
    "null": "Null image: everything but the storage",
    "copy": "Disk in memory (--blk-memory): against the cost of the copy alone",
    "memory": "File in memory (tmpfs): the cost of the copy is in it",
    "file": "Raw file in the page cache",
    "direct": "Raw file past the page cache (O_DIRECT)",
    "queues": "One disk on two threads",
    "vsock": "Sockets between guest and host (outrigger-vsock)",
    "fs": "Shared directory (outrigger-fs)",
    "console": "Port of a console (outrigger-console)",
    "net": "Frames of a network (outrigger-net)",
}
# Those whose requests are of a disk; the others have tables and plots of their own.
_DISK_SECTIONS = ("null", "copy", "memory", "file", "direct", "queues")
_STREAM_SECTIONS = ("vsock", "console", "net")
_MIB = 1 << 20


def _label(result, with_peer):
    return f"{result.row.label} [{result.row.engine}]" if with_peer and result.row.engine else result.row.label


def _rate_plot(name, results):
    groups = [(_label(r, True), [(r.outcome[side]["rate_median"] / 1e6, r.outcome[side]["rate_best"] / 1e6)
                                 for side in "ab"]) for r in results]
    peer = "fio" if name == "direct" else "the copy alone" if name == "copy" else "outrigger-blk on one thread" if name == "queues" else "qemu-storage-daemon"
    return bar_chart(f"{_SECTIONS[name]}: million requests a second, median (best)", "M/s", ["outrigger-blk", peer],
                     groups)


def _mib(side, row, name="rate_median"):
    return side[name] * row.block_bytes / _MIB


def _stream_plot(name, results):
    """Round trips and what is paced are in the table only."""
    rows = [r for r in results if "round trip" not in r.row.label and "/s" not in r.row.label]
    groups = [(r.row.label, [(_mib(r.outcome[side], r.row), _mib(r.outcome[side], r.row, "rate_best"))
                             if side in r.outcome else None for side in "ab"]) for r in rows]
    series = {"vsock": ["outrigger-vsock", "vhost-device-vsock"], "console": ["outrigger-console", "without a viewer"],
              "net": ["outrigger-net", "nobody"]}[name]
    return bar_chart(f"{_SECTIONS[name]}: MiB/s, median (best)", "MiB/s", series, groups)


def _request_us(side, row):
    """Processor microseconds of a request, or of each of its parts; None: not known."""
    cost = side.get("cpu_seconds_per_million")
    return None if cost is None else cost / row.parts


def _share_plot(results):
    """By processor time, relative to the peer: the requests differ by a thousand times."""
    groups = []
    for result in results:
        a, b = (_request_us(result.outcome[side], result.row) if side in result.outcome else None for side in "ab")
        if a is not None and b and result.row.peer == "virtiofsd":
            groups.append((result.row.label, [(a / b, None), (1.0, None)]))
    return bar_chart(f"{_SECTIONS['fs']}: processor time of a request, virtiofsd's is 1 (less is better)", "",
                     ["outrigger-fs", "virtiofsd"], groups)


def _pair(outcome, text):
    """`text` of A and of B, where there is one."""
    return " / ".join(text(outcome[side]) if side in outcome else "-" for side in "ab")


def _ratio(outcome, name="ratio_median"):
    return f"{outcome[name]:.2f}" if outcome.get(name) is not None else "-"


def _others(outcome):
    return f"{100 * outcome['others_load']:.0f} %" if outcome.get("others_load") is not None else "-"


def _tail_cells(result):
    """What the tables of streams and shares end with."""
    outcome = result.outcome
    return [_pair(outcome, lambda side: _microseconds(side, "p50")), _pair(outcome, lambda side: _microseconds(side, "p99")),
            _pair(outcome, lambda side: f"{side['kicks_per_request']:.3f}"),
            _pair(outcome, lambda side: f"{side['calls_per_request']:.3f}"), _pair(outcome, _calls), _others(outcome)]


_TAIL_HEADS = ["p50 us A / B", "p99 us A / B", "kicks A / B", "calls A / B", "system calls A / B", "others"]


def _cells(cells):
    return "| " + " | ".join(cells) + " |"


def _stream_table(results):
    with_bare = any("bare_sockets" in result.outcome for result in results)
    heads = ["work", "against", "MiB/s A", "MiB/s B", *(["bare sockets"] if with_bare else []), "thousand/s A / B", "ratio", "CPU s a GiB A / B", "CPU ratio", *_TAIL_HEADS]
    lines = [_cells(heads), "|" + "---|" * len(heads)]
    for result in results:
        row, outcome = result.row, result.outcome

        def rate(side, row=row, outcome=outcome):
            if side not in outcome:
                return "-"
            return f"{_mib(outcome[side], row):.4g} ({_mib(outcome[side], row, 'rate_best'):.4g})"

        def cost(side, row=row):
            known = side.get("cpu_seconds_per_million")
            return "-" if known is None else f"{known / 1e6 * (1 << 30) / row.block_bytes:.3g}"

        bare = [f"{outcome['bare_sockets'] / _MIB:.4g}" if "bare_sockets" in outcome else "-"] if with_bare else []
        lines.append(_cells([row.label, row.peer or "-", rate("a"), rate("b"), *bare,
                             _pair(outcome, lambda side: f"{side['rate_median'] / 1e3:.4g}"), _ratio(outcome),
                             _pair(outcome, cost), _ratio(outcome, "ratio_cpu"), *_tail_cells(result)]))
    return lines


def _share_table(results):
    heads = ["work", "against", "thousand/s A", "thousand/s B", "ratio", "CPU us A / B", "host's calls us", "CPU ratio",
             *_TAIL_HEADS]
    lines = [_cells(heads), "|" + "---|" * len(heads)]
    for result in results:
        row, outcome = result.row, result.outcome

        def rate(side, outcome=outcome):
            if side not in outcome:
                return "-"
            return f"{outcome[side]['rate_median'] / 1e3:.4g} ({outcome[side]['rate_best'] / 1e3:.4g})"

        def cost(side):
            return "-" if side.get("cpu_seconds_per_million") is None else f"{side['cpu_seconds_per_million']:.3g}"

        calls = f"{outcome['calls_us']:.3g}" if "calls_us" in outcome else "-"
        lines.append(_cells([row.label, row.peer, rate("a"), rate("b"), _ratio(outcome), _pair(outcome, cost), calls,
                             _ratio(outcome, "ratio_cpu"), *_tail_cells(result)]))
    return lines


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


def _share_goal(result):
    row, outcome = result.row, result.outcome
    cost = _request_us(outcome["a"], row)
    limit, measured = row.cpu_goal_us, "unknown" if cost is None else f"{cost:.3g} us"
    if "copy_us" in outcome:
        limit = 1.05 * outcome["copy_us"]
        measured += f", the copy {outcome['copy_us']:.3g} us"
    peer = _request_us(outcome["b"], row) if "b" in outcome else None
    if peer is not None:
        measured += f", {row.peer} {peer:.3g} us"
    if "calls_us" in outcome:
        measured += f"; the host's system calls alone {outcome['calls_us'] / row.parts:.3g} us"
    return f"{row.label}, {row.peer}", row.goal, measured, cost is not None and cost <= limit


def _goal_rows(results):
    """(work, goal, measured, whether it is met) for each row that has a goal."""
    for result in results:
        row, outcome = result.row, result.outcome
        if not row.goal:
            continue
        if row.cpu_goal_us != 0:
            yield _share_goal(result)
            continue
        if "ratio_median" not in outcome:
            continue  # said above: there is no peer
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
        elif "bare_sockets" in outcome:
            measured += f"; {_mib(outcome['a'], row):.4g} MiB/s, bare sockets {outcome['bare_sockets'] / _MIB:.4g}"
        elif row.section == "direct":
            measured += f", CPU {outcome['ratio_cpu']:.2f}x"
            met = met and outcome["ratio_cpu"] < 1
        yield f"{row.label}, {row.peer}", row.goal, measured, met
    for result in results:
        cpu = result.outcome.get("ratio_cpu")
        if result.row.section in ("null", "memory", "file") and cpu is not None:
            yield f"CPU per request: {result.row.label}, {result.row.peer}", "<= 0.5x", f"{cpu:.2f}x", cpu <= 0.5


def _inode_goals(inodes):
    for name, size, goal in inodes:
        if goal:
            others = "".join(f", {other} {known:.0f} B" for other, known, _ in inodes if other != name)
            yield f"resident memory of an inode, {name}", f"<= {goal} B", f"{size:.0f} B{others}", size <= goal


def _goals(results, inodes, networks):
    lines = ["## Against the goals", "", "| work | goal | measured | met |", "|---|---|---|---|"]
    lines += [f"| {work} | {goal} | {measured} | {'yes' if met else 'no'} |"
              for work, goal, measured, met in [*_goal_rows(results), *_inode_goals(inodes), *_network_goals(networks)]]
    return lines + [""]


def _share_notes(shares):
    """What stands below the table of shares."""
    lines = ["The host's calls are those that a request cannot do without, in a plain loop on the same processor, without "
             "guest, rings and daemon (`tests/bench/share_calls.cc`), so no daemon can be cheaper on this machine. The "
             "loop has one thread and no filter: in a daemon, which has several and one, each call costs 0.03 to 0.05 us "
             "more on an EPYC of the Zen 5 kind. Of READ that is the copy into the guest's memory, too. What files cost "
             "that are made on a disk changes with its journal, from one second to the next. O_DIRECT reads past the page "
             "cache, from the disk.",
             ""]
    if shares.inodes:
        lines += [f"| daemon | resident memory of an inode that the guest knows, of {INODES[1]} |", "|---|---|"]
        lines += [f"| {name} | {size:.0f} B |" for name, size, _ in shares.inodes] + [""]
    if shares.guest:
        lines += ["From inside of an emulated guest (`tests/guest/share-speed`: medians; most of the guest's time is the "
                  "emulation, and the daemons have their processor time for themselves):", "",
                  "| work | daemon | s in the guest | processor s of the daemon |", "|---|---|---|---|"]
        lines += [f"| {work} | {daemon} | {guest:.2f} | {processor:.2f} |"
                  for work, daemon, guest, processor in shares.guest] + [""]
    return lines


def _network_goals(networks):
    for direction, rings, _, _, ratio, *_ in networks.taps:
        yield (f"TCP by a tap, {direction}, {rings}, data for a second of the processor, plain forwarder", ">= 0.8x",
               f"{ratio}x", float(ratio) >= 0.8)
    for rings, thread, _, _, ratio in networks.guests:
        yield f"guest to guest, 60 B, {rings}, {thread} thread, DPDK's vhost", ">= 0.5x", f"{ratio}x", float(ratio) >= 0.5
    rates = {(kind, way, connections): float(rate) for kind, way, connections, rate, _ in networks.guest}
    for kind, peer, goal in (("user", "qemu-user", 3), ("tap", "passt", 1)):
        for (ours, way, connections), rate in rates.items():
            if ours == kind and (peer, way, connections) in rates:
                ratio = rate / rates[peer, way, connections]
                yield (f"TCP of an emulated guest, {way}, {connections} at a time, {kind}, {peer}", f">= {goal}x",
                       f"{ratio:.2f}x", ratio >= goal)


def _network_notes(networks):
    """What stands below the table of networks."""
    lines = []
    if networks.taps:
        lines += ["TCP between two network namespaces, MTU 1500, through outrigger-net with a tap (A) and through a program "
                  "that only reads from one tap and writes to the other (B), in turn (`tests/bench/tap-speed`: medians). A's "
                  "guest is a program on the processor that sends and receives, which B has none of: data for each second "
                  "of the back end's own processor is what can be compared.", "",
                  "| direction | rings | GB a processor s, A / B | ratio | GB/s A / B | ratio |", "|---|---|---|---|---|---|"]
        lines += [f"| {direction} | {rings} | {a} / {b} | {ratio} | {rate_a} / {rate_b} | {rate_ratio} |"
                  for direction, rings, a, b, ratio, rate_a, rate_b, rate_ratio in networks.taps] + [""]
    if networks.guests:
        lines += ["Frames of 60 bytes (64 with their checksum) from guest to guest through a switch, by a thread for each "
                  "device (own) or one for both (shared), and through DPDK's own vhost driver, which never sleeps, in turn: each "
                  "back end has one processor and both guests (DPDK's virtio-user driver) the other (`tests/testpmd/run --speed "
                  "--rounds=3`: medians). The spread is large: it is in [devices/net](../devices/net/README.md).", "",
                  "| rings | thread | million/s | DPDK's | ratio |", "|---|---|---|---|---|"]
        lines += [f"| {rings} | {thread} | {ours} | {theirs} | {ratio} |"
                  for rings, thread, ours, theirs, ratio in networks.guests] + [""]
    if networks.guest:
        lines += ["TCP between an emulated guest and its host, MTU 1500, by interfaces of one guest in turn "
                  "(`tests/guest/network-speed`: medians): outrigger-net's user network and tap, QEMU's own `-netdev user`, "
                  "and passt at a Unix stream socket. Most of the guest's time is the emulation.", "",
                  "| network | direction | connections | Mbit/s | ratios |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(line)} |" for line in networks.guest] + [""]
    return lines


def _profiles(results):
    lines = []
    for result in results:
        if result.profile:
            lines += [f"### {result.row.label}", "", "| part | function |", "|---|---|"]
            lines += [f"| {part} | `{name.replace('|', ' ')}` |" for part, name in result.profile]
            lines.append("")
    if lines:
        lines = ["## Where the daemons spend the time", "",
                 "Samples of the processor's clock in the daemon (perf), its waiting left out.", ""] + lines
    return lines


def turns(rounds):
    """Runs of each side where outrigger-bench cannot drive both."""
    return max(3, rounds // 4)


def fio_seconds(round_ms):
    """fio counts whole seconds."""
    return max(1, round_ms // 1000)


def _head(machine, run, results):
    costs = [result.outcome["own"]["ns_per_request"] for result in results if result.outcome.get("own")]
    own = f"The driver itself costs {min(costs):.0f} ns a request at best, against a device in the same thread." if costs else ""
    return [
        "# Performance", "",
        f"Made by `{run['command']}` on {machine['date']}: {machine['version']} on {machine['processor']}, "
        f"Linux {machine['kernel']}; against {', '.join(machine['peers'])}. Run it again to have the figures of "
        "another machine: nothing here is written by hand.", "",
        "Each row is a run of outrigger-bench. Both back ends have one processor, the driver has another, and the two "
        f"take turns: {run['rounds']} rounds of {run['round_ms']} ms each. A is ours, B the peer. Rates are "
        "the median of the rounds, with the best in parentheses; the ratio is the median of the rounds' own ratios. "
        "Where the peer is fio or the copy alone, runs of 4 such rounds take turns with runs of the peer, "
        f"{turns(run['rounds'])} of each: of fio for {fio_seconds(run['round_ms'])} s, of the copy for 0.5 s. Their "
        "rates are the medians of the runs, and the ratio is the median of the runs' own ratios. "
        "The floor is a device that answers at once, in a thread on the back ends' processor: its best "
        "millisecond; with eventfd it sleeps until it is kicked, so one that looks for work may be faster. Of the copy "
        "alone, too, a run is its best millisecond. Latencies are from the moment the answer which a request follows was found to the moment its own "
        "answer is: the driver's own work on all that is found together is in it. System calls are "
        "counted in a round of their own; where the kernel lets nobody count all of them, those that read and write "
        "are (r/w): not those of sockets and io_uring, and no waits. The last column is the part of the machine that neither of the two nor the "
        "driver used: where it is not near zero, the figures say little.", "",
        "For sockets, consoles and networks the driver has both ends, guest and host, on its processor: a request is a block that "
        "has arrived. The processor time of a daemon that polls while it waits is in the figures of depth 1 and of what "
        "the driver cannot keep busy. Bare sockets are pairs of Unix sockets between the two processors and nothing else "
        "(`tests/bench/socket_pair.cc`): to the guest they carry the same blocks, to the host pieces of 64 KiB. No device whose "
        "host's side they are can carry much more.", "",
        "No daemon here tells metrics; what they cost is measured by `tests/bench/metrics-cost`, and in [metrics.md](metrics.md).", "",
        own, ""]


def write_page(output, results, shares, networks, left_out, machine, run):
    """`performance.md` and a plot for each section, in the directory `output`."""
    output.mkdir(parents=True, exist_ok=True)
    lines = _head(machine, run, results)
    if left_out:
        lines += ["Not measured here:", ""] + [f"- {reason}" for reason in left_out] + [""]
    lines += _goals(results, shares.inodes, networks)
    for section, title in _SECTIONS.items():
        of_section = [result for result in results if result.row.section == section]
        if not of_section:
            continue
        plot = f"performance-{section}.svg"
        if section in _STREAM_SECTIONS:
            drawing, table = _stream_plot(section, of_section), _stream_table(of_section)
        elif section == "fs":
            drawing, table = _share_plot(of_section), _share_table(of_section)
        else:
            drawing, table = _rate_plot(section, of_section), _table(of_section)
        (output / plot).write_text(drawing, encoding="utf-8")
        lines += [f"## {title}", "", f"![{title}]({plot})", ""] + table + [""]
        lines += _share_notes(shares) if section == "fs" else []
        lines += _network_notes(networks) if section == "net" else []
    disks = [result for result in results if result.row.section in _DISK_SECTIONS]
    if disks:
        (output / "performance-cpu.svg").write_text(_cpu_plot(disks), encoding="utf-8")
        lines += ["## Processor time of disks", "", "![Processor time](performance-cpu.svg)", ""]
    lines += _profiles(results)
    (output / "performance.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"written: {output / 'performance.md'}")
