#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The host's side of the network's proof.

  servers.py serve PORTS BYTES [TAP]               serves a file by HTTP on 127.0.0.1 and ::1 at one port,
                                                   and names by DNS; writes what there is to PORTS:
                                                   http dns forward forward6 sha256. With TAP it makes that
                                                   interface, in its network namespace, and serves there at
                                                   10.9.0.1 and fd09::1
  servers.py fetch HOST PORT SHA256 DONE           downloads from the guest, prints ok or failed, and
                                                   makes DONE, beside PORTS, whose name the server asks for
"""

import fcntl
import hashlib
import http.client
import http.server
import os
import random
import socket
import struct
import sys
import threading
import time

ROUTER = "10.0.2.2"
TAP_ADDRESS = "10.9.0.1"
TAP_ADDRESS6 = "fd09::1"
# What there must be before the server says that the host has fetched.
DONE = ("net-fetched", "net-fetched6")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, family, address, file, folder):
        self.address_family = family
        self.file = file
        self.folder = folder
        super().__init__(address, Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/fetched" and not all(os.path.exists(os.path.join(self.server.folder, name)) for name in DONE):
            self.send_error(404)
            return
        body = self.server.file if self.path == "/file" else b"hello\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def make_tap(name):
    """An interface that stays, for whoever opens it, with addresses and without a peer yet."""
    interface = name.encode()
    with open("/dev/net/tun", "r+b", buffering=0) as tun:
        # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR and IFF_MULTI_QUEUE.
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", interface, 0x0002 | 0x1000 | 0x4000 | 0x0100))
        fcntl.ioctl(tun, 0x400454CB, 1)  # TUNSETPERSIST
    with open(f"/proc/sys/net/ipv6/conf/{name}/accept_dad", "w", encoding="ascii") as dad:
        dad.write("0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((0x8916, TAP_ADDRESS), (0x891C, "255.255.255.0")):  # SIOCSIFADDR, SIOCSIFNETMASK
            address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, struct.pack("16s16s8x", interface, address))
        fcntl.ioctl(control, 0x8943, struct.pack("16si20x", interface, 10000))  # SIOCSIFTXQLEN
        fcntl.ioctl(control, 0x8914, struct.pack("16sH22x", interface, 0x1))  # SIOCSIFFLAGS, IFF_UP
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        address = socket.inet_pton(socket.AF_INET6, TAP_ADDRESS6)
        fcntl.ioctl(control, 0x8916, struct.pack("16sIi", address, 64, socket.if_nametoindex(name)))


def open_http(file, folder, address4, address6):
    """One port for both families. The kernel takes a moment until an address that is new may be used."""
    for _ in range(100):
        server4 = Server(socket.AF_INET, (address4, 0), file, folder)
        port = server4.server_address[1]
        try:
            return port, (server4, Server(socket.AF_INET6, (address6, port), file, folder))
        except OSError:
            server4.server_close()
            time.sleep(0.05)
    raise SystemExit(f"no port is free on {address6} and {address4}")


def answer_names(names, address):
    """Every name has the same address, in answer to a question for one."""
    while True:
        query, sender = names.recvfrom(4096)
        if len(query) < 17:
            continue
        end = 12
        while end < len(query) and query[end]:
            end += query[end] + 1
        question = query[12:end + 5]
        is_address = question[-4:-2] == b"\0\1"
        header = query[:2] + struct.pack(">HHHHH", 0x8180, 1, int(is_address), 0, 0)
        answer = struct.pack(">HHHIH", 0xc00c, 1, 1, 60, 4) + socket.inet_aton(address)
        names.sendto(header + question + (answer if is_address else b""), sender)


def free_port(family, address):
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def serve(ports_path, size, tap):
    file = random.Random(size).randbytes(size)
    address, address6 = ("127.0.0.1", "::1")
    if tap:
        make_tap(tap)
        address, address6 = (TAP_ADDRESS, TAP_ADDRESS6)
    port, servers = open_http(file, os.path.dirname(os.path.abspath(ports_path)), address, address6)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind((address, 53 if tap else 0))
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    words = [port, names.getsockname()[1], free_port(socket.AF_INET, address),
             free_port(socket.AF_INET6, address6), hashlib.sha256(file).hexdigest()]
    with open(ports_path + ".new", "w", encoding="ascii") as out:
        print(*words, file=out)
    os.rename(ports_path + ".new", ports_path)
    answer_names(names, TAP_ADDRESS if tap else ROUTER)


def fetch(host, port, expected, done):
    last = None
    for _ in range(20):
        try:
            connection = http.client.HTTPConnection(host, port, timeout=60)
            began = time.monotonic()
            connection.request("GET", "/file")
            body = connection.getresponse().read()
            seconds = time.monotonic() - began
            break
        except (OSError, http.client.HTTPException) as problem:
            last = problem
            time.sleep(0.25)
    else:
        print(f"failed {last}")
        return
    if hashlib.sha256(body).hexdigest() != expected:
        print(f"failed {len(body)} bytes with another checksum")
        return
    open(done, "wb").close()
    print(f"ok {len(body) // 1048576} MiB at {len(body) / 1048576 / seconds:.1f} MiB/s")


def main():
    if sys.argv[1:2] == ["serve"] and len(sys.argv) in (4, 5):
        serve(sys.argv[2], int(sys.argv[3]), sys.argv[4] if len(sys.argv) == 5 else None)
    elif sys.argv[1:2] == ["fetch"] and len(sys.argv) == 6:
        fetch(sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])
    else:
        print(__doc__, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
