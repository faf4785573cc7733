"""An import tells of itself, and does not depend on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.factories import Store
from tests.integration.ops.conftest import Vcc
from tests.waiting import until
from worker.intake.importer import Tally
from worker.ops import importing, reporting
from worker.ops.reporting import Report
from worker.store.browse import running_imports


@pytest.fixture
def told(engine: Engine) -> Callable[[], list[dict[str, Any]]]:
    """Give what whoever looks is told of imports."""

    def look() -> list[dict[str, Any]]:
        with engine.connect() as conn:
            return running_imports(conn)

    return look


def test_an_import_reports_itself(
    vcc: Vcc, told: Callable[[], Any], backlog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who imports what, without its folder, how far it is, and that it is done; a dry run reports nothing."""
    monkeypatch.setattr("getpass.getuser", lambda: "trillian")
    assert vcc("import", backlog, "--route", "R", "--dry-run").code == 0
    assert told() == []
    assert vcc("import", backlog, "--route", "R").code == 0
    (found,) = told()
    wanted = {
        "who": "cli:trillian", "source": "backlog.mbox", "route": "R", "share": 1.0, "outcome": "done",
        "read": 30, "new": 24, "duplicate": 3, "rejected": 3, "silent": False,
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted


def test_one_that_fails_or_is_stopped_says_so(
    vcc: Vcc, told: Callable[[], Any], backlog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that can't be read, an error, Ctrl-C: each is another end."""
    assert vcc("import", backlog, tmp_path / "missing.mbox", "--route", "R").code == 1

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importing.Importer, "run", stop)
    assert vcc("import", backlog, backlog, backlog, "--route", "R").code == 130

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(importing.Importer, "run", fail)
    assert vcc("import", backlog, "--route", "R").code == 1
    found = [(one["source"], one["outcome"]) for one in told()]
    assert found == [
        ("backlog.mbox", "failed"), ("backlog.mbox and 2 more", "stopped"), ("backlog.mbox and 1 more", "failed")
    ]  # fmt: skip


def test_it_tells_how_far_it_is_while_it_runs(
    engine: Engine, told: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every now and then, whatever the length of a chunk."""
    monkeypatch.setattr(reporting, "EVERY", 0.01)
    tally = Tally()
    with Report(engine, "me", "a\0b", None, tally, lambda: tally.read / 10):
        until(lambda: told() and told()[0]["share"] == 0.0)
        tally.read = 5
        until(lambda: told()[0]["share"] == 0.5)
        assert told()[0]["ended_at"] is None
    (found,) = told()
    assert (found["outcome"], found["source"]) == ("done", "a\ufffdb")


def test_nobody_to_report_to_fails_no_import(vcc: Vcc, engine: Engine, backlog: Path) -> None:
    """A report that can't be written is dropped."""
    Store(engine).run("alter table imports rename to elsewhere")
    result = vcc("import", backlog, "--route", "R", "--json")
    assert (result.code, result.json["new"]) == (0, 24)
