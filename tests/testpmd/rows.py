# SPDX-License-Identifier: Apache-2.0
"""Rows of tests/testpmd/run: testpmd at outrigger-net, and what came of its frames."""

import argparse
import glob
import itertools
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

from speed import measure
from testpmd import Daemon, Failure, Testpmd

_STATIONS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
# Frames of one flow follow one another by this number, behind the headers.
_NUMBER = struct.Struct("<HI")
_HEADERS = 14 + 20 + 8
_BYTES_MIN, _BYTES_MAX = 60, 1514
_STALLED_S = 10


def station(text):
    return bytes(int(part, 16) for part in text.split(":"))


def internet_checksum(header):
    total = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def make_frames(side, queue, count):
    """Datagrams of every length, and of any content; those of the other side's queue of this number answer."""
    dice = random.Random(flow_of(side, queue))
    stations = station(_STATIONS[1 - side]) + station(_STATIONS[side])
    addresses = bytes((10, 0, 0, 1 + side, 10, 0, 0, 2 - side))
    ports = struct.pack(">HH", *(1000 * (1 + end) + queue for end in (side, 1 - side)))
    for number in range(count):
        size = _BYTES_MIN + (number * 7) % (_BYTES_MAX - _BYTES_MIN + 1)
        header = struct.pack(">BBHHHBBH", 0x45, 0, size - 14, 0, 0x4000, 64, 17, 0) + addresses
        header = header[:10] + struct.pack(">H", internet_checksum(header)) + header[12:]
        yield (stations + b"\x08\x00" + header + ports + struct.pack(">HH", size - 34, 0) +
               _NUMBER.pack(flow_of(side, queue), number) + dice.randbytes(size - _HEADERS - _NUMBER.size))


def flow_of(side, queue):
    return side * 16 + queue


