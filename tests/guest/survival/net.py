# SPDX-License-Identifier: Apache-2.0
"""outrigger-net under --keeper=fork: killed under TCP, while the guest changes its interface."""

import os
import random
import socket
import subprocess
import time

from machine import Daemon, Failure, Machine, NetworkCard, wait_until
from sockets import Follower, prove_that_it_can_fail, wait_until_all_go_on

ROWS = ("net", "net-switch", "net-user")
LONG_ROWS = ("net-switch", "net-user")
SHORT_KILLS = 3
LONG_KILLS = 40
_PROGRAM = "devices/net/outrigger-net"
_TAP = "outrigger0"
# Connections, or callers, of each kind.
_CONNECTIONS = 2
# Rounds of changes that the guest makes to its interface (guest.sh), each of some 7 seconds.
_ROUNDS_PER_KILL = 0.3


class Apart:
    """A network of the host in which there is a tap, away from the machine's own."""

    def __init__(self, setup):
        servers = os.path.join(os.path.dirname(__file__), "..", "devices", "net", "servers.py")
        self._as_root = os.geteuid() == 0
        ports = f"{setup.work}/ports"
        self._log_path = f"{setup.work}/servers.log"
        with open(self._log_path, "wb") as log:
            self._holder = subprocess.Popen(
                ["unshare", *([] if self._as_root else ["--user", "--map-root-user"]), "--net",
                 "python3", "-B", servers, "serve", ports, "1", _TAP],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until("there is no tap", lambda: self._is_there(ports), 20)

    def _is_there(self, ports):
        if self._holder.poll() is not None:
            with open(self._log_path, encoding="utf-8", errors="replace") as log:
                raise Failure("cannot make a tap: " + " ".join(log.read().split())[-300:])
        return os.path.exists(ports)

    def enter(self):
        """What runs a command there."""
        namespaces = f"/proc/{self._holder.pid}/ns"
        user = [] if self._as_root else [f"--user={namespaces}/user", "--preserve-credentials"]
        return ["nsenter", *user, f"--net={namespaces}/net"]

    def destroy(self):
        self._holder.kill()
        self._holder.wait()


def rounds_of(kills):
    return max(2, int(kills * _ROUNDS_PER_KILL))


def net_daemon(setup, name, *arguments, before=(), sockets=()):
    command = setup.daemon_command(_PROGRAM, "--keeper=fork", *arguments)
    daemon = Daemon([*before, *command], f"{setup.work}/{name}.sock", f"{setup.work}/{name}.log", kept=True)
    if sockets:
        daemon.command = [*before, *command]
    return daemon


def kill_often(machine, followers, daemon, kills):
    """Kills at any time, and pulls the cable out and in between; no connection may notice."""
    for number in range(1, kills + 1):
        time.sleep(random.uniform(0.2, 1.0))
        daemon.kill()
        if number % 4 == 2:
            machine.qmp.ask("set_link", name="card", up=False)
            time.sleep(random.uniform(0.1, 0.4))
            machine.qmp.ask("set_link", name="card", up=True)
        wait_until_all_go_on(machine, followers, number)


def finish_changes(machine):
    wait_until(f"the guest is not done with its changes: {machine.what_is_wrong()}",
               lambda: machine.results.get("survival.changes") or machine.verdict or machine.complaints, 300)
    changes = machine.results.get("survival.changes", "none")
    if not changes.startswith("ok "):
        raise Failure(f"changes of the interface: {changes}; {machine.what_is_wrong()}")
    wait_until_all_go_on(machine, [], "all changes")
    return changes[3:]


def run_tap(setup):
    prove_that_it_can_fail(setup)
    kills = setup.kills or (LONG_KILLS if setup.long else SHORT_KILLS)
    apart = Apart(setup)
    daemon = net_daemon(setup, "net", "--backend=tap", f"--tap={_TAP}", "--queue-pairs=4", before=apart.enter())
    followers, machine = [], None
    try:
        daemon.start()
        addresses = ["tcp:10.9.0.1:7000", "tcp:fd09::1:7001", "tcp-listen:7002", "tcp-listen:7003"]
        for name, address in (("to-host", "tcp-listen:7000"), ("to-host6", "tcp-listen:7001"),
                              ("to-guest", "tcp:10.9.0.2:7002"), ("to-guest6", "tcp:fd09::2:7003")):
            followers.append(Follower(setup, name, address, _CONNECTIONS, before=apart.enter()))
        card = NetworkCard(daemon.socket_path, "tap", changes=rounds_of(kills),
                           streams=f"{_CONNECTIONS},{','.join(addresses)}")
        machine = Machine(setup, "vm", network=card)
        machine.wait_load()
        kill_often(machine, followers, daemon, kills)
        changes = finish_changes(machine)
        machine.finish()
        for follower in followers:
            follower.finish()
        daemon.stop()
        return report(machine, kills, _CONNECTIONS * len(addresses), changes)
    finally:
        if machine is not None:
            machine.destroy()
        for follower in followers:
            follower.destroy()
        daemon.destroy()
        apart.destroy()


def report(machine, kills, connections, changes):
    return (f"{kills} kills under {connections} connections, none lost; {changes}; "
            f"{machine.verdict['bytes'] >> 20} MiB came to the guest; longest silence of one "
            f"{machine.longest_ms(0)} ms")


def run_switch(setup):
    prove_that_it_can_fail(setup)
    kills = setup.kills or (LONG_KILLS if setup.long else SHORT_KILLS)
    sockets = [f"{setup.work}/{name}.sock" for name in ("first", "second")]
    daemon = net_daemon(setup, "first", *(f"--device=socket-path={path},backend=switch,queue-pairs=4"
                                          for path in sockets), sockets=sockets)
    leader = follower = None
    try:
        daemon.start()
        addresses = ["tcp:10.9.0.3:7000", "tcp:fd09::3:7001"]
        follower = Machine(setup, "second", network=NetworkCard(
            sockets[1], "10.9.0.3/24,fd09::3/64", number=2, changes=rounds_of(kills),
            follow=f"{_CONNECTIONS},tcp-listen:7000,tcp-listen:7001"))
        leader = Machine(setup, "first", network=NetworkCard(
            sockets[0], "10.9.0.2/24,fd09::2/64", changes=rounds_of(kills),
            streams=f"{_CONNECTIONS},{','.join(addresses)}"))
        leader.wait_load()
        kill_often(leader, [], daemon, kills)
        changes = [finish_changes(leader), wait_for_result(follower, "survival.changes")]
        leader.finish()
        for port in (7000, 7001):
            wait_for_result(follower, f"survival.follow.{port}")
        if follower.kernel_complaint():
            raise Failure("the other guest's kernel says: " + follower.kernel_complaint())
        daemon.stop()
        return report(leader, kills, _CONNECTIONS * len(addresses), " and ".join(changes))
    finally:
        for machine in (leader, follower):
            if machine is not None:
                machine.destroy()
        daemon.destroy()


def wait_for_result(machine, name):
    wait_until(f"the other guest says nothing of {name}: {machine.what_is_wrong()}",
               lambda: name in machine.results, 120)
    if not machine.results[name].startswith("ok "):
        raise Failure(f"the other guest: {name}: {machine.results[name]}")
    return machine.results[name][3:]


# libslirp sends the first segment of a connection to the guest again after 6 and 18 seconds, and the guest's
# link may be down.
_DIALLED_S = 60


class HostCalls:
    """Callers of the host, which reach the guest at a forwarded port, and the servers of the guest's."""

    def __init__(self, setup, port, forwarded):
        self._setup = setup
        self._log_path = f"{setup.work}/host-calls.log"
        with open(self._log_path, "wb") as log:
            self._server = subprocess.Popen([setup.calls, "serve", str(port)], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
            self._callers = None
        self._forwarded = forwarded

    def begin(self):
        with open(self._log_path, "ab") as log:
            self._callers = subprocess.Popen(
                [self._setup.calls, "call", str(_DIALLED_S), str(_CONNECTIONS),
                 f"tcp:127.0.0.1:{self._forwarded}"], stdin=subprocess.PIPE, stdout=log, stderr=log)

    def ticks(self):
        with open(self._log_path, encoding="utf-8", errors="replace") as log:
            for line in log:
                kind, _, rest = line.strip().partition(" ")
                if kind in ("OUTRIGGER-TICK", "OUTRIGGER-VERDICT"):
                    yield {name: int(value) for name, value in (word.split("=") for word in rest.split())}

    def least(self):
        return max((tick["least"] for tick in self.ticks()), default=0)

    def finish(self):
        self._callers.stdin.write(b"stop\n")
        self._callers.stdin.close()
        try:
            status = self._callers.wait(60)
        except subprocess.TimeoutExpired:
            raise Failure("a caller of the host does not end") from None
        last = list(self.ticks())[-1]
        if status != 0 or last["bad"] or last["stuck"]:
            raise Failure(f"callers of the host: {last}")
        return last

    def destroy(self):
        for process in (self._server, self._callers):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_user(setup):
    kills = setup.kills or (LONG_KILLS if setup.long else SHORT_KILLS)
    port, forwarded = free_port(), free_port()
    daemon = net_daemon(setup, "net", "--backend=user", "--host-loopback=on", "--queue-pairs=4",
                        f"--forward=tcp:{forwarded}-7010")
    host = HostCalls(setup, port, forwarded)
    machine = None
    try:
        daemon.start()
        kinds = [f"tcp:10.0.2.2:{port}", f"tcp:fec0::2:{port}", f"udp:10.0.2.2:{port}"]
        machine = Machine(setup, "vm", network=NetworkCard(
            daemon.socket_path, "user", changes=rounds_of(kills), calls=f"{_CONNECTIONS},{','.join(kinds)}"))
        machine.wait_load()
        host.begin()
        for number in range(1, kills + 1):
            time.sleep(random.uniform(0.2, 1.0))
            daemon.kill()
            heard = host.least()
            wait_until_all_go_on(machine, [], number)
            wait_until(f"nobody answers at the forwarded port after kill {number}",
                       lambda heard=heard: host.least() > heard, 2 * _DIALLED_S)
        changes = finish_changes(machine)
        # Before the guest ends: Linux breaks its queues when it powers off (since 6.1.142), and then a frame for it has
        # its driver look for room for ever, so that neither it nor who called it comes to an end.
        served = host.finish()
        machine.finish()
        daemon.stop()
        lost = machine.verdict["lost"]
        # Each ends with its process, and else only while it is dialled: the new process asks for the guest's
        # station, and the link may be down.
        most = kills * _CONNECTIONS * 2
        if lost > 2 * most or served["lost"] > most:
            raise Failure(f"{lost} and {served['lost']} connections were lost by {kills} kills")
        return (f"{kills} kills: {lost} connections of the guest and {served['lost']} to it ended with them and "
                f"were dialled again, datagrams went on; {machine.verdict['ops']} calls of the guest, "
                f"{served['ops']} to it; {changes}; nobody waited for more than {machine.longest_ms(0)} ms")
    finally:
        if machine is not None:
            machine.destroy()
        host.destroy()
        daemon.destroy()
