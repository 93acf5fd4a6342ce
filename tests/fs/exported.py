#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Opens files of a mounted share by their handles, as an NFS server in the guest does, when the
kernel's client has forgotten them.

  exported.py --mount=DIR

Run it by with_share.py with --daemon-option=--nfs-export and --daemon-option=--inode-file-handles=mandatory.
Prints the Test Anything Protocol.
"""

import argparse
import ctypes
import errno
import os
import sys

AT_FDCWD = -100
MS_REMOUNT = 32
HANDLE_BYTES_MAX = 128

libc = ctypes.CDLL(None, use_errno=True)


class Handle(ctypes.Structure):
    _fields_ = [
        ("bytes", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("rest", ctypes.c_ubyte * HANDLE_BYTES_MAX),
    ]


def handle_of(path):
    handle = Handle(bytes=HANDLE_BYTES_MAX)
    mount = ctypes.c_int()
    if libc.name_to_handle_at(AT_FDCWD, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0) != 0:
        raise OSError(ctypes.get_errno(), f"no handle of {path}")
    return handle


class Mount:
    def __init__(self, path):
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def forget(self):
        """Names are forgotten by a remount, and inodes of FUSE without one at once."""
        if libc.mount(None, self.path.encode(), None, MS_REMOUNT, b"") != 0:
            raise OSError(ctypes.get_errno(), "cannot remount")

    def open(self, handle, flags=os.O_RDONLY):
        """Nothing known before; the descriptor, or the errno's name."""
        self.forget()
        fd = libc.open_by_handle_at(self.fd, ctypes.byref(handle), flags)
        return fd if fd >= 0 else errno.errorcode[ctypes.get_errno()]


def read(mount, handle):
    fd = mount.open(handle)
    if isinstance(fd, str):
        return fd
    with os.fdopen(fd, "rb") as file:
        return file.read()


def listed(mount, handle):
    """The names in a directory, and where the kernel says that it is."""
    fd = mount.open(handle, os.O_RDONLY | os.O_DIRECTORY)
    if isinstance(fd, str):
        return fd
    try:
        return os.listdir(fd), os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mount", required=True)
    mount = Mount(parser.parse_args().mount)
    failed = 0
    cases = 0

    def case(name, found, wanted):
        nonlocal failed, cases
        cases += 1
        failed += found != wanted
        print(f"{'ok' if found == wanted else 'not ok'} {cases} {name}")
        if found != wanted:
            print(f"# {found!r}, and not {wanted!r}")

    deep = os.path.join(mount.path, "a", "b")
    os.makedirs(deep)
    name = os.path.join(deep, "f")
    with open(name, "w", encoding="ascii") as file:
        file.write("content")
    directory = handle_of(deep)
    file = handle_of(name)
    for turn in range(3):
        case(f"file-{turn}", read(mount, file), b"content")
        case(f"directory-{turn}", listed(mount, directory), (["f"], deep))
    os.rename(name, os.path.join(mount.path, "renamed"))
    case("renamed-file", read(mount, file), b"content")
    os.rename(deep, os.path.join(mount.path, "moved"))
    case("moved-directory", listed(mount, directory), ([], os.path.join(mount.path, "moved")))
    os.unlink(os.path.join(mount.path, "renamed"))
    case("removed-file", read(mount, file), "ESTALE")
    forged = Handle.from_buffer_copy(directory)
    forged.rest[0] ^= 0x55
    case("forged-number", read(mount, forged), "ESTALE")
    print(f"1..{cases}")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
