#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the style checks and prints their results in the Test Anything Protocol."""

import sys

sys.dont_write_bytecode = True

import documents
import formatting
import layering
import metrics
import source_rules
from source_tree import Skip, load_files

PROBLEMS_SHOWN_MAX = 40


def main():
    checks = {
        **layering.CHECKS,
        **source_rules.CHECKS,
        **documents.CHECKS,
        **metrics.CHECKS,
        **formatting.CHECKS,
    }
    files = load_files()
    failed = 0
    print(f"1..{len(checks)}")
    for number, (name, check) in enumerate(checks.items(), start=1):
        try:
            problems = check(files)
        except Skip as reason:
            print(f"ok {number} {name} # SKIP {reason}")
            continue
        print(f"{'not ok' if problems else 'ok'} {number} {name}")
        failed += bool(problems)
        # On stderr, because Meson keeps the comments of this protocol to itself.
        if problems:
            print(f"{name}: {check.__doc__}", file=sys.stderr)
        for problem in problems[:PROBLEMS_SHOWN_MAX]:
            print(f"    {problem}", file=sys.stderr)
        if len(problems) > PROBLEMS_SHOWN_MAX:
            print(f"    and {len(problems) - PROBLEMS_SHOWN_MAX} more", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
