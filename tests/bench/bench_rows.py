# SPDX-License-Identifier: Apache-2.0
"""What is measured for docs/performance.md: the rows, the goals, and the back ends' command lines."""

import resource
from dataclasses import dataclass, field, replace

NULL_BYTES = 4 << 30
QUEUES = 4


@dataclass
class Row:
    """One comparison. `a` and `b` make a shell command from (tools, socket path); beside the socket are the host's
    side of streams (.host) and the directory that is shared (.share)."""
    section: str  # "null", "copy", "memory", "file", "direct", "queues", "vsock", "fs", "console", "net"
    label: str
    a: object
    b: object
    peer: str
    options: list = field(default_factory=list)
    goal: str = ""
    ratio_goal: float = 0  # of the median rates; 0: none
    depth: int = 0
    engine: str = ""
    workload: str = "blk"
    hosts: str = ""       # the sides whose host's side is given: "ab", "a"
    block_bytes: int = 4096
    cpu_goal_us: float = 0  # processor time of A for a request, or for each of `parts` of it; 0: none
    parts: int = 1
    in_memory: bool = False  # the share lies in a tmpfs
    host_calls: str = ""     # what tests/bench/share-calls measures beside it


def ours(*options):
    """outrigger-blk with those options."""
    return lambda tools, socket: " ".join(
        [f"'{tools.blk}'", f"--socket-path={socket}", f"--num-queues={QUEUES}", "--log-level=warning", *options])


def _qemu(*blockdevs):
    def command(tools, socket):
        nodes = " ".join(f"--blockdev {blockdev}" for blockdev in blockdevs)
        return (f"{tools.qemu} --object iothread,id=thread {nodes} --export type=vhost-user-blk,id=export,"
                f"node-name=disk,addr.type=unix,addr.path={socket},writable=on,num-queues={QUEUES},iothread=thread")
    return command


def qemu_null():
    return _qemu(f"driver=null-co,node-name=disk,size={NULL_BYTES},read-zeroes=off")


def qemu_file(path, aio, direct=False):
    # io_uring of qemu-storage-daemon 7.2 takes files with and without the page cache.
    cache = "on" if direct else "off"
    return _qemu(f"driver=file,node-name=file,filename={path},aio={aio},cache.direct={cache}",
                 f"driver=raw,node-name=disk,file=file,cache.direct={cache}")


def null_rows(full):
    rows = []
    for ring in (["split", "packed"] if full else ["split"]):
        suffix = ", packed" if ring == "packed" else ""
        for depth in (32, 128):
            rows.append(Row("null", f"null, read 4 KiB, depth {depth}, spin{suffix}",
                            ours(f"--null-size={NULL_BYTES}"), qemu_null(), "null-co",
                            [f"--depth={depth}", f"--ring={ring}"], ">= 2x, and >= 8 M/s", 2.0, depth))
        for completion in ("spin", "eventfd"):
            rows.append(Row("null", f"null, read 4 KiB, depth 1, {completion}{suffix}",
                            ours(f"--null-size={NULL_BYTES}"), qemu_null(), "null-co",
                            ["--depth=1", f"--completion={completion}", f"--ring={ring}"],
                            "<= 0.7 us or floor + 0.4" if completion == "spin" else "<= 6 us or floor + 0.4", 0, 1))
        rows.append(Row("null", f"null, read 4 KiB, depth 32, eventfd{suffix}",
                        ours(f"--null-size={NULL_BYTES}"), qemu_null(), "null-co",
                        ["--depth=32", "--completion=eventfd", f"--ring={ring}"], "", 0, 32))
    return rows


