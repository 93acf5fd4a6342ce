# SPDX-License-Identifier: Apache-2.0
"""Has systemd-analyze look at the units that the build made: whether it knows each line, and how much a
service could do to the system. Compares their command lines with the programs' --help.

usage: units_test.py DIRECTORY DEVICE=PROGRAM..., where DIRECTORY has outrigger-DEVICE@.service and .socket,
and outrigger-DEVICE-NAME@.socket of each other socket that systemd may make
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

# What systemd-analyze calls the exposure: 0 is none, 10 is all. A share needs root's rights.
EXPOSURE_MAX = {"fs": 3.1}
EXPOSURE_MAX_OTHERS = 0.5
# systemd-analyze says these of lines that it does not understand.
COMPLAINTS = re.compile(r"Unknown|Failed to parse|Invalid|ignoring|not supported|Missing|bad-setting", re.IGNORECASE)


def analyze(*arguments):
    # Without the user's terminal, pager and settings.
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"}
    run = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return run.stdout + run.stderr


def exposure_problems(device, service):
    text = analyze("security", "--offline=true", service)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
    if not found:
        return [f"systemd-analyze security does not say how exposed {device} is:\n{text}"]
    allowed = EXPOSURE_MAX.get(device, EXPOSURE_MAX_OTHERS)
    if float(found[1]) > allowed:
        return [f"{device} is exposed by {found[1]}, and {allowed} is allowed:\n{text}"]
    print(f"{device}: exposure {found[1]} of {allowed}")
    return []


def line_problems(folder, device, names):
    units = [f"outrigger-{device}@x.service"] + [f"outrigger-{device}-{name}@x.socket" for name in names]
    paths = [os.path.join(folder, unit) for unit in units]
    text = analyze("verify", "--man=no", "--recursive-errors=no", *paths)
    # Programs of a build that is not installed are missing, and so are units of this system.
    ours = re.compile(rf"outrigger-{device}(-[a-z]+)?@")
    lines = [line for line in text.splitlines() if ours.search(line) and COMPLAINTS.search(line)]
    return [f"systemd does not understand a unit of {device}: {line}" for line in lines]


def command_problems(device, service, program):
    with open(service, encoding="utf-8") as file:
        text = file.read()
    command = re.search(r"^ExecStart=(\S+) (.*)$", text, re.MULTILINE)
    settings = re.search(r"^Environment=(.*)$", text, re.MULTILINE)
    if not command:
        return [f"outrigger-{device}@.service has no ExecStart with arguments"]
    problems = []
    if os.path.basename(command[1]) != os.path.basename(program):
        problems.append(f"outrigger-{device}@.service starts {command[1]}")
    known = subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout
    # systemd splits what is not in braces, and takes backslashes away: an instance's name may have some.
    for name in re.findall(r"\$(\w+)", command[2]):
        if name != "OPTIONS":
            problems.append(f"outrigger-{device}@.service gives ${name} without braces")
    for option in re.findall(r"--[a-z0-9-]+", command[2] + " " + settings[1]):
        if not re.search(rf"^  {option}(=|$)", known, re.MULTILINE):
            problems.append(f"outrigger-{device}@.service gives {option}, which the program does not have")
    return problems


def socket_problems(folder, device, program, names):
    """Each passes a name of its own, to the service of the device, which has the option that takes it."""
    problems = []
    known = subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout
    for name in names:
        unit = f"outrigger-{device}-{name}@x.socket"
        with open(os.path.join(folder, unit), encoding="utf-8") as file:
            text = file.read()
        lines = text.splitlines()
        if f"FileDescriptorName={name}" not in lines:
            problems.append(f"{unit} does not pass {name}")
        if f"Service=outrigger-{device}@%i.service" not in lines:
            problems.append(f"{unit} is of another service")
        paths = re.findall(r"^Listen\w+=%t/outrigger/(.*)$", text, re.MULTILINE)
        if not paths or any(not path.startswith(f"{name}/{device}-%i.sock") for path in paths):
            problems.append(f"{unit} listens elsewhere than in the folder {name}, where no other unit does")
        if f"WantedBy=sockets.target outrigger-{device}@%i.service" not in lines:
            problems.append(f"{unit}, when it is enabled, is not started with its service")
        option = re.search(rf"^#   [A-Z]+=(--[a-z-]+)={name}( \.\.\.)?$", text, re.MULTILINE)
        if not option:
            problems.append(f"{unit} does not say which option takes it")
        elif not re.search(rf"^  {option[1]}=", known, re.MULTILINE):
            problems.append(f"{unit} names {option[1]}, which the program does not have")
    if "control" not in names or "metrics" not in names:
        problems.append(f"{device} has no unit for a control socket, or for metrics")
    return problems


def main():
    directory, *programs = sys.argv[1:]
    if shutil.which("systemd-analyze") is None:
        print("there is no systemd-analyze: install the package systemd")
        sys.exit(1)
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        for device, program in (pair.split("=", 1) for pair in programs):
            for kind in ("service", "socket"):
                shutil.copy(
                    os.path.join(directory, f"outrigger-{device}@.{kind}"),
                    os.path.join(folder, f"outrigger-{device}@x.{kind}"),
                )
            names = []
            for path in sorted(glob.glob(os.path.join(directory, f"outrigger-{device}-*@.socket"))):
                names.append(os.path.basename(path)[len(f"outrigger-{device}-") : -len("@.socket")])
                shutil.copy(path, os.path.join(folder, f"outrigger-{device}-{names[-1]}@x.socket"))
            service = os.path.join(folder, f"outrigger-{device}@x.service")
            problems += exposure_problems(device, service)
            problems += line_problems(folder, device, names)
            problems += socket_problems(folder, device, program, names)
            problems += command_problems(device, service, program)
    print("\n".join(problems))
    sys.exit(1 if problems else 0)


main()
