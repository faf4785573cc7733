"""The inbox from inside: what a service's transaction leaves, in which order it comes, and what wakes the reader."""

import threading
import time
from collections.abc import Iterator, Sequence

import msgspec
import psycopg
import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from tests.factories import opened
from worker.intake.inbox import Inbox
from worker.intake.record import Incoming
from worker.store import inbox as inboxes

ALL = {"limit": 1000, "budget": 4_000_000}
INSERT = "insert into inbox (job) values (%s)"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Give an engine as a worker has it."""
    with opened(database_url) as made:
        yield made


@pytest.fixture
def inbox(engine: Engine) -> Iterator[Inbox]:
    """Give the door, opened."""
    with engine.connect() as conn:
        door = Inbox(conn)
        door.open()
        yield door


@pytest.fixture
def service(database_url: str) -> Iterator[psycopg.Connection]:
    """Give a connection of a service, which commits by itself."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def add(service: psycopg.Connection, *externalids: str, **fields: str) -> None:
    """Insert a row for each."""
    for externalid in externalids:
        service.execute(INSERT, [msgspec.json.encode({"externalid": externalid, **fields}).decode()])


def names(batch: Sequence[Incoming]) -> list[str]:
    """Tell the externalids of a batch."""
    return [msgspec.json.decode(incoming.job)["externalid"] for incoming in batch]  # type: ignore[arg-type]


def count(service: psycopg.Connection) -> int:
    """Count the rows."""
    return int(service.execute("select count(*) from inbox").fetchall()[0][0])


def test_rows_in_their_order(service: psycopg.Connection, inbox: Inbox) -> None:
    """Rows come in the order of their commits, each by its own id, until they are done."""
    add(service, "a", "b", "é\U0001f600")
    batch = inbox.read(**ALL)
    assert names(batch) == names(inbox.read(**ALL)) == ["a", "b", "é\U0001f600"]
    ids = [str(row[0]) for row in service.execute("select id from inbox order by id").fetchall()]
    assert [incoming.requestid for incoming in batch] == ids
    assert [incoming.place for incoming in batch] == [f"row {number}" for number in ids]


def test_only_what_is_done_is_removed(service: psycopg.Connection, inbox: Inbox) -> None:
    """What is done is removed; what was inserted meanwhile stays."""
    add(service, "a", "b")
    batch = inbox.read(**ALL)
    add(service, "c")
    inbox.done(batch)
    inbox.done(batch)
    assert names(inbox.read(**ALL)) == ["c"]


def test_any_json_comes(service: psycopg.Connection, inbox: Inbox) -> None:
    """What is no object comes all the same, so that it can be rejected."""
    for job in ("5", "null", '"text"', "[]", "{}"):
        service.execute(INSERT, [job])
    assert [incoming.job for incoming in inbox.read(**ALL)] == [b"5", b"null", b'"text"', b"[]", b"{}"]


def test_limit(service: psycopg.Connection, inbox: Inbox) -> None:
    """A batch has so many rows, the oldest."""
    add(service, *"abcd")
    assert names(inbox.read(2, 4_000_000)) == ["a", "b"]


@pytest.mark.parametrize("text", ["a" * 50_000, "".join(map(chr, range(256, 25_256)))])
def test_budget_of_bytes(service: psycopg.Connection, inbox: Inbox, text: str) -> None:
    """Large rows make small batches, however well they are compressed where they stand."""
    add(service, *[f"e{n}" for n in range(30)], x=text)
    found: list[str] = []
    while batch := inbox.read(1000, 200_000):
        assert sum(len(incoming.job) for incoming in batch[:-1]) <= 200_000
        inbox.done(batch)
        found += names(batch)
    assert found == [f"e{n}" for n in range(30)]


def test_one_larger_than_the_budget(service: psycopg.Connection, inbox: Inbox) -> None:
    """One row comes however large it is."""
    add(service, "large", x="x" * 100_000)
    add(service, "small")
    assert names(inbox.read(1000, 1_000)) == ["large"]


def test_uncommitted_rows_come_later(service: psycopg.Connection, inbox: Inbox, database_url: str) -> None:
    """A row whose transaction is under way holds up no other, and comes when it is committed; rolled back, never."""
    with psycopg.connect(database_url) as slow:
        add(slow, "slow")
        add(service, "fast")
        assert names(inbox.read(**ALL)) == ["fast"]
        inbox.done(inbox.read(**ALL))
        assert inbox.read(**ALL) == []
        slow.commit()
        assert names(inbox.read(**ALL)) == ["slow"]
        add(slow, "never")
        slow.rollback()
    assert names(inbox.read(**ALL)) == ["slow"]


