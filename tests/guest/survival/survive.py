#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The rows of tests/guest/survive, which prepares the guest and passes what is not in its --help."""

import argparse
import dataclasses
import os
import shutil
import signal
import sys
import tempfile
import time

import keeper
import kill
import migrate
import net
import postcopy
import share
import sockets
from machine import Failure


@dataclasses.dataclass
class Setup:
    """What all machines of a row have in common."""
    kernel: str
    initramfs: str
    accelerator: str
    build: str
    streams: str
    calls: str
    sandbox: str
    wrap: list
    verbose: bool
    long: bool
    kills: int
    qemu: list
    qemu_version: tuple
    rings: str = "split"
    memory: str = "memfd"
    reconnect: str = ""  # of the disk's chardev
    queues: int = 1
    threads: int = 16
    blocks: int = 64
    stuck_s: int = 20
    work: str = ""

    def memory_backend(self):
        if self.memory == "memfd":
            return "memory-backend-memfd,id=ram,size=256M,share=on"
        return f"memory-backend-file,id=ram,size=256M,share=on,mem-path={self.memory}"

    def reconnecting(self):
        """How this QEMU is told to connect again by itself."""
        option = ",reconnect-ms=100" if self.qemu_version >= (9, 2) else ",reconnect=1"
        return dataclasses.replace(self, reconnect=option)

    def daemon_command(self, program, *arguments):
        return [*self.wrap, f"{self.build}/{program}", f"--sandbox={self.sandbox}", *arguments]

    def disk_bytes(self):
        return self.threads * self.blocks * 4096

    def make_image(self, name="disk.img"):
        path = f"{self.work}/{name}"
        with open(path, "wb") as image:
            image.truncate(self.disk_bytes())
        return path


ROWS = {
    "kill": kill.run,
    "corrupt": kill.run_corrupt,
    "keeper": keeper.run,
    "upgrade": keeper.run_upgrade,
    "sockets": sockets.run,
    "share": share.run,
    "net": net.run_tap,
    "net-switch": net.run_switch,
    "net-user": net.run_user,
    "migrate": migrate.run,
    "migrate-share": share.run_migrate,
    "migrate-failed": migrate.run_failed,
    "migrate-refused": migrate.run_refused,
    "postcopy": postcopy.run,
    "postcopy-lost": postcopy.run_lost,
}


def read_qemus(path):
    """Lines of: label, version, words of the command, with tabs between."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            label, version, *command = line.rstrip("\n").split("\t")
            yield label, tuple(int(part) for part in version.split(".")), command


def configurations(options, row, qemus):
    """(QEMU, rings) that a row runs with. The short form takes each QEMU and each kind of ring once."""
    rings = [options.rings] if options.rings else ["split", "packed"]
    if row in migrate.ROWS + postcopy.ROWS + share.MIGRATING_ROWS:
        qemus = [qemu for qemu in qemus if qemu[1] >= (10,)] or qemus
    if row in net.ROWS:
        # A guest that has several queue pairs and packed rings crashes QEMU 7.2 (devices/net/host.sh).
        qemus = [qemu for qemu in qemus if qemu[1] >= (10,)] or qemus
        if not options.long and not options.rings:
            return [(qemus[-1], "split")]
    if row in ("corrupt", "migrate-refused"):
        return [(qemus[-1], rings[0])]
    if options.long or options.rings:
        return [(qemu, kind) for qemu in qemus for kind in rings]
    if len(qemus) == 1:
        return [(qemus[0], kind) for kind in rings]
    return list(zip(reversed(qemus), rings))


def run_row(options, row, qemu, rings):
    """(passed, seconds, name, detail)"""
    label, version, command = qemu
    setup = Setup(kernel=options.kernel, initramfs=options.initramfs, accelerator=options.accelerator,
                  build=options.build, streams=options.streams, calls=options.calls, sandbox=options.sandbox,
                  wrap=options.wrap.split(), verbose=options.verbose, long=options.long, kills=options.kills, qemu=command,
                  qemu_version=version, rings=rings)
    setup.work = tempfile.mkdtemp(prefix="outrigger-survive.")
    name = f"{row} qemu-{label} {rings}"
    started = time.monotonic()
    try:
        return report_row(options, setup, name, started)
    finally:
        shutil.rmtree(setup.work, ignore_errors=True)


def report_row(options, setup, name, started):
    try:
        passed, detail = True, ROWS[name.split()[0]](setup)
    except Failure as failure:
        passed, detail = False, str(failure)
    seconds = time.monotonic() - started
    sign = "ok" if passed else "failed"
    print(f"  {sign}  {name} ({seconds:.1f} s): {detail}", flush=True)
    if not passed or options.keep:
        kept = os.path.join(options.logs, name.replace(" ", "-"))
        shutil.rmtree(kept, ignore_errors=True)
        os.makedirs(kept)
        for file in os.listdir(setup.work):
            if file.endswith(".log"):
                shutil.copy(os.path.join(setup.work, file), kept)
        print(f"      logs: {kept}", flush=True)
    return passed, seconds, name, detail


def main():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("rows", nargs="*")
    for name in ("kernel", "initramfs", "accelerator", "build", "streams", "calls", "sandbox", "qemus", "logs"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rings", default="")
    parser.add_argument("--wrap", default="")
    parser.add_argument("--results", default="")
    parser.add_argument("--kills", type=int, default=0)
    for name in ("long", "verbose", "keep"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args()
    # Whoever ends this program ends the machines and daemons, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    qemus = list(read_qemus(options.qemus))
    os.unlink(options.qemus)  # made for this run
    failed = 0
    rows = options.rows or [row for row in ROWS if options.long or row not in net.LONG_ROWS]
    for row in rows:
        for qemu, rings in configurations(options, row, qemus):
            passed, seconds, name, detail = run_row(options, row, qemu, rings)
            failed += not passed
            if options.results:
                with open(options.results, "a", encoding="utf-8") as results:
                    detail = " ".join(detail.split())
                    results.write(f"guest\t{name}\t{'passed' if passed else 'failed'}\t{seconds:.1f}\t{detail}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
