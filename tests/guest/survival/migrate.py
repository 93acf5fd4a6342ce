# SPDX-License-Identifier: Apache-2.0
"""Live migration between two QEMUs of this host, with a daemon at each end and one image."""

import dataclasses
import os
import time

from machine import Daemon, Failure, Machine, wait_until

ROWS = ("migrate", "migrate-failed", "migrate-refused")
SHORT_ROUNDS = 2
LONG_ROUNDS = 20
# A device that a destination can lack.
_ONE_MORE = ("-device", "virtio-balloon-pci")


def start_daemons(setup, *arguments):
    """One for each end. Both have the image open; the one whose guest runs has its lock."""
    image = setup.make_image()
    daemons = []
    for name in ("a", "b"):
        daemon = Daemon(setup.daemon_command("devices/blk/outrigger-blk", f"--blk-file={image}", "--lock=running",
                                             "--keeper=none", *arguments),
                        f"{setup.work}/{name}.sock", f"{setup.work}/{name}.log")
        daemon.start()
        daemons.append(daemon)
    return daemons


def prepare(source, destination, capabilities=()):
    """Where the source is to go; the destination listens there."""
    wanted = [{"capability": name, "state": True} for name in capabilities]
    path = f"{source.work}/{destination.name}.migration"
    for machine in (source, destination):
        if wanted:
            machine.qmp.ask("migrate-set-capabilities", capabilities=wanted)
    destination.qmp.ask("migrate-incoming", uri=f"unix:{path}")
    return f"unix:{path}"


def wait_migration(machine, seconds=120):
    """What query-migrate says when it has ended."""
    def ended():
        machine.check_alive()
        answer = machine.qmp.ask("query-migrate")
        return answer if answer.get("status") in ("completed", "failed", "cancelled") else None
    return wait_until("the migration does not end", ended, seconds)


def migrate(source, destination, capabilities=()):
    """The downtime in ms as QEMU says it."""
    uri = prepare(source, destination, capabilities)
    source.qmp.ask("migrate", uri=uri)
    answer = wait_migration(source)
    if answer["status"] != "completed":
        raise Failure(f"the migration is {answer['status']}: {answer.get('error-desc', 'no reason was given')}; "
                      f"destination: {destination.qemu_log()}")

    def runs():
        destination.check_alive()
        return destination.qmp.ask("query-status")["status"] == "running"
    wait_until("the destination does not run", runs, 30)
    return answer["downtime"]


def successor(setup, name, daemon, extra=()):
    """A QEMU that waits for the guest. The verifier's numbers go on in it."""
    return Machine(setup, name, disk=daemon, incoming=True, extra=extra)


def rounds(setup, count, capabilities=()):
    """To and fro under load: the downtimes, and the last verdict in words."""
    daemons = start_daemons(setup)
    machines = []
    downtimes = []
    try:
        current = Machine(setup, "vm0", disk=daemons[0])
        machines.append(current)
        current.wait_load()
        for number in range(1, count + 1):
            following = successor(setup, f"vm{number}", daemons[number % 2])
            machines.append(following)
            downtimes.append(migrate(current, following, capabilities))
            current.destroy()
            # Its own ticks: the guest goes on there.
            following.wait_ticks(2)
            current = following
        ops = current.ticks[-1]["ops"]
        current.wait_ticks(2)
        if current.ticks[-1]["ops"] <= ops:
            raise Failure(f"the guest does not go on: {current.what_is_wrong()}")
        current.finish()
        for daemon in daemons:
            daemon.stop()
        return downtimes, current.describe_verdict()
    finally:
        for machine in machines:
            machine.destroy()
        for daemon in daemons:
            daemon.destroy()


def run(setup):
    count = setup.kills or (LONG_ROUNDS if setup.long else SHORT_ROUNDS)
    downtimes, verdict = rounds(setup, count)
    # The guest's memory is a file that both QEMUs have, and is not sent.
    shared = f"/dev/shm/{os.path.basename(setup.work)}.ram"
    try:
        in_place, shared_verdict = rounds(dataclasses.replace(setup, memory=shared), count, ("x-ignore-shared",))
    finally:
        if os.path.exists(shared):
            os.unlink(shared)
    return (f"{count} rounds, {max(downtimes)} ms of downtime at most; {verdict}; with memory that both ends share "
            f"{count} rounds, {max(in_place)} ms; {shared_verdict}")


def expect_source_goes_on(source, what):
    """The guest is where it was, and its disk works."""
    wait_until(f"the source does not run after {what}",
               lambda: source.qmp.ask("query-status")["status"] == "running", 60)
    source.wait_ticks(1)
    before = source.ticks[-1]["ops"]
    source.wait_ticks(3)
    if source.ticks[-1]["ops"] <= before:
        raise Failure(f"the source's guest does nothing after {what}: {source.what_is_wrong()}")


