"""What is known without counting: the valve, and what is held; for whoever watches all day."""

from dataclasses import dataclass

from sqlalchemy import Connection

from worker.store import gate


@dataclass(frozen=True, slots=True)
class Vitals:
    """How it is.

    Attributes:
        open: the valve is.
        reason: why not.
        opens_in: seconds until the next probe may go; nought where it may, or where an operator has to resume.
        rate: calls per second that a 429 has taught, while they bind.
        routes: how many are held.
        providers: how many are held.
    """

    open: bool
    reason: str | None
    opens_in: float
    rate: float | None
    routes: int
    providers: int


def vitals(conn: Connection) -> Vitals:
    """Look at everything once."""
    valve = gate.read(conn)
    row = conn.exec_driver_sql(
        """select
            coalesce(greatest(extract(epoch from %(opens_at)s::timestamptz - now()), 0), 0)::float8 as opens_in,
            (select count(*) from routes where held_at is not null) as routes,
            (select count(*) from providers where closed_until > now()) as providers""",
        {"opens_at": valve.opens_at},
    ).one()
    return Vitals(valve.open, valve.reason, rate=valve.rate, **row._mapping)