def _file_rows(section, name, paths, goal, ratio_goal, full, accesses=("randread", "randwrite")):
    """`paths`: of A and B. They lock their images against each other."""
    rows = []
    for access in accesses:
        for depth in ((1, 32, 128) if full else (1, 32)):
            for completion in (("spin", "eventfd") if full else ("eventfd",)):
                for aio in ("io_uring", "threads"):
                    rows.append(Row(section, f"{name}, {access} 4 KiB, depth {depth}, {completion}",
                                    ours(f"--blk-file={paths[0]}"), qemu_file(paths[1], aio), f"aio={aio}",
                                    [f"--rw={access}", f"--depth={depth}", f"--completion={completion}",
                                     "--write-cache=writeback"],
                                    goal, ratio_goal, depth, aio))
    return rows


COPY_BYTES = 256 << 20


def copy_rows(full):
    """Against copying the same blocks on the same processor, without a guest and rings."""
    rings = ["split", "packed"] if full else ["split"]
    return [Row("copy", f"memory image, 4 KiB, depth {depth}" + (", packed" if ring == "packed" else ""),
                ours(f"--blk-memory={COPY_BYTES}"), None, "the cost of the copy",
                ["--rw=randread", f"--depth={depth}", f"--ring={ring}", f"--size={COPY_BYTES}"],
                ">= 70 % of it", 0.7, depth)
            for ring in rings for depth in (32, 128)]


def memory_rows(paths, full):
    return _file_rows("memory", "tmpfs", paths, "", 0, full, ("randread",))


def file_rows(paths, full):
    return _file_rows("file", "page cache", paths, ">= 1.5x of the better", 1.5, full)


def direct_rows(path, full):
    """Against fio, which asks the kernel for the same I/O without a guest in between."""
    # Like fio's, with files and buffers registered.
    return [Row("direct", f"O_DIRECT, {access} 4 KiB, depth {depth}",
                ours(f"--blk-file={path}", "--cache=none", "--fixed-buffers=on"), None, "fio io_uring",
                [f"--rw={access}", f"--depth={depth}"], ">= 0.97x at less CPU", 0.97, depth)
            for access in (("randread", "randwrite") if full else ("randread",))
            for depth in ((1, 32, 128) if full else (1, 32))]


def queue_rows():
    """One disk on two threads against itself on one; four processors: two threads on each side."""
    options = ["--queues=2", "--depth=32"]
    disk = f"--null-size={NULL_BYTES}"
    return [Row("queues", "null, 2 queues, depth 32: 2 threads against 1", ours(disk, "--queue-threads=2"),
                ours(disk, "--queue-threads=1"), "outrigger-blk on one thread", options, ">= 1.6x", 1.6, 32)]


def our_vsock(tools, socket):
    return f"'{tools.vsock}' --socket-path={socket} --guest-cid=3 --uds-path={socket}.host --log-level=warning"


def their_vsock(tools, socket):
    return f"{tools.peer_vsock} --socket={socket} --guest-cid=4 --uds-path={socket}.host"


def vsock_rows(full):
    """Against vhost-device-vsock; with a full ring of packets."""
    rows = []
    for access, way in (("to-guest", "host to guest"), ("to-host", "guest to host")):
        for size, label in ((64, "64 B"), (4096, "4 KiB"), (65536, "64 KiB")):
            for connections, streams in ((1, "1 connection"), (16, "16 connections")):
                for completion in (("spin", "eventfd") if full else ("eventfd",)):
                    rows.append(Row("vsock", f"{way}, {label}, {streams}, {completion}", our_vsock,
                                    their_vsock, "vhost-device-vsock",
                                    [f"--rw={access}", f"--bs={size}", f"--connections={connections}",
                                     f"--completion={completion}"],
                                    ">= 2x", 2.0, workload="vsock", hosts="ab", block_bytes=size))
    for completion in ("spin", "eventfd"):
        rows.append(Row("vsock", f"round trip, 1 B, {completion}", our_vsock, their_vsock, "vhost-device-vsock",
                        ["--rw=round-trip", "--bs=1", f"--completion={completion}"], ">= 1x", 1.0,
                        workload="vsock", hosts="ab", block_bytes=1))
    return rows


FILES = 1000


