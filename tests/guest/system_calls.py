# SPDX-License-Identifier: Apache-2.0
"""Compares the lists of system calls in the source with what strace saw behind each thread's filter.

usage: system_calls.py --traces=DIR [--results=FILE] [--seconds=N]

DIR has a file for each thread (strace --output-separately). The first thread of a process is its control
thread, the others are of the device; keepers have no list. What a thread called must be on the lists of its
role, and what a device's own list has must have been called, or UNSEEN says why the proofs of a guest do not
get there, as some do only now and then.
"""

import argparse
import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
POLICY = "vhost-user-backend/daemon/seccomp_policy.cc"
# The tables of POLICY by role; others are of other builds.
ROLES = {
    "control": ("kEveryThread", "kLoops", "kControl", "kRemoval", "kNoRemoval"),
    "device": ("kEveryThread", "kLoops", "kWorker", "kRing"),
}
# [files, tables of the control thread]. Every other table of these files is of the device's threads.
DEVICES = {
    "blk": (("devices/blk/blk_sandbox.cc",), ("kControlSystemCalls",)),
    "console": (("devices/console/console_sandbox.h",), ("kConsoleControlCalls",)),
    "fs": (("devices/fs/fs_sandbox.cc",), ("kControlSystemCalls",)),
    "net": (("devices/net/net_program.cc", "devices/net/user_sandbox.h"), ()),
    "rng": (("devices/rng/main.cc",), ()),
    "vsock": (("devices/vsock/main.cc",), ("kControlSystemCalls",)),
}
# Why a call that a list has is none of what these guests make a daemon do.
_OTHER_SYSTEMS = "other processors and C libraries have it under this name"
_FILL = "the fill of an overlay has a loop of its own"
_THREADS = "made where io_uring is not"
_SWAP = "an operator swaps or resizes an image"
_LOGS = "logs are rotated and opened anew"
_KEPT = "a process goes on with what one before left with the keeper"
_MIGRATION = "a guest with a share moves"
_PEERS = "peers of backends other than the user network"
_HELPERS = "the library helps protocols that open connections themselves, like FTP"
UNSEEN = {
    ("blk", "device"): {
        "epoll_ctl": _FILL,
        "epoll_pwait": _FILL,
        "epoll_wait": _FILL,
        "timerfd_settime": _FILL,
        "fallocate": _THREADS,
        "fdatasync": _THREADS,
        "pwritev2": _THREADS,
        "fcntl": _SWAP,
        "pread64": _SWAP,
        "fstat": _OTHER_SYSTEMS,
        "fstat64": _OTHER_SYSTEMS,
        "fstatat64": _OTHER_SYSTEMS,
        "ftruncate64": _OTHER_SYSTEMS,
        "statx": _OTHER_SYSTEMS,
        "ioctl": "block devices of the host, and what zones they have",
    },
    ("console", "control"): {"wait4": "a terminal of the daemon's own is given back"},
    ("console", "device"): {
        "epoll_pwait": _OTHER_SYSTEMS,
        "fstat": _OTHER_SYSTEMS,
        "newfstatat": _LOGS,
        "fchmod": _LOGS,
        "openat": _LOGS,
        "renameat": _LOGS,
        "renameat2": _LOGS,
        "fcntl": _KEPT,
        "kcmp": _KEPT,
        "recvfrom": "another program tells the size of its terminal",
        "setsockopt": "viewers come by TCP",
    },
    ("fs", "control"): {
        "flock": _KEPT,
        "getdents64": _MIGRATION,
        "lseek": _MIGRATION,
        "name_to_handle_at": _MIGRATION,
        "open_by_handle_at": _MIGRATION,
        "openat": _MIGRATION,
        "openat2": _MIGRATION,
        "readlinkat": _MIGRATION,
    },
    ("fs", "device"): {
        "faccessat2": "a driver that has the daemon check permissions; Linux checks them itself",
        "flock": "only with --flock",
        "fcntl": "locks on the host, FLUSH of other file systems, large files that are closed late",
        "pread64": "shares in memory, and what waits for a disk without io_uring",
    },
    ("net", "device"): {
        "accept4": _PEERS,
        "recvmmsg": _PEERS,
        "sendmmsg": _PEERS,
        "sendmsg": _PEERS,
        "bind": _HELPERS,
        "getsockname": _HELPERS,
        "listen": _HELPERS,
    },
    ("vsock", "control"): {"shutdown": "a guest goes and leaves connections"},
    ("vsock", "device"): {"socketpair": "guests reach one another"},
}