def write_pcap(path, frames):
    with open(path, "wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for frame in frames:
            out.write(struct.pack("<IIII", 0, 0, len(frame), len(frame)))
            out.write(frame)


def read_pcap(path):
    with open(path, "rb") as file:
        magic, _, _, _, _, _, kind = struct.unpack("<IHHiIII", file.read(24))
        if magic not in (0xA1B2C3D4, 0xA1B23C4D) or kind != 1:
            raise Failure(f"{path} is no capture of Ethernet")
        while head := file.read(16):
            _, _, size, _ = struct.unpack("<IIII", head)
            yield file.read(size)


def compare(paths, expected, too_early):
    """`expected` is what each flow has sent; all of it has come once, by each queue in its order. `too_early`: so many
    first ones of flows were sent before their ring was enabled, which nobody tells a driver: those are thrown away."""
    missing = {flow: set(range(len(frames))) for flow, frames in expected.items()}
    for path in paths:
        last = dict.fromkeys(expected, -1)
        count = 0
        for count, frame in enumerate(read_pcap(path), 1):
            flow, number = _NUMBER.unpack_from(frame, _HEADERS) if len(frame) >= _BYTES_MIN else (None, None)
            if flow not in expected or number >= len(expected[flow]):
                raise Failure(f"a frame of {len(frame)} bytes came that nobody sent")
            if frame != expected[flow][number]:
                raise Failure(f"frame {number} of flow {flow} came with other bytes")
            if number not in missing[flow]:
                raise Failure(f"frame {number} of flow {flow} came twice")
            if number < last[flow]:
                raise Failure(f"frame {number} of flow {flow} came behind {last[flow]}")
            missing[flow].remove(number)
            last[flow] = number
        if count == 0:
            raise Failure("a queue received nothing")
    for flow, numbers in missing.items():
        if numbers == set(range(len(numbers))) and len(numbers) <= too_early:
            too_early -= len(numbers)
            continue
        if numbers:
            raise Failure(f"of flow {flow} {len(numbers)} of {len(expected[flow])} frames did not come, first {min(numbers)}")


class Side:
    """A guest: what it sends by each queue, and what it is sent."""

    def __init__(self, work, number, queues, count):
        self.number = number
        self.flows = {}
        self._sent, self.received = [], []
        for queue in range(queues):
            flow = flow_of(number, queue)
            frames = list(make_frames(number, queue, count // queues))
            self.flows[flow] = frames
            self._sent.append(f"{work}/sent-{flow}.pcap")
            self.received.append(f"{work}/received-{flow}.pcap")
            write_pcap(self._sent[-1], frames)

    def file_device(self):
        files = [f"rx_pcap={path}" for path in self._sent] + [f"tx_pcap={path}" for path in self.received]
        return f"net_pcap{self.number},{','.join(files)}"


def guest_device(number, path, row):
    return (f"net_virtio_user{number},path={path},queues={row.queues},queue_size=1024,mac={_STATIONS[number]},"
            f"packed_vq={int(row.is_packed)},in_order={int(row.is_in_order)},mrg_rxbuf={int(row.is_merging)}")


class Row:
    def __init__(self, backend, is_packed, is_in_order, queues, is_merging, shares_thread):
        self.backend = backend
        self.shares_thread = shares_thread
        self.is_packed = is_packed
        self.is_in_order = is_in_order
        self.queues = queues
        self.is_merging = is_merging
        self.name = (f"{backend}{', one thread' if shares_thread else ''}, {'packed' if is_packed else 'split'}, "
                     f"{'in order' if is_in_order else 'any order'}, {queues} {'pair' if queues == 1 else 'pairs'}, "
                     f"{'mergeable' if is_merging else 'whole'} buffers")

    def run(self, setup, work):
        guests = 2 if self.backend == "switch" else 1
        sockets = [f"{work}/{number}.sock" for number in range(guests)]
        # To a station that has not sent yet frames are flooded; testpmd sends faster than that is limited to.
        more = ",flood-limit=10000000" if self.backend == "switch" else ""
        if self.shares_thread:
            more += ",switch-thread=shared"
        options = [f"--device=socket-path={path},backend={self.backend},queue-pairs={self.queues}{more}"
                   for path in sockets]
        sides = [Side(work, number, self.queues, setup.frames) for number in range(guests)]
        daemon = Daemon(setup.build, work, options, sockets)
        try:
            # Ports are paired in their order: a file, and its guest.
            devices = []
            for side, path in zip(sides, sockets):
                devices += [side.file_device(), guest_device(side.number, path, self)]
            testpmd = Testpmd(setup.root, work, devices, ["--no-flush-rx", f"--rxq={self.queues}", f"--txq={self.queues}"])
            try:
                pattern = [2 * number for number in range(guests)]
                seconds = self._pass_all(testpmd, pattern, setup.frames // self.queues * self.queues)
                testpmd.quit()
            finally:
                testpmd.destroy()
            problem, counters = None, daemon.counters()
            too_early = sum(int(number) for number in re.findall(r"ring-disabled: (\d+)", counters))
            for side in sides:
                try:
                    compare(side.received, sides[side.number ^ (guests - 1)].flows, too_early)
                except Failure as failure:
                    problem = failure
            daemon.stop()
            if problem:
                raise Failure(f"{problem}; {counters}")
            return f"{setup.frames * guests} frames in {seconds:.1f} s"
        finally:
            daemon.destroy()

    @staticmethod
    def _pass_all(testpmd, ports, count):
        # SET_VRING_ENABLE has no answer here, and testpmd does not wait.
        time.sleep(0.2)
        began = changed = time.monotonic()
        # A ring that is full is tried again, not a reason to throw away.
        testpmd.ask("set fwd io retry")
        testpmd.ask("set burst tx delay 5 retry 100000")
        testpmd.ask("start")
        last = None
        while True:
            # What has been written to the files.
            written = [testpmd.statistic(port, "TX-packets") for port in ports]
            now = time.monotonic()
            if all(number >= count for number in written):
                return now - began
            if written != last:
                last, changed = written, now
            elif now - changed > _STALLED_S:
                return now - began  # what is missing the comparison says
            time.sleep(0.1)


def rows():
    for (backend, shares_thread), is_packed, is_in_order, queues, is_merging in itertools.product(
            (("loop", False), ("switch", False), ("switch", True)), (False, True), (True, False), (1, 2), (True, False)):
        yield Row(backend, is_packed, is_in_order, queues, is_merging, shares_thread)


def run_row(setup, row):
    work = tempfile.mkdtemp(prefix="outrigger-testpmd.")
    began = time.monotonic()
    verdict, detail = "passed", ""
    try:
        detail = row.run(setup, work)
    except (Failure, OSError, struct.error, subprocess.SubprocessError) as failure:
        verdict, detail = "failed", f"{type(failure).__name__}: {failure}".replace("\t", " ").replace("\n", " ")
        logs = os.path.join(os.path.dirname(setup.root), "logs")
        os.makedirs(logs, exist_ok=True)
        for path in glob.glob(f"{work}/*.log"):
            shutil.copy(path, logs)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    seconds = time.monotonic() - began
    print(f"  {'ok' if verdict == 'passed' else 'failed'}  testpmd: {row.name} ({seconds:.1f} s): {detail}", flush=True)
    if setup.results:
        with open(setup.results, "a", encoding="utf-8") as results:
            print("testpmd", row.name, verdict, f"{seconds:.1f}", detail, sep="\t", file=results)
    return verdict == "passed"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--build", required=True)
    parser.add_argument("--results", default="")
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--row", default="")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    setup = parser.parse_args()
    if setup.speed:
        try:
            measure(setup)
        except Failure as failure:
            print(f"  failed  {failure}")
            return 1
        return 0
    chosen = [row for row in rows() if setup.row in row.name]
    if not chosen:
        print(f"tests/testpmd/run: no row has '{setup.row}' in its name", file=sys.stderr)
        return 2
    return 0 if all([run_row(setup, row) for row in chosen]) else 1


if __name__ == "__main__":
    sys.exit(main())