def our_fs(*options):
    return lambda tools, socket: " ".join(
        [f"'{tools.fs}'", f"--socket-path={socket}", f"--shared-dir={socket}.share", "--log-level=warning", *options])


def their_fs(*options):
    return lambda tools, socket: " ".join(
        [tools.peer_fs, f"--socket-path={socket}", f"--shared-dir={socket}.share", "--log-level=error", *options])


def their_c_fs(*options):
    """That of Debian 12's QEMU, in C; threads beside the one of the queue would be slower."""
    return lambda tools, socket: " ".join(
        [tools.peer_c_fs, f"--socket-path={socket}", "-o", f"source={socket}.share,sandbox=chroot",
         "--thread-pool-size=0", *options])


_HOST_CALLS = {"--rw=getattr": "getattr", "--rw=lookup": "lookup", "--rw=randread": "read", "--rw=read": "read",
               "--rw=readdirplus": "readdirplus", "--rw=create": "create"}


def _fs_row(label, options, depth, completion, goal="", cpu_goal_us=0.0, parts=1, block_bytes=4096, **more):
    # What changes nothing is refused.
    asks_for_names = options[0] in ("--rw=getattr", "--rw=lookup", "--rw=create", "--rw=readdirplus")
    if asks_for_names:
        options = [*options, f"--files={FILES}"]
    if options[0] not in ("--rw=getattr", "--rw=lookup"):
        options = [*options, f"--bs={block_bytes}"]
    direct = ["--allow-direct-io"] if "--direct" in options else []
    # With a keeper io_uring reads past the page cache.
    ours_with = [*direct, "--keeper=fork"] if direct else []
    # Its namespaces are in a process of their own, whose processor time nobody would count.
    row = Row("fs", f"{label}, depth {depth}, {completion}", our_fs(*ours_with), their_fs("--sandbox=chroot", *direct),
              "virtiofsd", [*options, f"--depth={depth}", f"--completion={completion}"], goal, 0, depth, workload="fs",
              block_bytes=block_bytes, cpu_goal_us=cpu_goal_us, parts=parts, **more)
    if not direct:
        row.host_calls = _HOST_CALLS.get(options[0], "")
    return row


def _beside_c(row):
    """The same beside the other virtiofsd; the goal is one of ours."""
    direct = ["-o", "allow_direct_io"] if "--direct" in row.options else []
    return replace(row, b=their_c_fs(*direct), peer="C virtiofsd", goal="", cpu_goal_us=0.0, ratio_goal=0)


def fs_rows(full):
    """Against virtiofsd, by the processor time of a request. Depth 32 spins, so that the polling of a daemon that waits
    is not in it."""
    rows = []
    for depth, completion in ((32, "spin"), (1, "eventfd")):
        bound = depth == 32

        def row(label, options, goal="", limit=0.0, parts=1, block_bytes=4096, depth=depth, completion=completion,
                bound=bound, **more):
            rows.append(_fs_row(label, options, depth, completion, goal if bound else "", limit if bound else 0.0, parts,
                                block_bytes, **more))

        row("GETATTR", ["--rw=getattr"], "<= 0.35 us CPU", 0.35)
        row("LOOKUP", ["--rw=lookup"], "<= 0.7 us CPU", 0.7)
        row("READ 4 KiB", ["--rw=randread"], "<= 0.5 us CPU", 0.5)
        if full or bound:
            row("READ 64 KiB", ["--rw=read"], block_bytes=64 << 10)
            row("WRITE 4 KiB", ["--rw=randwrite"])
            row("WRITE 1 MiB", ["--rw=write"], block_bytes=1 << 20)
        row("READ 1 MiB", ["--rw=read"], "the copy + 5 % CPU", -1, block_bytes=1 << 20)
        row(f"READDIRPLUS, {FILES} entries", ["--rw=readdirplus"], "<= 0.9 us CPU an entry", 0.9, FILES + 2, 64 << 10)
        steps = "create, write, flush, release, unlink, forget"
        row(steps, ["--rw=create"], "<= 12 us CPU", 12.0)
        # On a disk its file system is most of it.
        row(f"{steps}, tmpfs", ["--rw=create"], "<= 12 us CPU", 12.0, in_memory=True)
    cold = _fs_row("READ 4 KiB, O_DIRECT", ["--rw=randread", "--direct"], 32, "eventfd", ">= 3x")
    rows.append(replace(cold, ratio_goal=3.0))
    if full:
        rows.append(_fs_row("GETATTR, 2 queues", ["--rw=getattr", "--queues=2"], 32, "spin"))
    return [one for row in rows for one in (row, _beside_c(row))]


