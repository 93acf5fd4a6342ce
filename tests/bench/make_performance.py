# SPDX-License-Identifier: Apache-2.0
"""Measures what the goals ask for and writes docs/performance.md and its plots.

Each row is a run of outrigger-bench, which starts both back ends on one processor and drives them from
another, in turn for many short rounds. What this machine cannot measure is left out, and said. Two of the
peers are taken out of Debian's archive first, by tests/bench/fetch-peers.
"""

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import bench_rows
from performance_page import fio_seconds, turns, write_page

SECTIONS = ["null", "copy", "memory", "file", "direct", "queues", "vsock", "fs", "console", "net"]
ROOT = Path(__file__).resolve().parents[2]
_IMAGE_BYTES = 256 << 20
_PIECE_BYTES = 64 << 10
# How one row fails, and no other: ValueError and LookupError are of output that is not what it should be.
FAILURES = (RuntimeError, ValueError, LookupError, subprocess.SubprocessError)
# "    12.34%  [k] name     -   -": the last columns are of call graphs.
_PROFILE_LINE = re.compile(r"\s*([\d.]+%)\s+\[.\]\s(.+?)(?:\s{2,}.*)?$")


def parse_arguments():
    parser = argparse.ArgumentParser(prog="make-performance", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all depths, rings and ways of completion, longer rounds")
    parser.add_argument("--profile", action="store_true", help="also record where outrigger-blk spends its time (perf)")
    parser.add_argument("--build", type=Path, default=ROOT / "build/release", help="a release build")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="where the page and its plots go")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="on a real disk: for image files and shares")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a tmpfs: for the image in memory")
    parser.add_argument("--rounds", type=int, help="rounds of each row; default 10, with --full 40")
    parser.add_argument("--round-ms", type=int, help="milliseconds of a round; default 100, with --full 250")
    parser.add_argument("--share-speed", type=Path, help="results of tests/guest/share-speed, for the page")
    parser.add_argument("--tap-speed", type=Path, help="results of tests/bench/tap-speed, for the page")
    parser.add_argument("--network-speed", type=Path, help="results of tests/guest/network-speed, for the page")
    parser.add_argument("--testpmd-speed", type=Path, help="results of tests/testpmd/run --speed, for the page")
    parser.add_argument("--only", default="", help="sections with commas between: " + ",".join(SECTIONS))
    parser.add_argument("--cpus", default="0,1", help="processor of the back ends, and of the driver")
    return parser.parse_args()


def peer(name, program):
    """The command that runs a daemon of build/peers with the C library beside it; None: it is not there."""
    root = ROOT / "build/peers" / name
    loaders = sorted((root / "usr/lib").glob("*-linux-gnu*/ld-linux*.so.*"))
    path = root / program
    if not loaders or not path.exists():
        return None
    return shlex.join([str(loaders[0]), "--library-path", str(loaders[0].parent), str(path)])


def find_c_virtiofsd():
    """That of Debian 12's qemu-system-common; None: it is not there."""
    path = Path("/usr/lib/qemu/virtiofsd")
    return str(path) if path.exists() else None


def find_tools(build):
    def daemon(name):
        return build / f"devices/{name}/outrigger-{name}"
    tools = SimpleNamespace(bench=build / "tools/outrigger-bench/outrigger-bench", blk=daemon("blk"),
                            sockets=build / "tests/bench/socket-pair", vsock=daemon("vsock"), fs=daemon("fs"),
                            console=daemon("console"), net=daemon("net"),
                            qemu=shutil.which("qemu-storage-daemon"), fio=shutil.which("fio"), perf=shutil.which("perf"),
                            peer_vsock=peer("vsock", "usr/bin/vhost-device-vsock"),
                            peer_fs=peer("fs", "usr/libexec/virtiofsd"), peer_c_fs=find_c_virtiofsd(),
                            share_calls=build / "tests/bench/share-calls")
    ours = (tools.bench, tools.blk, tools.vsock, tools.fs, tools.console, tools.net, tools.share_calls)
    missing = [str(path) for path in ours if not path.exists()]
    if missing:
        sys.exit("make-performance: not built: " + ", ".join(missing))
    return tools


