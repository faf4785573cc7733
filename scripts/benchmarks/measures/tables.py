"""What an interaction costs Postgres where millions have ended and many are not yet due, against an empty table."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from sqlalchemy import Connection, Engine

from benchmarks.figures import Figure, median
from benchmarks.stand import Stand, jobs, say
from worker.delivery.deliver import Bench, deliver
from worker.intake.record import Incoming, take_in
from worker.store.database import connect
from worker.vonage.invoke import Api

ENDED, LATER, QUICK = 5_000_000, 500_000, 50
"""Rows beside the measured ones; a quick run has a fiftieth."""

COUNT, BATCH = 5_000, 1_000
SERIES = count()


@dataclass(frozen=True, slots=True)
class Cost:
    """What an interaction costs from its dispatch's record to its release's settle.

    Attributes:
        buffers: shared buffers touched, the catalogue's too.
        wal: bytes of WAL.
        scans: sequential scans of the large tables, all in all.
    """

    buffers: float
    wal: float
    scans: int


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Record, claim, settle, release, claim and settle 5,000, in an empty table and in a full one."""
    share = QUICK if quick else 1
    stand.api.reset(0)
    with _quiet(stand) as engine:
        empty = []
        for _ in range(rounds):
            stand.clean()
            empty.append(_cost(stand, engine))
        say(f"{ENDED // share:,} ended rows and {LATER // share:,} not yet due are written")
        stand.clean()
        _write(stand, ENDED // share, LATER // share)
        full = [_cost(stand, engine) for _ in range(rounds)]
        stand.clean()
    beside = f"{ENDED // share:,} ended and {LATER // share:,} not yet due"
    for name, unit in (("buffers", "buffers"), ("wal", "bytes of WAL")):
        alone, among = (median(getattr(cost, name) for cost in found) for found in (empty, full))
        yield Figure(f"an interaction, dispatched and released, in an empty table: {name}", alone, unit)
        yield Figure(f"an interaction, dispatched and released, beside {beside}: {name}", among, unit)
        yield Figure(f"beside {beside} against an empty table: {name}", among / alone, "×", 1.5, least=False)
    yield Figure(
        f"beside {beside}: sequential scans", sum(cost.scans for cost in full), "scans", 0, least=False
    )


@contextmanager
def _quiet(stand: Stand) -> Iterator[Engine]:
    """Keep out what has nothing to do with it, and would be counted: autovacuum, and the images of whole pages.

    An image is written of each page that is first touched after a checkpoint: their number says how long ago the last
    checkpoint was.
    """
    each(stand, "alter system set autovacuum = off", "alter system set full_page_writes = off")
    engine = connect(stand.settings.database(), pool=1)
    try:
        yield engine
    finally:
        engine.dispose()
        each(stand, "alter system reset autovacuum", "alter system reset full_page_writes")


def each(stand: Stand, *statements: str) -> None:
    """Run statements, each outside of a transaction, and have Postgres read its settings again."""
    with stand.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        for statement in (*statements, "select pg_reload_conf()"):
            conn.exec_driver_sql(statement)


def _cost(stand: Stand, engine: Engine) -> Cost:
    _live(stand, engine, BATCH)  # connections, caches of the catalogue
    each(stand, "checkpoint")
    before = _counters(engine)
    _live(stand, engine, COUNT)
    after = _counters(engine)
    buffers, wal, scans = (b - a for a, b in zip(before, after, strict=True))
    return Cost(buffers / COUNT, wal / COUNT, int(scans))


def _live(stand: Stand, engine: Engine, many: int) -> None:
    """Let so many interactions live from dispatch to release, through the very functions that a worker calls."""
    prefix = f"t{next(SERIES):03}-"
    dispatches = jobs(many, prefix)
    api = Api(stand.settings)
    bench = Bench(engine, api, stand.settings, lambda: None)
    for action, some in (
        ("d", dispatches),
        ("r", [{"action": "release", "externalid": job["externalid"]} for job in dispatches]),
    ):
        batch = [Incoming(job, f"{prefix}{action}{number:030}") for number, job in enumerate(some)]
        for first in range(0, many, BATCH):
            take_in(engine, stand.settings, "bench", batch[first : first + BATCH])
        deliver(bench)


def _counters(engine: Engine) -> tuple[int, int, int]:
    """Buffers touched, bytes of WAL, sequential scans of the large tables: since ever."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("select pg_stat_force_next_flush()")
        found: Any = conn.exec_driver_sql(
            """select (select blks_hit + blks_read from pg_stat_database where datname = current_database()),
                pg_current_wal_insert_lsn() - '0/0',
                (select sum(seq_scan) from pg_stat_user_tables
                 where relname in ('interactions', 'invocations', 'receipts', 'events'))"""
        ).one()
    return int(found[0]), int(found[1]), int(found[2])


def _write(stand: Stand, ended: int, later: int) -> None:
    """Write rows as they are left behind, and rows that wait."""
    with filling(stand) as conn:
        conn.exec_driver_sql(
            """insert into interactions (externalid, state, route, dispatch_requestid, release_requestid,
                release_requested_at, released_at, dispatched_at)
            select 'old' || i, 'released', 'R', gen_random_uuid(), gen_random_uuid(), now(), now(), now()
            from generate_series(1, %(ended)s) i""",
            {"ended": ended},
        )
        conn.exec_driver_sql(
            """insert into interactions (externalid, state, route, dispatch_requestid, due_at)
            select 'later' || i, 'pending', 'R', gen_random_uuid(), now() + interval '1 day'
            from generate_series(1, %(later)s) i""",
            {"later": later},
        )
        conn.exec_driver_sql(
            """insert into invocations (provider, ids, seconds, status, outcome)
            select '', array[i], 0.05, 200, 'accepted' from generate_series(1, %(ended)s / 200) i""",
            {"ended": ended},
        )


@contextmanager
def filling(stand: Stand) -> Iterator[Connection]:
    """Give a transaction to fill the large tables in; their indexes are made afterwards, which is quicker."""
    with stand.engine.begin() as conn:
        indexes = _drop_indexes(conn)
        conn.exec_driver_sql("set local statement_timeout = 0")
        conn.exec_driver_sql("set local maintenance_work_mem = '512MB'")
        yield conn
        for index in indexes:
            conn.exec_driver_sql(index)
    each(
        stand,
        "set statement_timeout = 0",
        "vacuum analyze interactions, invocations",
        "checkpoint",
        "reset statement_timeout",
    )


def _drop_indexes(conn: Connection) -> list[str]:
    found = conn.exec_driver_sql(
        """select indexname, indexdef from pg_indexes
        where schemaname = current_schema() and tablename in ('interactions', 'invocations')
          and indexname not like '%%_pkey'"""
    ).all()
    for name, _ in found:
        conn.exec_driver_sql(f"drop index {name}")
    return [definition for _, definition in found]
