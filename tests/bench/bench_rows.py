# SPDX-License-Identifier: Apache-2.0
"""What is measured for docs/performance.md: the rows, the goals, and the back ends' command lines."""

from dataclasses import dataclass, field

NULL_BYTES = 4 << 30
QUEUES = 4


@dataclass
class Row:
    """One comparison. `a` and `b` make a shell command from (tools, socket path)."""
    section: str  # "null", "copy", "memory", "file", "direct", "queues"
    label: str
    a: object
    b: object
    peer: str
    options: list = field(default_factory=list)
    goal: str = ""
    ratio_goal: float = 0  # of the median rates; 0: none
    depth: int = 0
    engine: str = ""


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
