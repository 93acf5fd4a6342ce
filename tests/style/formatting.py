# SPDX-License-Identifier: Apache-2.0
"""The formatter agrees with every C++ file. Its version is pinned: the defaults change with it."""

import shutil
import subprocess

from source_tree import ROOT, Skip

_FORMATTER = "clang-format-14"
_FILES_AT_ONCE = 40


def check_format(files):
    """clang-format 14 would change nothing."""
    if not shutil.which(_FORMATTER):
        raise Skip(f"no {_FORMATTER}")
    paths = [file.path for file in files if file.is_cpp]
    problems = []
    for start in range(0, len(paths), _FILES_AT_ONCE):
        outcome = subprocess.run([_FORMATTER, "--dry-run", "-Werror", *paths[start:start + _FILES_AT_ONCE]],
                                 cwd=ROOT, capture_output=True, text=True, check=False)
        problems += [line for line in outcome.stderr.splitlines() if ": error: " in line]
    return problems


CHECKS = {"format.clang-format": check_format}
