# SPDX-License-Identifier: Apache-2.0
"""Which room may include which: the arrows of ARCHITECTURE.md."""

import re

from source_tree import ROOT

_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
_INSTALL = re.compile(r"install_headers\((.*?)\n?\)\n", re.DOTALL)
_HEADER = re.compile(r"'([\w.]+\.h)'")
_FRAMEWORK = "vhost-user-backend"

# The rooms of the framework, each with what it may include beside itself.
_ALLOWED = {
    "base": set(),
    "guest": {"base"},
    "wire": {"base"},
    "io": {"base"},
    "virtq": {"base", "guest"},
    "state": {"base"},
    "device.h": {"base", "guest", "virtq", "io", "state"},
    "session": {"base", "guest", "wire", "io", "virtq", "state", "device.h"},
    "control": {"base"},
    "daemon": {"base", "guest", "wire", "io", "virtq", "state", "device.h", "session", "control"},
}
# What stands on the framework. A device never includes another device, the session or the wire.
_ALLOWED_TO_DEVICES = {"base", "guest", "virtq", "io", "state", "device.h", "daemon", "control"}
# The other end of the protocol is written independently.
_ALLOWED_TO_FRONT_ENDS = {"base", "wire", "control", "state"}
_HEADERS_ALLOWED_TO_FRONT_ENDS = {
    f"{_FRAMEWORK}/guest/addresses.h",
    # Options as tables, a library of their own: no way into the daemons.
    f"{_FRAMEWORK}/daemon/config_text.h",
    f"{_FRAMEWORK}/daemon/option_parser.h",
    f"{_FRAMEWORK}/daemon/option_table.h",
    f"{_FRAMEWORK}/daemon/option_text.h",
}

_VMM = "vmm-lite"
# The rooms of the virtual machine monitor, each with what it may include of the others. What lies
# in its own folder puts the machine together, and sees them all.
_ALLOWED_IN_VMM = {
    "mem": set(),
    "bus": set(),
    "kvm": {"mem"},
    "boot": {"mem", "kvm"},
    "pci": {"bus", "mem", "kvm"},
    "virtio": {"bus", "mem", "kvm", "pci"},
    "legacy": {"bus", "kvm"},
    "loop": set(),
    "control": {"loop"},
    "sandbox": {"kvm"},
    "frontend": {"loop", "mem", "device_proxy.h"},
}
_DEVICE_PROXY = f"{_VMM}/virtio/device_proxy.h"


def room_of(path):
    """("framework", "virtq"), ("devices", "blk"), ("tools", "driver"), ("vmm-lite", "") or None."""
    parts = path.split("/")
    if parts[0] == _FRAMEWORK and len(parts) > 1:
        room = parts[1]
        # What a device implements and what it may ask for are one room; README.md and meson.build
        # are none.
        return ("framework", "device.h" if room in ("device.h", "device.cc", "frontend.h") else room)
    if parts[0] in ("devices", "tools") and len(parts) > 2:
        return (parts[0], parts[1])
    if parts[0] == _VMM:
        return (_VMM, parts[1] if len(parts) > 2 else "")
    if parts[0] == "tools":
        return (parts[0], "")
    return None


def is_allowed(path, included):
    """Whether the file at `path` may include `included`, both from the root."""
    own, other = room_of(path), room_of(included)
    if own is None:
        return True  # tests may see everything
    if other is None:
        return False  # nothing depends on tests
    if own == other:
        return True
    if own[0] == "framework":
        return other[0] == "framework" and other[1] in _ALLOWED.get(own[1], set())
    if own[0] == "devices":
        return other[0] == "framework" and other[1] in _ALLOWED_TO_DEVICES
    if other[0] == "framework":
        return other[1] in _ALLOWED_TO_FRONT_ENDS or included in _HEADERS_ALLOWED_TO_FRONT_ENDS
    if own[0] == _VMM and other[0] == _VMM:
        allowed = _ALLOWED_IN_VMM.get(own[1])
        return own[1] == "" or allowed is not None and (
            other[1] in allowed or included == _DEVICE_PROXY and "device_proxy.h" in allowed)
    return own[0] == "tools" and other[0] == "tools"


def _includes(file):
    for number, line in file.numbered_lines():
        found = _INCLUDE.match(line)
        if found:
            yield number, found.group(1)


def check_arrows(files):
    """Every #include points the way the architecture says."""
    problems = []
    for file in files:
        if not file.is_cpp:
            continue
        own = room_of(file.path)
        if own and own[0] == "framework" and own[1] not in _ALLOWED:
            problems.append(f"{file.path}: room '{own[1]}' is not in the table of layering.py")
        for number, included in _includes(file):
            if not is_allowed(file.path, included):
                problems.append(f"{file.path}:{number}: may not include {included}")
    return problems


