"""Metrics, alerts, runbook, dashboard and documents: one list, and nothing beside it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import dashboard
import pytest

from worker.ops.metrics import LIST

ROOT = Path(__file__).resolve().parents[3]
OPS = ROOT / "docs" / "ops"
RULES = (OPS / "alerts.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs Debian's prometheus, for promtool"
)


def test_every_metric_that_an_alert_looks_at_is_measured() -> None:
    """A metric that is renamed would silence it."""
    assert set(re.findall(r"\bvcc_\w+", RULES)) <= {metric.name for metric in LIST}


def test_every_label_that_an_alert_asks_for_is_one_of_its_metrics() -> None:
    """Likewise."""
    labels = {metric.name: set(metric.labels) for metric in LIST}
    for name, chosen in re.findall(r"\b(vcc_\w+)\{([^}]*)\}", RULES):
        assert set(re.findall(r"(\w+)=", chosen)) <= labels[name]


def test_every_alert_has_its_paragraph_and_every_paragraph_its_alert() -> None:
    """The runbook tells them under their names, in the same order."""
    runbook = (OPS / "runbook.md").read_text()
    assert re.findall(r"^### (\w+)$", runbook, re.MULTILINE) == ALERTS
    assert all(len(part.split()) > 30 for part in runbook.split("### ")[1:])


def test_every_alert_says_what_it_means_and_where_to_read_on() -> None:
    """How grave it is, in a few words, in a sentence, and by a link that leads to its own paragraph."""
    for name, rule in zip(ALERTS, RULES.split("- alert: ")[1:], strict=True):
        assert re.search(r"severity: (warning|critical)\n", rule)
        assert re.search(r"summary: \S", rule)
        assert re.search(r"description: \S", rule)
        assert f"runbook_url: docs/ops/runbook.md#{name.lower()}\n" in rule


def test_every_alert_is_seen_to_fire() -> None:
    """By the rules' own tests."""
    assert set(re.findall(r'alertname="(\w+)"', (OPS / "alerts.test.yml").read_text())) == set(ALERTS)


@needs_promtool
@pytest.mark.parametrize("what", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")])
def test_promtool_agrees(what: tuple[str, ...]) -> None:
    """The rules can be read; each alert fires for its cause and is silent without."""
    done = subprocess.run(["promtool", *what], cwd=OPS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboard_and_documents_are_as_the_list_has_them() -> None:
    """``scripts/dashboard --write`` makes them."""
    for path, text in dashboard.made().items():
        assert path.read_text() == text, path.name


def test_every_metric_has_a_panel() -> None:
    """None over another; and each asks for a metric of the list and for one job."""
    panels = [one for one in json.loads(dashboard.DASHBOARD.read_text())["panels"] if one["type"] != "row"]
    assert [one["title"] for one in panels] == [metric.title for metric in LIST]
    assert len({(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels}) == len(LIST)
    for metric, one in zip(LIST, panels, strict=True):
        assert all(metric.name in target["expr"] for target in one["targets"])
        assert all('job="$job"' in target["expr"] for target in one["targets"])


def test_names_are_as_prometheus_would_have_them() -> None:
    """Ours by their beginning, counters by their end, no two the same."""
    assert len({metric.name for metric in LIST}) == len(LIST)
    for metric in LIST:
        assert re.fullmatch(r"vcc_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")
