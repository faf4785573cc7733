"""Jobs of several threads in one transaction."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.waiting import until
from worker.domain.meeting import Verdict
from worker.intake.record import Incoming, Taken
from worker.intake.together import MANY, Together
from worker.store.record import CrowdedError

Found = Future[Sequence[Verdict]]


class Desk:
    """A first message that is being recorded until it is let go, and others that come meanwhile."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.fails: Exception | None = None
        self._pool = ThreadPoolExecutor(10)
        self._together = Together(self._record)
        self._waiting = 0
        self.first = self._pool.submit(self._together.take_in, _jobs("first"))
        until(lambda: self.batches)

    def add(self, *names: str) -> Found:
        """Have a thread take in a message's jobs; it waits for the first one."""
        self._waiting += 1
        found = self._pool.submit(self._together.take_in, _jobs(*names))
        until(lambda: self._together.waiting == self._waiting)
        return found

    def _record(self, batch: Sequence[Incoming]) -> Taken:
        names = [incoming.requestid for incoming in batch]
        self.batches.append(names)
        if len(self.batches) == 1:
            assert self.go.wait(60)
        if self.fails is not None and "bad" in names:
            raise self.fails
        return Taken(
            details=[(Verdict.REJECTED if name == "wrong" else Verdict.OPENED, "") for name in names]
        )

    def close(self) -> None:
        """End the threads."""
        self.go.set()
        self._pool.shutdown()


def _jobs(*names: str) -> list[Incoming]:
    return [Incoming(b"{}", name) for name in names]


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Give a desk at which the first message is being recorded."""
    made = Desk()
    yield made
    made.close()


def test_what_waits_is_recorded_together(desk: Desk) -> None:
    """Messages that come while one is recorded are recorded next, in their order; each learns what its own came to."""
    found = [desk.add("a"), desk.add("b", "wrong"), desk.add("c")]
    desk.go.set()
    assert [list(one.result(60)) for one in found] == [
        [Verdict.OPENED],
        [Verdict.OPENED, Verdict.REJECTED],
        [Verdict.OPENED],
    ]
    assert desk.batches == [["first"], ["a", "b", "wrong", "c"]]


def test_nobody_waits_for_more_than_a_large_batch(desk: Desk) -> None:
    """What would make a transaction too large waits for the next one; a message is never split."""
    found = [desk.add("a"), desk.add(*["b"] * MANY), desk.add("c")]
    desk.go.set()
    assert [len(one.result(60)) for one in found] == [1, MANY, 1]
    assert [len(batch) for batch in desk.batches] == [1, 1, MANY, 1]


def test_the_database_is_away(desk: Desk) -> None:
    """What keeps the common transaction from being recorded is told to all whose messages were in it."""
    desk.fails = CrowdedError("again")
    found = [desk.add("a"), desk.add("bad")]
    desk.go.set()
    for one in found:
        with pytest.raises(CrowdedError):
            one.result(60)
    assert len(desk.first.result(60)) == 1


def test_what_no_rule_foresaw(desk: Desk) -> None:
    """An error that no rule foresaw is its own message's alone: the others are recorded."""
    desk.fails = RuntimeError("odd")
    found = [desk.add("a"), desk.add("bad"), desk.add("c")]
    desk.go.set()
    assert [len(found[0].result(60)), len(found[2].result(60))] == [1, 1]
    with pytest.raises(RuntimeError):
        found[1].result(60)
    assert desk.batches[1] == ["a", "bad", "c"]
    assert sorted(desk.batches[2:]) == [["a"], ["bad"], ["c"]]
