"""A sweep's look: one statement that says which steps have something to do."""

import pytest
from sqlalchemy import event

from tests.factories import Store, dispatch, release, settings
from worker.store import expiry
from worker.store.database import single
from worker.upkeep.sweep import sweep

DAY = 86_400.0
EVERYTHING = {"give_up_after": DAY, "lease": 90.0, "assume_ended_after": DAY}


def looked(store: Store, **given: float | None) -> set[str]:
    """Look; the steps that have something to do."""
    with store.engine.connect() as conn, single(conn):
        found = expiry.look(conn, **{**EVERYTHING, **given})  # type: ignore[arg-type]
    return {name for name, wanted in found.items() if wanted}


def test_quiet_tick_is_two_statements(store: Store) -> None:
    """A sweep that finds nothing asks Postgres twice."""
    store.record(dispatch("sent"), release("held"))
    store.deliver()
    said: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *call: said.append(call[2]))
    sweep(store.engine, settings(assume_ended_after=DAY), lambda: None)
    assert len(said) == 2


@pytest.mark.parametrize(
    ("past", "step"),
    [
        ("update interactions set due_at = now() where state = 'awaiting_dispatch'", "orphaned"),
        (
            "update interactions set first_sent_at = now() - interval '2 days' where state = 'pending'",
            "given up",
        ),
        ("update interactions set due_at = 'infinity' where state = 'pending'", "let go"),
        ("update invocations set started_at = now() - interval '2 days', outcome = null", "lost calls"),
        (
            "update interactions set dispatched_at = now() - interval '2 days' where state = 'dispatched'",
            "assumed ended",
        ),
        ("update invocations set started_at = now() - interval '131 seconds'", "added up"),
    ],
)
def test_step_with_something_to_do(store: Store, past: str, step: str) -> None:
    """Each step is named where something waits for it, and no other is."""
    store.record(dispatch("sent"))
    store.deliver()
    store.record(dispatch("pending"), release("held"))
    assert looked(store) == set()
    store.run(past)
    assert looked(store) == {step}


def test_nothing_is_assumed_where_no_time_is_set(store: Store) -> None:
    """Without a time after which interactions count as ended, none is looked for."""
    store.record(dispatch())
    store.deliver()
    store.run("update interactions set dispatched_at = now() - interval '9 years'")
    assert looked(store, assume_ended_after=None) == set()
