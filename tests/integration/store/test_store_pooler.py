"""Through PgBouncer in transaction mode: a seat is as safe as without, and what can't work says so."""

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tests.factories import Store, dispatch, opened, release, together
from tests.installed import pgbouncer
from tests.waiting import until
from worker.embedded import Server
from worker.settings import SettingsError
from worker.store import inbox, migrate
from worker.store import seat as seats
from worker.store.claim import Terms
from worker.store.database import pooled
from worker.store.record import record, record_and_claim
from worker.store.seat import NAMESPACE, Seat

HOLDERS = "select pid from pg_locks where locktype = 'advisory' and classid = %(space)s and granted"


@pytest.fixture
def pooler(database_url: str) -> Iterator[Server]:
    """Run a pooler before the database."""
    with pgbouncer(database_url) as running:
        yield running


@pytest.fixture
def engine(pooler: Server) -> Iterator[Engine]:
    """Give an engine that goes through the pooler."""
    with opened(pooler.url) as made:
        yield made


def holders(store: Store) -> list[int]:
    """Tell the backends that hold a seat."""
    return [pid for (pid,) in store.all(HOLDERS, space=NAMESPACE)]


def test_one_has_it(store: Store, engine: Engine) -> None:
    """Of many who reach for a seat one gets it, and the next when it is given up."""
    contenders = [Seat(engine, 1) for _ in range(5)]
    found = together(*[seat.take for seat in contenders])
    assert sum(conn is not None for conn in found) == len(holders(store)) == 1
    for seat in contenders:
        seat.leave()
    until(contenders[0].take)
    assert contenders[1].take() is None
    contenders[0].leave()
    until(lambda: not holders(store))


def test_its_connection_stays_the_same(store: Store, engine: Engine) -> None:
    """Whatever its holder ends and whatever others do, a seat stays with its connection of Postgres's."""
    seat = Seat(engine, 1)
    conn = until(seat.take)
    assert conn is not None
    for number in range(10):
        with engine.begin() as crowd:
            crowd.exec_driver_sql("select 1")
        seat.prepare(number % 2 == 0)
        record(conn, [release(f"e{number}")], grace=60.0)
        record_and_claim(conn, [dispatch(f"f{number}")], 60.0, Terms(500, 99_000, 90.0))
        with pytest.raises(DBAPIError):
            conn.exec_driver_sql("select 1/0")
        conn.rollback()
        assert [conn.exec_driver_sql("select pg_backend_pid()").scalar_one()] == holders(store)
        conn.commit()
    assert store.counts() == {"awaiting_dispatch": 10, "pending": 10}
    assert store.one("select count(*) from interactions where call is not null") == 10
    seat.leave()


def test_lost_holder_records_nothing(store: Store, engine: Engine) -> None:
    """Who lost the seat can't record, in the middle of a transaction or at its beginning; the next one can."""
    seat, successor = Seat(engine, 1), Seat(engine, 1)
    conn = until(seat.take)
    assert conn is not None
    conn.exec_driver_sql("update gate set pause_reason = 'written'")
    store.run("select pg_terminate_backend(%(pid)s, 5000)", pid=holders(store)[0])
    next_one = until(successor.take)
    assert next_one is not None
    with pytest.raises(DBAPIError):
        conn.commit()
    for _ in range(3):
        with pytest.raises(SQLAlchemyError):
            record(conn, [dispatch()], grace=60.0)
    assert store.one("select pause_reason from gate") is None
    assert store.counts() == {}
    record(next_one, [dispatch()], grace=60.0)
    assert store.counts() == {"pending": 1}
    seat.leave()
    successor.leave()


def test_pooler_dies(store: Store, engine: Engine, pooler: Server) -> None:
    """With the pooler a seat is lost, and free for whoever comes first when it is back."""
    seat, next_one = Seat(engine, 1), Seat(engine, 1)
    until(seat.take)
    pooler.kill()
    with pytest.raises(DBAPIError):
        seat.hold()
    until(lambda: not holders(store))
    pooler.restart()
    until(next_one.take)
    assert len(holders(store)) == 1
    seat.leave()
    next_one.leave()


def test_silent_holder(store: Store, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres ends a holder that it does not hear of for a while; one that holds on stays."""
    monkeypatch.setattr(seats, "SILENCE", 1)
    silent, alive = Seat(engine, 1), Seat(engine, 2)
    until(silent.take)
    monkeypatch.setattr(seats, "SILENCE", 4)
    until(alive.take)

    def one_is_left() -> bool:
        alive.hold()
        return len(holders(store)) == 1

    until(one_is_left)
    end = time.monotonic() + 5  # longer than it may be silent
    until(lambda: one_is_left() and time.monotonic() > end)
    with pytest.raises(DBAPIError):
        silent.hold()
    silent.leave()
    alive.hold()
    alive.leave()


def test_a_batch_has_a_time_of_its_own(store: Store, engine: Engine) -> None:
    """What is recorded counts from the moment of its batch, not from that of the one before."""
    seat = Seat(engine, 1)
    conn = until(seat.take)
    assert conn is not None
    later = store.one("select clock_timestamp()")
    seat.prepare(False)
    assert conn.exec_driver_sql("select now()").scalar_one() > later
    seat.leave()


def test_no_lock_between_two_looks(store: Store, engine: Engine) -> None:
    """A reader that waits at the inbox keeps a migration from nothing, and vacuum from no row."""
    seat = Seat(engine, 2)
    conn = until(seat.take)
    assert conn is not None
    inbox.listen(conn)
    assert not inbox.wait(conn, 0)
    store.run("insert into inbox (job) values ('{}')")
    assert inbox.wait(conn, 0)
    [held] = store.all(
        "select backend_xid, backend_xmin from pg_stat_activity where pid = %(p)s", p=holders(store)[0]
    )
    assert held == (None, None)
    assert not store.one("select count(*) from pg_locks where relation = 'inbox'::regclass")
    seat.leave()


def test_pooled(store: Store, engine: Engine) -> None:
    """A connection knows whether it goes through a pooler."""
    with engine.connect() as through, store.engine.connect() as straight:
        assert pooled(through)
        assert not pooled(straight)


def test_migrations_refuse(pooler: Server) -> None:
    """A migration, whose lock would stay behind in the pooler, asks for a URL of Postgres itself."""
    with pytest.raises(SettingsError, match="leads through a pooler"):
        migrate.upgrade(pooler.url)
