# SPDX-License-Identifier: Apache-2.0
"""Compares the manifests that the build made with what the programs print of themselves, and with QEMU's schema.

usage: manifests_test.py DIRECTORY PROGRAM...
"""

import json
import os
import re
import subprocess
import sys

# VHostUserBackend and VHostUserBackendType of QEMU's vhost-user.json, and what each key holds.
KEYS = {"description": str, "type": str, "binary": str, "tags": list}
OPTIONAL = {"tags"}
TYPES = {
    *("9p", "balloon", "block", "caif", "console", "crypto", "fs", "gpu", "input", "net", "rng", "rpmsg"),
    *("rproc-serial", "scsi", "vsock"),
}


def problems_of(path, program):
    with open(path, encoding="utf-8") as file:
        manifest = json.load(file)
    problems = [f"no {key}" for key in KEYS if key not in manifest and key not in OPTIONAL]
    problems += [f"{key} is not in the schema" for key in manifest if key not in KEYS]
    problems += [f"{key} is no {KEYS[key].__name__}" for key in KEYS.keys() & manifest if type(manifest[key]) is not KEYS[key]]
    if problems:
        return problems
    # The convention ignores all other options, even wrong ones.
    for options in (["--print-capabilities"], ["--nonsense", "--print-capabilities", "--fd=7"]):
        run = subprocess.run([program, *options], check=False, capture_output=True, text=True)
        if run.returncode != 0 or run.stderr:
            problems.append(f"{options}: status {run.returncode}, {run.stderr}")
            continue
        printed = json.loads(run.stdout)
        if printed.get("type") != manifest["type"]:
            problems.append(f"the program says that it is {printed.get('type')}, and not {manifest['type']}")
        if not all(isinstance(feature, str) for feature in printed.get("features", [None])):
            problems.append(f"no features: {run.stdout}")
    if manifest["type"] not in TYPES:
        problems.append(f"QEMU has no type {manifest['type']}")
    if not os.path.isabs(manifest["binary"]) or os.path.basename(manifest["binary"]) != os.path.basename(program):
        problems.append(f"{manifest['binary']} is not where the program is installed")
    if not all(isinstance(tag, str) for tag in manifest.get("tags", [])):
        problems.append("tags are texts")
    return problems


def main():
    directory, *programs = sys.argv[1:]
    problems = []
    expected = set()
    for program in programs:
        name = f"60-{os.path.basename(program)}.json"
        expected.add(name)
        problems += [f"{name}: {problem}" for problem in problems_of(os.path.join(directory, name), program)]
    found = {name for name in os.listdir(directory) if re.fullmatch(r"\d\d-.*\.json", name)}
    if found != expected:
        problems.append(f"there are manifests of {sorted(found)}, and programs of {sorted(expected)}")
    print("\n".join(problems) if problems else f"{len(expected)} manifests agree")
    sys.exit(1 if problems else 0)


main()
