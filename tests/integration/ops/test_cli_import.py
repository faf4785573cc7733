"""``vcc import``: counts, files of rejects and duplicates, the wait, and what can be wrong."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine

from tests.integration.ops.conftest import Vcc, own_broker
from tests.waiting import until
from worker.intake.sources.generate import write_backlog
from worker.ops import waiting
from worker.simulator.run import Background
from worker.store import gate

Stats = Callable[[], dict[str, Any]]
Delivering = Callable[[], AbstractContextManager[None]]
MESSAGE = "From a@b.test Mon Jan  1 00:00:00 2024\n{headers}\n\nbody\n\n"


def test_an_import_counts_every_entry(vcc: Vcc, house: Background, backlog: Path, stats: Stats) -> None:
    """Read, new, duplicate, rejected; nothing but JSON on stdout."""
    result = vcc("import", backlog, "--route", "R", "--json")
    found = result.json
    assert result.code == 0
    assert list(found) == ["read", "new", "duplicate", "rejected", "seconds"]
    assert {k: found[k] for k in found if k != "seconds"} == {
        "read": 30,
        "new": 24,
        "duplicate": 3,
        "rejected": 3,
    }
    assert stats()["states"]["pending"] == 24
    assert {row["lane"] for row in vcc("list", "--json").json} == {"backlog"}


def test_the_same_import_again_dispatches_nothing(
    vcc: Vcc, house: Background, backlog: Path, stats: Stats
) -> None:
    """What is there counts as a duplicate; with --again the open ones still do, unsent as they are."""
    vcc("import", backlog, "--route", "R")
    result = vcc("import", backlog, "--route", "R")
    assert "30 read in" in result.out
    assert "0 new, 27 duplicate, 3 rejected" in result.out
    assert stats()["states"]["pending"] == 24


def test_again_dispatches_what_is_dispatched(
    vcc: Vcc, house: Background, backlog: Path, send: Callable[[], None]
) -> None:
    """``--again`` opens a new lifecycle for each."""
    vcc("import", backlog, "--route", "R")
    send()
    assert vcc("import", backlog, "--route", "R", "--again", "--json").json["new"] == 24


def test_the_options_reach_every_entry(vcc: Vcc, house: Background, tmp_path: Path) -> None:
    """Provider, lane, interactiontype, prefix, header of the id and the link."""
    source = tmp_path / "one.mbox"
    source.write_text(MESSAGE.format(headers="From: a@b.test\nX-Ticket: 17\nSubject: Hello"))
    vcc(
        "import", source, "--route", "R", "--provider", "P", "--lane", "live", "--externalid-prefix", "T-",
        "--externalid-from", "X-Ticket", "--url", "https://crm.test/{id}", "--interactiontype", "chat",
        "--format", "mbox",
    )  # fmt: skip
    (row,) = vcc("list", "--json").json
    assert (row["externalid"], row["provider"], row["lane"]) == ("T-17", "P", "live")


def test_a_dry_run_records_nothing(vcc: Vcc, house: Background, backlog: Path, stats: Stats) -> None:
    """It tells what an import would come to."""
    result = vcc("import", backlog, "--route", "R", "--dry-run")
    assert "would be 24 new, 3 duplicate, 3 rejected" in result.out
    assert stats()["states"]["pending"] == 0
    assert stats()["rejections"] == 0


def test_rejects_and_duplicates_are_written_down(
    vcc: Vcc, house: Background, backlog: Path, tmp_path: Path
) -> None:
    """A line of JSON each: where it stood and what was wrong."""
    rejects, duplicates = tmp_path / "rejects.jsonl", tmp_path / "duplicates.jsonl"
    vcc("import", backlog, "--route", "R", "--rejects", rejects, "--duplicates", duplicates)
    refused = [msgspec.json.decode(line) for line in rejects.read_text().splitlines()]
    assert len(refused) == 3
    assert set(refused[0]) == {"place", "reason", "job"}
    assert len(duplicates.read_text().splitlines()) == 3


def test_a_file_to_write_is_opened_before_anything_is_read(
    vcc: Vcc, house: Background, backlog: Path, tmp_path: Path, stats: Stats
) -> None:
    """What could not be written down must not be imported first."""
    result = vcc("import", backlog, "--route", "R", "--rejects", tmp_path / "no" / "such.jsonl")
    assert (result.code, result.out) == (1, "")
    assert "No such file" in result.err
    assert stats()["states"]["pending"] == 0


def test_a_source_is_never_overwritten(vcc: Vcc, house: Background, backlog: Path) -> None:
    """A slip of the hand with --rejects does not cost the backlog."""
    before = backlog.read_bytes()
    link = backlog.with_name("link")
    link.symlink_to(backlog)
    for target in (backlog, link):
        result = vcc("import", backlog, "--route", "R", "--rejects", target)
        assert result.code == 1
        assert "is one of the sources" in result.err
    assert backlog.read_bytes() == before


def test_one_file_can_t_take_rejects_and_duplicates(
    vcc: Vcc, house: Background, backlog: Path, tmp_path: Path
) -> None:
    """They would overwrite each other."""
    both = tmp_path / "both"
    result = vcc("import", backlog, "--route", "R", "--rejects", both, "--duplicates", both)
    assert result.code == 1
    assert "can't hold both" in result.err


def test_an_unreadable_source_is_reported_and_the_others_imported(
    vcc: Vcc, house: Background, backlog: Path, tmp_path: Path
) -> None:
    """The status says that not everything was read."""
    empty = tmp_path / "empty.mbox"
    empty.touch()
    result = vcc("import", tmp_path / "missing.csv", empty, backlog, "--route", "R", "--json")
    assert result.code == 1
    assert result.json["new"] == 24
    assert [line.startswith("error: ") for line in result.err.splitlines()[:2]] == [True, True]


def test_emails_without_a_route_are_told_how(vcc: Vcc, house: Background, backlog: Path) -> None:
    """Emails name no route themselves."""
    result = vcc("import", backlog)
    assert result.code == 1
    assert "--route" in result.err


def test_a_route_that_is_not_allowed_is_wrong_use(
    vcc: Vcc, house: Background, backlog: Path, monkeypatch: pytest.MonkeyPatch, stats: Stats
) -> None:
    """Else every single entry would be rejected."""
    monkeypatch.setenv("VCC_ROUTES", "Emails")
    result = vcc("import", backlog, "--route", "Emials")
    assert result.code == 2
    assert "VCC_ROUTES" in result.err
    assert stats()["rejections"] == 0


def test_notes_about_repairs_are_shown_but_not_all(vcc: Vcc, house: Background, tmp_path: Path) -> None:
    """The first ten, then how many more; remarks about a source as a whole come first."""
    source = tmp_path / "noted.mbox"
    source.write_text("".join(MESSAGE.format(headers=f"From: a{n}@b.test\nSubject: s{n}") for n in range(12)))
    table = tmp_path / "table.csv"
    table.write_text("externalid,colour\n1,red\n")
    result = vcc("import", table, source, source, "--route", "R")
    lines = result.err.splitlines()
    assert "columns ignored: colour" in lines[0]
    assert sum(line.startswith("note: ") for line in lines[1:]) == 10
    assert lines[-1] == "… and 14 more notes"


def test_a_bar_is_drawn_on_a_terminal_only(
    vcc: Vcc, house: Background, backlog: Path, delivering: Delivering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes, entries per second and what remains on stderr; in a file nothing but results."""
    assert vcc("import", backlog, "--route", "R").err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with delivering():
        result = vcc("import", backlog, "--route", "R", "--externalid-prefix", "x", "--wait")
    assert "entries/s" in result.err
    assert "MB" in result.err
    assert "sending" in result.err
    assert "importing" not in result.out


