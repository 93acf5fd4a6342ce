#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a test suite of others on a share and on a directory of the host, and prints what differs.

  external.py --pjdfstest=DIR --mount=DIR --host=DIR [--tests=PATTERN]...
  external.py --xfstests=DIR --mount=DIR --host=DIR [--tests=PATTERN]...

Run it by with_share.py:

  with_share.py --daemon=... --bridge=... --daemon-option=--xattr --seconds=3000 --tap --
      external.py --pjdfstest=DIR --mount={mount} --host={host}

pjdfstest is the built directory of the original in C and shell, which holds the program pjdfstest and
the folder tests. Each of its files is run in both directories: the assertions that hold in one and not
in the other are the differences. It expects less of a file system that it does not know; so df tells it that
the share is of the host's type. Of xfstests only the tests of one directory (TEST_DIR) are run, by the
programs in its folders src and ltp: fsx, fsstress and the like; what they print and return is compared.
DIR empty, or not there: everything is skipped with that reason. Where neither option is there, both are
taken from OUTRIGGER_PJDFSTEST and OUTRIGGER_XFSTESTS. Prints the Test Anything Protocol.
"""

import argparse
import concurrent.futures
import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

FILE_SECONDS_MAX = 600
_UNDECIDED = "# TO" + "DO"
_RESULT = re.compile(r"^(not ok|ok) (\d+)(.*)")

# Programs of xfstests that need nothing but a directory: name, path, arguments.
_XFSTESTS = [
    ("fsx-20000", "ltp/fsx", ["-N", "20000", "-S", "1", "-q", "{dir}/fsx"]),
    ("fsx-mapped", "ltp/fsx", ["-N", "10000", "-S", "2", "-q", "-r", "4096", "-w", "4096", "{dir}/fsx2"]),
    ("fsx-append-copy", "ltp/fsx", ["-N", "10000", "-S", "3", "-q", "-l", "400000", "{dir}/fsx3"]),
    ("fsstress", "ltp/fsstress", ["-d", "{dir}/fsstress", "-n", "2000", "-p", "4", "-s", "1"]),
    ("dirstress", "src/dirstress", ["-d", "{dir}/dirstress", "-f", "100", "-l", "5", "-p", "3", "-n", "3"]),
    ("seek_sanity_test", "src/seek_sanity_test", ["{dir}/seek"]),
    ("t_dir_offset2", "src/t_dir_offset2", ["{dir}"]),
]


class Tap:
    def __init__(self):
        self.count = 0
        self.failed = 0

    def case(self, good, name, details=()):
        self.count += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.count} {name}", flush=True)
        for line in details:
            print(f"#   {line}", flush=True)

    def skip(self, name, reason):
        self.count += 1
        print(f"ok {self.count} {name} # SKIP {reason}", flush=True)


def run(words, directory, environment=None):
    try:
        done = subprocess.run(words, cwd=directory, capture_output=True, text=True, errors="replace",
                              timeout=FILE_SECONDS_MAX, check=False, stdin=subprocess.DEVNULL,
                              env=environment)
        return done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        return -1, f"killed after {FILE_SECONDS_MAX} s"
    except OSError as error:
        return -1, str(error)


def wanted(name, patterns):
    return not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def results_of(path, directory, environment):
    """Of one file of pjdfstest: {number: (good, text)}; 0 is whether it came to its end."""
    status, output = run(["bash", path], directory, environment)
    found = {0: (status == 0, output.strip().splitlines()[-1] if output.strip() else "")}
    for line in output.splitlines():
        match = _RESULT.match(line)
        if match:
            found[int(match.group(2))] = (match.group(1) == "ok", line)
    return found


def write_df(path, host):
    """A df that tells of the host's directory, whatever it is asked for."""
    with open(path, "w", encoding="utf-8") as script:
        script.write(f"#!/bin/sh\nexec {shlex.quote(shutil.which('df'))} -PT {shlex.quote(host)}\n")
    os.chmod(path, 0o755)


