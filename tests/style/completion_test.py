#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Has bash complete words behind a program's name, and zsh read what it is given.

    completion_test.py PROGRAM BASH_COMPLETION ZSH_COMPLETION
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Readline's part: the words and which of them is completed. compopt works inside of readline alone.
_ASK = """
compopt() { :; }
source "$1"
function=$2
shift 2
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
"$function"
((${#COMPREPLY[@]})) && printf '%s\\n' "${COMPREPLY[@]}"
exit 0
"""

problems = []


def expect(what, got, wanted):
    if got != wanted:
        problems.append(f"{what}: {got}, not {wanted}")


def main():
    program, bash_file, zsh_file = (Path(each).resolve() for each in sys.argv[1:4])
    function = "_" + program.name.replace("-", "_")

    def complete(*words, folder=None):
        done = subprocess.run(
            ["bash", "--norc", "-uc", _ASK, "bash", bash_file, function, program.name, *words],
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=60,
        )
        if done.returncode != 0 or done.stderr:
            problems.append(f"{words}: exit status {done.returncode}: {done.stderr}")
        return done.stdout.splitlines()

    usage = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    options = re.findall(r"^  (--[a-z0-9-]+=?)", usage, re.MULTILINE)
    expect("all options", sorted(complete("--")), sorted(options))
    expect("one option", complete("--versi"), ["--version"])
    expect("no option", complete("--no-such"), [])
    zsh_text = zsh_file.read_text()
    expect("zsh's options", [each for each in options if f"'*{each}[" not in zsh_text], [])
    expect("zsh reads it", subprocess.run(["zsh", "-n", zsh_file], check=False).returncode, 0)
    daemon = program.name.startswith("outrigger-") and program.name != "outrigger-bench"
    if daemon:
        expect("values", sorted(complete("--io", "=")), ["asio", "auto", "uring"])
        expect("the start of a value", complete("--io", "=", "ur"), ["uring"])
        expect("a value behind a blank", complete("--io", "as"), ["asio"])
        expect("no values", complete("--message-timeout-ms", "="), [])
        expect("zsh's values", ":KIND:(auto asio uring)'" in zsh_text, True)
    if program.name == "outriggerctl":
        expect("commands", complete("res"), ["resize", "resume"])
        expect("words of a command", complete("cache", "writet"), ["writethrough"])
    with tempfile.TemporaryDirectory() as folder:
        for name in ("an image", "another"):
            (Path(folder) / name).touch()
        if daemon:
            files = complete("--socket-path", "=", "an", folder=folder)
            expect("files", sorted(files), ["an image", "another"])
        if program.name == "outriggerctl":
            expect("files", complete("swap", "ano", folder=folder), ["another"])
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
