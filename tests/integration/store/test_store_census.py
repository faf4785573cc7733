"""The census counts everything, off the page's way."""

from threading import Event
from time import monotonic
from typing import Any

import pytest

from tests import logbook
from tests.factories import Store, dispatch, opened, release
from tests.waiting import until
from worker.ops import census as counting
from worker.ops.census import Census
from worker.store import census
from worker.store.record import Rejection, reject

DAY = 86_400.0


def test_counts(store: Store) -> None:
    """Interactions by state and lane, what is due, in flight and leaking, and rejections: each is counted."""
    store.record(dispatch("a"), dispatch("leak"), dispatch("b", lane="backlog"))
    store.deliver()
    store.record(release("a"))
    store.claim()
    store.record(dispatch("c"), dispatch("d"), dispatch("e", lane="backlog"))
    store.run("update interactions set dispatched_at = now() - interval '25 hours' where externalid = 'leak'")
    reject(store.engine, "door", [Rejection(b"x", "no")])
    with store.engine.begin() as conn:
        found = census.take(conn, DAY)
    assert found.states == {
        ("dispatched", "live"): 1,
        ("dispatched", "backlog"): 1,
        ("releasing", "live"): 1,
        ("pending", "live"): 2,
        ("pending", "backlog"): 1,
    }
    assert found.due == {"release": 0, "live": 2, "backlog": 1}
    assert (found.in_flight, found.leaks, found.rejections) == (1, 1, 1)
    assert found.seconds >= 0
    assert store.one("show enable_seqscan") == "off"


def test_counts_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts are made while somebody looks, in nobody's time, and again only when they are old."""
    taken: list[Any] = []
    go = Event()
    take = census.take

    def slowly(*args: Any) -> Any:
        taken.append(args)
        assert go.wait(60)
        return take(*args)

    monkeypatch.setattr(counting.census, "take", slowly)
    monkeypatch.setattr(counting, "FIRST", 0.0)
    monkeypatch.setattr(counting, "LEAST", 600.0)
    kept = Census(store.engine, DAY)
    assert kept.counts() is None
    assert kept.counts() is None
    assert len(taken) <= 1
    go.set()
    until(lambda: kept.counts() is not None)
    store.record(dispatch())
    first = kept.counts()
    assert (len(taken), kept.counts()) == (1, first)
    kept._next = 0.0
    until(lambda: kept.counts() is not first)
    found = kept.counts()
    assert found is not None
    assert found.states == {("pending", "live"): 1}


@pytest.mark.parametrize(("took", "pause"), [(0.1, 2.0), (10.0, 200.0), (120.0, 900.0), (1800.0, 1800.0)])
def test_pauses(store: Store, monkeypatch: pytest.MonkeyPatch, took: float, pause: float) -> None:
    """A twentieth of the time goes into counting, and more only where the counts would be too old."""
    clock = iter((1000.0, 1000.0, *[1000.0 + took] * 9))
    monkeypatch.setattr(counting, "monotonic", lambda: next(clock))
    kept = Census(store.engine, DAY)
    assert kept.counts() is not None
    until(lambda: not kept._running)
    assert kept._next == pytest.approx(1000.0 + took + pause)


def test_database_that_is_away(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Where the database can't be asked the last counts stay, the page has an answer, and it is asked again soon."""
    kept = Census(store.engine, DAY)
    assert kept.counts() is not None
    with opened("postgresql://nobody:secret@127.0.0.1:1/none") as engine:
        kept._engine, kept._next = engine, 0.0
        last = kept.counts()
        until(lambda: logbook.lines(caplog, "census failed"))
        assert kept.counts() is last is not None
        until(lambda: not kept._running)
        assert kept._next < monotonic() + counting.AGAIN + 1
        assert Census(engine, DAY).counts() is None
    assert "secret" not in logbook.text(caplog)


def test_no_thread_can_be_had(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many threads the count is put off, and not given up."""
    kept = Census(store.engine, DAY)
    with monkeypatch.context() as patch:
        patch.setattr(counting, "Thread", fails)
        patch.setattr(counting, "AGAIN", 0.0)
        assert kept.counts() is None
    assert kept.counts() is not None


def fails(**_: Any) -> Any:
    """Be a thread that can't be started."""
    raise RuntimeError("can't start new thread")
