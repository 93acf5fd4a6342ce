# SPDX-License-Identifier: Apache-2.0
"""Postcopy migration: the guest runs at its destination before its memory has come."""

import re
import time

from machine import Failure, Machine, wait_until
from migrate import prepare, successor, start_daemons, wait_migration

ROWS = ("postcopy", "postcopy-lost")
# Slow enough that much of the memory is still behind when the guest goes.
_BYTES_A_SECOND = 24 << 20


def begin(source, destination, bytes_a_second):
    """The source stops, and the destination begins."""
    uri = prepare(source, destination, ("postcopy-ram",))
    source.qmp.ask("migrate-set-parameters", **{"max-bandwidth": bytes_a_second,
                                                "max-postcopy-bandwidth": bytes_a_second})
    source.qmp.ask("migrate", uri=uri)
    wait_until("the migration does not begin",
               lambda: source.qmp.ask("query-migrate").get("status") == "active", 30)
    source.qmp.ask("migrate-start-postcopy")


def migrate(source, destination):
    """The pages that QEMU had to send because somebody waited for them."""
    begin(source, destination, _BYTES_A_SECOND)
    answer = wait_migration(source)
    if answer["status"] != "completed":
        raise Failure(f"the migration is {answer['status']}: {answer.get('error-desc', 'no reason was given')}; "
                      f"destination: {destination.qemu_log()}")
    wait_until("the destination does not run",
               lambda: destination.qmp.ask("query-status")["status"] == "running", 30)
    return answer["ram"].get("postcopy-requests", 0)


def run(setup):
    rounds = 4 if setup.long else 2
    daemons = start_daemons(setup, "--postcopy")
    machines = []
    requests = []
    try:
        current = Machine(setup, "vm0", disk=daemons[0])
        machines.append(current)
        current.wait_load()
        for number in range(1, rounds + 1):
            following = successor(setup, f"vm{number}", daemons[number % 2])
            machines.append(following)
            requests.append(migrate(current, following))
            current.destroy()
            following.wait_ticks(2)
            current = following
        current.finish()
        for daemon in daemons:
            daemon.stop()
            said = re.findall(r"postcopy: (.*)", daemon.log())
            if said[:3] != ["the front end can bring pages", "memory comes when it is touched", "ended"]:
                raise Failure(f"a daemon says of postcopy: {said}")
        return (f"{rounds} rounds, pages that somebody waited for: {', '.join(map(str, requests))}; "
                f"{current.describe_verdict()}")
    finally:
        for machine in machines:
            machine.destroy()
        for daemon in daemons:
            daemon.destroy()


def run_lost(setup):
    """The source is gone before the memory has come. The guest is lost, and nothing else."""
    daemons = start_daemons(setup, "--postcopy")
    machines = []
    try:
        source = Machine(setup, "vm0", disk=daemons[0])
        machines.append(source)
        source.wait_load()
        following = successor(setup, "vm1", daemons[1])
        machines.append(following)
        begin(source, following, 2 << 20)
        wait_until("the destination does not run",
                   lambda: following.qmp.ask("query-status")["status"] == "running", 60)
        source.destroy()
        # Pages will never come now. QEMU's monitor may wait for one, too, so nobody asks it.
        time.sleep(1)
        following.destroy()
        wait_until("the daemon does not notice that its front end is gone",
                   lambda: "disconnected" in daemons[1].log(), 30)
        again = Machine(setup, "again", disk=daemons[1])
        machines.append(again)
        again.wait_load()
        again.finish()
        for daemon in daemons:
            daemon.stop()
        return f"another guest on the same daemon: {again.describe_verdict()}"
    finally:
        for machine in machines:
            machine.destroy()
        for daemon in daemons:
            daemon.destroy()
