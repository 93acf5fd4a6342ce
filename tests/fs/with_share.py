#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a command beside a share that the kernel's own FUSE client has mounted, without a machine.

  with_share.py --daemon=PATH --bridge=PATH [OPTION]... -- COMMAND [ARGUMENT]...

In the arguments {mount} stands for where the share is mounted, {backing} for the directory that is
shared, {host} for an empty directory beside it. Prints the Test Anything Protocol: with --tap what the
command prints of it, and its own cases: that the share was mounted and unmounted, that the daemon ended
well, that it holds no more descriptors than before the first request, and among them none of a file that
the guest had looked up.

  --daemon-option=X   passed to the daemon; may be there more than once
  --queues=N          request queues of the bridge; default 2
  --tap               the command prints TAP
  --seconds=N         for the command; default 240
  --kills=N           the daemon has a keeper, and its process is killed N times while the command runs,
                      which must not notice; after that many kills it runs undisturbed
  --needs=OPTION      skips everything when the daemon's --help does not name it
  --keep              leaves the directory there

Where there is no /dev/fuse, or this is not root, everything is skipped with that reason.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

PATIENCE_S = 20
# What a daemon keeps for speed, and descriptors that the first requests of each thread bring.
DESCRIPTORS_KEPT_MAX = 16


class Tap:
    """Cases, numbered here: what a command numbered is numbered anew."""

    def __init__(self):
        self.count = 0
        self.failed = 0

    def case(self, good, name, detail=""):
        self.count += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.count} {name}", flush=True)
        if detail and not good:
            for line in detail.splitlines():
                print(f"# {line}")
                print(f"{name}: {line}", file=sys.stderr)

    def pass_on(self, line):
        words = line.split(" ", 1)
        if line.startswith("not ok "):
            self.case(False, line.split(" ", 3)[3])
        elif words[0] == "ok":
            self.case(True, line.split(" ", 2)[2])
        elif not line.startswith("1.."):
            print(line)
            # Meson keeps comments to itself.
            if line.startswith("#   "):
                print(line, file=sys.stderr)

    def end(self):
        print(f"1..{self.count}", flush=True)
        return 1 if self.failed else 0


def skip_reason(options):
    for option in options.needs:
        if option not in subprocess.run([options.daemon, "--help"], capture_output=True, text=True,
                                        check=False).stdout:
            return f"the daemon has no {option}"
    if os.geteuid() != 0:
        return "this is not root"
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    return None