def tables(path):
    """What each table of a file allows, by the table's name."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found = {}
    for name, body in re.findall(r"SystemCallRule (k\w+)\[\] = \{(.*?)\n?\};", text, re.DOTALL):
        rules = re.findall(r'\{\.name = "(\w+)"(.*?)\}(?=,\s*(?:\n|//|$)|$)', body, re.DOTALL)
        if len(rules) != body.count(".name = "):
            sys.exit(f"{path}: {name} has rows that this program cannot read")
        found[name] = {call for call, rest in rules if ".error" not in rest}
        found.setdefault("refused", set()).update(call for call, rest in rules if ".error" in rest)
    return found


def lists_of(device, role):
    """(what this device's threads of the role may call and may try, what is on the device's own list)"""
    common = tables(POLICY)
    allowed = {"tgkill"} | common["refused"]
    for name in ROLES[role]:
        allowed |= common[name]
    files, of_control = DEVICES[device]
    own = set()
    for path in files:
        of_file = tables(path)
        allowed |= of_file.pop("refused")
        for name, calls in of_file.items():
            if (name in of_control) == (role == "control"):
                own |= calls
    return allowed | own, own


def is_entry(line):
    return line.startswith("seccomp(SECCOMP_SET_MODE_FILTER") and line.rstrip().endswith("= 0")


def calls_behind_filters(traces):
    """{(device, role): calls}"""
    threads = {}
    started_by = {}
    for path in traces.iterdir():
        number = path.name.rsplit(".", 1)[1]
        threads[number] = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in threads[number]:
            if started := re.match(r"clone3?\(.*CLONE_THREAD.* = (\d+)$", line):
                started_by[started[1]] = number
    seen = collections.defaultdict(set)
    for number, lines in threads.items():
        leader = number
        while leader in started_by:
            leader = started_by[leader]
        if any(line.startswith('prctl(PR_SET_NAME, "keeper"') for line in threads[leader]):
            continue
        # A keeper starts its program by a descriptor; its thread has the name as well, as far as 15 letters go.
        names = [re.match(r'(?:execve|prctl)\(.*?outrigger-(\w+)"', line) for line in threads[leader]]
        program = [device for match in names if match for device in DEVICES if device.startswith(match[1])]
        entries = [index for index, line in enumerate(lines) if is_entry(line)]
        if not program or not entries:
            continue
        role = "control" if leader == number else "device"
        for line in lines[entries[-1] + 1 :]:
            if call := re.match(r"(\w+)\(", line):
                seen[program[-1], role].add(call[1])
    return seen


def compare(device, seen):
    """What does not agree."""
    problems = []
    for role in ROLES:
        called = seen.get((device, role), set())
        if not called:
            return ["nothing was traced"]
        allowed, own = lists_of(device, role)
        if unknown := called - allowed:
            problems.append(f"{role} threads called {sorted(unknown)}, which is on no list of theirs")
        excused = UNSEEN.get((device, role), {})
        if unused := own - called - set(excused):
            problems.append(f"{role} threads may call {sorted(unused)} and never did")
        if unlisted := set(excused) - own:
            problems.append(f"UNSEEN has {sorted(unlisted)}, which no list has")
    return problems


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--traces", type=pathlib.Path, required=True)
    parser.add_argument("--results")
    parser.add_argument("--seconds", default="0")
    parser.add_argument("--devices", default=",".join(sorted(DEVICES)))
    arguments = parser.parse_args()
    seen = calls_behind_filters(arguments.traces)
    failed = False
    for device in arguments.devices.split(","):
        problems = compare(device, seen)
        failed = failed or bool(problems)
        counts = ", ".join(f"{len(seen.get((device, role), ()))} calls of {role} threads" for role in ROLES)
        detail = "; ".join(problems) or counts
        print(f"  {'failed' if problems else 'ok'}  system calls of {device}: {detail}")
        if arguments.results:
            with open(arguments.results, "a", encoding="utf-8") as file:
                verdict = "failed" if problems else "passed"
                file.write(f"guest\tsystem calls {device}\t{verdict}\t{arguments.seconds}\t{detail}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