class Runner:
    """Runs rows in a scratch directory."""

    def __init__(self, arguments, tools, scratch, memory):
        self.arguments, self.tools, self.scratch, self.memory = arguments, tools, scratch, memory
        self.calls_known = {}
        self.back_end_cpu, self.driver_cpu = arguments.cpus.split(",", 1)
        self.rounds = arguments.rounds or (40 if arguments.full else 10)
        self.round_ms = arguments.round_ms or (250 if arguments.full else 100)

    def bench(self, row, sides, rounds, extra=()):
        """The JSON of one run; `sides` is "a" or "ab"."""
        command = [str(self.tools.bench), row.workload, "--json", f"--rounds={rounds}", f"--round-ms={self.round_ms}",
                   *row.options, *extra]
        if row.section != "queues":
            command.append(f"--cpus={self.driver_cpu}")
        for side in sides:
            socket = (self.memory if row.in_memory else self.scratch) / f"{side}.sock"
            back_end = getattr(row, side)(self.tools, socket)
            command += [f"--{side}={socket}", f"--{side}-command={back_end}"]
            if side in row.hosts:
                command.append(f"--{side}-host={socket}.host")
            if row.workload == "fs":
                Path(f"{socket}.share").mkdir(exist_ok=True)
            if row.section != "queues":
                command.append(f"--{side}-cpu={self.back_end_cpu}")
        return self.run_bench(command)

    @staticmethod
    def run_bench(command):
        run = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
        if run.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)}\n{run.stderr}")
        return json.loads(run.stdout)

    def floor(self, row):
        """Requests a second of a device that answers at once, on the back ends' processor."""
        return self.calibrate(row)["floor"]["rate"]

    def calibrate(self, row):
        command = [str(self.tools.bench), row.workload, "--json", "--calibrate", f"--device-cpu={self.back_end_cpu}",
                   f"--cpus={self.driver_cpu}", *row.options]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(run.stdout)

    def fio(self, path, row):
        """One round of fio's io_uring engine on the same file: requests a second, CPU seconds a million."""
        access = next(option.split("=")[1] for option in row.options if option.startswith("--rw="))
        seconds = fio_seconds(self.round_ms)
        command = ["taskset", "-c", self.back_end_cpu, self.tools.fio, "--name=t", f"--filename={path}",
                   "--ioengine=io_uring", "--direct=1", "--bs=4k", f"--rw={access}", f"--iodepth={row.depth}",
                   "--fixedbufs", "--registerfiles", "--norandommap", "--randrepeat=0", "--gtod_reduce=1",
                   "--time_based", f"--runtime={seconds}", "--thread=1", "--output-format=json"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if run.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)}\n{run.stderr}")
        job = json.loads(run.stdout[run.stdout.index("{"):])["jobs"][0]
        side = job["read" if access.endswith("read") else "write"]
        busy = (job["usr_cpu"] + job["sys_cpu"]) / 100 * side["runtime"] / 1000
        return side["iops"], busy / max(side["total_ios"], 1) * 1e6

    def against_fio(self, row, path):
        """A and fio in turn, in the shape of outrigger-bench's JSON."""
        a_runs, b_runs = [], []
        for _ in range(turns(self.rounds)):
            a_runs.append(self.bench(row, "a", 4))
            b_runs.append(self.fio(path, row))
        a = a_runs[-1]["a"]
        a["rate_median"] = median(run["a"]["rate_median"] for run in a_runs)
        a["rate_best"] = max(run["a"]["rate_best"] for run in a_runs)
        a["cpu_seconds_per_million"] = median(run["a"]["cpu_seconds_per_million"] for run in a_runs)
        b = {"rate_median": median(rate for rate, _ in b_runs), "rate_best": max(rate for rate, _ in b_runs),
             "cpu_seconds_per_million": median(cpu for _, cpu in b_runs)}
        ratios = [run["a"]["rate_median"] / max(rate, 1) for run, (rate, _) in zip(a_runs, b_runs)]
        return {"a": a, "b": b, "ratio_median": median(ratios),
                "ratio_cpu": a["cpu_seconds_per_million"] / max(b["cpu_seconds_per_million"], 1e-9),
                "own": a_runs[-1]["own"], "others_load": max(run["others_load"] or 0 for run in a_runs)}

    def copy(self, row):
        """Blocks a second that the back ends' processor copies: random ones, to as many buffers as the depth."""
        return self.calibrate(row)["copy"]["rate"]

    def bare_sockets(self, row):
        """Bytes a second that Unix sockets carry with nothing between their ends: of the blocks of the row from the
        driver's processor, or from the back ends' in pieces of 64 KiB."""
        to_guest = "--rw=to-guest" in row.options
        ends = [self.driver_cpu, self.back_end_cpu] if to_guest else [self.back_end_cpu, self.driver_cpu]
        write_bytes = row.block_bytes if to_guest else max(row.block_bytes, _PIECE_BYTES)
        connections = next(option.split("=")[1] for option in row.options if option.startswith("--connections="))
        command = [str(self.tools.sockets), str(write_bytes), str(4 * _PIECE_BYTES), connections, *ends,
                   str(max(5 * self.round_ms, 300))]
        rates = []
        for _ in range(3):
            run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            rates.append(json.loads(run.stdout)["bytes_per_second"])
        return median(rates)

    def copy_of(self, block_bytes):
        """Microseconds for copying a block of that size out of the page cache's like, 64 MiB of it."""
        command = [str(self.tools.bench), "blk", "--json", "--calibrate", f"--device-cpu={self.back_end_cpu}",
                   f"--cpus={self.driver_cpu}", f"--bs={block_bytes}", "--depth=32", "--size=64M"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return 1e6 / json.loads(run.stdout)["copy"]["rate"]

    def calls_of(self, row):
        """Processor microseconds of the system calls that the row's request cannot do without."""
        where = self.memory if row.in_memory else self.scratch
        command = ["taskset", "-c", self.back_end_cpu, str(self.tools.share_calls), row.host_calls, str(where / "calls"),
                   str(row.block_bytes)]
        if tuple(command) not in self.calls_known:
            (where / "calls").mkdir(exist_ok=True)
            run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
            self.calls_known[tuple(command)] = float(run.stdout)
        return self.calls_known[tuple(command)]

    def inode_bytes(self, command):
        """Resident memory of one inode of those that the guest knows, by the peaks with few and with many."""
        few, many = (self.peak_bytes(command, files) for files in bench_rows.INODES)
        return (many - few) / (bench_rows.INODES[1] - bench_rows.INODES[0])

    def peak_bytes(self, command, files):
        """Resident memory of the daemon, when it had most, while a guest knew that many files."""
        socket = self.memory / "i.sock"
        Path(f"{socket}.share").mkdir(exist_ok=True)
        back_end = subprocess.Popen(shlex.split(command(self.tools, socket)), stderr=subprocess.DEVNULL)
        try:
            wait_for(socket)
            bench = subprocess.Popen([str(self.tools.bench), "fs", f"--a={socket}", f"--a-pid={back_end.pid}",
                                      "--rw=getattr", f"--files={files}", "--rounds=1", "--round-ms=2000"],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            # Some daemons end with their guest: what is there last counts.
            peak = 0
            while bench.poll() is None:
                peak = max(peak, peak_of(back_end.pid))
                time.sleep(0.02)
            if bench.returncode != 0:
                raise RuntimeError(bench.stderr.read())
        finally:
            end(back_end)
            socket.unlink(missing_ok=True)
        return peak

    def against_copy(self, row):
        """A and bare copies in turn. What a disk in memory never held is not copied from memory: it is filled first."""
        socket = self.scratch / "m.sock"
        command = ["taskset", "-c", self.back_end_cpu, *shlex.split(row.a(self.tools, socket))]
        back_end = subprocess.Popen(command)
        try:
            bench = [str(self.tools.bench), "blk", "--json", f"--a={socket}", f"--a-pid={back_end.pid}",
                     f"--cpus={self.driver_cpu}"]
            wait_for(socket)
            self.run_bench([*bench, "--rw=write", "--bs=64k", "--rounds=1", "--round-ms=2000"])
            runs, copies = [], []
            for _ in range(turns(self.rounds)):
                runs.append(self.run_bench([*bench, "--rounds=4", f"--round-ms={self.round_ms}", *row.options]))
                copies.append(self.copy(row))
        finally:
            end(back_end)
        a = runs[-1]["a"]
        a["rate_median"] = median(run["a"]["rate_median"] for run in runs)
        a["rate_best"] = max(run["a"]["rate_best"] for run in runs)
        a["cpu_seconds_per_million"] = median(run["a"]["cpu_seconds_per_million"] for run in runs)
        b = {"rate_median": median(copies), "rate_best": max(copies), "cpu_seconds_per_million": 1e6 / median(copies)}
        return {"a": a, "b": b, "ratio_median": median(run["a"]["rate_median"] / rate for run, rate in zip(runs, copies)),
                "ratio_cpu": a["cpu_seconds_per_million"] / b["cpu_seconds_per_million"],
                "own": runs[-1]["own"], "others_load": max(run["others_load"] or 0 for run in runs)}

    def profile(self, row):
        """The functions in which outrigger-blk spends the row's time, as (percent, name)."""
        socket, data = self.scratch / "p.sock", self.scratch / "perf.data"
        pinned = ["taskset", "-c", self.back_end_cpu]
        command = shlex.split(row.a(self.tools, socket))
        if row.workload == "fs":
            Path(f"{socket}.share").mkdir(exist_ok=True)
        host = [f"--a-host={socket}.host"] if "a" in row.hosts else []
        record = [self.tools.perf, "record", "-q", "-e", "cpu-clock", "-F", "5000", "-o", str(data), "--"]
        back_end = subprocess.Popen(pinned + record + command, stderr=subprocess.DEVNULL)
        try:
            subprocess.run([str(self.tools.bench), row.workload, f"--a={socket}", *host, f"--cpus={self.driver_cpu}",
                            "--rounds=3", "--round-ms=300", *row.options], capture_output=True, timeout=120, check=True)
        finally:
            # perf ends what it has started, and then writes its file.
            end(back_end)
        report = subprocess.run([self.tools.perf, "report", "-i", str(data), "--stdio", "-g", "none", "--sort", "symbol",
                                 "--percent-limit", "2"], capture_output=True, text=True, check=False).stdout
        found = (_PROFILE_LINE.match(line) for line in report.splitlines())
        return [match.groups() for match in found if match][:8]


def make_image(directory):
    """A file with data on disk and in the page cache: holes would be read without any I/O."""
    handle, name = tempfile.mkstemp(prefix="outrigger-performance-", dir=directory)
    with os.fdopen(handle, "wb") as file:
        block = os.urandom(1 << 20)
        for _ in range(_IMAGE_BYTES >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)


def peak_of(pid):
    """Bytes that the process and its children have had resident at most."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return (int(peak.group(1)) * 1024 if peak else 0) + sum(peak_of(child) for child in children)


def end(back_end):
    """Whatever it does: the next row needs its processor."""
    back_end.terminate()
    try:
        back_end.wait(timeout=30)
    except subprocess.TimeoutExpired:
        back_end.kill()
        back_end.wait()
        raise


def wait_for(socket):
    """Until a back end listens there."""
    for _ in range(100):
        if socket.exists():
            return
        time.sleep(0.1)
    raise RuntimeError(f"nobody listens at {socket}")


def collect_rows(arguments, tools, images, memory_images):
    """The rows that this machine can measure, and why the others are left out."""
    rows, left_out = [], []
    wanted = set(filter(None, arguments.only.split(","))) or set(SECTIONS)
    rows += bench_rows.copy_rows(arguments.full)
    if tools.qemu is None:
        left_out.append("there is no qemu-storage-daemon: nothing is compared with it")
    else:
        rows += bench_rows.null_rows(arguments.full)
        rows += bench_rows.memory_rows(memory_images, arguments.full)
        rows += bench_rows.file_rows(images, arguments.full)
    if tools.fio is None:
        left_out.append("there is no fio: O_DIRECT is not compared")
    else:
        rows += bench_rows.direct_rows(images[0], arguments.full)
    if (os.cpu_count() or 1) < 4:
        left_out.append("one disk on two threads needs four processors, and there are "
                        f"{os.cpu_count()}: two for the disk and two for the driver")
    else:
        rows += bench_rows.queue_rows()
    rows += bench_rows.vsock_rows(arguments.full)
    rows += bench_rows.fs_rows(arguments.full)
    for name, command in (("vhost-device-vsock", tools.peer_vsock), ("virtiofsd", tools.peer_fs)):
        if command is None:
            left_out.append(f"there is no {name} (tests/bench/fetch-peers): nothing is compared with it")
            for row in rows:
                row.b = None if row.peer == name else row.b
    if tools.peer_c_fs is None:
        left_out.append("there is no virtiofsd in C (qemu-system-common of Debian 12): nothing is compared with it")
        rows = [row for row in rows if row.peer != "C virtiofsd"]
    if "vsock" in wanted and not tools.sockets.exists():
        left_out.append("there is no tests/bench/socket-pair (`ninja tests/bench/socket-pair`): bare sockets")
    rows += bench_rows.console_rows(arguments.full)
    rows += bench_rows.net_rows(arguments.full)
    if "console" in wanted:
        left_out.append("no other vhost-user console has ports with Unix sockets: A stands alone there")
    if "net" in wanted:
        left_out.append("no other vhost-user network device has a Unix stream socket for frames: A stands alone there; "
                        "`tests/testpmd/run --speed` has two guests beside DPDK's own vhost driver")
    return [row for row in rows if row.section in wanted], left_out


def profile_of(runner, row, left_out):
    """What was measured stays when perf fails."""
    try:
        return runner.profile(row)
    except FAILURES as error:
        print(error, file=sys.stderr)
        left_out.append(f"the profile of {row.label}, {row.peer}: it failed")
        return []


def last_words(error):
    """What a program said last, without the paths of this machine."""
    lines = str(error).strip().splitlines() or ["nothing was said"]
    return re.sub(r"\S*/(\S+)", r"\1", lines[-1])


def measure_rows(runner, rows, image, left_out):
    results = []
    for number, row in enumerate(rows, 1):
        print(f"[{number}/{len(rows)}] {row.label}, {row.peer}", flush=True)
        try:
            if row.section == "copy":
                outcome = runner.against_copy(row)
            elif row.section == "direct":
                outcome = runner.against_fio(row, image)
            else:
                outcome = runner.bench(row, "ab" if row.b else "a", runner.rounds, ["--system-calls"])
            if row.section == "null":
                outcome["floor"] = runner.floor(row)
            if row.section == "vsock" and "round-trip" not in row.options[0] and runner.tools.sockets.exists():
                outcome["bare_sockets"] = runner.bare_sockets(row)
            if row.cpu_goal_us < 0:
                outcome["copy_us"] = runner.copy_of(row.block_bytes)
            if row.host_calls:
                outcome["calls_us"] = runner.calls_of(row)
        except FAILURES as error:
            print(error, file=sys.stderr)
            left_out.append(f"{row.label}, {row.peer}: it failed: {last_words(error)}")
            continue
        profile = profile_of(runner, row, left_out) if runner.arguments.profile and runner.tools.perf else []
        ratio = f"ratio {outcome['ratio_median']:.2f}, " if "ratio_median" in outcome else ""
        print(f"      {ratio}others used {100 * (outcome['others_load'] or 0):.0f} %", flush=True)
        results.append(SimpleNamespace(row=row, outcome=outcome, profile=profile))
    return results


def measure_inodes(runner, left_out):
    """(daemon, bytes, goal) for each that is there."""
    found = []
    for name, command, goal in bench_rows.inode_rows():
        if (runner.tools.peer_fs if name == "virtiofsd" else runner.tools.peer_c_fs if name[0] == "C" else name) is None:
            continue
        print(f"[inodes] {name}", flush=True)
        try:
            found.append((name, runner.inode_bytes(command), goal))
        except FAILURES as error:
            print(error, file=sys.stderr)
            left_out.append(f"memory of an inode of {name}: it failed: {last_words(error)}")
    return found


def guest_works(results):
    """(work, daemon, seconds in the guest, processor seconds) of each line of tests/guest/share-speed."""
    lines = results.read_text(encoding="utf-8").splitlines() if results else []
    return [(work, daemon, float(guest), float(processor))
            for work, daemon, guest, processor in (line.split("\t") for line in lines)]


def lines_of(results):
    """The fields of each line, tab-separated."""
    lines = results.read_text(encoding="utf-8").splitlines() if results else []
    return [line.split("\t") for line in lines]


def version_of(program, *arguments):
    run = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return run.stdout.splitlines()[0] if run.stdout else "unknown"


def describe_machine(tools):
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    peers = [version_of(tools.qemu, "--version")] if tools.qemu else []
    peers += [version_of(tools.fio, "--version")] if tools.fio else []
    peers += [version_of(*shlex.split(tools.peer_vsock), "--version")] if tools.peer_vsock else []
    peers += [version_of(*shlex.split(tools.peer_fs), "--version")] if tools.peer_fs else []
    peers += [f"C {version_of(tools.peer_c_fs, '--version')}"] if tools.peer_c_fs else []
    return {"processor": f"{os.cpu_count()} of {model}", "kernel": platform.release(), "peers": peers,
            "date": time.strftime("%Y-%m-%d"), "version": version_of(str(tools.bench), "--version")}


def main():
    arguments = parse_arguments()
    if len(arguments.cpus.split(",")) != 2:
        sys.exit("make-performance: --cpus takes two processors, like 0,1")
    tools = find_tools(arguments.build.resolve())
    images = []
    # Shares lie there, too: on the disk, in whose page cache reads find what was written.
    with (tempfile.TemporaryDirectory(prefix="outrigger-performance-", dir=arguments.directory) as scratch,
          tempfile.TemporaryDirectory(prefix="outrigger-performance-", dir=arguments.memory) as memory):
        try:
            for directory in [arguments.directory] * 2 + [arguments.memory] * 2:
                images.append(make_image(directory))
            rows, left_out = collect_rows(arguments, tools, images[:2], images[2:])
            runner = Runner(arguments, tools, Path(scratch), Path(memory))
            results = measure_rows(runner, rows, images[0], left_out)
            inodes = measure_inodes(runner, left_out) if any(row.section == "fs" for row in rows) else []
            shares = SimpleNamespace(inodes=inodes, guest=guest_works(arguments.share_speed))
            networks = SimpleNamespace(taps=lines_of(arguments.tap_speed), guest=lines_of(arguments.network_speed),
                                       guests=lines_of(arguments.testpmd_speed))
        finally:
            for image in images:
                image.unlink(missing_ok=True)
    if not results:
        sys.exit("make-performance: nothing was measured")
    command = shlex.join(["tests/bench/make-performance", *sys.argv[1:]])
    write_page(arguments.output, results, shares, networks, left_out, describe_machine(tools),
               {"command": command, "rounds": runner.rounds, "round_ms": runner.round_ms})
    return 0


if __name__ == "__main__":
    sys.exit(main())
