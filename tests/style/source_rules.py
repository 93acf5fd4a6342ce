# SPDX-License-Identifier: Apache-2.0
"""Rules of the text of source files."""

import re
import subprocess

from source_tree import ROOT, SourceFile

LINES_MAX = 600
COMMENT_LINES_ABOVE = 4
ORDER_COMMENT_LINES_ABOVE = 6

_SPDX = "SPDX-License-Identifier: Apache-2.0"
_HEAVY_HEADERS = re.compile(r'^\s*#\s*include\s*[<"](asio|spdlog|cxxopts)[./]')
_ORDERS = re.compile(r"atomic_(thread|signal)_fence|memory_order(_|::)(acquire|release|acq_rel|seq_cst|consume)"
                     r"|__ATOMIC_(ACQUIRE|RELEASE|ACQ_REL|SEQ_CST)")
_TODO = re.compile(r"\b(TODO|FIXME|XXX)\b")
_TODO_WITH_REASON = re.compile(r"\bTODO\([^)]+\): \S.{9,}")

# Spelled in pieces, so that this file does not hold what it looks for.
_REGISTRIES = [".".join(parts) for parts in (
    ("pypi", "org"), ("files", "pythonhosted", "org"), ("registry", "npmjs", "org"), ("crates", "io"),
    ("proxy", "golang", "org"), ("repo", "maven", "apache", "org"), ("rubygems", "org"),
    ("deb", "debian", "org"), ("security", "debian", "org"), ("archive", "ubuntu", "com"),
    ("conda", "anaconda", "org"), ("ghcr", "io"), ("registry-1", "docker", "io"))]
_MACHINE_PATHS = ["/" + name + "/" for name in ("work", "home", "root", "Users")]
_MACHINE_PATH = re.compile(r"(?<![\w.$}\]/*-])(" + "|".join(_MACHINE_PATHS) + r")\w")


def _needs_spdx(file):
    return file.is_cpp or file.is_script or file.path.endswith(("meson.build", "meson_options.txt", ".proto"))


def check_spdx(files):
    """Source files name their licence in the first two lines."""
    return [file.path for file in files
            if _needs_spdx(file) and not any(_SPDX in line for line in file.lines[:2])]


def check_pragma_once(files):
    """Headers are included once."""
    return [file.path for file in files if file.is_header and "#pragma once" not in file.lines]


def check_light_headers(files):
    """Headers do not drag in asio, spdlog or cxxopts, which cost seconds for each file."""
    return [f"{file.path}:{number}: {line.strip()}" for file in files if file.is_header
            for number, line in file.numbered_lines() if _HEAVY_HEADERS.match(line)]


def check_casts(files):
    """Every reinterpret_cast has a SAFETY line above it."""
    return [f"{file.path}:{number}: no '// SAFETY:' in the {COMMENT_LINES_ABOVE} lines above"
            for file in files if file.is_cpp
            for number, line in file.code_lines()
            if "reinterpret_cast<" in line
            and not file.has_comment_near(number, COMMENT_LINES_ABOVE, r"//.*\bSAFETY:")]


def check_orders(files):
    """Every fence and every memory order but relaxed has a comment about its partner."""
    return [f"{file.path}:{number}: no comment in the {ORDER_COMMENT_LINES_ABOVE} lines above: {line.strip()}"
            for file in files if file.is_cpp and not file.is_test
            for number, line in file.code_lines()
            if _ORDERS.search(line) and not file.has_comment_near(number, ORDER_COMMENT_LINES_ABOVE)]


def check_length(files):
    """No file has a second idea in it."""
    return [f"{file.path}: {len(file.lines)} lines, at most {LINES_MAX}" for file in files
            if (file.is_cpp or file.is_script) and len(file.lines) > LINES_MAX]


def check_todo(files):
    """A TODO has an owner and a reason: TODO(name): why."""
    return [f"{file.path}:{number}: {line.strip()}" for file in files
            if (file.is_cpp or file.is_script or file.path.endswith("meson.build"))
            and not file.path.startswith("tests/style/")
            for number, line in file.numbered_lines()
            if _TODO.search(line) and not _TODO_WITH_REASON.search(line)]


def check_places(files):
    """No file names a package registry's host or a path of somebody's machine."""
    problems = []
    for file in files:
        for number, line in file.numbered_lines():
            found = [host for host in _REGISTRIES if host in line]
            path = _MACHINE_PATH.search(line)
            if path:
                found.append(path.group(1))
            problems += [f"{file.path}:{number}: {what}" for what in found]
    return problems


def check_whitespace(files):
    """No tabs in C++ and Python, no blanks at line ends, no carriage returns, a newline at the end."""
    problems = []
    for file in files:
        if file.path == "LICENSE":
            continue
        if file.text and not file.text.endswith("\n"):
            problems.append(f"{file.path}: no newline at the end")
        if "\r" in file.text:
            problems.append(f"{file.path}: carriage returns")
        for number, line in file.numbered_lines():
            if line != line.rstrip():
                problems.append(f"{file.path}:{number}: blanks at the end")
            if "\t" in line and (file.is_cpp or file.path.endswith(".py")):
                problems.append(f"{file.path}:{number}: a tab")
    return problems