# Files whose inodes are in memory: few, and many, but each takes a descriptor of most daemons.
_DESCRIPTORS_MAX = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # negative: no end
INODES = (1000, 100_000 if _DESCRIPTORS_MAX < 0 else min(100_000, _DESCRIPTORS_MAX - 4000))


def inode_rows():
    """(daemon, command, goal in bytes, or 0): resident memory of an inode that the guest knows."""
    return [("outrigger-fs", our_fs(), 200),
            ("outrigger-fs --inode-file-handles=mandatory", our_fs("--inode-file-handles=mandatory"), 0),
            ("virtiofsd", their_fs("--sandbox=chroot"), 0), ("C virtiofsd", their_c_fs(), 0)]


def our_console(console):
    """One port, and what it is."""
    return lambda tools, socket: (f"'{tools.console}' --socket-path={socket} --log-level=warning --multiport=off "
                                  f"--port=name=port,backend=unix,path={socket}.host,console={console}")


def console_rows(full):
    """There is no other console with a Unix socket to compare with."""
    rows = []
    for access, way in (("to-host", "guest to host"), ("to-guest", "host to guest")):
        for size, label in ((64, "64 B"), (4096, "4 KiB"), (32768, "32 KiB")):
            for completion in (("spin", "eventfd") if full else ("eventfd",)):
                rows.append(Row("console", f"plain port, {way}, {label}, {completion}", our_console("off"), None, "",
                                [f"--rw={access}", f"--bs={size}", f"--completion={completion}"],
                                workload="console", hosts="a", block_bytes=size))
    for rate, goal in ((100_000_000, ">= 0.97x: nothing"), (0, "")):
        said = "100 MB/s" if rate else "as much as it can"
        rows.append(Row("console", f"console, {said}, a viewer that does not read", our_console("on"), our_console("on"),
                        "no viewer", ["--rw=stalled", "--bs=4096", "--completion=eventfd", f"--rate={rate}"],
                        goal, 0.97 if goal else 0, workload="console", hosts="a", block_bytes=4096))
    return rows


def our_net(backend):
    more = " --listen={socket}.host" if backend == "stream" else ""
    return lambda tools, socket: (f"'{tools.net}' --socket-path={socket} --log-level=warning --backend={backend}"
                                  + more.format(socket=socket))


def net_rows(full):
    """By the host's sides that take every frame. No other vhost-user device of networks has a Unix
    stream socket."""
    rows = []
    for size in (60, 1514, 9014):
        for access, backend, way in (("stalled", "null", "thrown away"), ("echo", "loop", "sent back"),
                                     ("to-host", "stream", "guest to host"), ("to-guest", "stream", "host to guest")):
            for completion in (("spin", "eventfd") if full else ("spin",)):
                rows.append(Row("net", f"{way}, {size} B, {completion}", our_net(backend), None, "",
                                [f"--rw={access}", f"--bs={size}", f"--completion={completion}"],
                                workload="net", hosts="a" if backend == "stream" else "", block_bytes=size))
    rows.append(Row("net", "round trip, 60 B, eventfd", our_net("stream"), None, "",
                    ["--rw=round-trip", "--bs=60", "--completion=eventfd"], workload="net", hosts="a", block_bytes=60))
    return rows
