#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Follows the page that teaches the framework, as a stranger would: installs the project into an
empty folder, takes the program from the installed page, builds it there with the page's commands,
and has a driver use it. Prints its results in the Test Anything Protocol.

usage: example_test.py BUILD SOURCE, with the driver's program in OUTRIGGER_EXAMPLE_DRIVER
"""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

COMPILERS = ("g++", "clang++-19")
LINES_MAX = 119
# What is nobody's business outside the tree.
INTERNAL = ("session_impl.h", "connection.h", "queue_runner.h", "uring_loop.h", "daemon.h", "wire")
INSTALLED = ("bin/outrigger-blk", "bin/outrigger-rng", "share/man/man1/outrigger-rng.1",
             "share/doc/outrigger/LICENSE", "share/doc/outrigger/vhost-user-backend/README.md",
             "include/outrigger/vhost-user-backend/device.h")


class Skip(Exception):
    """Why a check cannot be made here."""


def run(command, folder, **more):
    """Runs a shell command line; its output when it succeeds, an exception with it when not."""
    done = subprocess.run(command, cwd=folder, shell=isinstance(command, str), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500, **more)
    if done.returncode != 0:
        raise AssertionError(f"{command}: status {done.returncode}\n{done.stdout}")
    return done.stdout


def compiler_or_skip(compiler):
    if shutil.which(compiler) is None:
        raise Skip(f"no {compiler}")


class Page:
    """The fenced blocks of the page: [(label, text)], where the label is what follows ```."""

    def __init__(self, path):
        text = path.read_text(encoding="utf-8")
        self.blocks = re.findall(r"^```([^\n]+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    def only(self, label):
        found = [text for name, text in self.blocks if name == label]
        assert len(found) == 1, f"{len(found)} blocks are labelled '{label}'"
        return found[0]


class Stranger:
    """A folder with nothing in it but an installed project and what the page says."""

    def __init__(self, folder, build, source):
        self.folder = folder / "work"
        self.folder.mkdir()
        self.build = build
        self.source = source
        self.installed = folder / "installed"
        run(["meson", "install", "-C", str(build), "--no-rebuild", "--quiet", "--destdir",
             str(self.installed)], build)
        self.prefix = next(self.installed.rglob("include")).parent
        pkgconfig = next(self.prefix.rglob("outrigger.pc")).parent
        os.environ["PKG_CONFIG_PATH"] = str(pkgconfig)
        self.page_path = self.prefix / "share/doc/outrigger/vhost-user-backend/README.md"
        self.page = Page(self.page_path)
        self.programs = {}

    # --- Checks, in their order ---------------------------------------------------------------

    def installs_what_it_should(self):
        for name in INSTALLED:
            assert (self.prefix / name).is_file(), f"{name} is not installed"
        archives = list(self.prefix.rglob("*.a"))
        assert [path.name for path in archives] == ["liboutrigger.a"], archives

    def keeps_internal_headers(self):
        names = {path.name for path in (self.prefix / "include").rglob("*")}
        found = names.intersection(INTERNAL)
        assert not found, f"installed: {found}"

    def flags_name_the_installed_tree(self):
        flags = run("pkg-config --cflags --libs outrigger", self.folder)
        assert str(self.source) not in flags and str(self.build) not in flags, flags
        assert f"{self.prefix}/" in os.path.normpath(re.search(r"-I(\S+)", flags)[1]) + "/", flags

    def headers_stand_alone(self, compiler):
        compiler_or_skip(compiler)
        root = self.prefix / "include/outrigger"
        headers = sorted(root.rglob("*.h"))
        assert len(headers) > 20, headers
        flags = run("pkg-config --cflags outrigger", self.folder).split()

        def compile_one(header):
            line = f'#include "{header.relative_to(root)}"\n'
            done = subprocess.run(
                [compiler, "-std=c++23", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *flags,
                 "-x", "c++", "-"], input=line, cwd=self.folder, text=True, capture_output=True)
            return "" if done.returncode == 0 else f"{header}: {done.stderr[:2000]}"

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            complaints = [text for text in pool.map(compile_one, headers) if text]
        assert not complaints, "\n".join(complaints)

    def page_gives_the_files(self):
        shutil.copy(self.page_path, self.folder)
        run(self.page.only("sh extract"), self.folder)
        assert (self.folder / "meson.build").read_text() == self.page.only("meson meson.build")

    def program_is_short(self):
        lines = [line for line in (self.folder / "eeprom.cc").read_text().splitlines() if line.strip()]
        assert len(lines) <= LINES_MAX, f"{len(lines)} lines"
        assert "int main(" in "\n".join(lines)

    def program_is_formatted(self):
        if shutil.which("clang-format-14") is None:
            raise Skip("no clang-format-14")
        text = (self.folder / "eeprom.cc").read_text()
        style = f"--style=file:{self.source}/.clang-format"
        formatted = run(["clang-format-14", style, "eeprom.cc"], self.folder)
        assert formatted == text, "clang-format-14 changes it"

    def builds_by_command(self, compiler):
        compiler_or_skip(compiler)
        command = self.page.only("sh build")
        assert command.startswith("g++ "), command
        run(compiler + command.removeprefix("g++") + "", self.folder)
        program = self.folder / f"eeprom-{compiler}"
        (self.folder / "eeprom").rename(program)
        self.programs[compiler] = program

    def needs_no_source_tree(self):
        flags = run("pkg-config --cflags outrigger", self.folder).strip()
        used = run(f"g++ -std=c++23 -M {flags} eeprom.cc", self.folder)
        assert str(self.source) not in used, used

    def builds_with_meson(self):
        run("meson setup build && ninja -C build", self.folder)
        self.programs["meson"] = self.folder / "build/eeprom"

    def tells_which_standard(self):
        flags = run("pkg-config --cflags outrigger", self.folder).strip()
        done = subprocess.run(f"g++ -std=c++17 -fsyntax-only {flags} eeprom.cc", shell=True,
                              cwd=self.folder, text=True, capture_output=True)
        assert done.returncode != 0 and "add -std=c++23" in done.stderr, done.stderr[:2000]

    def helps(self):
        text = run([str(self.programs["g++"]), "--help"], self.folder)
        assert "--write-cycle-ms=N" in text and "--socket-path=PATH" in text, text

    # --- The driver ---------------------------------------------------------------------------

    def drive(self, how):
        """Yields (name, problem) for each case of the driver's program."""
        report = self.folder / f"driver-{how}.json"
        done = subprocess.run(
            [os.environ["OUTRIGGER_EXAMPLE_DRIVER"], f"--gtest_output=json:{report}"],
            cwd=self.folder, env={**os.environ, "OUTRIGGER_EXAMPLE_PROGRAM": str(self.programs[how])},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        cases = 0
        if report.exists():
            for suite in json.loads(report.read_text())["testsuites"]:
                for case in suite["testsuite"]:
                    cases += 1
                    problem = "\n".join(f["failure"] for f in case.get("failures", []))
                    yield case["name"].replace("/", "-"), problem
        if done.returncode != 0 or cases == 0:
            yield "driver", f"status {done.returncode}, {cases} cases\n{done.stdout[-3000:]}"


class Results:
    def __init__(self):
        self.count = 0
        self.failed = 0

    def add(self, name, problem="", skipped=""):
        self.count += 1
        self.failed += bool(problem)
        print(f"{'not ok' if problem else 'ok'} {self.count} {name}{' # SKIP ' + skipped if skipped else ''}",
              flush=True)
        if problem:
            print(f"{name}: {problem}", file=sys.stderr, flush=True)

    def check(self, name, function, *arguments):
        try:
            function(*arguments)
        except Skip as reason:
            self.add(name, skipped=str(reason))
        except (AssertionError, OSError, KeyError, subprocess.SubprocessError) as problem:
            self.add(name, problem=repr(problem) if not str(problem) else str(problem))
        else:
            self.add(name)


def main():
    build, source = (pathlib.Path(argument) for argument in sys.argv[1:])
    results = Results()
    with tempfile.TemporaryDirectory(prefix="outrigger-example-") as folder:
        stranger = Stranger(pathlib.Path(folder), build, source)
        results.check("install-complete", stranger.installs_what_it_should)
        results.check("install-keeps-internal-headers", stranger.keeps_internal_headers)
        results.check("flags-name-the-installed-tree", stranger.flags_name_the_installed_tree)
        for compiler in COMPILERS:
            results.check(f"headers-stand-alone-{compiler}", stranger.headers_stand_alone, compiler)
        results.check("page-gives-the-files", stranger.page_gives_the_files)
        results.check("program-is-short", stranger.program_is_short)
        results.check("program-is-formatted", stranger.program_is_formatted)
        for compiler in COMPILERS:
            results.check(f"builds-by-command-{compiler}", stranger.builds_by_command, compiler)
        results.check("builds-with-meson", stranger.builds_with_meson)
        results.check("needs-no-source-tree", stranger.needs_no_source_tree)
        results.check("tells-which-standard", stranger.tells_which_standard)
        results.check("helps", stranger.helps)
        for how in sorted(stranger.programs):
            for name, problem in stranger.drive(how):
                results.add(f"{how}-{name}", problem)
    print(f"1..{results.count}")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