def run_pjdfstest(root, options, tap):
    with tempfile.TemporaryDirectory(prefix="outrigger-df-") as programs, \
            concurrent.futures.ThreadPoolExecutor(2) as both:
        write_df(os.path.join(programs, "df"), options.host)
        environment = dict(os.environ, PATH=programs + os.pathsep + os.environ["PATH"])
        compare_pjdfstest(root, options, tap, both, environment)


def compare_pjdfstest(root, options, tap, both, environment):
    tests = os.path.join(root, "tests")
    files = sorted(os.path.relpath(os.path.join(where, name), tests)
                   for where, _, names in os.walk(tests) for name in names if name.endswith(".t"))
    held = {"share": 0, "host": 0}
    for name in files:
        if not wanted(name, options.tests):
            continue
        seen = {}
        for which, base in (("share", options.mount), ("host", options.host)):
            directory = os.path.join(base, "pjdfstest")
            os.makedirs(directory, exist_ok=True)
            seen[which] = both.submit(results_of, os.path.join(tests, name), directory, environment)
        for which, future in seen.items():
            seen[which] = future.result()
            held[which] += sum(good for number, (good, _) in seen[which].items() if number)
        numbers = sorted(set(seen["share"]) | set(seen["host"]))
        differences = []
        for number in numbers:
            share = seen["share"].get(number, (False, "(nothing)"))
            host = seen["host"].get(number, (False, "(nothing)"))
            # What pjdfstest itself marks as undecided is no difference.
            if number and share[0] != host[0] and _UNDECIDED not in share[1] + host[1]:
                differences += [f"host:  {host[1]}", f"share: {share[1]}"]
        tap.case(not differences, f"pjdfstest.{name}", differences)
    print(f"# assertions that hold: {held['share']} on the share, {held['host']} on the host")
    tap.case(held["host"] > 0, "pjdfstest.asks")


def run_xfstests(root, options, tap):
    for name, program, arguments in _XFSTESTS:
        if not wanted(name, options.tests):
            continue
        path = os.path.join(root, program)
        if not os.access(path, os.X_OK):
            tap.skip(f"xfstests.{name}", f"{program} is not built")
            continue
        seen = []
        for base in (options.host, options.mount):
            directory = os.path.join(base, "xfstests")
            os.makedirs(os.path.join(directory, "fsstress"), exist_ok=True)
            os.makedirs(os.path.join(directory, "dirstress"), exist_ok=True)
            status, output = run([path] + [word.format(dir=directory) for word in arguments], directory)
            # What a suite says of times and places differs in any case.
            seen.append((status, output.replace(directory, "{dir}").strip().splitlines()[-5:]))
        (host, host_lines), (share, share_lines) = seen
        tap.case(host == share, f"xfstests.{name}",
                 [] if host == share else [f"host:  {host} {host_lines}", f"share: {share} {share_lines}"])


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pjdfstest")
    parser.add_argument("--xfstests")
    parser.add_argument("--mount", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--tests", action="append", default=[])
    options = parser.parse_args()
    if options.pjdfstest is None and options.xfstests is None:
        options.pjdfstest = os.environ.get("OUTRIGGER_PJDFSTEST", "")
        options.xfstests = os.environ.get("OUTRIGGER_XFSTESTS", "")
    tap = Tap()
    for name, root, runner in (("pjdfstest", options.pjdfstest, run_pjdfstest),
                               ("xfstests", options.xfstests, run_xfstests)):
        if root is None:
            continue
        if not root:
            tap.skip(name, "no build of it was named")
        elif not os.path.isdir(root):
            tap.skip(name, f"there is no {root}")
        else:
            runner(os.path.abspath(root), options, tap)
    print(f"1..{tap.count}")
    return 1 if tap.failed else 0


if __name__ == "__main__":
    sys.exit(main())
