#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares docs/protocol.md with what the request table prints: protocol_page_test.py PROGRAM PAGE"""

import difflib
import subprocess
import sys


def main():
    program, page = sys.argv[1:]
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    with open(page, encoding="utf-8") as file:
        kept = file.read()
    if printed == kept:
        return 0
    sys.stdout.writelines(
        difflib.unified_diff(
            kept.splitlines(keepends=True), printed.splitlines(keepends=True), page, "the table"
        )
    )
    print(f"write the page anew: {program} > {page}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
