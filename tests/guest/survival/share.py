# SPDX-License-Identifier: Apache-2.0
"""outrigger-fs under threads that know what every call must give (files.cc): killed under --keeper=fork,
and left behind by a guest that migrates."""

import os
import random
import time
import zlib

from machine import Daemon, Failure, Machine, wait_until
from migrate import LONG_ROUNDS, SHORT_ROUNDS, migrate

MIGRATING_ROWS = ("migrate-share",)
SHORT_KILLS = 5
LONG_KILLS = 40
_THREADS = 8


def start_daemon(setup, name, *arguments, kept=False):
    shared = f"{setup.work}/shared"
    os.makedirs(shared, exist_ok=True)
    # More often than an operator would want a program that dies to be started.
    keeper = ("--keeper=fork", "--keeper-restarts=1000000") if kept else ("--keeper=none",)
    daemon = Daemon(setup.daemon_command("devices/fs/outrigger-fs", f"--shared-dir={shared}", "--tag=share", "--xattr",
                                         "--posix-lock", *keeper, *arguments),
                    f"{setup.work}/{name}.sock", f"{setup.work}/{name}.log", kept=kept)
    daemon.start()
    return daemon


def wait_until_all_go_on(machine, what):
    """Until each thread has ended steps that it began since now."""
    machine.wait_ticks(1)
    before = machine.ticks[-1]["least"]

    def go_on():
        machine.check_alive()
        if machine.verdict or machine.complaints:
            raise Failure(f"after {what}: {machine.what_is_wrong()}")
        return machine.ticks[-1]["least"] > before + 1
    wait_until(f"a thread does not go on after {what}: {machine.what_is_wrong()}", go_on, 60)


def judge_files(setup):
    """How many files of how many bytes the host has: those that the guest's manifests name, and no others."""
    files = total = 0
    for thread in range(_THREADS):
        directory = f"{setup.work}/shared/t{thread}"
        with open(f"{directory}/manifest", encoding="ascii") as manifest:
            wanted = dict(line.split(" ", 1) for line in manifest)
        found = {}
        for name in os.listdir(directory):
            if name.startswith("f"):
                with open(f"{directory}/{name}", "rb") as file:
                    content = file.read()
                found[name] = f"{len(content)} {zlib.crc32(content):08x}\n"
                files, total = files + 1, total + len(content)
        if found != wanted:
            wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
            raise Failure(f"the host has other files than the guest in t{thread}: {wrong}")
    if files == 0:
        raise Failure("the guest left no file")
    return files, total


def prove_that_it_can_fail(setup):
    """A byte that somebody else changes must be noticed."""
    directory = f"{setup.work}/shared/t0"
    path = next((f"{directory}/{name}" for name in sorted(os.listdir(directory))
                 if name.startswith("f") and os.path.getsize(f"{directory}/{name}")), None)
    if path is None:
        return
    with open(path, "r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    try:
        judge_files(setup)
    except Failure:
        return
    raise Failure("a changed byte was not noticed")


def run(setup):
    """Kills, of which no thread may hear."""
    kills = setup.kills or (LONG_KILLS if setup.long else SHORT_KILLS)
    setup.threads = _THREADS
    # By handle with one kind of ring, by descriptor with the other.
    handles = "mandatory" if setup.rings == "packed" and os.geteuid() == 0 else "never"
    daemon = start_daemon(setup, "fs", "--cache=never", f"--inode-file-handles={handles}", kept=True)
    machine = None
    try:
        machine = Machine(setup, "vm", share=daemon)
        machine.wait_load()
        for number in range(1, kills + 1):
            time.sleep(random.uniform(0.2, 1.0))
            daemon.kill()
            wait_until_all_go_on(machine, f"kill {number}")
        machine.finish()
        files, total = judge_files(setup)
        prove_that_it_can_fail(setup)
        daemon.stop()
        return (f"{kills} kills under {_THREADS} threads (handles: {handles}); {machine.describe_verdict()}; the host has "
                f"{files} files of {total} bytes as the guest left them; longest step {machine.longest_ms(0)} ms")
    finally:
        if machine is not None:
            machine.destroy()
        daemon.destroy()


def run_migrate(setup):
    """To and fro between two daemons of one directory."""
    count = setup.kills or (LONG_ROUNDS if setup.long else SHORT_ROUNDS)
    setup.threads = _THREADS
    # Files that are open and have no name any more move by their handles.
    handles = "--inode-file-handles=" + ("mandatory" if os.geteuid() == 0 else "never")
    daemons = [start_daemon(setup, name, "--cache=auto", handles) for name in ("a", "b")]
    machines = []
    downtimes = []
    try:
        current = Machine(setup, "vm0", share=daemons[0])
        machines.append(current)
        current.wait_load()
        for number in range(1, count + 1):
            following = Machine(setup, f"vm{number}", share=daemons[number % 2], incoming=True)
            machines.append(following)
            downtimes.append(migrate(current, following))
            current.destroy()
            # Its own ticks: the guest goes on there.
            following.wait_ticks(1)
            wait_until_all_go_on(following, f"migration {number}")
            current = following
        current.finish()
        files, total = judge_files(setup)
        for daemon in daemons:
            daemon.stop()
        return (f"{count} rounds under {_THREADS} threads, {max(downtimes)} ms of downtime at most; "
                f"{current.describe_verdict()}; the host has {files} files of {total} bytes as the guest left them")
    except Failure as failure:
        raise Failure(f"{failure}; daemons: {daemons[0].last_line()}; {daemons[1].last_line()}") from None
    finally:
        for machine in machines:
            machine.destroy()
        for daemon in daemons:
            daemon.destroy()
