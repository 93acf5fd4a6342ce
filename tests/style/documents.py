# SPDX-License-Identifier: Apache-2.0
"""Documents name what exists."""

import hashlib
import re

from source_tree import ROOT

_LICENSE_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
_REQUIRED = ["LICENSE", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
_CODE = re.compile(r"`([^`\n]+)`")
_BLOCK_LABEL = re.compile(r"^\s*```\w+ (\S+)$")
_TEST = re.compile(r"^TEST(?:_F|_P)?\((\w+), (\w+)\)")
_NAMED_TEST = re.compile(r"`([A-Z]\w+)\.([A-Z]\w+)`")
_FILE_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)*/?$")
_SOURCE_ENDINGS = (".cc", ".h", ".py", ".sh", ".md", ".build")


def _named_files(file):
    """(line number, path, whether it is a link) of what a document names as a file of the project."""
    fenced = False
    for number, line in file.numbered_lines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if fenced:
            continue
        for target in _LINK.findall(line):
            if "://" not in target and not target.startswith("mailto:"):
                yield number, target, True
        for code in _CODE.findall(line):
            for word in code.split():
                if _FILE_NAME.match(word):
                    yield number, word, False


def _given_files(file):
    """The files that a document gives its reader: a fenced block is labelled `cpp eeprom.cc`."""
    labels = (_BLOCK_LABEL.match(line) for _, line in file.numbered_lines())
    return {label.group(1) for label in labels if label}


def check_named_files(files):
    """A document names only files that exist, from the root or from its own folder, or that it gives."""
    tops = {path.name for path in ROOT.iterdir()} - {"build", ".git"}
    every_name = {file.path.rsplit("/", 1)[-1] for file in files}
    problems = []
    for file in files:
        if not file.is_document:
            continue
        folder = (ROOT / file.path).parent
        given = _given_files(file)
        for number, name, is_link in _named_files(file):
            bare = name.removeprefix("./")
            # Rooms of the framework are called by their own name: guest/addresses.h.
            if any((base / bare).exists() for base in (ROOT, folder, ROOT / "vhost-user-backend")):
                continue
            in_tree = "/" in bare and bare.split("/")[0] in tops
            is_source = bare.endswith(_SOURCE_ENDINGS)
            if bare in given or ("/" not in bare and is_source and bare in every_name):
                continue
            if is_link or in_tree or is_source:
                problems.append(f"{file.path}:{number}: no file {name}")
    return problems


def check_named_tests(files):
    """A test that a document names by its suite and its own name is there."""
    tests = set()
    for file in files:
        if file.path.startswith("tests/") and file.path.endswith(".cc"):
            for _, line in file.numbered_lines():
                tests.update(_TEST.findall(line))
    return [
        f"{file.path}:{number}: no test {suite}.{name}"
        for file in files
        if file.is_document
        for number, line in file.numbered_lines()
        for suite, name in _NAMED_TEST.findall(line)
        if (suite, name) not in tests
    ]


def check_required(files):
    """The documents of the project are there, and the licence is the Apache licence unchanged."""
    problems = [f"{name} is missing" for name in _REQUIRED if not (ROOT / name).is_file()]
    text = (ROOT / "LICENSE").read_bytes() if (ROOT / "LICENSE").is_file() else b""
    if hashlib.sha256(text).hexdigest() != _LICENSE_SHA256:
        problems.append("LICENSE differs from the text of Apache-2.0")
    return problems


CHECKS = {
    "documents.name-files-that-exist": check_named_files,
    "documents.name-tests-that-exist": check_named_tests,
    "documents.complete": check_required,
}
