# SPDX-License-Identifier: Apache-2.0
"""How many frames of 60 bytes go from guest to guest, through us and through DPDK's own vhost driver."""

import shutil
import statistics
import tempfile
import time

from testpmd import Daemon, Testpmd

_STATIONS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
_SECONDS = 3
_BURSTS = 16  # of 32 frames, that go round in each direction


def guests(setup, work, sockets, packed):
    """Two guests in one testpmd on processor 1: what one receives it sends by the other."""
    devices = [f"net_virtio_user{number},path={path},queues=1,queue_size=1024,mac={_STATIONS[number]},"
               f"packed_vq={int(packed)}" for number, path in enumerate(sockets)]
    peers = [f"--eth-peer={number},{_STATIONS[1 - number]}" for number in range(2)]
    return Testpmd(setup.root, work, devices, [*peers, "--txpkts=60"], cpus="1")


def rate(testpmd):
    """Frames a second that both guests received, and for how long it was looked."""
    testpmd.ask(f"start tx_first {_BURSTS}")
    time.sleep(1)
    before, began = [testpmd.statistic(port, "RX-packets") for port in range(2)], time.monotonic()
    time.sleep(_SECONDS)
    after, ended = [testpmd.statistic(port, "RX-packets") for port in range(2)], time.monotonic()
    testpmd.ask("stop")
    return (sum(after) - sum(before)) / (ended - began)


def ours(setup, packed, thread):
    work = tempfile.mkdtemp(prefix="outrigger-testpmd.")
    sockets = [f"{work}/{number}.sock" for number in range(2)]
    daemon = Daemon(setup.build, work, [f"--device=socket-path={path},backend=switch,switch-thread={thread}"
                                        for path in sockets], sockets,
                    before=("taskset", "-c", "0"))
    try:
        testpmd = guests(setup, work, sockets, packed)
        try:
            began = daemon.cpu_seconds()
            measured = rate(testpmd)
            used = (daemon.cpu_seconds() - began) / (1 + _SECONDS)
            # The guests are there, and send nothing.
            time.sleep(0.5)
            began = daemon.cpu_seconds()
            time.sleep(_SECONDS)
            idle = (daemon.cpu_seconds() - began) / _SECONDS
            testpmd.quit()
        finally:
            testpmd.destroy()
        daemon.stop()
        return measured, used, idle
    finally:
        daemon.destroy()
        shutil.rmtree(work, ignore_errors=True)


def theirs(setup, packed):
    work = tempfile.mkdtemp(prefix="outrigger-testpmd.")
    sockets = [f"{work}/{number}.sock" for number in range(2)]
    back_end = Testpmd(setup.root, work, [f"net_vhost{number},iface={path},queues=1"
                                          for number, path in enumerate(sockets)],
                       ["--auto-start", "--forward-mode=io"], name="vhost", cpus="0")
    try:
        testpmd = guests(setup, work, sockets, packed)
        try:
            measured = rate(testpmd)
            testpmd.quit()
        finally:
            testpmd.destroy()
        back_end.quit()
        return measured
    finally:
        back_end.destroy()
        shutil.rmtree(work, ignore_errors=True)


def measure(setup):
    for packed in (False, True):
        kind = "packed" if packed else "split"
        rates = {"own": [], "shared": []}
        theirs_of_rounds = []
        for number in range(setup.rounds):
            for thread, measured in rates.items():
                measured.append(ours(setup, packed, thread))
            theirs_of_rounds.append(theirs(setup, packed))
            print(f"    {kind}, round {number + 1}: "
                  f"{', '.join(f'{measured[-1][0] / 1e6:.2f} ({thread} thread)' for thread, measured in rates.items())} "
                  f"and {theirs_of_rounds[-1] / 1e6:.2f} M frames/s", flush=True)
        for thread, measured in rates.items():
            rate_of_ours, used, idle = (statistics.median(column) for column in zip(*measured))
            ratio = statistics.median(our / their for (our, _, _), their in zip(measured, theirs_of_rounds))
            print(f"  guest to guest, 60 B, {kind}, {thread} thread: {rate_of_ours / 1e6:.2f} M frames/s, DPDK's vhost "
                  f"{statistics.median(theirs_of_rounds) / 1e6:.2f}, ratio {ratio:.2f}; processors {used:.2f}, "
                  f"idle {idle:.3f}", flush=True)
            if setup.results:
                with open(setup.results, "a", encoding="utf-8") as results:
                    print(kind, thread, f"{rate_of_ours / 1e6:.2f}", f"{statistics.median(theirs_of_rounds) / 1e6:.2f}",
                          f"{ratio:.2f}", sep="\t", file=results)
