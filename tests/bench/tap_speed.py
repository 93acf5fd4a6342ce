# SPDX-License-Identifier: Apache-2.0
"""TCP between two network namespaces, through outrigger-net with a tap (A) and through a program that does
nothing but read from one tap and write to the other (B)."""

import argparse
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DESCRIPTION = """Measures TCP of the kernel from one network namespace to another, at an MTU of 1500, in turns
through
  rings  a tap, a guest without a kernel (tests/bench/tap_forward.cc), outrigger-net and its tap
  plain  a program that reads from one tap and writes to the other
Both take unfinished checksums and segments. The daemon, or the plain program, has processor 0, and all else has
processor 1, which the guest must share. So what counts is the data for each second of the processor that
outrigger-net (or the plain program) takes; rates stand beside it. Not a test. Takes root, or user namespaces."""


def pump(way, address, port, seconds):
    """What runs at an end: 'send' sends as much as goes, and 'receive' says how much came and how fast."""
    if way == "send":
        with socket.create_connection((address, port), timeout=10) as stream:
            block, ends = bytes(1 << 20), time.monotonic() + seconds
            while time.monotonic() < ends:
                stream.send(block)
        return
    listener = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    print("ready", flush=True)
    stream, _ = listener.accept()
    buffer, received, began = bytearray(1 << 20), 0, time.monotonic()
    while (count := stream.recv_into(buffer)) > 0:
        received += count
    print(received, time.monotonic() - began, flush=True)


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def await_line(process, what):
    if process.stdout.readline().strip() != "ready":
        sys.exit(f"tap-speed: {what} does not start")


class Line:
    """Two namespaces and what is between them."""

    def __init__(self, build, way, packed, work):
        self._processes = []
        self.namespaces = [self._start(["unshare", "--net", "sleep", "infinity"]) for _ in range(2)]
        forward = f"{build}/tests/bench/tap-forward"
        if way == "plain":
            self.measured = self._start(["taskset", "-c", "0", forward, "plain", "tap-a", "tap-b"])
            await_line(self.measured, "tap-forward")
        else:
            path = f"{work}/socket"
            self.measured = self._start(["taskset", "-c", "0", f"{build}/devices/net/outrigger-net",
                                         f"--socket-path={path}", "--backend=tap", "--tap=tap-b", "--keeper=none",
                                         "--log-level=warning"])
            for _ in range(500):
                if os.path.exists(path):
                    break
                time.sleep(0.01)
            guest = self._start(["taskset", "-c", "1", forward, "rings", "tap-a", path, *(["packed"] if packed else [])])
            await_line(guest, "the guest")
        for number, name in enumerate(("tap-a", "tap-b")):
            pid = self.namespaces[number].pid
            subprocess.run(["ip", "link", "set", name, "netns", str(pid)], check=True)
            for command in (f"link set {name} up", f"addr add 10.9.0.{number + 1}/24 dev {name}"):
                subprocess.run([*self.inside(number), "ip", *command.split()], check=True)

    def _start(self, command):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        return process

    def inside(self, number):
        return ["nsenter", f"--net=/proc/{self.namespaces[number].pid}/ns/net"]

    def measure(self, sender, seconds):
        """Bytes a second, and bytes for each second of the processor."""
        receiver = 1 - sender
        ends = [[*self.inside(number), "taskset", "-c", "1", sys.executable, "-B", __file__, f"--pump={way}",
                 f"--address=10.9.0.{receiver + 1}", f"--seconds={seconds}"]
                for number, way in ((sender, "send"), (receiver, "receive"))]
        receiving = self._start(ends[1])
        await_line(receiving, "the receiver")
        began = processor_seconds(self.measured.pid)
        subprocess.run(ends[0], check=True)
        said = receiving.stdout.readline().split()
        if len(said) != 2 or int(said[0]) == 0:
            sys.exit("tap-speed: nothing arrived")
        receiving.wait()
        used = processor_seconds(self.measured.pid) - began
        return int(said[0]) / float(said[1]), int(said[0]) / max(used, 0.01)

    def close(self):
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait()


def main():
    parser = argparse.ArgumentParser(prog="tap-speed", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=f"{_ROOT}/build/release", help="where outrigger-net and tap-forward are; "
                        "default build/release (`ninja -C build/release tests/bench/tap-forward`)")
    parser.add_argument("--results", help="appends a line for each direction and kind of rings, tab-separated: both, "
                        "GB for a second of the processor, of the plain program, ratio, GB/s, of the plain program, ratio")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each run")
    parser.add_argument("--pump", choices=("send", "receive"), help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pump:
        pump(arguments.pump, arguments.address, 5201, arguments.seconds)
        return
    if not arguments.inside:
        users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        os.execvp("unshare", ["unshare", *users, "--net", sys.executable, "-B", *sys.argv, "--inside"])
    results = {}
    for _ in range(arguments.rounds):
        for way in ("plain", "split", "packed"):
            with tempfile.TemporaryDirectory(prefix="outrigger-tap-speed.") as work:
                line = Line(arguments.build, "plain" if way == "plain" else "rings", way == "packed", work)
                try:
                    for sender, direction in enumerate(("guest to host", "host to guest")):
                        results.setdefault((direction, way), []).append(line.measure(sender, arguments.seconds))
                finally:
                    line.close()
    print(f"median of {arguments.rounds} rounds of {arguments.seconds:g} s (least, most); the ratios are those of the rounds'")
    for direction in ("guest to host", "host to guest"):
        plain = results[direction, "plain"]
        for way in ("split", "packed"):
            ours = results[direction, way]
            words, figures = [], []
            for column, unit in ((1, "GB for a second of the processor"), (0, "GB/s")):
                a, b = ([measured[column] / 1e9 for measured in all_of] for all_of in (ours, plain))
                ratio = statistics.median(x / y for x, y in zip(a, b))
                figures += [statistics.median(a), statistics.median(b), ratio]
                words.append(f"{statistics.median(a):.2f} ({min(a):.2f}, {max(a):.2f}) and plain "
                             f"{statistics.median(b):.2f} ({min(b):.2f}, {max(b):.2f}) {unit}, ratio {ratio:.2f}")
            print(f"{direction}, {way}: {'; '.join(words)}", flush=True)
            if arguments.results:
                with open(arguments.results, "a", encoding="utf-8") as results_file:
                    print(direction, way, *(f"{figure:.2f}" for figure in figures), sep="\t", file=results_file)


if __name__ == "__main__":
    main()
