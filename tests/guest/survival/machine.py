# SPDX-License-Identifier: Apache-2.0
"""QEMU with the survival guest in it, and our daemons beside it."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time

# What the guest's kernel says when a device broke its word.
_COMPLAINT = re.compile(r"BUG:|WARNING:|Oops|Call Trace|I/O error|is not a head|blocked for more|Kernel panic")


class Failure(Exception):
    """What a test found; the message is its result."""


def wait_until(what, condition, seconds):
    """Fails with `what` when condition() has not become true in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise Failure(what)
        time.sleep(0.01)


class Daemon:
    """One of our daemons, on a socket of its own. With a keeper the worker is its child."""

    def __init__(self, command, socket_path, log_path, kept=False):
        self.command = [*command, f"--socket-path={socket_path}"]
        self.socket_path = socket_path
        self.log_path = log_path
        self.kept = kept
        self.process = None

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until("the daemon does not listen: " + self.last_line(), self._listens, 20)

    def _listens(self):
        if self.process.poll() is not None:
            raise Failure(f"the daemon ended with status {self.process.returncode}: {self.last_line()}")
        # The file of one that was killed may be there still; only a live one listens. Its socket is of the network
        # that it began in: ours, or, with a keeper, that of a namespace which that one stays in.
        return any(self._listens_in(network) for network in ("/proc/net/unix", f"/proc/{self.process.pid}/net/unix"))

    def _listens_in(self, network):
        with open(network, encoding="utf-8", errors="replace") as sockets:
            return any(line.rstrip().endswith(" " + self.socket_path) and " 00010000 " in line for line in sockets)

    def log(self):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as log:
                return log.read()
        except OSError:
            return ""

    def last_line(self):
        return (self.log().splitlines() or [""])[-1]

    def worker(self):
        """The process that serves the guest, or None while there is none."""
        if not self.kept:
            return self.process.pid
        try:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="utf-8") as children:
                pids = [int(pid) for pid in children.read().split()]
        except OSError:
            return None
        return next((pid for pid in pids if not _is_zombie(pid)), None)

    def kill(self):
        """kill -9 of what serves the guest. Without a keeper it stays dead."""
        victim = wait_until("there is no worker to kill", self.worker, 20)
        os.kill(victim, signal.SIGKILL)
        if self.kept:
            wait_until("the keeper does not replace its worker",
                       lambda: self._replaced(victim), 20)
        else:
            self.process.wait()
        return victim

    def _replaced(self, victim):
        if self.process.poll() is not None:
            raise Failure(f"the keeper ended with status {self.process.returncode}: {self.last_line()}")
        return self.worker() not in (None, victim)

    def stop(self):
        """As an operator would; it must leave cleanly."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            status = self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.destroy()
            raise Failure("the daemon does not end on SIGTERM: " + self.last_line()) from None
        if status != 0:
            raise Failure(f"the daemon ended with status {status} on SIGTERM: {self.last_line()}")
        report = re.search(r".*(ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:"
                           r"|the sandbox does not allow).*", self.log())
        if report:
            raise Failure(report.group(0))

    def destroy(self):
        if self.process is not None and self.process.poll() is None:
            worker = self.worker() if self.kept else None
            self.process.kill()
            self.process.wait()
            if worker is not None:
                try:
                    os.kill(worker, signal.SIGKILL)
                except ProcessLookupError:
                    pass


def _is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def connected(path):
    """A connection to what QEMU listens at: a socket file is there a moment before somebody listens."""
    deadline = time.monotonic() + 10
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
            return connection
        except ConnectionRefusedError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


class Qmp:
    """QEMU's monitor."""

    def __init__(self, path):
        self._socket = connected(path)
        self._socket.settimeout(60)
        self._file = self._socket.makefile("rw", encoding="utf-8")
        self._file.readline()  # the greeting
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        while True:
            try:
                line = self._file.readline()
            except ConnectionError:
                line = ""
            if not line:
                raise Failure(f"QEMU hung up at {command}")
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise Failure(f"QEMU refuses {command}: {answer['error']['desc']}")

    def close(self):
        self._socket.close()


