#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Collects and counts test cases. A result is a line: suite, name, status, seconds, detail, with tabs.

  results.py collect SUITE LOGBASE FILE   appends the cases of one `meson test --logbase` run to FILE
  results.py line SUITE FILE              prints the counts of one suite
  results.py summary FILE                 names what failed and was skipped; the last line has the counts
"""

import json
import sys
import xml.etree.ElementTree as xml

GOOD = {"OK", "EXPECTEDFAIL"}


def one_line(text):
    return " ".join((text or "").split())[:300]


def junit_cases(path):
    """Yields (program, case, status, seconds, detail) of Meson's JUnit file.

    Meson names a suite "project.project:suite / program.Group" for a gtest program, and
    "project.project:suite / program" for TAP; a program of one case is a case of suite "project".
    """
    try:
        root = xml.parse(path).getroot()
    except (OSError, xml.ParseError):
        return
    for suite in root.iter("testsuite"):
        program = suite.get("name", "").split(" / ")[-1].split(".")[0]
        for case in suite.findall("testcase"):
            trouble = case.find("failure")
            if trouble is None:
                trouble = case.find("error")
            skipped = case.find("skipped")
            if trouble is not None:
                status, detail = "failed", trouble.get("message") or trouble.text
            elif skipped is not None:
                status, detail = "skipped", skipped.get("message") or skipped.text
            elif case.get("status") == "notrun":
                status, detail = "skipped", "disabled"
            else:
                status, detail = "passed", ""
            name = case.get("name", "?")
            group = case.get("classname") or ""
            if " / " in group:  # TAP: Meson numbers the cases
                group, name = "", name.split(" ", 1)[-1]
            if " / " in name:
                program = name.split(" / ")[-1]
            yield (program, f"{group}.{name}" if group else name, status, case.get("time") or "0",
                   one_line(detail))


def collect(suite, log_base, out_path):
    """Every case, and every program that ended badly without naming a case that failed."""
    cases = list(junit_cases(log_base + ".junit.xml"))
    lines = [(suite, f"{program} {name}", status, seconds, detail)
             for program, name, status, seconds, detail in cases]
    programs = 0
    try:
        with open(log_base + ".json", encoding="utf-8") as log:
            for text in log:
                program = json.loads(text)
                programs += 1
                name = program["name"].split(" / ")[-1]
                named = [case for case in cases if case[0] == name]
                if program["result"] in GOOD or program["result"] == "SKIP":
                    if not named and program["result"] in GOOD:
                        lines.append((suite, name, "failed", "0", "passed without running a case"))
                elif not any(case[2] == "failed" for case in named):
                    output = program.get("stderr") or program.get("stdout") or ""
                    detail = f"{program['result']}, exit status {program['returncode']}: "
                    lines.append((suite, name, "failed", str(program["duration"]),
                                  one_line(detail + output[-200:])))
    except OSError:
        pass
    if programs == 0:
        lines.append((suite, "suite", "failed", "0", "no test ran"))
    with open(out_path, "a", encoding="utf-8") as out:
        for line in lines:
            out.write("\t".join(line) + "\n")


def read_results(path):
    try:
        with open(path, encoding="utf-8") as lines:
            return [line.rstrip("\n").split("\t") for line in lines if line.strip()]
    except OSError:
        return []


def counts(results):
    return tuple(sum(1 for result in results if result[2] == status)
                 for status in ("passed", "failed", "skipped"))


def summary(path):
    results = read_results(path)
    for status in ("skipped", "failed"):
        for result in results:
            if result[2] == status:
                detail = result[4] if len(result) > 4 else ""
                print(f"  {status}: {result[0]}: {result[1]}{': ' + detail if detail else ''}")
    passed, failed, skipped = counts(results)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or passed == 0 else 0


def main(arguments):
    if arguments[:1] == ["collect"] and len(arguments) == 4:
        collect(*arguments[1:])
        return 0
    if arguments[:1] == ["line"] and len(arguments) == 3:
        passed, failed, skipped = counts([r for r in read_results(arguments[2]) if r[0] == arguments[1]])
        print(f"{passed} passed, {failed} failed, {skipped} skipped")
        return 1 if failed or passed == 0 else 0
    if arguments[:1] == ["summary"] and len(arguments) == 2:
        return summary(arguments[1])
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