def check_merged(files):
    """No marks of a merge that was not resolved."""
    return [f"{file.path}:{number}: the mark of a merge" for file in files
            for number, line in file.numbered_lines() if line.startswith(("<" * 7 + " ", ">" * 7 + " "))]


def check_built(files):
    """Every .cc file is named in a meson.build above it."""
    builds = {file.path: file.text for file in files if file.path.endswith("meson.build")}
    problems = []
    for file in files:
        if not file.path.endswith(".cc"):
            continue
        folder, name = file.path, ""
        found = False
        while "/" in folder and not found:
            folder, _, part = folder.rpartition("/")
            name = f"{part}/{name}" if name else part
            found = name in builds.get(folder + "/meson.build", "")
        if not found:
            problems.append(f"{file.path}: in no meson.build")
    return problems


def check_scripts(files):
    """Shell and Python scripts parse."""
    problems = []
    for file in files:
        if not file.is_script:
            continue
        if file.path.endswith(".py"):
            try:
                compile(file.text, file.path, "exec")
            except SyntaxError as error:
                problems.append(f"{file.path}:{error.lineno}: {error.msg}")
            continue
        in_guest = "busybox" in file.lines[0] or "shell=sh" in file.text
        shell = "sh" if in_guest else "bash"
        outcome = subprocess.run([shell, "-n", str(ROOT / file.path)], capture_output=True, text=True,
                                 check=False)
        if outcome.returncode != 0:
            problems.append(outcome.stderr.strip())
    return problems


def check_itself(_files):
    """Each rule refuses its bad sample and accepts its good one."""
    order = "std::memory_" + "order_acquire"
    cast = "reinterpret_" + "cast<char*>(p)"
    samples = [
        (check_spdx, "a.cc", "int x;\n", f"// {_SPDX}\n"),
        (check_pragma_once, "a.h", "int x;\n", "#pragma once\n"),
        (check_light_headers, "a.h", "#include <asio.hpp>\n", "#include <vector>\n"),
        (check_casts, "a.cc", f"auto x = {cast};\n", f"// SAFETY: bytes may alias.\nauto x = {cast};\n"),
        (check_casts, "a.cc", "// SAFETY: far\n\n\n\n\n" + cast + "\n", f"// SAFETY: near\n\n\n{cast}\n"),
        (check_orders, "a.cc", f"x.load({order});\n", f"// Pairs with y.\nx.load({order});\n"),
        (check_length, "a.cc", "int x;\n" * (LINES_MAX + 1), "int x;\n" * LINES_MAX),
        (check_todo, "a.cc", "// TODO: this\n", "// TODO(ana): the kernel lacks it before 6.2\n"),
        (check_places, "a.md", "see /ho" + "me/ana\n", "see docs/home/ana\n"),
        (check_places, "a.md", "from pypi" + ".org\n", "from the registry\n"),
        (check_whitespace, "a.cc", "int x; \n", "int x;\n"),
        (check_whitespace, "a.md", "no end", "an end\n"),
        (check_merged, "a.md", "<" * 7 + " HEAD\n", "<" * 6 + "\n"),
        (check_built, "a/b.cc", "\n", None),
    ]
    problems = []
    for check, path, bad, good in samples:
        if not check([SourceFile(path, bad)]):
            problems.append(f"{check.__name__} accepts {bad[:40]!r}")
        if good is not None and check([SourceFile(path, good)]):
            problems.append(f"{check.__name__} refuses {good[:40]!r}")
    return problems


# Where traps are listed, beside their tests: how both files and names of tests begin, and how many
# there are.
_TRAP_LISTS = (
    ("tests/integration/blk_traps.h", "tests/integration/blk_", "Trap", 19),
    ("tests/integration/vsock_traps.h", "tests/integration/vsock_", "Trap", 26),
    ("tests/integration/net_traps.h", "tests/integration/net_", "Trap", 21),
    ("tests/fs/fs_traps.h", "tests/fs/", "FsTrap", 30),
)


def check_traps(files):
    """Each trap of a list has a test that is named after it."""
    problems = []
    for header, folder, prefix, count in _TRAP_LISTS:
        listed = {int(match) for file in files if file.path == header
                  for match in re.findall(r"^/// {1,2}(\d+)  \S", file.text, re.MULTILINE)}
        tested = {int(match) for file in files if file.is_test and file.path.startswith(folder)
                  for match in re.findall(rf"^TEST_[FP]\(\w+, {prefix}(\d\d)[A-Z]", file.text, re.MULTILINE)}
        problems += [f"{header}: no test {prefix}{number:02d}..." for number in sorted(listed - tested)]
        problems += [f"{header}: trap {number} is tested and not listed" for number in sorted(tested - listed)]
        if len(listed) != count:
            problems.append(f"{header}: lists {len(listed)} traps, not {count}")
    return problems


CHECKS = {
    "source.spdx": check_spdx,
    "source.pragma-once": check_pragma_once,
    "source.light-headers": check_light_headers,
    "source.casts-have-a-reason": check_casts,
    "source.orders-have-a-partner": check_orders,
    "source.file-length": check_length,
    "source.todo": check_todo,
    "source.no-foreign-places": check_places,
    "source.whitespace": check_whitespace,
    "source.merged": check_merged,
    "source.every-file-is-built": check_built,
    "source.scripts-parse": check_scripts,
    "source.every-trap-is-tested": check_traps,
    "source.self-check": check_itself,
}
