"""A reader's seat: whoever has it is the only one that reads a door, so that jobs keep their order.

It is a Postgres advisory lock, held by a connection and given up with it, whatever ends that: the process's death,
the network, or Postgres, which ends one not heard of for ``SILENCE``. Its holder records on that very connection, so
one that lost it without knowing (frozen, cut off) can't record any more.

Behind a pooler a connection of Postgres's is ours as long as a transaction lasts: there the seat's ends one only to
begin the next (``Line.kept``), and so keeps its lock and its settings. Idle it holds no snapshot: vacuum does not mind.
"""

import time

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from worker.store.database import driver, pooled

NAMESPACE = 0x564343  # "VCC": other users of the database may take advisory locks of their own
SILENCE = 15
"""Seconds after which Postgres gives up on a holder that says nothing."""

PLANS = 30.0
"""Seconds that prepared plans live: made for a table that was empty, they are slow on one that is not."""


class Seat:
    """The right to be the only reader of a door.

    Attributes:
        conn: the connection that holds it, None while it is not held.
    """

    def __init__(self, engine: Engine, number: int) -> None:
        self._engine = engine
        self._number = number
        self.conn: Connection | None = None
        self._planned = time.monotonic()

    def take(self) -> Connection | None:
        """Take it if it is free; the connection that holds it then."""
        conn = self._engine.connect()
        try:
            taken = conn.exec_driver_sql(
                "select pg_try_advisory_lock(%(space)s, %(number)s)",
                {"space": NAMESPACE, "number": self._number},
            ).scalar_one()
            driver(conn).kept = taken and pooled(conn)
            conn.commit()
            if not taken:
                conn.close()
                return None
            # the last: one that is frozen while it is being sent something counts as busy
            for name in ("idle_session_timeout", "idle_in_transaction_session_timeout", "tcp_user_timeout"):
                conn.exec_driver_sql(f"set {name} = '{SILENCE}s'")
            conn.commit()
        except BaseException:
            _end(conn)
            raise
        self.conn = conn
        return conn

    def prepare(self, prepared: bool) -> None:
        """Let the next statements be prepared, or planned afresh each.

        For one job, planning is two thirds of the work. For a batch it is nothing, and there a plan that does not fit
        would be paid for many times.
        """
        if self.conn is None:
            return
        if driver(self.conn).kept:
            with self.conn.begin():
                pass  # a transaction's time is its beginning's, which was at the last batch
        driver(self.conn).prepare_threshold = 0 if prepared else None
        if prepared and time.monotonic() - self._planned > PLANS:
            self.conn.exec_driver_sql("discard plans")
            self.conn.commit()
            self._planned = time.monotonic()

    def hold(self) -> None:
        """Let Postgres hear of the holder; raises if the seat is lost."""
        if self.conn is not None:
            self.conn.exec_driver_sql("select 1")
            self.conn.commit()

    def leave(self) -> None:
        """Give it up, and its connection with it."""
        conn, self.conn = self.conn, None
        if conn is not None:
            _end(conn)


def _end(conn: Connection) -> None:
    """End the connection for good, rather than give it back with a lock on it."""
    try:
        conn.invalidate()
        conn.close()
    except SQLAlchemyError:
        pass  # it is over either way
