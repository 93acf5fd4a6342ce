# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the disk's daemon, again and again, where QEMU connects to the next one by itself."""

import os
import random
import time

from machine import Daemon, Failure, Machine, wait_until
from write_log import WriteLog

# The mean number of requests in flight at a kill must be above this, or nothing was proven.
_MEAN_IN_FLIGHT_MIN = 1.0
SHORT_KILLS = 10
LONG_KILLS = 100


def shuffled_disk(setup, keeper, *arguments):
    """A daemon that answers in random order, and its log of writes."""
    image = setup.make_image()
    log_path = f"{setup.work}/writes"
    daemon = Daemon(setup.daemon_command("tests/guest/outrigger-shuffled-blk", f"--blk-file={image}",
                                         f"--write-log={log_path}", f"--keeper={keeper}", *arguments),
                    f"{setup.work}/blk.sock", f"{setup.work}/blk.log", keeper == "fork")
    daemon.start()
    return daemon, WriteLog(log_path), image


def wait_for_writes(machine, log, what, seconds=60):
    """Until writes reach the image that did not before: the guest has its disk again."""
    before = log.record_count()

    def goes_on():
        machine.check_alive()
        if machine.ticks[-1]["stuck"]:
            raise Failure(what)
        return log.record_count() > before + machine.setup.threads
    try:
        wait_until(what, goes_on, seconds)
    except Failure as failure:
        raise Failure(f"{failure}: {machine.what_is_wrong()}") from None


def judge_log(log):
    """(writes, repeated), or a failure."""
    count, repeated, problems = log.check_order()
    if problems:
        raise Failure(f"{len(problems)} writes came late: {problems[0]}")
    if count == 0:
        raise Failure("the log of writes is empty")
    return count, repeated


def run(setup):
    """Kills, and what must have become of the guest's data."""
    kills = setup.kills or (LONG_KILLS if setup.long else SHORT_KILLS)
    setup = setup.reconnecting()
    daemon, log, _ = shuffled_disk(setup, "none")
    machine = None
    in_flight = []
    try:
        machine = Machine(setup, "vm", disk=daemon)
        machine.wait_load()
        for number in range(kills):
            time.sleep(random.uniform(0.5, 1.5))
            daemon.kill()
            in_flight.append(log.in_flight())
            daemon.start()
            wait_for_writes(machine, log, f"the guest does not go on after kill {number + 1}")
        verdict = machine.finish()
        mean = sum(in_flight) / len(in_flight)
        if mean <= _MEAN_IN_FLIGHT_MIN:
            raise Failure(f"only {mean:.1f} requests were in flight at a kill: nothing is proven")
        daemon.stop()
        writes, repeated = judge_log(log)
        return (f"{kills} kills with {mean:.1f} requests in flight on average; {machine.describe_verdict()}; "
                f"{writes} writes in order, {repeated} of them repeated; longest request "
                f"{machine.longest_ms(0)} ms") if verdict else ""
    finally:
        if machine is not None:
            machine.destroy()
        daemon.destroy()


def run_corrupt(setup):
    """The verifier must be able to fail: bytes of the image are flipped behind its back."""
    daemon, _, image = shuffled_disk(setup, "none")
    machine = None
    try:
        machine = Machine(setup, "vm", disk=daemon)
        machine.wait_load()
        machine.wait_ticks(3)
        with open(image, "r+b", buffering=0) as file:
            for block in range(0, setup.disk_bytes(), 4096):
                # One bit of the pattern in each block: those that are not written again are read.
                place = block + 2048 + block // 4096 % 2048
                byte = os.pread(file.fileno(), 1, place)[0]
                os.pwrite(file.fileno(), bytes([byte ^ 1]), place)
        try:
            machine.finish()
        except Failure:
            if machine.verdict and machine.verdict["bad"]:
                return f"flipped bits were noticed: {machine.verdict['bad']} bad"
            raise
        raise Failure("flipped bits were not noticed")
    finally:
        if machine is not None:
            machine.destroy()
        daemon.destroy()
