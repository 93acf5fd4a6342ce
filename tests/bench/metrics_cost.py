#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What metrics and probes cost outrigger-blk with its null image, which reads in turn from a daemon without and one
with them, both on processor 0, by outrigger-bench on processor 1.

    tests/bench/metrics-cost [--build=DIR] [--with=DIR] [--starts=N] [--shuffle] [OPTION OF outrigger-bench]...

Where a daemon and its guest's memory come to lie is worth several percent, for as long as they live, so both are
started anew again and again, and change places. As often one without is compared with another without: what that
tells is not of the metrics. --with takes the daemon with metrics from another build: --build from one without probes.

Two builds have their code at different places, which is worth as much again, and for all starts alike. --shuffle links
each daemon anew for each start, its code in a random order: it takes Debian's lld.
"""

import json
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_DAEMON = "devices/blk/outrigger-blk"
_ROOT = Path(__file__).resolve().parents[2]


def _start(bench, directory, commands, options):
    """How many times as fast the first of two daemons is as the second, and what part of the machine others used."""
    arguments = [bench, "blk", "--json", "--cpus=1", "--rounds=30", "--round-ms=15"]
    for side, command in zip("ab", commands, strict=True):
        socket = directory / f"{side}.sock"
        line = shlex.join([*command, f"--socket-path={socket}", "--null-size=4294967296", "--log-level=warning"])
        arguments += [f"--{side}={socket}", f"--{side}-cpu=0", f"--{side}-command={line}"]
    done = subprocess.run([*arguments, *options], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        sys.exit(done.stderr or done.stdout)
    told = json.loads(done.stdout)
    if told["complaint"]:
        sys.exit(told["complaint"])
    return told["ratio_median"], told["others_load"]


def _shuffled(build, directory, name, seed):
    """The disk's daemon of `build`, linked with its code in an order of its own."""
    told = subprocess.run(["ninja", "-C", build, "-t", "commands", _DAEMON], capture_output=True, text=True, check=True)
    line = told.stdout.splitlines()[-1].replace(f"-o {_DAEMON} ", f"-o {shlex.quote(str(directory / name))} ", 1)
    subprocess.run(f"{line} -fuse-ld=lld -Wl,--shuffle-sections='.text*={seed}'", shell=True, cwd=build, check=True)
    return str(directory / name)


def _median(ratios):
    """The median, and where it lies with 95 % when the starts are drawn again."""
    draw = random.Random(1)
    drawn = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return f"{statistics.median(ratios):.3f} ({drawn[50]:.3f} to {drawn[1949]:.3f})"


def main():
    build, with_, starts, shuffles, options = _ROOT / "build/release", None, 60, False, []
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        if name == "--build":
            build = Path(value)
        elif name == "--with":
            with_ = Path(value)
        elif name == "--starts":
            starts = int(value)
        elif argument == "--shuffle":
            shuffles = True
        elif name == "--help":
            print(__doc__)
            return
        else:
            options.append(argument)
    bench = build / "tools/outrigger-bench/outrigger-bench"
    with_ = with_ or build
    same, cost, others = [], [], []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        plain, twin, measured = (str(side / _DAEMON) for side in (build, build, with_))
        for i in range(starts):
            if shuffles:
                plain = _shuffled(build, directory, "plain", 3 * i + 1)
                twin = _shuffled(build, directory, "twin", 3 * i + 2)
                measured = _shuffled(with_, directory, "measured", 3 * i + 3)
            metrics = f"--metrics=unix:{directory}/metrics.sock"
            for ratios, other in ((same, [twin]), (cost, [measured, metrics])):
                pair = [[plain], other] if i % 2 == 0 else [other, [plain]]
                ratio, used = _start(bench, directory, pair, options)
                ratios.append(ratio if i % 2 == 0 else 1 / ratio)
                others.append(used)
    print(f"times as fast without, median of {starts} starts (95 % of medians drawn again)")
    print(f"  than another without  {_median(same)}")
    print(f"  than with             {_median(cost)}")
    print(f"others used {statistics.mean(others):.0%} of the machine")


if __name__ == "__main__":
    main()
