"""What ``scripts/dashboard`` does: draw Grafana's dashboard, and ``docs/operations.md``'s table, from the list."""

import argparse
import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from worker.ops.metrics import LIST, Metric

ROOT = Path(__file__).resolve().parents[1]
DASHBOARD = ROOT / "docs" / "ops" / "dashboard.json"
DOCUMENT = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- scripts/dashboard --write: from here -->", "<!-- to here -->"

WIDTH, HEIGHT, ACROSS = 8, 8, 24
"""A panel's size, and the dashboard's width, in Grafana's units."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WHICH = 'job="$job"'
QUANTILES = {"0.5": "half", "0.95": "95%", "0.99": "99%"}
SWITCH = [{"type": "value", "options": {"0": {"text": "no"}, "1": {"text": "yes"}}}]


# --- the dashboard --------------------------------------------------------------------------------


def dashboard() -> dict[str, Any]:
    """Draw the whole: a row for each of the list's, a panel for each metric."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row, metrics in groupby(LIST, lambda metric: metric.row):
        panels.append(
            {
                "type": "row",
                "title": row,
                "collapsed": False,
                "panels": [],
                "gridPos": _place(top, 0, ACROSS, 1),
            }
        )
        drawn = [panel(metric) for metric in metrics]
        for index, one in enumerate(drawn):
            line, column = divmod(index, ACROSS // WIDTH)
            one["gridPos"] = _place(top + 1 + line * HEIGHT, column * WIDTH, WIDTH, HEIGHT)
        panels += drawn
        top += 1 + HEIGHT * -(-len(drawn) * WIDTH // ACROSS)
    return {
        "uid": "vcc-worker",
        "title": "VCC worker",
        "description": "Made by scripts/dashboard.",
        "tags": ["vcc"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {"list": [_datasource(), _job()]},
        "panels": [one | {"id": number} for number, one in enumerate(panels, 1)],
    }  # fmt: skip


def _place(y: int, x: int, width: int, height: int) -> dict[str, int]:
    return {"h": height, "w": width, "x": x, "y": y}


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus",
        "current": {}, "hide": 0, "includeAll": False, "multi": False, "options": [], "refresh": 1, "regex": "",
    }  # fmt: skip


def _job() -> dict[str, Any]:
    query = "label_values(vcc_up, job)"
    return {
        "name": "job", "type": "query", "label": "Job", "datasource": SOURCE, "definition": query,
        "query": {"query": query, "refId": "job"}, "current": {}, "hide": 0, "includeAll": False, "multi": False,
        "options": [], "refresh": 1, "regex": "", "sort": 1,
    }  # fmt: skip


def panel(metric: Metric) -> dict[str, Any]:
    """Draw one metric over time."""
    defaults: dict[str, Any] = {
        "unit": metric.unit,
        "min": 0,
        "custom": {"fillOpacity": 10, "showPoints": "never"},
    }
    if metric.unit == "bool":
        defaults |= {"unit": "short", "max": 1, "mappings": SWITCH}
    return {
        "type": "timeseries",
        "title": metric.title,
        "description": metric.help,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": bool(metric.labels)},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "datasource": SOURCE,
                "refId": chr(ord("A") + n),
                "expr": expr,
                "legendFormat": legend,
                "range": True,
            }
            for n, (expr, legend) in enumerate(queries(metric))
        ],
    }


def queries(metric: Metric) -> list[tuple[str, str]]:
    """What a panel asks Prometheus, and how it calls the answers."""
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels) or metric.title
    by = f" by ({', '.join(metric.labels)})" if metric.labels else ""
    if metric.kind == "histogram":
        answered = f'{metric.name}_bucket{{{WHICH}, outcome!="not_sent"}}'
        rates = f"sum by (le) (rate({answered}[$__rate_interval]))"
        return [(f"histogram_quantile({q}, {rates})", name) for q, name in QUANTILES.items()]
    if metric.kind == "counter":
        return [(f"sum{by} (rate({metric.name}{{{WHICH}}}[$__rate_interval]))", legend)]
    return [(f"max{by} ({metric.name}{{{WHICH}}})", legend)]


# --- the documents' table -------------------------------------------------------------------------


def table() -> str:
    """Draw the list as the documents show it."""
    lines = ["| metric | kind | labels | |", "| --- | --- | --- | --- |"]
    for metric in LIST:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines)


def documented(text: str) -> str:
    """Put the table in its place in a document."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def made() -> dict[Path, str]:
    """What each file has to be."""
    drawn = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    return {DASHBOARD: drawn, DOCUMENT: documented(DOCUMENT.read_text())}


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="make them anew")
    what.add_argument("--check", action="store_true", help="say whether they are as they would be made")
    given = parser.parse_args()
    if given.write:
        for path, text in made().items():
            path.write_text(text)
        return 0
    stale = [path for path, text in made().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is not as the list has it: run scripts/dashboard --write")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
