# SPDX-License-Identifier: Apache-2.0
"""What daemons tell, what docs/metrics.md says of it and what the dashboard asks for are the same."""

import json
import re

from source_tree import ROOT

_DAEMON = ROOT / "vhost-user-backend" / "daemon"
_MACHINE = ROOT / "vmm-lite" / "machine_metrics.cc"
_PAGE = ROOT / "docs" / "metrics.md"
_DASHBOARD = ROOT / "docs" / "grafana-dashboard.json"
_IN_TABLE = re.compile(
    r'\{\.name = "((?:outrigger|vmm_lite)_\w+)",\s*\.help =\s*"([^"]*)"((?:\s*"[^"]*")*),(\s*\.kind = MetricKind::kGauge)?'
)
_ROW = re.compile(r"^\| `((?:outrigger|vmm_lite)_\w+)` \| (\w+) \| [^|]+ \| ([^|]*) \|$", re.MULTILINE)
_USED = re.compile(r"\boutrigger_\w+")
_HISTOGRAM = "outrigger_queue_latency_seconds"
# Of metrics_text.cc, whose values are not numbers of a device.
_OTHERS = {"outrigger_program_info": "gauge", _HISTOGRAM: "histogram"}


def _told():
    """{name: (type, help)} of the tables of metrics."""
    told = {}
    for path in (_DAEMON / "common_metrics.cc", _DAEMON / "kind_metrics.cc", _DAEMON / "share_metrics.cc", _MACHINE):
        text = path.read_text()
        for metric, first, more, gauge in _IN_TABLE.findall(text):
            help_text = first + "".join(re.findall(r'"([^"]*)"', more))
            told[metric] = ("gauge" if gauge else "counter", help_text)
        if len(re.findall(r"\{\.name = ", text)) != len(_IN_TABLE.findall(text)):
            raise ValueError(f"{path.name}: a row of the table is not understood")
    return told


def check_metrics_page(_files):
    """docs/metrics.md lists each metric with its type and meaning, and no other."""
    told = _told()
    text = (_DAEMON / "metrics_text.cc").read_text()
    listed = {name: (kind, meaning) for name, kind, meaning in _ROW.findall(_PAGE.read_text())}
    problems = [f"{name} is not in docs/metrics.md" for name in [*told, *_OTHERS] if name not in listed]
    problems += [f"{name} is in docs/metrics.md only" for name in listed if name not in told and name not in _OTHERS]
    for name, kind in _OTHERS.items():
        if name not in text or name not in listed or listed[name][0] != kind:
            problems.append(f"{name} is not a {kind} in metrics_text.cc and docs/metrics.md")
    for name, row in told.items():
        if name in listed and listed[name] != row:
            problems.append(f"{name}: docs/metrics.md says {listed[name]}, the table {row}")
    return problems


def check_dashboard(_files):
    """The dashboard asks for metrics that daemons tell."""
    known = set(_told()) | set(_OTHERS) - {_HISTOGRAM}
    known |= {_HISTOGRAM + part for part in ("_bucket", "_sum", "_count")}
    dashboard = json.loads(_DASHBOARD.read_text())
    problems = []
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            names = _USED.findall(target["expr"])
            if not names:
                problems.append(f"panel {panel['title']}: {target['expr']} asks for no metric")
            problems += [f"panel {panel['title']}: no daemon tells {name}" for name in names if name not in known]
    for variable in dashboard["templating"]["list"]:
        problems += [
            f"variable {variable['name']}: no daemon tells {name}"
            for name in _USED.findall(variable["query"])
            if name not in known
        ]
    return problems


CHECKS = {
    "docs/metrics.md lists the metrics": check_metrics_page,
    "the dashboard asks for metrics that there are": check_dashboard,
}