def wait(inbox: Inbox, seconds: float) -> tuple[threading.Thread, list[float]]:
    """Let a thread wait; when it was woken, if it was."""
    at: list[float] = []
    thread = threading.Thread(target=lambda: inbox.wait(seconds) and at.append(time.monotonic()))
    thread.start()
    return thread, at


def test_woken_by_the_commit(service: psycopg.Connection, inbox: Inbox) -> None:
    """A plain INSERT ends the wait when its transaction commits, and not before."""
    waiting, woken = wait(inbox, 60)
    with service.transaction():
        add(service, "a", "b")
        assert waiting.is_alive()
        committed = time.monotonic()
    waiting.join()
    assert committed < woken[0] < committed + 20
    assert names(inbox.read(**ALL)) == ["a", "b"]


def test_notified_before_the_wait(service: psycopg.Connection, inbox: Inbox) -> None:
    """What is committed between a reading that found nothing and the wait ends the wait."""
    assert inbox.read(**ALL) == []
    add(service, "a")
    assert inbox.wait(60)


def test_notified_while_it_did_something_else(service: psycopg.Connection, inbox: Inbox) -> None:
    """A notification that comes with the answer of another statement is not lost."""
    assert inbox.read(**ALL) == []
    add(service, "a")
    inbox.done([])
    assert inbox.wait(60)


def test_nothing_came(inbox: Inbox) -> None:
    """Where nothing comes the wait ends after its time, and says so."""
    start = time.monotonic()
    assert not inbox.wait(0.1)
    assert 0.09 < time.monotonic() - start < 20


def test_rolled_back_insert_wakes_nobody(service: psycopg.Connection, inbox: Inbox) -> None:
    """What was rolled back ends no wait."""
    with service.transaction(force_rollback=True):
        add(service, "a")
    assert not inbox.wait(0.1)


def test_connection_lost_while_waiting(service: psycopg.Connection, engine: Engine) -> None:
    """A wait whose connection is ended fails at once, as any statement would."""
    conn = engine.connect()
    pid = conn.exec_driver_sql("select pg_backend_pid()").scalar_one()
    conn.commit()
    door = Inbox(conn)
    door.open()
    failed: list[Exception] = []

    def waits() -> None:
        try:
            door.wait(30)
        except Exception as error:
            failed.append(error)

    waiting = threading.Thread(target=waits)
    waiting.start()
    service.execute("select pg_terminate_backend(%s)", [pid])
    waiting.join(30)
    assert [type(error) for error in failed] == [OperationalError]
    conn.invalidate()
    conn.close()


def test_own_requestids_are_no_others(service: psycopg.Connection, database_url: str) -> None:
    """The ids that rows go by are those of no other database: they count from the microsecond it was made in."""
    add(service, "a")
    [[first]] = service.execute("select id from inbox").fetchall()
    assert abs(first / 1e6 - time.time()) < 3_600


def test_reads_no_more_than_it_takes(service: psycopg.Connection, engine: Engine) -> None:
    """Of a long queue of large rows only those are unpacked that a batch takes."""
    service.execute(
        """insert into inbox (job) select jsonb_build_object('externalid', i::text, 'x', (
            select string_agg(md5(i::text || j::text), '') from generate_series(1, 1500) j))
        from generate_series(1, 400) i"""
    )
    service.execute("select pg_stat_force_next_flush()")
    with engine.begin() as conn:
        before = blocks(conn)
        assert len(inboxes.read(conn, 1000, 480_000)) <= 11
    with engine.begin() as conn:
        conn.exec_driver_sql("select pg_stat_force_next_flush()")
    with engine.begin() as conn:
        assert blocks(conn) - before < 400


def blocks(conn: Connection) -> int:
    """Count the blocks that were looked at."""
    found = conn.exec_driver_sql(
        """select coalesce(sum(heap_blks_hit + heap_blks_read + toast_blks_hit + toast_blks_read), 0)
        from pg_statio_user_tables where relname = 'inbox'"""
    )
    return int(found.scalar_one())
