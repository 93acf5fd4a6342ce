# SPDX-License-Identifier: Apache-2.0
"""Compares a program's man page with its --help, and has groff find mistakes in the page.

usage: man_page_test.py PROGRAM MAN_PAGE [OTHER]..., where OTHER are programs that the page speaks of
"""

import re
import shutil
import subprocess
import sys


def options_of_help(program):
    text = subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout
    return re.findall(r"^  (--[a-z0-9-]+(?:=\S+)?)$", text, re.MULTILINE)


def options_of_commands(program):
    """Of `PROGRAM overlay` and `PROGRAM ctl`, which have a --help of their own; none where there is no such command."""
    options = set()
    for command in ("overlay", "ctl"):
        run = subprocess.run([program, command, "--help"], check=False, capture_output=True, text=True)
        if run.returncode == 0:
            options.update(re.findall(r"^  (--[a-z0-9-]+)", run.stdout, re.MULTILINE))
    return options


def options_of_page(page):
    lines = re.findall(r"^\.TP\n(\\fB.*)$", page, re.MULTILINE)
    return [re.sub(r"\\f[BIR]", "", line).replace("\\-", "-") for line in lines]


def groff_complaints(path):
    if shutil.which("groff") is None:
        return ""
    run = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-z", path], capture_output=True, text=True)
    return run.stderr


def main():
    program, path, *others = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        page = file.read()
    problems = []
    from_help = options_of_help(program)
    from_page = options_of_page(page)
    if not from_help:
        problems.append("--help shows no options")
    if from_help != from_page:
        problems.append(f"--help has {from_help},\nthe page has {from_page}")
    # A quoted value is another program's command line.
    own = re.sub(r"='[^']*'", "=", page.replace("\\-", "-"))
    used = set(re.findall(r"--[a-z][a-z0-9-]+", own))
    known = from_help + [option for other in others for option in options_of_help(other)]
    unknown = used - {option.split("=")[0] for option in known} - options_of_commands(program)
    if unknown:
        problems.append(f"the page names options that do not exist: {sorted(unknown)}")
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SIGNALS", "EXIT STATUS", "EXAMPLES"):
        if f"\n.SH {section}\n" not in page:
            problems.append(f"the page has no section {section}")
    complaints = groff_complaints(path)
    if complaints:
        problems.append(f"groff complains:\n{complaints}")
    print("\n".join(problems) if problems else f"{len(from_page)} options agree")
    sys.exit(1 if problems else 0)


main()