def check_installed(files):
    """Every header that an installed header includes is installed: `install_headers` of its room."""
    installed = set()
    for file in files:
        folder = file.path.rsplit("/", 1)[0]
        if file.path == f"{folder}/meson.build":
            for arguments in _INSTALL.findall(file.text):
                installed |= {f"{folder}/{name}" for name in _HEADER.findall(arguments)}
    problems = [f"{path} is installed and does not exist" for path in installed
                if not (ROOT / path).is_file()]
    for file in files:
        if file.path in installed:
            problems += [f"{file.path}:{number}: includes {included}, which is not installed"
                         for number, included in _includes(file) if included not in installed]
    return problems if installed else ["no meson.build installs a header"]


def check_paths(files):
    """Every #include "..." is written from the root."""
    problems = []
    for file in files:
        if not file.is_cpp:
            continue
        for number, included in _includes(file):
            if not (ROOT / included).is_file():
                problems.append(f"{file.path}:{number}: no file {included} from the root")
    return problems


def check_itself(_files):
    """The layering check refuses the arrows that must not be, and no others."""
    framework = _FRAMEWORK + "/"
    refused = [
        (framework + "base/log.h", framework + "guest/addresses.h"),
        (framework + "wire/messages.h", framework + "guest/addresses.h"),
        (framework + "virtq/virtqueue.h", framework + "io/worker.h"),
        (framework + "io/worker.h", framework + "virtq/virtqueue.h"),
        (framework + "device.h", framework + "session/session.h"),
        (framework + "state/section.h", framework + "device.h"),
        (framework + "frontend.h", framework + "session/session.h"),
        (framework + "session/session.h", framework + "daemon/daemon.h"),
        (framework + "daemon/daemon.h", "devices/rng/rng_device.h"),
        ("devices/rng/main.cc", "devices/blk/image.h"),
        ("devices/rng/main.cc", framework + "session/session.h"),
        ("devices/rng/main.cc", framework + "wire/messages.h"),
        ("tools/driver/ring.cc", framework + "virtq/virtqueue.h"),
        ("tools/driver/ring.cc", framework + "guest/memory_region.h"),
        ("tools/outrigger-bench/main.cc", framework + "daemon/daemon.h"),
        ("vmm-lite/vm.cc", framework + "session/session.h"),
        ("vmm-lite/vm.cc", "devices/blk/image.h"),
        ("vmm-lite/kvm/kvm.cc", "vmm-lite/boot/acpi.h"),
        ("vmm-lite/frontend/session.cc", "vmm-lite/virtio/virtio_pci.h"),
        ("vmm-lite/virtio/virtio_pci.cc", "vmm-lite/frontend/session.h"),
        ("vmm-lite/kvm/kvm.cc", "vmm-lite/vm.h"),
        ("devices/blk/main.cc", "tests/support/fake.h"),
        ("devices/blk/main.cc", "image.h"),
    ]
    accepted = [
        (framework + "virtq/virtqueue.h", framework + "guest/addresses.h"),
        (framework + "device.cc", framework + "device.h"),
        (framework + "session/session.h", framework + "device.h"),
        ("devices/rng/main.cc", framework + "daemon/device_program.h"),
        ("devices/rng/main.cc", framework + "frontend.h"),
        ("tools/driver/ring.cc", framework + "guest/addresses.h"),
        ("tools/driver/ring.cc", framework + "wire/messages.h"),
        ("tools/outrigger-bench/main.cc", "tools/driver/ring.h"),
        ("tools/outrigger-bench/main.cc", framework + "daemon/option_table.h"),
        ("vmm-lite/vm.cc", framework + "base/result.h"),
        ("vmm-lite/vm.cc", "vmm-lite/boot/acpi.h"),
        ("vmm-lite/frontend/session.cc", _DEVICE_PROXY),
        ("vmm-lite/frontend/session.cc", framework + "wire/messages.h"),
        ("tests/unit/blk/blk_test.cc", "devices/blk/image.h"),
    ]
    return [f"{path} -> {included} is accepted" for path, included in refused if is_allowed(path, included)
            ] + [f"{path} -> {included} is refused" for path, included in accepted
                 if not is_allowed(path, included)]


CHECKS = {
    "layering.arrows": check_arrows,
    "layering.include-paths": check_paths,
    "layering.installed-headers": check_installed,
    "layering.self-check": check_itself,
}
