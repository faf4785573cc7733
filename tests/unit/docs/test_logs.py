"""The logs say what docs/logs.md says, and nothing that a customer wrote."""

import ast
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from worker import logs

ROOT = Path(__file__).resolve().parents[3]
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}

Written = Callable[[], str]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Leave Python's logging as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    # basicConfig would close pytest's own
    root.handlers = []
    yield
    root.handlers = before
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in (*logs.QUIET, *logs.WHOLE):
        logging.getLogger(name).setLevel(logging.NOTSET)


def written(format: logs.Format, level: str = "INFO") -> Written:  # noqa: A002
    """Configure, and give what is written."""
    logs.configure(level, format=format)
    stream = io.StringIO()
    [handler] = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)
    return stream.getvalue


def said() -> Iterator[tuple[str, ast.Call]]:
    """Every call of a logger of ours, with where it stands."""
    for path in sorted((ROOT / "worker").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of = node.func.value
                if isinstance(of, ast.Name) and of.id == "log" and node.func.attr in {*LEVELS, "log"}:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def event_of(call: ast.Call) -> Any:
    """The event that a logger is given; None where it is no literal."""
    assert isinstance(call.func, ast.Attribute)
    given = call.args[1 if call.func.attr == "log" else 0]
    return given.value if isinstance(given, ast.Constant) else None


def test_table_of_events() -> None:
    """The documented table is the one in the code."""
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (ROOT / "docs" / "logs.md").read_text(), re.MULTILINE)
    assert {event: meaning for event, meaning in rows if event in logs.EVENTS} == logs.EVENTS
    assert [event for event, _ in rows if event in logs.EVENTS] == list(logs.EVENTS) == sorted(logs.EVENTS)


def test_every_line_is_an_event() -> None:
    """No logger says anything that is not in the table, and none is given values in its text."""
    found = list(said())
    assert {where: event_of(call) for where, call in found if event_of(call) not in logs.EVENTS} == {}
    assert {event_of(call) for _, call in found} == logs.EVENTS.keys()
    assert [where for where, call in found if len(call.args) != 1 + (call.func.attr == "log")] == []  # type: ignore[attr-defined]


def test_loggers_are_ours() -> None:
    """Nobody logs past the one place."""
    for path in (ROOT / "worker").rglob("*.py"):
        assert "log = logging" not in path.read_text(), path


def test_json_is_an_object_a_line() -> None:
    """A library's line and ours have the same keys first."""
    text = written("json")
    logs.get_logger("worker.x").info("call made", invocation=17, status=None, externalid='"\n')
    logging.getLogger("celery.x").warning("%s of %d", "one", 2)
    ours, theirs = map(json.loads, text().splitlines())
    assert list(ours)[:4] == list(theirs)[:4] == ["timestamp", "level", "logger", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ours["timestamp"])
    assert (ours["event"], ours["logger"], ours["level"]) == ("call made", "worker.x", "info")
    assert (ours["invocation"], ours["status"], ours["externalid"]) == (17, None, '"\n')
    assert (theirs["event"], theirs["level"]) == ("one of 2", "warning")


def test_text_is_safe_on_a_terminal() -> None:
    """Values that a terminal would obey, or that would look like two, are quoted."""
    text = written("text")
    logs.get_logger("worker.x").info("call made", externalid="\x1b[2J", reason="two words", interactions=3)
    logging.getLogger("celery.x").info("\x1b[31mred")
    ours, theirs = text().splitlines()
    assert ours.endswith('worker.x: call made externalid="\\u001b[2J" reason="two words" interactions=3')
    assert "\x1b" not in theirs


def test_text_where_there_is_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Left to itself it is JSON in a file and a pipe, and text on a terminal."""
    kinds = []
    for terminal, file in ((False, None), (True, None), (True, str(tmp_path / "log"))):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        logs.configure("INFO", file)
        [handler] = logging.getLogger().handlers
        kinds.append(type(handler.formatter))
        handler.close()
    assert kinds == [logs.Json, logs.Text, logs.Json]


@pytest.mark.parametrize("format", ["json", "text"])
def test_exception_without_its_text(format: logs.Format) -> None:  # noqa: A002
    """An exception is told by its kind and where it comes from; what it says might quote a customer."""
    text = written(format)
    try:
        try:
            raise ValueError("Jane")
        except ValueError as error:
            raise KeyError("Doe") from error
    except KeyError:
        logging.getLogger("x").exception("fell")
    assert "KeyError" in text()
    assert "ValueError" in text()
    assert "test_logs.py" in text()
    assert "Jane" not in re.sub('raise .*"Jane"', "", text().replace('\\"', '"'))
    assert "Doe" not in re.sub('raise .*"Doe"', "", text().replace('\\"', '"'))


@pytest.mark.parametrize("format", ["json", "text"])
def test_celery_tells_no_exception(format: logs.Format) -> None:  # noqa: A002
    """Celery puts an exception's text, traceback and a task's arguments into its message; here it does not."""
    text = written(format)
    context = {
        "id": "4711",
        "name": "vcc.sweep",
        "exc": "KeyError('Jane')",
        "traceback": "File: Jane",
        "args": "Jane",
        "kwargs": "Jane",
        "description": "raised unexpected",
    }
    told = "Task %(name)s[%(id)s] %(description)s: %(exc)s\n%(traceback)s"
    error = KeyError("Jane")
    logging.getLogger("celery.app.trace").error(
        told, context, exc_info=(KeyError, error, None), extra={"data": context}
    )
    assert "Task vcc.sweep[4711] raised unexpected: KeyError" in text()
    assert "Jane" not in text()


def test_what_is_common_to_all_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's name is in each line."""
    monkeypatch.setattr(logs, "_common", {})
    text = written("json")
    logs.common(worker="w@x")
    logging.getLogger("x").error("fell")
    assert json.loads(text())["worker"] == "w@x"


def test_levels() -> None:
    """Below the level nothing is written; libraries that would log statements or messages are held back."""
    text = written("json", "DEBUG")
    for name in (*logs.QUIET, *logs.WHOLE):
        logging.getLogger(name).debug("Jane")
    logs.get_logger("worker.x").debug("swept")
    assert [json.loads(line)["event"] for line in text().splitlines()] == ["swept"]
