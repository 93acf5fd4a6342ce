#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The user of tests/guest/console: types, pastes and resizes at the terminal, and talks to the ports.

usage: console_user.py FOLDER, where tty, a, b and c are
Prints a line for each proof: name, ok or failed, detail; tab-separated.
"""

import fcntl
import hashlib
import os
import random
import re
import select
import socket
import struct
import sys
import termios
import time

PATIENCE_S = 150
PASTE_BYTES = 65536


def proof(name, good, detail):
    print(f"{name}\t{'ok' if good else 'failed'}\t{detail}", flush=True)


def read_until(fd, wanted, patience_s=PATIENCE_S):
    """Reads until the pattern is there; what came."""
    seen = b""
    end = time.monotonic() + patience_s
    while not re.search(wanted, seen):
        left = end - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise TimeoutError(f"no {wanted!r} in {seen[-300:]!r}")
        piece = os.read(fd, 65536)
        if not piece:
            raise EOFError(f"ended before {wanted!r}: {seen[-300:]!r}")
        seen += piece
    return seen


def write_all(fd, data):
    while data:
        select.select([], [fd], [])
        data = data[os.write(fd, data[:4096]):]


def open_terminal(folder):
    fd = os.open(os.path.join(folder, "tty"), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    return fd


def prove_terminal(folder):
    tty = open_terminal(folder)
    # The prompt may have come before us: the replay has it.
    read_until(tty, rb"guest> ")
    write_all(tty, b"echo sum $((6*7))\n")
    read_until(tty, rb"sum 42")
    proof("typing", True, "a shell on hvc0 answers")

    fcntl.ioctl(tty, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
    for _ in range(50):
        write_all(tty, b"stty size; echo si''ze\n")
        if b"50 132" in read_until(tty, rb"size\r\n"):
            break
        time.sleep(0.2)
    else:
        raise ValueError("the guest has another size")
    proof("resize", True, "stty size in the guest is 50 132")

    pasted = random.Random(1).randbytes(PASTE_BYTES)
    write_all(tty, b"stty raw -echo; echo re''ady; head -c %d | md5sum; stty sane; echo do''ne\n" % PASTE_BYTES)
    read_until(tty, rb"ready")
    write_all(tty, pasted)
    seen = read_until(tty, rb"done")
    digest = hashlib.md5(pasted).hexdigest().encode()
    proof("paste", digest in seen, f"{PASTE_BYTES} random bytes, pasted at once, arrive whole")

    write_all(tty, b"stty -echo; seq 1 20000; stty echo; echo e''nd\n")
    seen = read_until(tty, rb"20000\r\nend")
    numbers = [int(each) for each in re.findall(rb"^(\d+)\r$", seen, re.MULTILINE)]
    proof("output", numbers == list(range(1, 20001)), "20000 lines are seen, each once and in order")

    write_all(tty, b"echo la''st words\n")
    read_until(tty, rb"last words")
    os.close(tty)
    time.sleep(0.5)
    again = open_terminal(folder)
    seen = read_until(again, rb"last words")
    proof("replay", b"last words" in seen, "a user who comes back is shown the end of what was written")
    write_all(again, b"echo ba''ck\n")
    read_until(again, rb"back")
    os.close(again)


def talk(folder, name, comes_back=False):
    client = socket.socket(socket.AF_UNIX)
    client.connect(os.path.join(folder, name))
    if comes_back:
        # What the client before saw last.
        read_until(client.fileno(), rb"org\.%s says line 99\n" % name.encode())
    for i in range(100):
        client.sendall(b"line %d\n" % i)
        read_until(client.fileno(), rb"org\.%s says line %d\n" % (name.encode(), i))
    return client


def prove_ports(folder):
    for name in ("a", "b"):
        first = talk(folder, name)
        first.close()
        time.sleep(1)
        # This one has a replay ring.
        shown = name == "a"
        talk(folder, name, comes_back=shown).close()
        proof(f"port {name}", True, "100 lines both ways, and again for the next client"
              + (", who is shown the last ones" if shown else ""))
    with open(os.path.join(folder, "c"), "rb") as file:
        proof("port c", b"hello from the guest" in file.read(), "what the guest writes is in the file")


def main():
    folder = sys.argv[1]
    prove_terminal(folder)
    prove_ports(folder)


main()
