#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The probes that docs/probes.md lists are those of the daemons, and the scripts beside it use them.

    probes_test.py PAGE DAEMON...
"""

import re
import subprocess
import sys
from pathlib import Path

_ROW = re.compile(r"^\| (\d+) \| `(\w+)` \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
_NOTE = re.compile(r"Provider: (\S+)\s+Name: (\S+)\s+Location: [^\n]*Semaphore: (\S+)\n\s+Arguments:([^\n]*)")
_USED = re.compile(r"usdt:(\S+):outrigger:(\w+)")
_ARGUMENT = re.compile(r"\barg(\d)\b")
_ALONE = re.compile(r"\(`(\S+)` alone\)")


def main():
    page, daemons = Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]]
    problems = []
    listed, alone = {}, {}
    steps = []
    for step, name, arguments, when in _ROW.findall(page.read_text()):
        steps.append(int(step))
        listed[name] = len(arguments.split(","))
        if only := _ALONE.search(when):
            alone[name] = only.group(1)
    if steps != list(range(1, 11)):
        problems.append(f"{page.name} does not list the ten steps: {steps}")
    for daemon in daemons:
        notes = subprocess.run(["readelf", "-nW", daemon], capture_output=True, text=True, check=True).stdout
        found = {}
        for provider, name, semaphore, arguments in _NOTE.findall(notes):
            if provider == "outrigger":
                found.setdefault(name, set()).add(len(arguments.split()))
                if int(semaphore, 16) == 0:
                    problems.append(f"{name} of {daemon.name} has no semaphore: nobody could watch it")
        wanted = {name for name in listed if alone.get(name, daemon.name) == daemon.name}
        problems += [f"{daemon.name} lacks the probe {name}" for name in sorted(wanted - found.keys())]
        problems += [f"{page.name} lacks the probe {name} of {daemon.name}" for name in sorted(found.keys() - wanted)]
        for name in wanted & found.keys():
            if found[name] != {listed[name]}:
                problems.append(f"{name} of {daemon.name} has {found[name]} arguments, and {listed[name]} in {page.name}")
    scripts = sorted((page.parent / "bpftrace").glob("*.bt"))
    if len(scripts) < 3 or any(script.name not in page.read_text() for script in scripts):
        problems.append(f"{page.name} does not name its three scripts or more")
    for script in scripts:
        name = None
        for line in script.read_text().splitlines():
            if use := _USED.search(line):
                name = use.group(2)
                if name not in listed:
                    problems.append(f"{script.name}: there is no probe {name}")
            elif name in listed:
                problems += [
                    f"{script.name}: {name} has no arg{number}"
                    for number in _ARGUMENT.findall(line)
                    if int(number) >= listed[name]
                ]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
