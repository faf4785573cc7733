"""The reader's seat: one has it, and whoever has lost it can't write any more, whether they know it or not."""

import time
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tests.factories import Store, dispatch, together
from tests.waiting import until
from worker.embedded import Server
from worker.store import seat as seats
from worker.store.claim import Terms
from worker.store.record import record, record_and_claim
from worker.store.seat import NAMESPACE, SILENCE, Seat

HOLDERS = "select pid from pg_locks where locktype = 'advisory' and classid = %(space)s and granted"


def holders(store: Store) -> list[int]:
    """Tell the backends that hold a seat."""
    return [pid for (pid,) in store.all(HOLDERS, space=NAMESPACE)]


def pid_of(conn: Connection) -> int:
    """Tell the backend of a connection."""
    pid = conn.exec_driver_sql("select pg_backend_pid()").scalar_one()
    conn.commit()
    return int(pid)


def end(store: Store, pid: int) -> None:
    """End a backend, and wait until it is gone."""
    store.run("select pg_terminate_backend(%(pid)s, 5000)", pid=pid)


def checked_out(store: Store) -> int:
    """Count the connections that the pool misses."""
    pool: Any = store.engine.pool
    return int(pool.checkedout())


def taken(seat: Seat) -> Connection:
    """Take a seat that is free, or about to be: Postgres hears of the end of a connection a moment later."""
    conn = until(seat.take)
    assert conn is not None
    return conn


def test_one_has_it(store: Store) -> None:
    """A seat that is taken is nobody else's until it is given up; another door's is free."""
    first, second, other = Seat(store.engine, 1), Seat(store.engine, 1), Seat(store.engine, 2)
    taken(first)
    assert second.take() is None
    assert second.take() is None
    taken(other)
    first.leave()
    taken(second)
    second.leave()
    other.leave()
    until(lambda: not holders(store))


def test_many_at_once(store: Store) -> None:
    """Of many who reach for it at the same moment one gets it."""
    contenders = [Seat(store.engine, 1) for _ in range(8)]
    found = together(*[seat.take for seat in contenders])
    assert sum(conn is not None for conn in found) == len(holders(store)) == 1
    for seat in contenders:
        seat.leave()


def test_left_twice(store: Store) -> None:
    """Leaving what one does not have does nothing, and takes it from nobody."""
    first, second = Seat(store.engine, 1), Seat(store.engine, 1)
    second.leave()
    taken(first)
    first.leave()
    taken(second)
    first.leave()
    assert len(holders(store)) == 1
    second.leave()


def test_a_lock_never_goes_back_to_the_pool(store: Store) -> None:
    """The connection that had the seat ends with it; the pool gets those back that never had it, and no others."""
    seat, other = Seat(store.engine, 1), Seat(store.engine, 1)
    holder = pid_of(taken(seat))
    for _ in range(20):
        assert other.take() is None
    seat.leave()
    until(lambda: not store.all("select from pg_stat_activity where pid = %(pid)s", pid=holder))
    until(lambda: not holders(store))
    assert checked_out(store) == 0


def test_lost_with_its_connection(store: Store) -> None:
    """A holder whose connection ends has lost the seat at once, and learns of it at its next statement."""
    seat, next_one = Seat(store.engine, 1), Seat(store.engine, 1)
    end(store, pid_of(taken(seat)))
    taken(next_one)
    with pytest.raises(DBAPIError):
        seat.hold()
    seat.leave()
    assert len(holders(store)) == 1
    next_one.hold()
    next_one.leave()
    assert checked_out(store) == 0


def test_lost_holder_records_nothing(store: Store) -> None:
    """Who lost the seat can't record: the attempt fails at once, and is not made again on a fresh connection."""
    seat = Seat(store.engine, 1)
    conn = taken(seat)
    end(store, pid_of(conn))
    for _ in range(3):
        with pytest.raises(SQLAlchemyError):
            record(conn, [dispatch()], grace=60.0)
        with pytest.raises(SQLAlchemyError):
            record_and_claim(conn, [dispatch()], 60.0, Terms(500, 99_000, 90.0))
    assert store.counts() == {}
    seat.leave()


def test_lost_in_the_middle_of_a_transaction(store: Store) -> None:
    """A seat that is lost between two statements of a transaction takes all of it with it."""
    seat, successor = Seat(store.engine, 1), Seat(store.engine, 1)
    conn = taken(seat)
    pid = pid_of(conn)
    conn.exec_driver_sql("update gate set pause_reason = 'written'")
    end(store, pid)
    taken(successor)
    with pytest.raises(DBAPIError):
        conn.commit()
    assert store.one("select pause_reason from gate") is None
    seat.leave()
    successor.leave()


def test_silent_holder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres ends a holder that it does not hear of for a while, in a transaction or not; one that holds on stays."""
    monkeypatch.setattr(seats, "SILENCE", 1)
    idle, in_transaction, alive = (Seat(store.engine, number) for number in (1, 2, 3))
    taken(idle)
    taken(in_transaction).exec_driver_sql("select 1")
    monkeypatch.setattr(seats, "SILENCE", 4)
    taken(alive)

    def one_is_left() -> bool:
        alive.hold()
        return len(holders(store)) == 1

    until(one_is_left)
    end = time.monotonic() + 5  # longer than it may be silent
    until(lambda: one_is_left() and time.monotonic() > end)
    for seat in (idle, in_transaction):
        with pytest.raises(DBAPIError):
            seat.hold()
        seat.leave()
    alive.hold()
    alive.leave()


def test_holder_that_hangs_while_it_is_sent_something(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that reads no more what Postgres sends it, and so counts as busy, loses the seat too."""
    monkeypatch.setattr(seats, "SILENCE", 1)
    seat = Seat(store.engine, 1)
    driver: Any = taken(seat).connection.driver_connection
    driver.pgconn.send_query(b"select repeat('x', 50000000)")
    until(lambda: not holders(store), seconds=20)
    seat.leave()


def test_settings_of_its_connection(store: Store) -> None:
    """What ends a silent holder is set on its own connection only."""
    seat = Seat(store.engine, 1)
    conn = taken(seat)
    found = conn.exec_driver_sql(
        """select setting::int from pg_settings where name in
        ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'tcp_user_timeout')"""
    )
    assert found.scalars().all() == [SILENCE * 1000] * 3
    conn.commit()
    assert store.one("show idle_session_timeout") == "0"
    seat.leave()


def test_postgres_away(store: Store, postgres_server: Server) -> None:
    """Where no connection is to be had, taking it fails, and later succeeds."""
    seat = Seat(store.engine, 1)
    postgres_server.kill()
    with pytest.raises(DBAPIError):
        seat.take()
    seat.leave()
    postgres_server.restart()
    taken(seat)
    seat.leave()
    assert checked_out(store) == 0