def wait_for(condition, seconds=PATIENCE_S):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def descriptors_of(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def pinned_by(pid):
    """Descriptors that only pin a file: those of the inodes that a guest has not forgotten, the share's and /proc's."""
    count = 0
    try:
        for name in os.listdir(f"/proc/{pid}/fdinfo"):
            with open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii") as info:
                flags = next(line.split()[1] for line in info if line.startswith("flags:"))
            count += (int(flags, 8) & os.O_PATH) != 0
    except OSError:
        return -1
    return count


class Process:
    """A child whose output is kept."""

    def __init__(self, arguments, home, name):
        self.path = os.path.join(home, name + ".log")
        with open(self.path, "wb") as log:
            self.child = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT,
                                          stdin=subprocess.DEVNULL)

    def said(self):
        with open(self.path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def runs(self):
        return self.child.poll() is None

    def end(self):
        """The exit status behind SIGTERM; None when SIGKILL was needed."""
        if self.runs():
            self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            return None


class Share:
    """The daemon, the bridge and the three directories."""

    def __init__(self, options, home):
        self.home = home
        self.mount, self.backing, self.host = (os.path.join(home, name)
                                               for name in ("mount", "backing", "host"))
        for path in (self.mount, self.backing, self.host):
            os.mkdir(path)
        self.socket = os.path.join(home, "socket")
        arguments = [options.daemon, f"--socket-path={self.socket}", f"--shared-dir={self.backing}",
                     "--tag=share", *options.daemon_option]
        if options.kills:
            arguments += ["--keeper=fork", "--keeper-restarts=1000000"]
        elif not any(word.startswith("--keeper") for word in options.daemon_option):
            arguments.append("--keeper=none")
        self.has_keeper = options.kills > 0
        self.daemon = Process(arguments, home, "daemon")
        wait_for(lambda: os.path.exists(self.socket) or not self.daemon.runs())
        self.descriptors = descriptors_of(self.serving())
        self.pinned = -1
        self.bridge = Process([options.bridge, f"--socket={self.socket}", f"--mountpoint={self.mount}",
                               "--tag=share", f"--queues={options.queues}"], home, "bridge")

    def serving(self):
        """The process that serves: with a keeper its child; 0 while there is none."""
        pid = self.daemon.child.pid
        if not self.has_keeper:
            return pid
        try:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
                return int((children.read().split() or ["0"])[0])
        except OSError:
            return 0

    def mounted(self):
        wait_for(lambda: "mounted " in self.bridge.said() or not self.bridge.runs())
        # Whoever has answered INIT has opened all it needs, and the guest has looked up nothing yet.
        self.pinned = pinned_by(self.serving())
        return "mounted " in self.bridge.said()

    def place(self, word):
        for name in ("mount", "backing", "host"):
            word = word.replace("{" + name + "}", getattr(self, name))
        return word

    def said(self):
        return self.daemon.said() + self.bridge.said()


class Killer(threading.Thread):
    """Kills the process that serves, again and again, each at a moment of its own."""

    def __init__(self, share, kills):
        super().__init__(daemon=True)
        self.share, self.wanted, self.done = share, kills, 0
        self.over = threading.Event()

    def run(self):
        last = 0
        while self.done < self.wanted and not self.over.wait(random.uniform(0.01, 0.15)):
            pid = self.share.serving()
            # The same one is not killed twice, and one that has not begun to serve is none.
            if pid in (0, last) or descriptors_of(pid) < 10:
                continue
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            last = pid
            self.done += 1


def run_command(command, share, options, tap):
    words = [share.place(word) for word in command]
    environment = dict(os.environ, OUTRIGGER_DAEMON_PID=str(share.daemon.child.pid))
    killer = Killer(share, options.kills)
    killer.start()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", stdin=subprocess.DEVNULL, env=environment,
                          cwd=share.home) as child:
        try:
            # Its output ends with it, or with the time.
            deadline = time.monotonic() + options.seconds
            signal.signal(signal.SIGALRM, lambda *_: child.kill())
            signal.setitimer(signal.ITIMER_REAL, options.seconds)
            lines = []
            for line in child.stdout:
                if options.tap:
                    tap.pass_on(line.rstrip("\n"))
                else:
                    lines.append(line)
                    print("#", line.rstrip("\n"), flush=True)
            status = child.wait()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            killer.over.set()
            killer.join()
    if options.kills:
        tap.case(killer.done == options.kills, "share.kills",
                 f"killed {killer.done} times, and not {options.kills}: the command was too short")
        print(f"# killed {killer.done} times")
    if time.monotonic() >= deadline:
        tap.case(False, "ends in time", f"killed after {options.seconds} s")
    elif not options.tap:
        tap.case(status == 0, os.path.basename(words[0]), "".join(lines[-80:]))
    elif status not in (0, 1):
        tap.case(False, os.path.basename(words[0]), f"exit status {status}")


def end_share(share, tap):
    status = share.bridge.end()
    tap.case(status == 0, "share.unmounted", f"the bridge ended with {status}\n{share.said()}")
    alive = share.daemon.runs()
    tap.case(alive, "share.daemon-lives", share.daemon.said())
    if alive:
        few = wait_for(lambda: descriptors_of(share.serving()) <=
                       share.descriptors + DESCRIPTORS_KEPT_MAX, 5)
        tap.case(few, "share.descriptors-come-back",
                 f"{share.descriptors} before, {descriptors_of(share.serving())} now")
        tap.case(wait_for(lambda: pinned_by(share.serving()) == share.pinned, 5), "share.inodes-forgotten",
                 f"{share.pinned} pinned before, {pinned_by(share.serving())} now")
    status = share.daemon.end()
    tap.case(status == 0, "share.daemon-ends", f"the daemon ended with {status}\n{share.daemon.said()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--daemon", required=True)
    parser.add_argument("--bridge", required=True)
    parser.add_argument("--daemon-option", action="append", default=[])
    parser.add_argument("--queues", type=int, default=2)
    parser.add_argument("--tap", action="store_true")
    parser.add_argument("--seconds", type=int, default=240)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--needs", action="append", default=[])
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("a command must be there")
    reason = skip_reason(options)
    if reason:
        print(f"1..0 # SKIP {reason}")
        return 0
    # A real file system, with extended attributes and direct I/O.
    home = tempfile.mkdtemp(prefix="outrigger-fs-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    os.chmod(home, 0o755)
    tap = Tap()
    share = None
    try:
        share = Share(options, home)
        mounted = share.mounted()
        tap.case(mounted, "share.mounted", share.said())
        if mounted:
            run_command(command, share, options, tap)
            end_share(share, tap)
    finally:
        if share:
            for process in (share.bridge, share.daemon):
                process.end()
        subprocess.run(["umount", "-l", os.path.join(home, "mount")], check=False,
                       stderr=subprocess.DEVNULL)
        if not options.keep:
            shutil.rmtree(home, ignore_errors=True)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
