# SPDX-License-Identifier: Apache-2.0
"""Compares the page of what daemons share with their --help, and has groff find mistakes in the page.

usage: shared_page_test.py MAN_PAGE PROGRAM...
"""

import re
import shutil
import subprocess
import sys


def options_of_help(program):
    text = subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout
    return re.findall(r"^  (--[a-z0-9-]+(?:=\S+)?)$", text, re.MULTILINE)


def main():
    path, *programs = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        page = file.read()
    problems = []
    lines = re.findall(r"^\.TP\n(\\fB\\-\\-.*)$", page, re.MULTILINE)
    from_page = [re.sub(r"\\f[BIR]", "", line).replace("\\-", "-") for line in lines]
    helps = [options_of_help(program) for program in programs]
    shared = [option for option in helps[0] if all(option in each for each in helps)]
    if not shared:
        problems.append("no program has an option that all have")
    if from_page != shared:
        problems.append(f"all programs have {shared},\nthe page has {from_page}")
    pages = {program.rsplit("/", 1)[1] for program in programs}
    if missing := [name for name in sorted(pages) if f".BR {name} (1)".replace("-", "\\-") not in page]:
        problems.append(f"the page does not lead to {missing}")
    if shutil.which("groff"):
        groff = ["groff", "-man", "-ww", "-Tutf8", "-z", path]
        if complaints := subprocess.run(groff, capture_output=True, text=True).stderr:
            problems.append(f"groff complains:\n{complaints}")
    print("\n".join(problems) if problems else f"{len(from_page)} options agree")
    return 1 if problems else 0


sys.exit(main())
