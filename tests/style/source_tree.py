# SPDX-License-Identifier: Apache-2.0
"""The files that the style checks look at."""

import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Scripts of the fuzz targets: bytes that may happen to be text.
_SEEDS = "tests/fuzz/corpus/"


class Skip(Exception):
    """A check cannot run here; the message says what is missing."""


def _tracked_paths():
    """What git tracks or would track; a tree without git (a release archive) is walked."""
    # A clone may belong to another user than the one who tests it, as in CI.
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others",
               "--exclude-standard"]
    try:
        listing = subprocess.run(command, check=True, capture_output=True).stdout
        return sorted({path for path in listing.decode().split("\0") if path})
    except (OSError, subprocess.CalledProcessError):
        paths = []
        for folder, folders, names in os.walk(ROOT):
            folders[:] = [name for name in folders if name not in (".git", "build", "__pycache__")]
            paths += [os.path.relpath(os.path.join(folder, name), ROOT) for name in names]
        return sorted(paths)


class SourceFile:
    """A text file of the project, by its path from the root."""

    def __init__(self, path, text=None):
        self.path = path
        self.text = (ROOT / path).read_text(encoding="utf-8") if text is None else text
        self.lines = self.text.splitlines()

    @property
    def is_header(self):
        return self.path.endswith(".h")

    @property
    def is_cpp(self):
        return self.path.endswith((".h", ".cc"))

    @property
    def is_test(self):
        return self.path.startswith("tests/")

    @property
    def is_script(self):
        return self.text.startswith("#!") or self.path.endswith((".sh", ".py"))

    @property
    def is_document(self):
        return self.path.endswith(".md")

    def numbered_lines(self):
        return enumerate(self.lines, start=1)

    def code_lines(self):
        """(number, line without its // comment); inside a string // is rare enough."""
        for number, line in self.numbered_lines():
            yield number, re.sub(r"//.*", "", line)

    def has_comment_near(self, number, above, pattern="//"):
        """Whether line `number` or one of the `above` lines before it matches pattern."""
        first = max(0, number - 1 - above)
        return any(re.search(pattern, line) for line in self.lines[first:number])


def load_files():
    files = []
    for path in _tracked_paths():
        if path.startswith(_SEEDS):
            continue
        if (ROOT / path).is_file():  # a deleted file may still be tracked
            try:
                file = SourceFile(path)
            except UnicodeDecodeError:
                continue  # an image
            if "\0" not in file.text:  # nor is that text
                files.append(file)
    return files
