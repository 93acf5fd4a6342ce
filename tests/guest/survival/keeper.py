# SPDX-License-Identifier: Apache-2.0
"""Daemons under --keeper=fork: killed, and replaced by another program, while QEMU does not reconnect."""

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time

from kill import judge_log, shuffled_disk, wait_for_writes
from machine import Daemon, Failure, Machine, wait_until

SHORT_KILLS = 5
LONG_KILLS = 40
SHORT_UPGRADES = 3
LONG_UPGRADES = 20
# A reader of /dev/hwrng waits for no longer, however busy this machine is.
_RNG_STALL_MAX_MS = 10000
# What an upgrade should not exceed; told, and not asserted: this machine may be busy.
_PAUSE_GOAL_MS = 50
_PAUSE_MAX_MS = 5000


@contextlib.contextmanager
def load_on(setup, *, with_rng=True, disk_options=()):
    """A machine at work on kept daemons: (machine, disk, log of writes, rng)."""
    disk, log, _ = shuffled_disk(setup, "fork", *disk_options)
    rng = Daemon(setup.daemon_command("devices/rng/outrigger-rng", "--keeper=fork"),
                 f"{setup.work}/rng.sock", f"{setup.work}/rng.log", kept=True) if with_rng else None
    machine = None
    try:
        if rng:
            rng.start()
        machine = Machine(setup, "vm", disk=disk, rng=rng)
        machine.wait_load()
        yield machine, disk, log, rng
    finally:
        if machine is not None:
            machine.destroy()
        for daemon in filter(None, (disk, rng)):
            daemon.destroy()


def wait_for_entropy(machine, number):
    """The guest reads on after kill `number`."""
    machine.wait_ticks(1)
    before = machine.ticks[-1]["rng_bytes"]

    def goes_on():
        machine.check_alive()
        return machine.ticks[-1]["rng_bytes"] > before
    wait_until(f"/dev/hwrng gives nothing after kill {number} of its daemon: {machine.what_is_wrong()}", goes_on, 60)


def run(setup):
    """Both daemons in turn."""
    kills = setup.kills or (LONG_KILLS if setup.long else SHORT_KILLS)
    in_flight = []
    with load_on(setup) as (machine, disk, log, rng):
        for number in range(1, kills + 1):
            time.sleep(random.uniform(0.5, 1.5))
            # The next worker sets the number to zero, so it is looked at before: a lower bound.
            in_flight.append(log.in_flight())
            disk.kill()
            wait_for_writes(machine, log, f"the guest does not go on after kill {number}")
            time.sleep(random.uniform(0.5, 1.5))
            rng.kill()
            wait_for_entropy(machine, number)
        if log.writers() != kills + 1:
            raise Failure(f"{kills} kills made {log.writers()} workers")
        machine.finish()
        disk.stop()
        rng.stop()
        mean = sum(in_flight) / kills
        if mean <= 1:
            raise Failure(f"only {mean:.1f} requests were in flight at a kill: nothing is proven")
        stall = machine.longest_ms(0, "rng_longest_ms")
        if stall > _RNG_STALL_MAX_MS:
            raise Failure(f"a read of /dev/hwrng took {stall} ms")
        writes, repeated = judge_log(log)
        return (f"{kills} kills each, {mean:.1f} requests in flight on average; {machine.describe_verdict()}; "
                f"{writes} writes in order, {repeated} of them repeated; longest request "
                f"{machine.longest_ms(0)} ms, longest read of /dev/hwrng {stall} ms")


class Pulse:
    """The longest time in which no write reached the image, while it is entered."""

    def __init__(self, log):
        self._log = log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.longest_ms = 0.0

    def _watch(self):
        count, since = self._log.record_count(), time.monotonic()
        while not self._stop.is_set():
            time.sleep(0.0005)
            now, newest = time.monotonic(), self._log.record_count()
            self.longest_ms = max(self.longest_ms, (now - since) * 1000)
            if newest != count:
                count, since = newest, now

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def take_over(program, daemon):
    """Asks the keeper of `daemon` to go on with `program`: (exit status, what was printed)."""
    outcome = subprocess.run([program, f"--take-over={daemon.process.pid}"], capture_output=True, text=True,
                             timeout=60, check=False)
    return outcome.returncode, " ".join((outcome.stdout + outcome.stderr).split())


def copy_program(setup, name):
    path = f"{setup.work}/{name}"
    shutil.copy2(f"{setup.build}/tests/guest/outrigger-shuffled-blk", path)
    return path


def program_of(pid):
    return os.readlink(f"/proc/{pid}/exe")


def upgrade(setup, machine, disk, log, number):
    """The pause that it made, in ms."""
    program = copy_program(setup, f"version-{number}")
    with Pulse(log) as pulse:
        time.sleep(0.2)
        status, printed = take_over(program, disk)
        time.sleep(0.3)
    if status != 0:
        raise Failure(f"upgrade {number} failed: {printed}; {disk.last_line()}")
    wait_for_writes(machine, log, f"the guest does not go on after upgrade {number}")
    if program_of(disk.worker()) != program:
        raise Failure(f"after upgrade {number} {program_of(disk.worker())} runs")
    return pulse.longest_ms


def fail_upgrade(setup, machine, disk, log):
    """By the program of another device, which does not know the options, so it cannot serve."""
    before = program_of(disk.worker())
    status, printed = take_over(f"{setup.build}/devices/rng/outrigger-rng", disk)
    if status != 1:
        raise Failure(f"an upgrade to another device's program ended with {status}: {printed}")
    wait_for_writes(machine, log, "the guest does not go on after an upgrade that failed")
    if program_of(disk.worker()) != before:
        raise Failure(f"after an upgrade that failed {program_of(disk.worker())} runs and not {before}")
    # And what went back is kept like any other.
    disk.kill()
    wait_for_writes(machine, log, "the guest does not go on after a kill behind an upgrade that failed")


def run_upgrade(setup):
    upgrades = setup.kills or (LONG_UPGRADES if setup.long else SHORT_UPGRADES)
    # No delays: the pauses are those of the upgrade.
    with load_on(setup, with_rng=False, disk_options=("--shuffle-us=0",)) as (machine, disk, log, _):
        with Pulse(log) as quiet:
            time.sleep(2)
        pauses = [upgrade(setup, machine, disk, log, number) for number in range(1, upgrades + 1)]
        fail_upgrade(setup, machine, disk, log)
        machine.finish()
        disk.stop()
        writes, _ = judge_log(log)
        pauses.sort()
        if pauses[-1] > _PAUSE_MAX_MS:
            raise Failure(f"an upgrade stopped the disk for {pauses[-1]:.0f} ms")
        return (f"{upgrades} upgrades stopped the disk for {pauses[len(pauses) // 2]:.0f} ms, at most {pauses[-1]:.0f} "
                f"(goal {_PAUSE_GOAL_MS}; without one {quiet.longest_ms:.0f}), longest request "
                f"{machine.longest_ms(0)} ms; one that failed went back; {machine.describe_verdict()}; "
                f"{writes} writes in order")
