#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the man page of the options that all daemons share, made from what the programs say of themselves.

    shared_page.py TEMPLATE PROGRAM...

@OPTIONS@ in TEMPLATE becomes what is word for word the same in every program's --help.
"""

import re
import subprocess
import sys
from pathlib import Path


def sections_of(program):
    """[(title, [(option, help)])], in the program's order."""
    text = subprocess.run([program, "--help"], check=True, capture_output=True, text=True, timeout=60).stdout
    sections = []
    for block in text.split("\n\n")[1:]:
        title, *lines = block.splitlines()
        options = []
        for line in lines:
            if line.startswith("      ") and options:
                options[-1] = (options[-1][0], f"{options[-1][1]} {line.strip()}".strip())
            elif line.startswith("  --"):
                options.append((line.strip(), ""))
        sections.append((title.rstrip(":"), options))
    return sections


def shared_sections(programs):
    first, *others = [sections_of(program) for program in programs]
    known = [{option for _, options in sections for option in options} for sections in others]
    for title, options in first:
        shared = [option for option in options if all(option in each for each in known)]
        if shared:
            yield title, shared


def escape(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def roff(sections):
    lines = []
    for title, options in sections:
        lines.append(f".SS {title}")
        for option, help_text in options:
            name, separator, value = option.partition("=")
            value = re.sub(r"([A-Z_]+)", r"\\fI\1\\fR", escape(value))
            lines += [".TP", f"\\fB{escape(name)}\\fR{separator}{value}", escape(help_text)]
    return "\n".join(lines)


def main():
    template, *programs = sys.argv[1:]
    page = Path(template).read_text(encoding="utf-8")
    if page.count("@OPTIONS@") != 1:
        raise SystemExit(f"{template}: @OPTIONS@ is to be there once")
    print(page.replace("@OPTIONS@", roff(shared_sections(programs))), end="")


if __name__ == "__main__":
    main()