def test_waiting_ends_when_everything_is_sent(
    vcc: Vcc, house: Background, backlog: Path, delivering: Delivering
) -> None:
    """With --wait the status tells that all that is new was accepted."""
    vcc("dispatch", "earlier", "--route", "elsewhere")
    with delivering():
        result = vcc("import", backlog, "--route", "R", "--wait", "--json")
    assert result.code == 0
    assert {"sent": 24, "failed": 0, "held": 0}.items() <= result.json.items()


def test_waiting_tells_what_failed(
    vcc: Vcc, house: Background, backlog: Path, delivering: Delivering
) -> None:
    """What the API refuses is counted, and the status is 1."""
    externalid = "3.0@backlog.example.com"
    house.faults(poison=[externalid])
    with delivering():
        result = vcc("import", backlog, "--route", "R", "--wait")
    assert result.code == 1
    assert "23 sent, 1 failed (vcc list --state failed)" in result.out
    assert vcc("show", externalid, "--json").json["lifecycles"][0]["state"] == "failed"


def test_waiting_does_not_wait_for_a_held_route(vcc: Vcc, engine: Engine, backlog: Path) -> None:
    """Rows that wait for an operator would be waited for without end."""
    with engine.begin() as conn:
        conn.exec_driver_sql(
            "insert into routes (route, held_at, message) values ('R', now(), 'no such route')"
        )
    result = vcc("import", backlog, "--route", "R", "--wait")
    assert result.code == 1
    assert "0 sent, 24 held (vcc stats names the route)" in result.out


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do something beside the command."""
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give what the waiting has said so far."""
    words: list[str] = []
    say = waiting.say

    def keep(text: str) -> None:
        say(text)
        words.append(text)

    monkeypatch.setattr(waiting, "say", keep)
    return words