class NetworkCard:
    """A network device of a machine, and what its guest does by it (guest.sh)."""

    def __init__(self, socket_path, where, number=1, pairs=4, **work):
        self.socket_path = socket_path
        self.where = where
        self.number = number
        self.pairs = pairs
        self.work = work

    def kernel_arguments(self):
        work = "".join(f" survival.{name}={value}" for name, value in self.work.items())
        return f" survival.net={self.where}{work}"

    def arguments(self, setup):
        options = f"netdev=net,mac=52:54:00:00:01:{self.number:02x},romfile=,disable-legacy=on"
        options += f",packed={'on' if setup.rings == 'packed' else 'off'}"
        if self.pairs > 1:
            options += ",mq=on"
        # See devices/net/host.sh: QEMU 7.2 crashes otherwise.
        if setup.qemu_version < (9, 0) and setup.accelerator == "tcg":
            options += ",vectors=0"
        return ["-chardev", f"socket,id=net,path={self.socket_path}",
                "-netdev", f"vhost-user,id=net,chardev=net,queues={self.pairs}",
                "-device", f"virtio-net-pci,id=card,{options}"]


class Machine:
    """One QEMU process. `setup` has what all of a test have in common (survive.py)."""

    def __init__(self, setup, name, disk=None, rng=None, sockets=None, socket_connections=0, socket_addresses=(),
                 share=None, network=None, incoming=False, extra=()):
        self.setup = setup
        self.streams = f"{socket_connections}," + ",".join(socket_addresses)
        self.name = name
        self.work = setup.work
        self.ticks = []  # of the verifier: dictionaries of its numbers, with host_time
        self.verdict = None
        self.results = {}
        self.complaints = []
        self._partial = b""
        self._stop_reading = threading.Event()
        self._reader = None
        self.console_path = self._path("console.log")
        command = [*setup.qemu, *self._arguments(disk, rng, sockets, share, network, incoming), *extra]
        with open(self._path("qemu.log"), "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until("QEMU does not start: " + self.qemu_log(), self._has_monitor, 60)
        self.qmp = Qmp(self._path("qmp"))
        self._serial = connected(self._path("results"))
        self._reader = threading.Thread(target=self._read_results, daemon=True)
        self._reader.start()

    def _path(self, what):
        return f"{self.work}/{self.name}.{what}"

    def _has_monitor(self):
        if self.process.poll() is not None:
            raise Failure("QEMU ended: " + self.qemu_log())
        return os.path.exists(self._path("qmp")) and os.path.exists(self._path("results"))

    def qemu_log(self):
        with open(self._path("qemu.log"), encoding="utf-8", errors="replace") as log:
            return " ".join(log.read().split())[-400:]

    def _arguments(self, disk, rng, sockets, share, network, incoming):
        setup = self.setup
        append = (f"panic=-1 no_timer_check console=ttyS0 loglevel=5 outrigger.rings={setup.rings} "
                  f"outrigger.iommu=off outrigger.devices=survival survival.threads={setup.threads} "
                  f"survival.blocks={setup.blocks} survival.stuck={setup.stuck_s}")
        if disk:
            append += " survival.disk"
        if rng:
            append += " survival.rng"
            # Since 9.0 QEMU hands this device every feature bit that the daemon offers.
            if setup.qemu_version >= (9, 0):
                append += " outrigger.rings.rng=packed"
        if sockets:
            append += f" survival.streams={self.streams}"
        if share:
            append += " survival.share"
        if network:
            append += network.kernel_arguments()
        arguments = ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
                     "-machine", "q35,memory-backend=ram", "-accel", setup.accelerator,
                     "-cpu", "host" if setup.accelerator == "kvm" else "max",
                     "-smp", "2", "-m", "256M", "-object", setup.memory_backend(),
                     "-kernel", setup.kernel, "-initrd", setup.initramfs, "-append", append,
                     "-serial", f"file:{self.console_path}",
                     "-chardev", f"socket,id=results,path={self._path('results')},server=on,wait=off",
                     "-serial", "chardev:results",
                     "-qmp", f"unix:{self._path('qmp')},server=on,wait=off"]
        packed = "on" if setup.rings == "packed" else "off"
        if disk:
            arguments += ["-chardev", f"socket,id=blk,path={disk.socket_path}{setup.reconnect}",
                          "-device", f"vhost-user-blk-pci,chardev=blk,num-queues={setup.queues},packed={packed}"]
        if rng:
            arguments += ["-chardev", f"socket,id=rng,path={rng.socket_path}",
                          "-device", f"vhost-user-rng-pci,chardev=rng,packed={packed}"]
        if sockets:
            arguments += ["-chardev", f"socket,id=vsock,path={sockets.socket_path}",
                          "-device", f"vhost-user-vsock-pci,chardev=vsock,packed={packed}"]
        if share:
            arguments += ["-chardev", f"socket,id=fs,path={share.socket_path}",
                          "-device", "vhost-user-fs-pci,chardev=fs,tag=share,queue-size=1024,num-request-queues=2,"
                                     f"packed={packed}"]
        if network:
            arguments += network.arguments(setup)
        if incoming:
            arguments += ["-incoming", "defer"]
        return arguments

    # --- What the guest says -----------------------------------------------------------------------

    def _read_results(self):
        while not self._stop_reading.is_set():
            readable, _, _ = select.select([self._serial], [], [], 0.2)
            if not readable:
                continue
            try:
                data = self._serial.recv(65536)
            except OSError:
                return
            if not data:
                return
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self._on_line(line.decode(errors="replace").strip())

    def _on_line(self, line):
        kind, _, rest = line.partition(" ")
        if kind in ("OUTRIGGER-TICK", "OUTRIGGER-VERDICT"):
            try:
                numbers = {name: int(value) for name, value in (word.split("=") for word in rest.split())}
            except ValueError:
                return  # cut by a migration, or the first line
            numbers["host_time"] = time.monotonic()
            if kind == "OUTRIGGER-TICK":
                self.ticks.append(numbers)
                if self.setup.verbose:
                    print(f"      {self.name}: {rest}", flush=True)
            else:
                self.verdict = numbers
        elif kind == "OUTRIGGER-COMPLAINT":
            self.complaints.append(rest)
        elif kind == "OUTRIGGER-TEST":
            name, _, detail = rest.partition(" ")
            self.results[name] = detail

    def check_alive(self):
        if self.process.poll() is not None:
            raise Failure(f"QEMU ended with status {self.process.returncode}: {self.qemu_log()}")

    def wait_ticks(self, count, seconds=90):
        """Until the verifier has told its numbers `count` times more."""
        target = len(self.ticks) + count

        def enough():
            self.check_alive()
            return len(self.ticks) >= target or self.verdict
        wait_until(f"the guest is silent: {self.what_is_wrong()}", enough, seconds)

    def wait_load(self, seconds=120):
        """Until the guest has booted and works."""
        def works():
            self.check_alive()
            return self.ticks and (self.ticks[-1]["ops"] or self.ticks[-1]["rng_bytes"])
        wait_until(f"the guest does not begin: {self.what_is_wrong()}", works, seconds)

    def what_is_wrong(self):
        said = [*self.complaints[:3], *(f"{name} {detail}" for name, detail in self.results.items()
                                        if not detail.startswith("ok"))]
        kernel = self.kernel_complaint()
        return "; ".join(said + ([kernel] if kernel else [])) or "nothing was said"

    def kernel_complaint(self):
        try:
            with open(self.console_path, encoding="utf-8", errors="replace") as console:
                return next((line.strip() for line in console if _COMPLAINT.search(line)), None)
        except OSError:
            return None

    def longest_ms(self, since, what="longest_ms"):
        """The longest delay of a request in the ticks that came after `since` (time.monotonic())."""
        return max((tick[what] for tick in self.ticks if tick["host_time"] >= since), default=0)

    # --- The end -------------------------------------------------------------------------------------

    def finish(self, seconds=120):
        """Ends the load; the verdict, when it is good."""
        self._serial.sendall(b"\nstop\n")

        wait_until(f"the guest gives no verdict: {self.what_is_wrong()}",
                   lambda: (self.verdict and "all" in self.results) or self.process.poll() is not None, seconds)
        # The reader may still hold the last lines of a QEMU that has gone.
        wait_until(f"there is no verdict: {self.what_is_wrong()}", lambda: self.verdict, 5)
        for name in ("bad", "eio", "stuck", "rng_errors"):
            if self.verdict[name]:
                raise Failure(f"{self.describe_verdict()}; {self.what_is_wrong()}")
        refused = [f"{name}: {detail}" for name, detail in self.results.items() if not detail.startswith("ok")]
        if refused:
            raise Failure("; ".join(refused))
        if self.kernel_complaint():
            raise Failure("the guest's kernel says: " + self.kernel_complaint())
        return self.verdict

    def describe_verdict(self):
        names = ["ops", "reads", "bad", "eio", "stuck"]
        if self.verdict["rng_bytes"] or self.verdict["rng_errors"]:
            names += ["rng_bytes", "rng_errors"]
        return ", ".join(f"{self.verdict[name]} {name}" for name in names)

    def destroy(self):
        self._stop_reading.set()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._reader is not None:
            self._reader.join()
            self._serial.close()
            self.qmp.close()
        for what in ("qmp", "results"):
            try:
                os.unlink(self._path(what))
            except FileNotFoundError:
                pass