def fail_at_the_end(setup, source, daemon, machines):
    """The destination lacks a device, and learns that when the devices' state comes: by then the
    source's rings have stopped."""
    following = successor(setup, "other", daemon)
    machines.append(following)
    uri = prepare(source, following, ("return-path",))
    source.qmp.ask("migrate", uri=uri)
    answer = wait_migration(source)
    if answer["status"] != "failed":
        raise Failure(f"a migration to a machine that lacks a device is {answer['status']}")
    expect_source_goes_on(source, "a migration that failed at its end")
    following.destroy()


def fail_by_a_dead_daemon(setup, source, daemon, machines):
    """The destination's daemon is killed before the guest arrives."""
    following = successor(setup, "dead", daemon, _ONE_MORE)
    machines.append(following)
    uri = prepare(source, following, ("return-path",))
    # Slow enough to be in time for it.
    source.qmp.ask("migrate-set-parameters", **{"max-bandwidth": 8 << 20})
    source.qmp.ask("migrate", uri=uri)
    wait_until("the migration does not begin",
               lambda: source.qmp.ask("query-migrate").get("status") == "active", 30)
    time.sleep(0.5)
    daemon.kill()
    # QEMU itself does not mind: the guest would arrive, and its disk would not answer. Whoever
    # watches the daemon calls it off.
    source.qmp.ask("migrate_cancel")
    answer = wait_migration(source)
    if answer["status"] != "cancelled":
        raise Failure(f"the migration is {answer['status']}, and was called off")
    expect_source_goes_on(source, "a migration whose destination's daemon died")
    following.destroy()
    source.qmp.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40})


def fail_by_a_dead_qemu(setup, source, daemon, machines):
    """The destination's QEMU is killed while memory is on its way."""
    following = successor(setup, "gone", daemon, _ONE_MORE)
    machines.append(following)
    uri = prepare(source, following)
    source.qmp.ask("migrate-set-parameters", **{"max-bandwidth": 8 << 20})
    source.qmp.ask("migrate", uri=uri)
    wait_until("the migration does not begin",
               lambda: source.qmp.ask("query-migrate").get("status") == "active", 30)
    time.sleep(0.5)
    following.destroy()
    answer = wait_migration(source)
    if answer["status"] != "failed":
        raise Failure(f"the migration to a QEMU that was killed is {answer['status']}")
    expect_source_goes_on(source, "a migration whose destination's QEMU died")
    source.qmp.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40})


def run_failed(setup):
    daemons = start_daemons(setup)
    machines = []
    try:
        source = Machine(setup, "vm", disk=daemons[0], extra=_ONE_MORE)
        machines.append(source)
        source.wait_load()
        fail_by_a_dead_qemu(setup, source, daemons[1], machines)
        fail_at_the_end(setup, source, daemons[1], machines)
        fail_by_a_dead_daemon(setup, source, daemons[1], machines)
        # And then it can still go.
        daemons[1].start()
        following = successor(setup, "last", daemons[1], _ONE_MORE)
        machines.append(following)
        migrate(source, following)
        source.destroy()
        following.wait_ticks(2)
        following.finish()
        return f"three failed, the fourth arrived; {following.describe_verdict()}"
    finally:
        for machine in machines:
            machine.destroy()
        for daemon in daemons:
            daemon.destroy()


def run_refused(setup):
    """What QEMU itself does not migrate, in its words, and that nothing has changed by that."""
    daemon = Daemon(setup.daemon_command("devices/rng/outrigger-rng", "--keeper=none"),
                    f"{setup.work}/rng.sock", f"{setup.work}/rng.log")
    machine = None
    try:
        daemon.start()
        machine = Machine(setup, "vm", rng=daemon)
        machine.wait_load()
        try:
            machine.qmp.ask("migrate", uri=f"unix:{setup.work}/nobody")
        except Failure as refusal:
            message = str(refusal)
        else:
            raise Failure("QEMU migrates vhost-user-rng now: say so in docs/live-migration.md")
        if "non-migratable device" not in message:
            raise Failure(f"expected its words for a non-migratable device: {message}")
        before = machine.ticks[-1]["rng_bytes"]
        machine.wait_ticks(2)
        if machine.ticks[-1]["rng_bytes"] <= before:
            raise Failure("the guest's entropy device stands still after the refusal")
        machine.finish()
        daemon.stop()
        return message
    finally:
        if machine is not None:
            machine.destroy()
        daemon.destroy()
