#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The user of tests/guest/shell: starts ./demo --shell on a pseudo-terminal and sits at it.

usage: shell_user.py LOG, which gets what was on the terminal
Prints a line for each proof: name, ok or failed, detail; tab-separated.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

# Of an emulated guest, behind a build of all daemons where there was none.
PATIENCE_S = 600
ESCAPE_KEY = b"\x1d"
PROMPT = rb"guest:[^#]*# "


def proof(name, good, detail):
    print(f"{name}\t{'ok' if good else 'failed'}\t{detail}", flush=True)


def processes_of_session(session):
    """Those that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_text().rsplit(")", 1)[1].split()[:4]
        except (OSError, ValueError):
            continue
        if int(of) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


class Demo:
    """./demo --shell on a terminal of its own."""

    def __init__(self, log):
        self.log = log
        self.terminal, self.slave = pty.openpty()
        self.resize(40, 100)
        self.modes = termios.tcgetattr(self.slave)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.terminal)
            self.take_terminal()
            os.execvp("./demo", ["./demo", "--shell"])

    def take_terminal(self):
        os.setsid()
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
        for descriptor in range(3):
            os.dup2(self.slave, descriptor)

    def resize(self, rows, columns):
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.terminal, text)

    def read_until(self, wanted, patience_s=PATIENCE_S):
        """Reads until the pattern is there; what came."""
        seen = b""
        end = time.monotonic() + patience_s
        while not re.search(wanted, seen):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.terminal], [], [], left)[0]:
                raise TimeoutError(f"no {wanted!r} in {seen[-300:]!r}")
            piece = os.read(self.terminal, 65536)
            self.log.write(piece)
            self.log.flush()
            seen += piece
        return seen

    def is_raw(self):
        return termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG) == 0

    def end(self):
        """Waits for its end: the exit status, and what still runs."""
        deadline = time.monotonic() + 60
        status = None
        while status is None and time.monotonic() < deadline:
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.log.write(os.read(self.terminal, 65536))
            done, how = os.waitpid(self.pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(how) if done else None
        left = processes_of_session(self.pid)
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = processes_of_session(self.pid)
        return status, left

    def stop(self):
        """Whatever went wrong."""
        for pid in processes_of_session(self.pid):
            os.kill(pid, signal.SIGKILL)


def start(log):
    demo = Demo(log)
    seen = demo.read_until(rb"starting the guest with [^\n]*")
    seen += demo.read_until(PROMPT)
    return demo, seen


def prove_end(name, demo, how):
    status, left = demo.end()
    same = termios.tcgetattr(demo.slave) == demo.modes
    proof(name, status == 0 and same and not left,
          f"{how} ends it with status {status}; the terminal is {'as it was' if same else 'changed'}, "
          f"and {len(left)} processes are left")


def prove_shell(log):
    demo, seen = start(log)
    try:
        proof("console", b"and outrigger-console; Ctrl-] ends it" in seen, "the demo found a QEMU that can attach ours")
        demo.type(b"echo sum $((6*7)) on $(readlink /proc/self/fd/0)\n")
        demo.read_until(rb"sum 42 on /dev/hvc0")
        proof("typing", demo.is_raw(), "the shell answers on /dev/hvc0, and the user's terminal is raw")

        sizes = []
        for rows, columns in ((40, 100), (50, 132)):
            demo.resize(rows, columns)
            for _ in range(50):
                demo.type(b"stty size; echo si''ze\n")
                if f"{rows} {columns}".encode() in demo.read_until(rb"size\r\n"):
                    sizes.append((rows, columns))
                    break
                time.sleep(0.2)
        proof("resize", len(sizes) == 2, "stty size in the guest follows the user's terminal")

        demo.type(b"test -b /dev/vda && echo di''sk; (sleep 100)\n")
        demo.read_until(rb"disk")
        demo.type(b"\x03")
        demo.type(b"echo status $?\n")
        demo.read_until(rb"status 130")
        proof("interrupt", True, "Ctrl-C ends a program of the guest, and not the demo")
        demo.type(ESCAPE_KEY)
        prove_end("escape", demo, "the escape key")
    finally:
        demo.stop()


def prove_poweroff(log):
    demo, _ = start(log)
    try:
        demo.type(b"poweroff\n")
        prove_end("poweroff", demo, "the guest's own end")
    finally:
        demo.stop()


def main():
    with open(sys.argv[1], "wb") as log:
        prove_shell(log)
        prove_poweroff(log)


main()
