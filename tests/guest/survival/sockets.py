# SPDX-License-Identifier: Apache-2.0
"""outrigger-vsock under --keeper=fork: killed while streams and messages of known content are under way."""

import os
import random
import socket
import struct
import subprocess
import time

from machine import Daemon, Failure, Machine, wait_until

SHORT_KILLS = 5
LONG_KILLS = 40
# Connections of each kind: of either type, begun by either side.
_CONNECTIONS = 3
# By what the host's end of each is reached, and what the guest's end is (streams.cc).
_KINDS = {
    "stream-to-host": ("unix-listen:{base}_7000", "vsock:2:7000"),
    "messages-to-host": ("packet-unix-listen:{base}_7001", "packet-vsock:2:7001"),
    "stream-to-guest": ("hybrid:{base}:7002", "vsock-listen:7002"),
    "messages-to-guest": ("packet-hybrid:{base}:7003", "packet-vsock-listen:7003"),
}


class Follower:
    """The host's end of the connections of one kind."""

    def __init__(self, setup, name, address, connections=_CONNECTIONS, before=()):
        self.name = name
        self.log_path = f"{setup.work}/{name}.log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([*before, setup.streams, "follow", str(connections), address],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def said(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return " ".join(log.read().split())

    def check_alive(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} ended on the host: {self.said()}")

    def finish(self):
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} does not end on the host: {self.said()}") from None
        if status != 0 or "ok " not in self.said():
            raise Failure(f"{self.name} on the host: status {status}, {self.said()}")

    def destroy(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def prove_that_it_can_fail(setup):
    """A follower that is given a block which is not the next one must say so."""
    path = f"{setup.work}/wrong"
    with subprocess.Popen([setup.streams, "follow", "1", f"unix-listen:{path}"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True) as follower:
        try:
            connection = socket.socket(socket.AF_UNIX)

            def connects():
                try:
                    connection.connect(path)
                    return True
                except OSError:
                    return False
            wait_until("the host's end does not listen", connects, 10)
            connection.sendall(struct.pack("<QQQIIII", 0x6f75747269676765, 1, 0, 1, 0, 0, 0))
            said, _ = follower.communicate(timeout=20)
        finally:
            follower.kill()
    if follower.returncode != 1 or "failed" not in said:
        raise Failure(f"a wrong block was not noticed: {said}")


def wait_until_all_go_on(machine, followers, number):
    """Until each connection has brought the guest a block since now, and more than what was on its way."""
    machine.wait_ticks(1)
    before = machine.ticks[-1]["least"]

    def go_on():
        machine.check_alive()
        for follower in followers:
            follower.check_alive()
        if machine.verdict or machine.complaints:
            raise Failure(f"after kill {number}: {machine.what_is_wrong()}")
        return machine.ticks[-1]["least"] > before
    wait_until(f"a connection does not go on after kill {number}: {machine.what_is_wrong()}", go_on, 60)


def run(setup):
    """Kills, and no connection may notice."""
    prove_that_it_can_fail(setup)
    kills = setup.kills or (LONG_KILLS if setup.long else SHORT_KILLS)
    base = f"{setup.work}/v"
    daemon = Daemon(setup.daemon_command("devices/vsock/outrigger-vsock", "--keeper=fork", "--guest-cid=7",
                                         f"--uds-path={base}"),
                    f"{setup.work}/vsock.sock", f"{setup.work}/vsock.log", kept=True)
    followers = []
    machine = None
    try:
        daemon.start()
        for name, (host, _) in _KINDS.items():
            followers.append(Follower(setup, name, host.format(base=base)))
        machine = Machine(setup, "vm", sockets=daemon, socket_connections=_CONNECTIONS,
                          socket_addresses=[guest for _, guest in _KINDS.values()])
        machine.wait_load()
        for number in range(1, kills + 1):
            time.sleep(random.uniform(0.2, 1.0))
            daemon.kill()
            wait_until_all_go_on(machine, followers, number)
        machine.finish()
        for follower in followers:
            follower.finish()
        daemon.stop()
        return (f"{kills} kills under {_CONNECTIONS * len(_KINDS)} connections, none lost; "
                f"{machine.verdict['ops']} blocks of {machine.verdict['bytes']} bytes in the guest; longest silence "
                f"of one {machine.longest_ms(0)} ms")
    finally:
        if machine is not None:
            machine.destroy()
        for follower in followers:
            follower.destroy()
        daemon.destroy()
        for path in (base, f"{base}_seqpacket"):
            if os.path.exists(path):
                os.unlink(path)