@pytest.mark.parametrize(
    ("close", "words"),
    [
        (lambda conn: gate.pause(conn, "inventory"), "delivery is paused (inventory): `vcc resume`"),
        (
            lambda conn: gate.close(conn, 0, "unauthorised", "HTTP 401", wait=60),
            "delivery is held up: unauthorised (HTTP 401)",
        ),
    ],
    ids=["paused", "closed"],
)
def test_waiting_says_what_is_in_the_way_until_ctrl_c(
    vcc: Vcc, engine: Engine, backlog: Path, said: list[str], close: Callable[[Any], None], words: str
) -> None:
    """Why nothing goes, once; Ctrl-C ends the waiting, not the delivery."""
    with engine.begin() as conn:
        close(conn)

    def interrupt() -> None:
        try:
            until(lambda: said)
            threading.Event().wait(3 * waiting.LOOK_EVERY)  # it says so once
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with meanwhile(interrupt):
        result = vcc("import", backlog, "--route", "R", "--wait")
    assert result.code == 130
    assert result.err.count(words) == 1
    assert "delivery goes on in the background" in result.err


def test_waiting_misses_a_worker(
    vcc: Vcc,
    engine: Engine,
    backlog: Path,
    delivering: Delivering,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where nothing moves and nothing is in the way, it asks whether a worker runs; then it goes on."""
    monkeypatch.setattr(waiting, "STILL", 0.1)

    def work_late() -> None:
        until(lambda: any("does a worker run?" in words for words in said))
        with delivering():
            until(lambda: not _due(engine))

    with meanwhile(work_late):
        result = vcc("import", backlog, "--route", "R", "--wait")
    assert result.code == 0
    assert "does a worker run?" in result.err


def _due(engine: Engine) -> bool:
    with engine.connect() as conn:
        return bool(
            conn.exec_driver_sql("select count(*) from interactions where state = 'pending'").scalar_one()
        )


def test_redis_being_down_fails_no_import(
    vcc: Vcc, house: Background, backlog: Path, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is recorded, and the operator is told once when it goes."""
    url = "redis://127.0.0.1:1/0"
    more = backlog.with_name("more.mbox")
    write_backlog(more, 5, seed=1)
    monkeypatch.setenv("REDIS_URL", url)
    with own_broker(url):
        result = vcc("import", backlog, more, "--route", "R", "--json")
    assert result.code == 0
    assert result.err == "warning: recorded; Redis can't be reached, so delivery starts when it is back\n"
    assert stats()["due"] == 29
