# SPDX-License-Identifier: Apache-2.0
"""DPDK's testpmd, driven by its prompt, and our daemon beside it."""

import glob
import os
import re
import select
import signal
import socket
import subprocess
import time


class Failure(Exception):
    """What a test found; the message is its result."""


class Daemon:
    """outrigger-net, or with another program whoever listens at these sockets."""

    def __init__(self, build, work, options, sockets, before=()):
        self._log_path = f"{work}/net.log"
        self._control = f"{work}/control.sock"
        self._client = f"{build}/tools/outriggerctl/outriggerctl"
        command = [*before, f"{build}/devices/net/outrigger-net", f"--control-socket={self._control}",
                   "--sandbox=log", "--keeper=none", *options]
        with open(self._log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for_sockets(self.process, sockets, self._log_path)

    def counters(self):
        """Whatever it counts as dropped, in words."""
        if not os.path.exists(self._client):
            return "outriggerctl is not built"
        shown = subprocess.run([self._client, f"--socket={self._control}", "show"], capture_output=True, text=True,
                               timeout=20, check=False).stdout
        lines = [" ".join(line.split()) for line in shown.splitlines() if re.search(r"drop|spoof|full|refus", line)]
        return "; ".join(lines)[:600]

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.terminate()
        try:
            status = self.process.wait(15)
        except subprocess.TimeoutExpired:
            raise Failure("the daemon does not end on SIGTERM") from None
        with open(self._log_path, encoding="utf-8", errors="replace") as log:
            said = log.read()
        report = re.search(r".*(ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:"
                           r"|the sandbox does not allow).*", said)
        if report:
            raise Failure(report.group(0))
        if status != 0:
            raise Failure(f"the daemon ended with status {status}: {said.splitlines()[-1:]}")

    def destroy(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def wait_for_sockets(process, sockets, log_path):
    deadline = time.monotonic() + 20
    while not all(os.path.exists(path) for path in sockets):
        if process.poll() is not None or time.monotonic() > deadline:
            with open(log_path, encoding="utf-8", errors="replace") as log:
                raise Failure("it does not listen: " + " ".join(log.read().split())[-300:])
        time.sleep(0.01)


class Testpmd:
    """Its main thread is the prompt, the other forwards."""

    _PROMPT = b"testpmd> "

    def __init__(self, root, work, devices, arguments, name="guest", cpus=None, buffers=16384):
        cpus = cpus or ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))[:2])
        libraries = glob.glob(f"{root}/usr/lib/*-linux-gnu")[0]
        drivers = glob.glob(f"{libraries}/dpdk/pmds-*")[0]
        self._log_path = f"{work}/testpmd-{name}.log"
        loaded = ("mempool_ring", "bus_vdev", "net_virtio", "net_vhost", "net_pcap")
        command = [
            # Its prompt is not in the buffer in which its answers are.
            "stdbuf", "-oL", f"{root}/usr/bin/dpdk-testpmd", "--lcores", f"0@({cpus}),1@({cpus})", "--no-huge", "--no-shconf",
            "--no-telemetry", "-m", "512", "--no-pci", f"--file-prefix={os.path.basename(work)}-{name}",
            *(word for driver in loaded for word in ("-d", glob.glob(f"{drivers}/librte_{driver}.so.*")[0])),
            *(word for device in devices for word in ("--vdev", device)),
            "--", "-i", "--no-mlockall", f"--total-num-mbufs={buffers}", *arguments]
        environment = dict(os.environ, LD_LIBRARY_PATH=libraries, XDG_RUNTIME_DIR=work)
        self._log = open(self._log_path, "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, env=environment)
        self._wait_for_prompt(60)

    def _wait_for_prompt(self, seconds):
        said = b""
        deadline = time.monotonic() + seconds
        while not said.endswith(self._PROMPT):
            left = deadline - time.monotonic()
            ready = select.select([self.process.stdout], [], [], max(left, 0))[0] if left > 0 else []
            part = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            self._log.write(part)
            said += part
            if not part:
                self._log.flush()
                status = self.process.poll()
                tail = " ".join(said.decode(errors="replace").split())[-300:]
                raise Failure(f"testpmd {'says nothing' if status is None else f'ended with {status}'}: {tail}")
        return said.decode(errors="replace")

    def ask(self, command, seconds=30):
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        return self._wait_for_prompt(seconds)

    def statistic(self, port, name):
        found = re.search(rf"{name}: *(\d+)", self.ask(f"show port stats {port}"))
        if not found:
            raise Failure(f"testpmd says no {name} of port {port}")
        return int(found.group(1))

    def quit(self):
        self.ask("stop")
        self.process.stdin.write(b"quit\n")
        self.process.stdin.flush()
        try:
            self._log.write(self.process.communicate(timeout=30)[0])
        except subprocess.TimeoutExpired:
            raise Failure("testpmd does not end") from None
        if self.process.returncode != 0:
            raise Failure(f"testpmd ended with status {self.process.returncode}")

    def destroy(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate()
        self._log.close()
